"""A JSON Schema as people write: with the sentences that stand below the fields. Read when somebody asks for one."""

import ast
import inspect
import sys
from datetime import timedelta
from functools import cache
from itertools import pairwise
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from rollbackd.syntax.units import SIZE_TEXT, Spec, format_duration, format_size


@cache
def _of_module(name: str) -> dict[str, dict[str, str]]:
    """What stands below each field of each class of a module, which is read once for all of them."""
    try:
        parsed = ast.parse(inspect.getsource(sys.modules[name]))
    except (KeyError, OSError, TypeError):  # made at run time
        return {}
    found = dict[str, dict[str, str]]()
    for defined in parsed.body:
        if isinstance(defined, ast.ClassDef):
            below = found[defined.name] = {}
            for field, text in pairwise(defined.body):
                match field, text:
                    case ast.AnnAssign(target=ast.Name(id=key)), ast.Expr(value=ast.Constant(value=str(said))):
                        below[key] = inspect.cleandoc(said)
    return found


def _sentences(kind: type[BaseModel]) -> dict[str, str]:
    """What stands below each field. Read only for a schema: by pydantic itself it would cost each start."""
    found = dict[str, str]()
    for one in reversed([each for each in kind.__mro__ if issubclass(each, Spec)]):
        found |= _of_module(one.__module__).get(one.__qualname__, {})
    return {name: text for name, text in found.items() if name in kind.model_fields}


class Written(GenerateJsonSchema):
    """A schema as people write: with the sentences below the fields, and defaults like `30m` that editors put in."""

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        made, kind = super().model_schema(schema), schema["cls"]
        for name, text in _sentences(kind).items():
            found = made.get("properties", {}).get(kind.model_fields[name].alias or name)
            if found is not None:
                found.setdefault("description", text)
        return made

    def encode_default(self, dft: Any) -> Any:
        if isinstance(dft, dict):
            return {key: self.encode_default(value) for key, value in dft.items()}
        return format_duration(dft) if isinstance(dft, timedelta) else super().encode_default(dft)

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        found = super().default_schema(schema)
        if found.get("pattern") == SIZE_TEXT and isinstance(found.get("default"), int):
            found["default"] = format_size(found["default"])
        if "$ref" in found:  # a section that is left out: its own keys say their defaults
            found.pop("default", None)
        return found
