"""Errors as RFC 9457 problems: whatever goes wrong is answered as JSON with a sentence for people.

https://www.rfc-editor.org/rfc/rfc9457
"""

import json
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Protocol

from aiohttp import web
from pydantic import TypeAdapter, ValidationError

from rollbackd.journal import JournalUnavailable
from rollbackd.operations import InvalidOrder, OrderRefused, UnknownName
from rollbackd.signals.alertmanager_webhook import WebhookError
from rollbackd.signals.events import EventError
from rollbackd.syntax.units import show
from rollbackd.system import log
from rollbackd.views.shapes import FindingView

_LOG = log.get("web")
_FINDINGS = TypeAdapter(tuple[FindingView, ...])
MEDIA_TYPE = "application/problem+json"
NOT_WRITTEN_RETRY = "5"
"""Seconds that a client is asked to wait when the journal cannot be written."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class AnyRequest(Protocol):
    """A request, wherever it was made."""

    @property
    def method(self) -> str: ...

    @property
    def path(self) -> str: ...


class ProblemError(Exception):
    """A request that is answered with an error; `more` are extension members of the problem."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None, **more: object) -> None:
        super().__init__(detail)
        self.status = status
        self.headers = headers or {}
        self.more = more


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None, **more: object) -> web.Response:
    """The answer itself."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail, **more}
    return web.Response(
        status=status, body=json.dumps(body).encode(), headers={**(headers or {}), "Cache-Control": "no-store"},
        content_type=MEDIA_TYPE,
    )  # fmt: skip


def sentences(error: ValidationError) -> list[str]:
    """What is wrong with a body or a query, one sentence a place: `until: input should have timezone info`."""
    found: list[str] = []
    for fault in error.errors(include_url=False, include_input=False):
        where = ".".join(str(part) for part in fault["loc"])
        said = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            found.append(f"unknown key {show(where)}")
        else:
            found.append(f"{where}: {said}" if where else said)
    return found


def invalid(error: ValidationError) -> ProblemError:
    """400, with every fault at once."""
    faults = sentences(error)
    return ProblemError(400, "; ".join(faults), errors=faults)


def told(request: AnyRequest, error: Exception) -> ProblemError:
    """What people are told of an exception of a handler."""
    match error:
        case ProblemError():
            return error
        case JournalUnavailable():
            return ProblemError(503, f"nothing was stored: {error}; try again", {"Retry-After": NOT_WRITTEN_RETRY})
        case UnknownName():
            return ProblemError(404, str(error))
        case WebhookError() | EventError():
            return ProblemError(413 if error.too_large else 400, str(error))
        case InvalidOrder():
            return ProblemError(400, str(error))
        case OrderRefused():
            found = _FINDINGS.dump_python(tuple(error.findings), mode="json")
            return ProblemError(409, str(error), findings=found)
        case web.HTTPException():
            return _of_aiohttp(request, error)
    _LOG.error("request failed", method=request.method, path=request.path, error=repr(error), exc_info=error)
    return ProblemError(500, "rollbackd failed to answer this; its log says why: journalctl -u rollbackd")


@web.middleware
async def as_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every exception of a handler into its problem."""
    try:
        return await handler(request)
    except ConnectionError:
        raise
    except Exception as error:  # noqa: BLE001  # one request must not end the others; its cause is logged
        found = told(request, error)
        return problem(found.status, str(found), found.headers, **found.more)


def _of_aiohttp(request: AnyRequest, error: web.HTTPException) -> ProblemError:
    headers = {name: error.headers[name] for name in ("Allow",) if name in error.headers}
    if isinstance(error, web.HTTPNotFound):
        return ProblemError(404, f"there is nothing at {show(request.path)}; /openapi.json lists what there is")
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return ProblemError(405, f"{show(request.path)} does not take {show(request.method)}, only {allowed}", headers)
    return ProblemError(error.status, error.text or error.reason, headers)
