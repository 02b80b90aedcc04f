"""How a layer on another host is asked: one JSON object a line, each way. No I/O.

The far side speaks first: `{"hello": {"protocol": 1, "version": "0.1.0", "layers": {"code": {…}}}}`. A request is
`{"id": 1, "protocol": 1, "method": "plan", "layer": "code", "params": {"target": {…}}}`, and its answer is
`{"id": 1, "result": …}` or `{"id": 1, "error": {"message": …, "permanent": …, "evidence": …}}`. The methods and their
values are those of the contract: what a method takes and gives is read from its signature. A line without its newline
was cut off and means nothing.
"""

import inspect
import json
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from rollbackd.adapter import (
    Adapter,
    Bracket,
    KeepsReplaced,
    Marks,
    Noting,
    PointInTime,
    Prunes,
    Rehearses,
    Snapshots,
)
from rollbackd.model import Release, Traits
from rollbackd.syntax.units import show

PROTOCOL = 1
"""Both sides must speak the same one."""
TRAITS = ("releases", "step", "bracket", "data", "snapshots")
LONGEST_REQUEST = 2**20
"""Bytes of a request's line."""
_MOST_LINES = 100
"""Lines of one conversation: a hello, and an answer for each of a few requests."""

_READING: tuple[Callable[..., Any], ...] = (
    Adapter.current,
    Adapter.releases,
    Adapter.plan,
    Adapter.progress,
    Adapter.ready,
    Bracket.inside,
    Noting.note,
    Snapshots.snapshots,
    Snapshots.verify,
    Snapshots.diff,
    Rehearses.rehearse,
    PointInTime.as_of,
)
_EFFECTS: tuple[Callable[..., Any], ...] = (
    Adapter.apply,
    Bracket.enter,
    Bracket.leave,
    Snapshots.take,
    Snapshots.restore,
    Prunes.prune,
    KeepsReplaced.lost,
    Marks.mark,
)
"""`export_to` and `import_from` are not here: they take a path, and whoever connects chooses none."""

_T = TypeVar("_T")


class WireError(ValueError):
    """A line that means nothing here; the sentence says why."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A layer that the far side serves."""

    adapter: str
    resource: str
    traits: Traits
    snapshots: bool = False
    """It keeps its own past."""
    prunes: bool = False
    """It drops what is old when it is asked."""

    @property
    def words(self) -> tuple[str, ...]:
        """What it can be used for, as `traits` of adapter `remote` says it."""
        given = {word: bool(getattr(self.traits, word, self.snapshots)) for word in TRAITS}
        return tuple(word for word in TRAITS if given[word])


@dataclass(frozen=True, slots=True)
class Hello:
    """Who answers, and for what."""

    protocol: int
    version: str
    layers: dict[str, Offer]
    fences: bool = False
    """It refuses whoever has a lower epoch than one that asked before."""


@dataclass(frozen=True, slots=True)
class WireRequest:
    """One question, or one order."""

    id: int
    method: str
    layer: str
    params: dict[str, Any]
    """As JSON values; `Method.read` makes arguments of them."""
    protocol: int = PROTOCOL
    epoch: int = 0
    """Of the daemon that asks, where several may drive."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An `AdapterError` on its way."""

    message: str
    permanent: bool
    evidence: str = ""


@dataclass(frozen=True, slots=True)
class WireAnswer:
    """What became of a request; an id of 0 answers one that could not be read."""

    id: int
    result: Any = None
    """As JSON; `Method.read_result` makes a value of it."""
    error: Refusal | None = None


