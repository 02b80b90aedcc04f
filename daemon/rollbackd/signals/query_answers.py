"""Prometheus's answers as values. No I/O; an answer is whole and well formed, or a problem with a sentence.

https://prometheus.io/docs/prometheus/latest/querying/api/#format-overview
"""

import re
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from math import inf, isnan, nan
from operator import itemgetter
from typing import Any, NamedTuple, TypeVar

from pydantic_core import from_json

from rollbackd.system.http_connection import in_short

_INSTANT = ("vector", "scalar")
_SAID = 300
"""How many characters of a server's own words are passed on."""
_LOOKED_AT = 4096
"""How many bytes of words that are no JSON are looked at."""
_NOTES = ("PromQL info:",)
"""What Prometheus 2.48 to 2.53 and Thanos put among the warnings, and newer ones into `infos`: remarks on the query."""
_OMITTED = re.compile(r"\d+ more (?:info )?annotations omitted")
"""Of a list that was cut; they are like those that are shown."""


_WAITS = ("duration", "keepFiringFor")
_LONGEST_WAIT = 100 * 366 * 86_400.0
"""Seconds: what is longer is for ever."""
LARGEST_VECTOR = 100_000
"""Series in one answer."""
LARGEST_MATRIX = 1_000_000
"""Points in one answer."""
_PIECE = 2**18
"""Bytes that are read at once."""
_LARGEST_PIECE = 8 * 2**20
"""Bytes of what cannot be read in pieces."""
_NEAR = 64
_SERIES = re.compile(rb'\{\s*"metric"\s*:')
_TEXT = frozenset({str})


class Unusable(Exception):  # noqa: N818  # an answer, not an error: it becomes a problem
    """Nothing may be concluded from what came back; the text says why."""


class Series(NamedTuple):
    """One series of an instant query, a tuple since there are so many; the value may be NaN or infinite."""

    labels: Mapping[str, str]
    value: float
    at: datetime


@dataclass(frozen=True, slots=True)
class QueryAnswer:
    """The answer to an instant query: all series, or the problem."""

    series: tuple[Series, ...] = ()
    problem: str = ""
    """A sentence; empty when all is well."""


@dataclass(frozen=True, slots=True)
class RangeSeries:
    """One series of a range query, oldest point first; values may be NaN or infinite."""

    labels: Mapping[str, str]
    points: tuple[tuple[datetime, float], ...]


S = TypeVar("S", Series, RangeSeries)


@dataclass(frozen=True, slots=True)
class RangeAnswer:
    """The answer to a range query: all series, or the problem."""

    series: tuple[RangeSeries, ...] = ()
    problem: str = ""
    """A sentence; empty when all is well."""


MISSING = -inf
"""Stands in a row for a time without a point; what Prometheus calls -Inf is kept as no number."""


@dataclass(frozen=True, slots=True)
class Row:
    """One series of a range query as plain numbers, one for each time that was asked about."""

    labels: Mapping[str, str]
    values: "array[float]"
    """Of type `d`; `MISSING` where there is no point, NaN or infinite where it says nothing."""


@dataclass(frozen=True, slots=True)
class RowsAnswer:
    """The answer to a range query for as many times as there may be, or the problem."""

    rows: tuple[Row, ...] = ()
    problem: str = ""
    """A sentence; empty when all is well."""


@dataclass(frozen=True, slots=True)
class AlertingRule:
    """One alerting rule of Prometheus's own files."""

    name: str
    query: str
    labels: Mapping[str, str]
    waits: timedelta = timedelta()
    """Its `for` and its `keep_firing_for`."""


@dataclass(frozen=True, slots=True)
class RulesAnswer:
    """The rules that a Prometheus evaluates itself, or the problem."""

    alerting: tuple[AlertingRule, ...] = ()
    recorded: Mapping[str, str] = field(default_factory=dict)
    """The expression behind each recorded metric."""
    problem: str = ""
    """A sentence; empty when all is well."""


def own_rules(data: Mapping[str, Any]) -> RulesAnswer:
    """The rules of `/api/v1/rules`. :raises Unusable: when they are none of Prometheus's."""
    try:
        rules = [rule for group in data["groups"] for rule in group["rules"]]
        alerting = tuple(
            AlertingRule(
                str(rule["name"]),
                str(rule["query"]),
                _labels(rule.get("labels") or {}),
                timedelta(seconds=min(_LONGEST_WAIT, sum(float(rule.get(name) or 0) for name in _WAITS))),
            )
            for rule in rules
            if rule["type"] == "alerting"
        )
        recorded = {str(rule["name"]): str(rule["query"]) for rule in rules if rule["type"] == "recording"}
        return RulesAnswer(alerting, recorded)
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise Unusable(f"the answer is no list of rules ({error})") from error


