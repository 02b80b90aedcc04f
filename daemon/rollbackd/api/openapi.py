"""The API's description, generated from the routes and the views themselves, so that it cannot disagree with them.

https://spec.openapis.org/oas/v3.1.0
"""

import re
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from rollbackd import __version__
from rollbackd.api import answers
from rollbackd.api.request_body import FORM
from rollbackd.api.routes import ROUTES, ApiRoute
from rollbackd.api.slack import PATH as SLACK
from rollbackd.api.snapshot_files import FILES, OCTETS
from rollbackd.operations import parameters
from rollbackd.signals.events import Posted
from rollbackd.snapshots.views import TakenView
from rollbackd.syntax.units import Spec
from rollbackd.syntax.written_schema import Written
from rollbackd.views.shapes import Readiness

_REF = "#/components/schemas/{model}"
_PROBLEM = "application/problem+json"
_PATH_PART = re.compile(r"\{(\w+)\}")


def document() -> dict[str, Any]:
    """An OpenAPI 3.1 document as JSON values."""
    schemas = _Schemas()
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    for path, method, operation in (*_plain(schemas), *_files(schemas)):
        paths.setdefault(path, {})[method] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "rollbackd", "version": __version__, "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "components": {
            "schemas": schemas.all(),
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"bearer": []}],
    }


class _Schemas:
    """Collects types, so that each is described once."""

    def __init__(self) -> None:
        self._adapters: dict[tuple[str, str], TypeAdapter[Any]] = {}

    def ref(self, kind: type, *, answer: bool) -> dict[str, object]:
        mode = "serialization" if answer else "validation"
        self._adapters[kind.__name__, mode] = TypeAdapter(kind)
        return {"$ref": _REF.format(model=kind.__name__)}

    def all(self) -> dict[str, Any]:
        inputs: list[tuple[str, Any, TypeAdapter[Any]]] = [
            (name, mode, adapter) for (name, mode), adapter in self._adapters.items()
        ]
        _refs, described = TypeAdapter.json_schemas(inputs, ref_template=_REF, schema_generator=Written)
        found: dict[str, Any] = described["$defs"]
        return found


def _operation(route: ApiRoute, schemas: _Schemas) -> dict[str, object]:
    operation = _base(f"{route.handler.__name__}", route.summary, route.role)
    found = [_path_parameter(name) for name in _PATH_PART.findall(route.path)] + _query_parameters(route.query)
    if found:
        operation["parameters"] = found
    if route.body.model_fields:
        required = any(field.is_required() for field in route.body.model_fields.values())
        operation["requestBody"] = {"required": required, "content": _json(schemas.ref(route.body, answer=False))}
    operation["responses"] = {
        str(route.status): {"description": "done", "content": _json(schemas.ref(route.answer, answer=True))},
        **_failed(schemas),
    }
    return operation


def _base(name: str, summary: str, role: str) -> dict[str, object]:
    return {"operationId": name, "summary": summary, "description": f"Needs the role `{role}`."}


def _json(schema: dict[str, object]) -> dict[str, object]:
    return {"application/json": {"schema": schema}}


def _failed(schemas: _Schemas) -> dict[str, object]:
    return {
        "default": {
            "description": "not done",
            "content": {_PROBLEM: {"schema": schemas.ref(answers.Fault, answer=True)}},
        }
    }


def _path_parameter(name: str) -> dict[str, object]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _query_parameters(query: type[Spec]) -> list[dict[str, object]]:
    schema = query.model_json_schema(schema_generator=Written)
    required = schema.get("required", ())
    return [
        {"name": name, "in": "query", "required": name in required, "schema": field}
        for name, field in schema.get("properties", {}).items()
    ]


def _answered(schemas: _Schemas, done: str, content: Mapping[str, object], **more: object) -> dict[str, object]:
    """How an operation answers; `more` are its other answers."""
    return {"200": {"description": done, "content": content}, **more, **_failed(schemas)}


def _files(schemas: _Schemas) -> list[tuple[str, str, dict[str, Any]]]:
    """The routes of snapshot_files.py."""
    given = {"parameters": [_path_parameter("name"), *_query_parameters(parameters.FileQuery)]}
    octets = {OCTETS: {"schema": {"type": "string", "format": "binary"}}}
    taken = _json(schemas.ref(TakenView, answer=True))
    away = {
        "operationId": "export_snapshot",
        "summary": "A snapshot as one file.",
        **given,
        "responses": _answered(schemas, "the file", octets),
    }
    back = {
        "operationId": "import_snapshot",
        "summary": "Take in a file that an export gave, here or elsewhere, once every hash agrees.",
        **given,
        "requestBody": {"required": True, "content": octets},
        "responses": _answered(schemas, "taken in, and read", taken),
    }
    role = {"description": "Needs the role `operator`."}
    return [(FILES, "get", away | role), (FILES, "put", back | role)]


def _plain(schemas: _Schemas) -> list[tuple[str, str, dict[str, Any]]]:
    """The routes of application.py."""
    anything, text = _json({"type": "object"}), {"text/plain": {"schema": {"type": "string"}}}
    alerts = _base("alerts", "Alertmanager's webhook, payload version 4.", "source") | {
        "requestBody": {"required": True, "content": anything},
        "responses": _answered(schemas, "on disk", _json(schemas.ref(answers.Accepted, answer=True))),
    }
    event = schemas.ref(Posted, answer=False)
    several = _json({"anyOf": [event, {"type": "array", "items": event}]})
    signals = _base("signals", "Events of CI, of scanners, of business systems: one, or a list.", "source") | {
        "requestBody": {"required": True, "content": several},
        "responses": _answered(schemas, "on disk", _json(schemas.ref(answers.Reported, answer=True))),
    }
    readiness = _json(schemas.ref(Readiness, answer=True))
    not_ready = {"503": {"description": "not ready", "content": readiness}}
    ready = _base("readyz", "Whether it can do its work, and why not.", "viewer") | {
        "responses": _answered(schemas, "ready", readiness, **not_ready)
    }
    alive = _json(schemas.ref(answers.Alive, answer=True))
    lives = {
        "operationId": "healthz",
        "summary": "The process answers.",
        "security": [],
        "responses": {"200": {"description": "alive", "content": alive}},
    }
    clicks = {
        "operationId": "clicked",
        "summary": "A click on a button of a message in Slack, sent by Slack.",
        "description": "Known by Slack's signature over the body; a body has at most 512 KiB.",
        "security": [],
        "requestBody": {"required": True, "content": {FORM: {"schema": {"type": "object"}}}},
        "responses": {"200": {"description": "on disk, or answered to whoever clicked"}, **_failed(schemas)},
    }
    metrics = _base("metrics", "Prometheus metrics of rollbackd itself.", "viewer") | {
        "responses": _answered(schemas, "metrics", text)
    }
    this = _base("openapi", "This description.", "viewer") | {"responses": _answered(schemas, "OpenAPI 3.1", anything)}
    return [
        ("/api/v1/alerts", "post", alerts),
        ("/api/v1/signals", "post", signals),
        (SLACK, "post", clicks),
        ("/healthz", "get", lives),
        ("/readyz", "get", ready),
        ("/metrics", "get", metrics),
        ("/openapi.json", "get", this),
    ]