@dataclass(frozen=True, slots=True)
class Heard:
    """All that the far side said in one conversation."""

    hello: Hello | None = None
    answers: Mapping[int, WireAnswer] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Method:
    """A method of the contract, as it crosses the wire."""

    name: str
    effect: bool
    _params: Mapping[str, TypeAdapter[Any]]
    _needed: frozenset[str]
    _result: TypeAdapter[Any]

    def params(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments as JSON values."""
        return {name: self._params[name].dump_python(value, mode="json") for name, value in values.items()}

    def read(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """JSON values as arguments. :raises WireError: they do not fit."""
        if not self._needed <= params.keys() <= self._params.keys():
            wants = ", ".join(self._params) or "none"
            raise WireError(f"{self.name} takes these parameters: {wants}; it got: {', '.join(params) or 'none'}")
        return {name: _fitting(self._params[name], value, name) for name, value in params.items()}

    def result(self, value: Any) -> Any:
        """What it gave, as JSON."""
        return self._result.dump_python(value, mode="json")

    def read_result(self, value: Any) -> Any:
        """JSON as what it gave; of a list of releases those that are. :raises WireError: it does not fit."""
        if self.name == Adapter.releases.__name__ and isinstance(value, list):
            value = list(filter(_is_release, value)) or value
        return _fitting(self._result, value, f"the answer to {self.name}")


def method_names() -> tuple[str, ...]:
    """All that can be asked."""
    return tuple(function.__name__ for function in (*_READING, *_EFFECTS))


@cache
def method(name: str) -> Method:
    """:raises KeyError: there is no such method."""
    for function in (*_READING, *_EFFECTS):
        if function.__name__ == name:
            hints = get_type_hints(function)
            result = _kind(hints.pop("return"))
            params = {key: _kind(hint) for key, hint in hints.items()}
            declared = inspect.signature(function).parameters
            needed = frozenset(key for key in params if declared[key].default is inspect.Parameter.empty)
            return Method(name, function in _EFFECTS, params, needed, result)
    raise KeyError(name)


def _is_release(value: Any) -> bool:
    with suppress(ValidationError):
        return bool(_RELEASE.validate_python(value))
    return False


def _kind(hint: Any) -> TypeAdapter[Any]:
    """A hint of the contract as pydantic takes it, which knows no bare collection."""
    plain: Any = list[get_args(hint)] if get_origin(hint) is Collection else hint  # type: ignore[misc]
    return TypeAdapter(plain)


def request(number: int, layer: str, name: str, params: Mapping[str, Any], epoch: int = 0) -> bytes:
    """A request's line."""
    asked = WireRequest(number, name, layer, method(name).params(params), epoch=epoch)
    return _line(_REQUEST.dump_python(asked, mode="json"))


def read_request(line: bytes) -> WireRequest:
    """:raises WireError: it is none."""
    return _fitting(_REQUEST, _object(line), "the request")


def hello(said: Hello) -> bytes:
    """The hello's line."""
    return _line({"hello": _HELLO.dump_python(said, mode="json")})


def answer(said: WireAnswer) -> bytes:
    """An answer's line."""
    if said.error is not None:
        return _line({"id": said.id, "error": _REFUSAL.dump_python(said.error, mode="json")})
    return _line({"id": said.id, "result": said.result})


def hear(said: bytes) -> Heard:
    """What a whole conversation said; what comes before the hello (a login's greeting) is passed over, on its line too.

    :raises WireError: something in it is no line of this protocol.
    """
    start = said.find(b'{"hello"')
    whole, _, _cut_off = said[start:].rpartition(b"\n")
    if start < 0 or not whole:
        return Heard()
    if whole.count(b"\n") >= _MOST_LINES:
        raise WireError(f"it says more than {_MOST_LINES} lines")
    first, *lines = whole.split(b"\n")
    greeting: Hello = _fitting(_HELLO, _object(first).get("hello"), "the hello")
    answers: list[WireAnswer] = [_fitting(_ANSWER, _object(line), "an answer") for line in lines]
    return Heard(greeting, {each.id: each for each in answers})


_RELEASE: TypeAdapter[Release] = TypeAdapter(Release)
_HELLO: TypeAdapter[Hello] = TypeAdapter(Hello)
_REQUEST: TypeAdapter[WireRequest] = TypeAdapter(WireRequest)
_REFUSAL: TypeAdapter[Refusal] = TypeAdapter(Refusal)
_ANSWER: TypeAdapter[WireAnswer] = TypeAdapter(WireAnswer)


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _object(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise WireError(f"this is not JSON: {show(line[:40].decode(errors='replace'))}") from error
    if not isinstance(found, dict):
        raise WireError(f"this is not a JSON object: {show(line[:40].decode(errors='replace'))}")
    return found


def _fitting(kind: TypeAdapter[_T], value: Any, what: str) -> _T:
    try:
        return kind.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise WireError(f"{what} does not fit: {place + ': ' if place else ''}{first['msg']}") from error