def whole_data(body: bytes) -> dict[str, object]:
    """The `data` of a 200's body, `{"resultType": …, "result": …}`.

    :raises Unusable: for anything that is not whole: an error, warnings, a partial response, broken JSON.
    """
    try:
        document = _parsed(body)
    except ValueError as error:
        raise Unusable(f"the answer is no JSON: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("data"), dict):
        raise Unusable("the answer is none of Prometheus's: it has no `data`")
    if document.get("status") != "success":
        raise Unusable(f"the answer's status is {_short(document.get('status'))}, not success")
    if doubts := _doubts(document.get("warnings")):
        raise Unusable(f"the answer came with warnings, so it may be partial: {_short(doubts)}")
    if document.get("isPartial") or document.get("partial"):
        raise Unusable("the answer is partial")
    data: dict[str, object] = document["data"]
    return data


def _parsed(body: bytes) -> object:
    """The document; a long list of series in it is read later, in pieces.

    :raises ValueError: it is no JSON.
    :raises Unusable: it is long, and no list of series that can be read in pieces.
    """
    begin = _SERIES.search(body, 0, _PIECE)
    if len(body) <= _PIECE or begin is None:
        _check_piece(body)
        return from_json(body)
    pieces, at = [], begin.start()
    while (following := _next_series(body, at + _PIECE)) > 0:
        pieces.append((at, following))
        at = following
    last = body[: begin.start()] + body[at:]
    _check_piece(last)
    document = from_json(last)
    with suppress(KeyError, TypeError):  # it is none of Prometheus's, which the caller finds out
        document["data"]["result"] = LongList(body, pieces, document["data"]["result"])
    return document


class LongList(Iterable[Any]):
    """A long list of series, of which a piece is read at a time: reading JSON lets no other thread run."""

    def __init__(self, body: bytes, pieces: Sequence[tuple[int, int]], last: Iterable[object]) -> None:
        self._body = body
        self._pieces = pieces
        self._last = last

    def __iter__(self) -> Iterator[Any]:
        """:raises Unusable: a piece is no JSON, or too long."""
        for start, end in self._pieces:
            piece = self._body[start:end].rstrip(b", \t\r\n")
            _check_piece(piece)
            try:
                read = from_json(b"[" + piece + b"]", cache_strings="keys")
            except ValueError as error:
                raise Unusable(f"the answer is no JSON: {error}") from error
            yield from read
        yield from self._last


def _next_series(body: bytes, at: int) -> int:
    """Where the first series at or behind that place begins; 0 where none does.

    Inside of a JSON string no quote stands without a backslash, so that these characters are never a label's.
    """
    while (key := body.find(b'"metric"', at)) >= 0:
        found = _SERIES.search(body, max(key - _NEAR, at), key + _NEAR)
        if found is not None and body[found.start() - _NEAR : found.start()].rstrip()[-1:] == b",":
            return found.start()
        at = key + 1
    return 0


def _check_piece(piece: bytes) -> None:
    if len(piece) > _LARGEST_PIECE:
        text = f"{_LARGEST_PIECE // 2**20} MiB of the answer are no list of series that could be read one by one"
        raise Unusable(f"{text}; ask for less in one query")


def _doubts(warnings: object) -> object:
    """The warnings, without notes on the query itself."""
    if not isinstance(warnings, list):
        return warnings
    return [one for one in warnings if not (isinstance(one, str) and _is_note(one))]


def _is_note(warning: str) -> bool:
    return warning.startswith(_NOTES) or _OMITTED.fullmatch(warning) is not None


def refusal(status: int, body: bytes, clean: Callable[[str], str] = str) -> str:
    """What an answer other than 200 says, in one line: an error of Prometheus's, or the words of who stands before it.

    :param clean: takes secrets out, before anything is cut.
    """
    try:
        document = from_json(body)
    except ValueError:
        document = None
    if isinstance(document, dict) and document.get("error"):
        kind = document.get("errorType") or "error"
        return f"answered {status}, {_short(clean(str(kind)))}: {_short(clean(str(document['error'])))}"
    return f"answered {status}{in_short(clean(body[:_LOOKED_AT].decode(errors='replace')))}"


def instant_series(data: Mapping[str, Any]) -> tuple[Series, ...]:
    """The series of an instant query's data. :raises Unusable: when it is not a vector or scalar of numbers."""
    kind, result = data.get("resultType"), data.get("result")
    if kind not in _INSTANT or not isinstance(result, list | LongList):
        raise Unusable(f"the query's result is a {_short(kind)}, not a vector or a scalar")
    try:
        if kind == "scalar":
            at, text = result
            return (Series({}, float(text), _time(at)),)
        return _vector(result)
    except (KeyError, TypeError, ValueError, OverflowError, OSError) as error:
        raise Unusable(_malformed(error)) from error


def range_series(data: Mapping[str, object]) -> tuple[RangeSeries, ...]:
    """The series of a range query's data. :raises Unusable: when it is not a matrix of numbers."""
    kind, result = data.get("resultType"), data.get("result")
    if kind != "matrix" or not isinstance(result, list | LongList):
        raise Unusable(f"the query's result is a {_short(kind)}, not a matrix")
    try:
        return _matrix(result)
    except (KeyError, TypeError, ValueError, OverflowError, OSError) as error:
        raise Unusable(_malformed(error)) from error


def one_of_replicas(series: Sequence[Series], labels: Collection[str]) -> tuple[Series, ...]:
    """The series without those labels; of those that are the same then, the first by the labels' values that has a
    number, so that it is the same one again and again, and not the one that is broken.
    """
    return (
        tuple(
            min(same, key=lambda one: isnan(one.value))._replace(labels=dict(name))
            for name, same in _without(series, labels).items()
        )
        if labels
        else tuple(series)
    )


def one_range_of_replicas(series: Sequence[RangeSeries], labels: Collection[str]) -> tuple[RangeSeries, ...]:
    """The series without those labels; those that are the same then are one, which has at each time the point of the
    first that has a number there.
    """
    return tuple(_merged(name, same) for name, same in _without(series, labels).items()) if labels else tuple(series)


def _merged(name: Iterable[tuple[str, str]], same: Sequence[RangeSeries]) -> RangeSeries:
    points: dict[datetime, float] = {}
    for one in same:
        points |= {at: value for at, value in one.points if isnan(points.get(at, nan))}
    return RangeSeries(dict(name), tuple(sorted(points.items())))


def _without(series: Iterable[S], labels: Collection[str]) -> dict[frozenset[tuple[str, str]], list[S]]:
    """By what is left of their labels, each time ordered by what was taken away."""
    found: dict[frozenset[tuple[str, str]], list[S]] = {}
    for one in sorted(series, key=lambda one: [one.labels.get(name, "") for name in sorted(labels)]):
        left = frozenset((name, text) for name, text in one.labels.items() if name not in labels)
        found.setdefault(left, []).append(one)
    return found


def _matrix(result: Iterable[Any]) -> tuple[RangeSeries, ...]:
    series, points = list[RangeSeries](), 0
    for item in result:
        points += len(item["values"])
        if points > LARGEST_MATRIX:
            raise Unusable(
                f"the answer has more than {LARGEST_MATRIX:,} points; sum some of its series up in the query"
            )
        read = tuple((_time(at), float(text)) for at, text in item["values"])
        series.append(RangeSeries(_labels(item["metric"]), read))
    return tuple(series)


def rows(data: Mapping[str, Any], start: int, step: int, count: int) -> tuple[Row, ...]:
    """A range query's data as rows of `count` numbers, `step` seconds apart from `start` on, seconds since 1970.

    :raises Unusable: when it is not a matrix of numbers at these times.
    """
    kind, result = data.get("resultType"), data.get("result")
    if kind != "matrix" or not isinstance(result, list | LongList):
        raise Unusable(f"the query's result is a {_short(kind)}, not a matrix")
    try:
        return tuple(Row(_labels(item["metric"]), _numbers(item["values"], start, step, count)) for item in result)
    except (KeyError, TypeError, ValueError, OverflowError, IndexError) as error:
        raise Unusable(_malformed(error)) from error


def _numbers(points: Sequence[tuple[float, str]], start: int, step: int, count: int) -> "array[float]":
    found = array("d", map(float, map(itemgetter(1), points)))
    if found and min(found) == MISSING:
        found = array("d", (nan if value == MISSING else value for value in found))
    first, last = (round((points[place][0] - start) / step) for place in (0, -1)) if points else (0, -1)
    if first < 0 or last >= count:
        raise ValueError("points at other times than were asked about")
    if len(points) == last - first + 1:
        return _gap(first) + found + _gap(count - 1 - last)
    spread = _gap(count)
    for (at, _), value in zip(points, found, strict=True):
        spread[round((at - start) / step)] = value
    return spread


def _gap(length: int) -> "array[float]":
    return array("d", (MISSING,)) * length


def _vector(result: Iterable[Any]) -> tuple[Series, ...]:
    series: list[Series] = []
    last, at = None, datetime.min.replace(tzinfo=UTC)
    for item in result:
        stamp, text = item["value"]
        if stamp != last:  # nearly always the same for all: the time the query was evaluated at
            last, at = stamp, _time(stamp)
        series.append(Series(_labels(item["metric"]), float(text), at))
        if len(series) > LARGEST_VECTOR:
            raise Unusable(f"the answer has more than {LARGEST_VECTOR:,} series; sum some of them up in the query")
    return tuple(series)


def _labels(metric: Any) -> dict[str, str]:
    if type(metric) is not dict or not _TEXT.issuperset(map(type, metric.values())):
        raise TypeError("labels that are no text")
    return metric


def _time(stamp: float) -> datetime:
    return datetime.fromtimestamp(stamp, UTC)


def _malformed(error: Exception) -> str:
    """A KeyError's text is the missing key; a native histogram has `histogram` instead of `value`."""
    what = f"no {error}" if isinstance(error, KeyError) else str(error)
    return f"the answer holds something other than numbers ({what})"


def _short(value: object) -> str:
    text = "; ".join(map(str, value)) if isinstance(value, list) else str(value)
    text = " ".join(text.split())
    return text if len(text) <= _SAID else text[: _SAID - 1] + "…"
