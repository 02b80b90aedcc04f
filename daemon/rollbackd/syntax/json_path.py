"""JSON paths find a value in a JSON document: names with dots between them, positions in brackets. No I/O.

`a.b[0].c` is the `c` of the first item of the `b` of `a`; `[-1]` is the last item; an empty path is the whole document.
A name that has a dot or a bracket in it is written in quotes: `labels["app.kubernetes.io/name"]`.
"""

import json
import re
from functools import lru_cache
from typing import Annotated, Any

from pydantic import AfterValidator

from rollbackd.syntax.units import show

_PART = re.compile(r'\[(?P<position>-?\d{1,9})\]|\[(?P<quoted>"(?:[^"\\]|\\.)*")\]|(?P<dot>\.)?(?P<name>[^.\[\]"\s]+)')
_KINDS = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}


@lru_cache(maxsize=1024)
def parse(path: str) -> tuple[str | int, ...]:
    """The names and positions of a path, in order.

    :raises ValueError: it cannot be read; the text says how to write it.
    """
    parts: list[str | int] = []
    at = 0
    while at < len(path):
        found = _PART.match(path, at)
        if found is None or (found["name"] and bool(found["dot"]) != bool(parts)):
            raise ValueError(f'{show(path)} is not a path in JSON; write it like a.b[0].c or labels["a.b"]')
        if found["position"]:
            parts.append(int(found["position"]))
        else:
            parts.append(found["name"] or _unquoted(found["quoted"], path))
        at = found.end()
    return tuple(parts)


def at(document: Any, path: str) -> Any:
    """What a parsed JSON document has at a path.

    :raises ValueError: nothing is there, or the path cannot be read; the text says where it ends and what is there.
    """
    value = document
    passed = ""
    for part in parse(path):
        match part, value:
            case int(), list():
                if not -len(value) <= part < len(value):
                    raise ValueError(f"{_place(passed)} has no [{part}]: it has {len(value)} items")
                passed = f"{passed}[{part}]"
            case str(), dict():
                if part not in value:
                    raise ValueError(f"{_place(passed)} has no {show(part)}")
                passed = f"{passed}.{part}" if passed else part
            case _:
                wanted = "a list" if isinstance(part, int) else "an object"
                raise ValueError(f"{_place(passed)} is {_kind(value)}, not {wanted}")
        value = value[part]
    return value


def _unquoted(text: str, path: str) -> str:
    try:
        return str(json.loads(text))
    except ValueError:
        raise ValueError(f"{show(path)} is not a path in JSON: {text} is not a text in JSON's quotes") from None


def _place(passed: str) -> str:
    return show(passed) if passed else "the document"


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "a number")


def _sound(path: str) -> str:
    parse(path)
    return path


JsonPath = Annotated[str, AfterValidator(_sound)]
"""A path in a setting; checked when the configuration is read."""
