"""The file's JSON Schema, so that editors complete it and say what a key means. No I/O."""

from pydantic.json_schema import JsonSchemaValue

from rollbackd.config.shape import shape_of
from rollbackd.plugins import Plugins, installed
from rollbackd.syntax.written_schema import Written

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema(plugins: Plugins | None = None) -> JsonSchemaValue:
    """The whole file, with the settings of every plugin that is installed.

    It knows shapes, not names: that a plan's layers exist is for `load` to say.

    :raises rollbackd.plugins.PluginError: a plugin does not fit.
    """
    shape = shape_of(installed() if plugins is None else plugins)
    made = shape.file.model_json_schema(by_alias=True, schema_generator=Written)
    made["title"] = "rollbackd's configuration"
    made["description"] = "One file; rollbackd check says what is wrong with it."
    return {"$schema": DIALECT, **made}
