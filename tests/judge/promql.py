"""The part of PromQL that rules ask with: expressions are read once and worked out over many times at once.

What is not here is an error, never an empty answer. https://prometheus.io/docs/prometheus/latest/querying/basics/
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from rollbackd.rules.matchers import Matcher, all_match, parse_matchers
from rollbackd.syntax.units import parse_duration
from tests.judge.series import Flags, Floats, Found, Labels, Metric

_TOKEN = re.compile(
    r"""\s*(?:
    (?P<number>\d+\.?\d*(?:[eE][-+]?\d+)?(?![a-z\d]))
    |(?P<duration>\d+[a-z\d]*)
    |(?P<name>[A-Za-z_][\w:]*)
    |(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    |(?P<sign>==|!=|>=|<=|=~|!~|[-+*/%^()\[\]{},<>=])
    )""",
    re.VERBOSE,
)
_COMMENT = re.compile(r"#[^\n]*")
_RANKS: Mapping[str, int] = {
    "or": 1, "and": 2, "unless": 2, "==": 3, "!=": 3, ">": 3, "<": 3, ">=": 3, "<=": 3, "+": 4, "-": 4, "*": 5, "/": 5,
    "%": 5, "^": 6,
}  # fmt: skip
_COMPARED: Mapping[str, Callable[[Floats, Floats], Flags]] = {
    "==": np.equal, "!=": np.not_equal, ">": np.greater, "<": np.less, ">=": np.greater_equal, "<=": np.less_equal,
}  # fmt: skip
_COUNTED: Mapping[str, Callable[[Floats, Floats], Floats]] = {
    "+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide, "%": np.fmod, "^": np.power,
}  # fmt: skip
_AGGREGATES = frozenset({"sum", "avg", "max", "min", "count"})
_RANGES = {"avg_over_time": "avg", "sum_over_time": "sum", "count_over_time": "count", "max_over_time": "max",
           "min_over_time": "min", "last_over_time": "last"}  # fmt: skip
Value = Found | float


class NotSpoken(Exception):  # a sentence about an expression
    """The expression says something that is not understood here."""


@dataclass(frozen=True, slots=True)
class Selector:
    """Series of one metric, at an instant or over a range."""

    metric: str
    matchers: tuple[Matcher, ...]
    length: float | None = None
    offset: float = 0.0


@dataclass(frozen=True, slots=True)
class Call:
    """A function of its arguments."""

    name: str
    arguments: tuple["Expression", ...]


@dataclass(frozen=True, slots=True)
class Aggregate:
    """One series for each group of labels."""

    how: str
    by: tuple[str, ...]
    without: bool
    of: "Expression"


@dataclass(frozen=True, slots=True)
class Binary:
    """Two expressions and a sign between them."""

    sign: str
    truth: bool
    on: tuple[str, ...] | None
    ignoring: tuple[str, ...]
    left: "Expression"
    right: "Expression"


Expression = float | Selector | Call | Aggregate | Binary


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(_tokens(_COMMENT.sub("", text)))
        self._at = 0

    @property
    def _next(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _take(self, wanted: str = "") -> str:
        token = self._next
        if not token or (wanted and token != wanted):
            raise NotSpoken(f"{self._text}: {token or 'its end'} is not expected there")
        self._at += 1
        return token

    def whole(self) -> Expression:
        found = self._binary(1)
        if self._next:
            raise NotSpoken(f"{self._text}: {self._next} is not expected there")
        return found

    def _binary(self, least: int) -> Expression:
        left = self._unary()
        while (rank := _RANKS.get(self._next.lower(), 0)) >= least:
            sign = self._take().lower()
            truth = self._next == "bool" and bool(self._take())
            on: tuple[str, ...] | None = None
            ignoring: tuple[str, ...] = ()
            if self._next in {"on", "ignoring"}:
                how, names = self._take(), self._names()
                on, ignoring = (names, ()) if how == "on" else (None, names)
            if self._next in {"group_left", "group_right"}:
                raise NotSpoken(f"{self._text}: {self._next}")
            right = self._binary(rank if sign == "^" else rank + 1)
            left = Binary(sign, truth, on, ignoring, left, right)
        return left

    def _unary(self) -> Expression:
        if self._next == "-":
            self._take()
            return Binary("-", False, None, (), 0.0, self._unary())
        found = self._primary()
        while self._next in {"[", "offset"}:
            found = self._ranged(found)
        return found

    def _ranged(self, found: Expression) -> Expression:
        if not isinstance(found, Selector):
            raise NotSpoken(f"{self._text}: a range of anything but a metric")
        if self._take() == "offset":
            return Selector(found.metric, found.matchers, found.length, _seconds(self._take()))
        length = _seconds(self._take())
        self._take("]")
        return Selector(found.metric, found.matchers, length, found.offset)

    def _primary(self) -> Expression:
        token = self._take()
        if token == "(":
            found = self._binary(1)
            self._take(")")
            return found
        if token[0].isdigit():
            return float(token)
        if token in _AGGREGATES:
            return self._aggregate(token)
        if self._next == "(":
            return Call(token, self._arguments())
        if self._next == "{":
            return Selector(token, self._matchers())
        if not re.match(r"[A-Za-z_]", token):
            raise NotSpoken(f"{self._text}: {token} is not expected there")
        return Selector(token, ())

    def _aggregate(self, how: str) -> Expression:
        by: tuple[str, ...] = ()
        without = False
        if self._next in {"by", "without"}:
            without = self._take() == "without"
            by = self._names()
        arguments = self._arguments()
        if self._next in {"by", "without"}:
            without = self._take() == "without"
            by = self._names()
        if len(arguments) != 1:
            raise NotSpoken(f"{self._text}: {how} of {len(arguments)}")
        return Aggregate(how, by, without, arguments[0])

    def _arguments(self) -> tuple[Expression, ...]:
        self._take("(")
        found = []
        while self._next != ")":
            found.append(self._binary(1))
            if self._next == ",":
                self._take()
        self._take(")")
        return tuple(found)

    def _names(self) -> tuple[str, ...]:
        self._take("(")
        found = []
        while (token := self._take()) != ")":
            found += [token] if token != "," else []
        return tuple(found)

    def _matchers(self) -> tuple[Matcher, ...]:
        self._take("{")
        parts = []
        while (token := self._take()) != "}":
            parts.append(token)
        text = "".join(parts).rstrip(",")
        return parse_matchers(text) if text else ()


def _tokens(text: str) -> Iterator[str]:
    at = 0
    while text[at:].strip():
        found = _TOKEN.match(text, at)
        if found is None:
            raise NotSpoken(f"{text}: {text[at : at + 20]!r} is not understood")
        yield found[0].strip()
        at = found.end()


def _seconds(text: str) -> float:
    return float(text) if text.isdigit() else parse_duration(text).total_seconds()


@lru_cache(maxsize=512)
def parse(text: str) -> Expression:
    """The expression of a text. :raises NotSpoken: it is not understood."""
    return _Parser(text).whole()


class Evaluation:
    """Works expressions out over some times, in seconds; what several of them ask for is worked out once."""

    def __init__(self, metric: Callable[[str], Metric | None], at: Floats) -> None:
        """:param metric: gives a metric by its name; None where there is none."""
        self._metric = metric
        self._at = at
        self._known: dict[Expression, Value] = {}

    def of(self, expression: Expression) -> Value:
        """Its value: a number, or values of series."""
        if expression not in self._known:
            self._known[expression] = self._worked_out(expression)
        return self._known[expression]

    def _worked_out(self, one: Expression) -> Value:
        if isinstance(one, float):
            return one
        if isinstance(one, Selector):
            if one.length is not None:
                raise NotSpoken(f"{one.metric}: a range where values are wanted")
            return self._select(one, lambda metric: metric.instant(self._at - one.offset))
        if isinstance(one, Aggregate):
            return _aggregated(one, _series(self.of(one.of)))
        if isinstance(one, Binary):
            return _joined(one, self.of(one.left), self.of(one.right), len(self._at))
        return self._called(one)

    def _select(self, one: Selector, ask: Callable[[Metric], Found]) -> Found:
        metric = self._metric(one.metric)
        if metric is None:
            return _nothing(len(self._at))
        found = ask(metric)
        if not one.matchers:
            return found
        rows = [row for row, labels in enumerate(found.labels) if all_match(one.matchers, labels)]
        return Found([found.labels[row] for row in rows], found.values[rows], found.there[rows])

    def _called(self, one: Call) -> Value:
        name, arguments = one.name, one.arguments
        if name in _RANGES or name in {"rate", "increase", "resets"}:
            return self._of_range(name, arguments[0])
        given = [self.of(argument) for argument in arguments]
        if name == "vector":
            count = len(self._at)
            return Found([{}], np.full((1, count), given[0]), np.ones((1, count), dtype=bool))
        if name in {"clamp_min", "clamp_max"}:
            found, limit = _series(given[0]), given[1]
            assert isinstance(limit, float)
            clamp = np.maximum if name == "clamp_min" else np.minimum
            return Found(found.labels, clamp(found.values, limit), found.there)
        if name == "abs":
            found = _series(given[0])
            return Found(found.labels, np.abs(found.values), found.there)
        if name == "histogram_quantile":
            assert isinstance(given[0], float)
            return _quantile(given[0], _series(given[1]))
        raise NotSpoken(f"the function {name}")

    def _of_range(self, name: str, one: Expression) -> Found:
        if not isinstance(one, Selector) or one.length is None:
            raise NotSpoken(f"{name} of no range of a metric")
        at, length = self._at - one.offset, one.length
        if name == "resets":
            return _unnamed(self._select(one, lambda metric: metric.resets(at, length)))
        if name not in {"rate", "increase"}:
            return _unnamed(self._select(one, lambda metric: metric.over(_RANGES[name], at, length)))
        grown = _unnamed(self._select(one, lambda metric: metric.growth(at, length)))
        return grown if name == "increase" else Found(grown.labels, grown.values / length, grown.there)


def _nothing(times: int) -> Found:
    return Found([], np.empty((0, times)), np.empty((0, times), dtype=bool))


def _series(value: Value) -> Found:
    if isinstance(value, float):
        raise NotSpoken("a number where series are wanted")
    return value


def _unnamed(found: Found) -> Found:
    return Found([_without(one, ("__name__",)) for one in found.labels], found.values, found.there)


def _without(labels: Labels, names: Sequence[str]) -> Labels:
    return {name: value for name, value in labels.items() if name not in names}


def _only(labels: Labels, names: Sequence[str]) -> Labels:
    return {name: labels[name] for name in names if name in labels}


def _grouped(labels: Sequence[Labels], kept: Callable[[Labels], Labels]) -> tuple[list[Labels], dict[int, list[int]]]:
    groups: dict[tuple[tuple[str, str], ...], int] = {}
    names: list[Labels] = []
    rows: dict[int, list[int]] = {}
    for row, one in enumerate(labels):
        own = kept(one)
        key = tuple(sorted(own.items()))
        if key not in groups:
            groups[key] = len(names)
            names.append(own)
        rows.setdefault(groups[key], []).append(row)
    return names, rows


def _aggregated(one: Aggregate, found: Found) -> Found:
    drop = (*one.by, "__name__")
    names, groups = _grouped(found.labels, lambda own: _without(own, drop) if one.without else _only(own, one.by))
    times = found.values.shape[1]
    values, there = np.empty((len(names), times)), np.empty((len(names), times), dtype=bool)
    for group, rows in groups.items():
        own, seen = found.values[rows], found.there[rows]
        count = seen.sum(axis=0)
        there[group] = count > 0
        if one.how in {"sum", "avg", "count"}:
            total = np.where(seen, own, 0.0).sum(axis=0)
            values[group] = {"sum": total, "avg": total / np.maximum(count, 1), "count": count}[one.how]
        elif one.how == "max":
            values[group] = np.where(seen, own, -np.inf).max(axis=0)
        else:
            values[group] = np.where(seen, own, np.inf).min(axis=0)
    return Found(names, values, there)


def _joined(one: Binary, left: Value, right: Value, times: int) -> Value:
    with np.errstate(all="ignore"):
        if isinstance(left, Found) and isinstance(right, Found):
            return _matched(one, left, right, times)
        if isinstance(left, float) and isinstance(right, float):
            if one.sign in _COMPARED:
                return float(_COMPARED[one.sign](np.array(left), np.array(right)))
            return float(_COUNTED[one.sign](np.array(left), np.array(right)))
        labels = left.labels if isinstance(left, Found) else _series(right).labels
        there = left.there if isinstance(left, Found) else _series(right).there
        own = left.values if isinstance(left, Found) else np.array(left)
        other = right.values if isinstance(right, Found) else np.array(right)
        kept = left.values if isinstance(left, Found) else _series(right).values
        return _signed(one, labels, own, other, there, kept)


def _signed(one: Binary, labels: Sequence[Labels], own: Floats, other: Floats, there: Flags, kept: Floats) -> Found:
    if one.sign in _COUNTED:
        plain = [_without(each, ("__name__",)) for each in labels]
        return Found(plain, _COUNTED[one.sign](own, other), there)
    if one.sign not in _COMPARED:
        raise NotSpoken(f"{one.sign} with a number")
    holds = _COMPARED[one.sign](own, other)
    if one.truth:
        return Found([_without(each, ("__name__",)) for each in labels], holds.astype(float), there)
    return Found(labels, kept, there & holds)


def _matched(one: Binary, left: Found, right: Found, times: int) -> Found:
    def kept(own: Labels) -> Labels:
        return _only(own, one.on) if one.on is not None else _without(own, (*one.ignoring, "__name__"))

    keys = [tuple(sorted(kept(each).items())) for each in left.labels]
    others = {tuple(sorted(kept(each).items())): row for row, each in enumerate(right.labels)}
    if one.sign == "or":
        return _either(left, right, keys, others)
    if one.sign not in {"and", "unless"} and (len(set(keys)) < len(keys) or len(others) < len(right.labels)):
        raise NotSpoken(f"{one.sign} between many series with the same labels")
    rows = [(row, others.get(key)) for row, key in enumerate(keys)]
    if one.sign == "unless":
        there = [left.there[row] & ~right.there[other] if other is not None else left.there[row] for row, other in rows]
        return Found(left.labels, left.values, np.array(there).reshape(len(rows), times))
    mine = [row for row, other in rows if other is not None]
    theirs = [other for _, other in rows if other is not None]
    labels, values = [left.labels[row] for row in mine], left.values[mine]
    there_both = left.there[mine] & right.there[theirs]
    if one.sign == "and":
        return Found(labels, values, there_both)
    found = _signed(one, labels, values, right.values[theirs], there_both, values)
    return Found([kept(each) for each in found.labels], found.values, found.there) if one.sign in _COUNTED else found


def _either(
    left: Found,
    right: Found,
    keys: Sequence[tuple[tuple[str, str], ...]],
    others: Mapping[tuple[tuple[str, str], ...], int],
) -> Found:
    mine: dict[tuple[tuple[str, str], ...], list[int]] = {}
    for row, key in enumerate(keys):
        mine.setdefault(key, []).append(row)
    values, there, labels = [*left.values], [*left.there], list(left.labels)
    for key, row in others.items():
        same = mine.get(key, [])
        free = right.there[row] & ~np.any(left.there[same], axis=0) if same else right.there[row]
        if len(same) == 1:
            values[same[0]] = np.where(free, right.values[row], values[same[0]])
            there[same[0]] = there[same[0]] | free
        else:
            values.append(right.values[row])
            there.append(free)
            labels.append(right.labels[row])
    times = left.values.shape[1]
    return Found(labels, np.array(values).reshape(len(labels), times), np.array(there).reshape(len(labels), times))


def _quantile(share: float, found: Found) -> Found:
    """https://github.com/prometheus/prometheus/blob/main/promql/quantile.go, `BucketQuantile`."""
    names, groups = _grouped(found.labels, lambda own: _without(own, ("le", "__name__")))
    times = found.values.shape[1]
    values, there = np.full((len(names), times), np.nan), np.zeros((len(names), times), dtype=bool)
    for group, rows in groups.items():
        ordered = sorted(rows, key=lambda row: float(found.labels[row]["le"]))
        bounds = np.array([float(found.labels[row]["le"]) for row in ordered])
        counts = np.maximum.accumulate(np.where(found.there[ordered], found.values[ordered], 0.0), axis=0)
        there[group] = found.there[ordered].any(axis=0)
        if not np.isinf(bounds[-1]) or len(bounds) < 2:
            continue
        total = counts[-1]
        rank = share * total
        place = np.minimum((counts < rank[None, :]).sum(axis=0), len(bounds) - 1)
        upper = bounds[place]
        lower = np.where(place > 0, bounds[np.maximum(place - 1, 0)], 0.0)
        below = np.where(place > 0, np.take_along_axis(counts, np.maximum(place - 1, 0)[None, :], axis=0)[0], 0.0)
        inside = np.take_along_axis(counts, place[None, :], axis=0)[0] - below
        with np.errstate(all="ignore"):
            value = lower + (upper - lower) * (rank - below) / inside
        value = np.where(place == len(bounds) - 1, bounds[-2], value)
        values[group] = np.where(total > 0, value, np.nan)
    return Found(names, values, there)
