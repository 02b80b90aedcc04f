"""How far back a PromQL expression looks, and the same expression over a shorter time, read off its text. No I/O.

https://prometheus.io/docs/prometheus/latest/querying/basics/
"""

import re
from collections.abc import Sequence
from datetime import timedelta
from functools import lru_cache

from rollbackd.syntax.units import parse_duration

_LONGEST = timedelta(days=100 * 366)
"""More is no truth: there is no data so old."""
LEAST = timedelta(minutes=1)
"""The shortest time that an expression is asked over in place of its own."""
_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'|`[^`]*`|#[^\n]*')
"""Strings and comments: what stands in them is neither a range nor an offset."""
_RANGE = re.compile(r"\[\s*([0-9a-z.]+)\s*(:[^\]]*)?\]")
_OFFSET = re.compile(r"\boffset\s+([0-9a-z.]+)", re.IGNORECASE)
_YEARS = re.compile(r"(?:(\d+)y)?(.*)")
_NUMBER = re.compile(r"\d+(\.\d+)?")
_PLAIN = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)
_NAME = re.compile(r"([A-Za-z_][\w:]*)\s*$")
_WORD = re.compile(r"[A-Za-z_][\w:]*")
_COMPARISONS = frozenset({"==", "!=", ">", "<", ">=", "<="})
_SETS = frozenset({"and", "or", "unless"})
_TOKEN = re.compile(r"[()\[\]{}]|[<>=!]=|=~|!~|[<>]|[A-Za-z_][\w:]*")
_MEASURES = frozenset(
    {"rate", "irate", "deriv", "idelta", "last_over_time", "avg_over_time", "max_over_time", "min_over_time",
     "quantile_over_time", "stddev_over_time", "stdvar_over_time"}
)  # fmt: skip
"""Functions of a range whose value does not grow with its length."""


@lru_cache(maxsize=1024)
def reach(query: str) -> timedelta:
    """The longest range, all subqueries around it, and the longest offset, or all of them where they may be nested.

    Never less than the truth. A selector in square brackets that is no duration counts as nothing: Prometheus refuses
    it anyway.
    """
    text = _TEXT.sub('""', query)
    ranges = [_length(found[1]) for found in _RANGE.finditer(text) if not found[2]]
    subqueries = [_length(found[1]) for found in _RANGE.finditer(text) if found[2]]
    offsets = [_length(found[1]) for found in _OFFSET.finditer(text)]
    back = sum(offsets, timedelta()) if subqueries else max(offsets, default=timedelta())
    return min(max(ranges, default=timedelta()) + sum(subqueries, back), _LONGEST)


def recent(query: str, length: timedelta) -> str | None:
    """The expression over the last while alone: as it is where it looks back no further, else by shorter ranges.

    None where neither can be, or where the while is too short to say anything: a scrape a quarter of a minute has four
    samples in `LEAST`.
    """
    if length < LEAST:
        return None
    return query if reach(query) <= length else within(query, length)


def within(query: str, length: timedelta) -> str | None:
    """The expression with ranges that are at most so long; None where shorter ones would mean something else.

    A rate or an average is the same measure over a shorter time; what counts or adds up is not, nor is what looks back
    by an offset or a subquery.
    """
    ranges = _plain_ranges(query)
    if ranges is None:
        return None
    longer = [one for one in ranges if _length(one[1]) > length]
    if any(_function_around(one.string, one.start()) not in _MEASURES for one in longer):
        return None
    return _with_ranges(query, longer, length)


def widened(query: str, length: timedelta) -> str | None:
    """The expression with all of its ranges that long; None where longer ones would mean something else."""
    ranges = _plain_ranges(query)
    if not ranges or any(_function_around(one.string, one.start()) not in _MEASURES for one in ranges):
        return None
    return _with_ranges(query, ranges, length)


def over(query: str, length: timedelta) -> str | None:
    """The expression with all of its ranges that long, whatever that means; None where it looks back otherwise."""
    ranges = _plain_ranges(query)
    return None if ranges is None else _with_ranges(query, ranges, length)


def _plain_ranges(query: str) -> list[re.Match[str]] | None:
    """The ranges of an expression that looks back by nothing else; None where it does."""
    plain = _blank(query)
    ranges = list(_RANGE.finditer(plain))
    return None if _OFFSET.search(plain) or "@" in plain or any(one[2] for one in ranges) else ranges


def _with_ranges(query: str, ranges: Sequence[re.Match[str]], length: timedelta) -> str:
    found, end = [], 0
    for one in ranges:
        found += [query[end : one.start()], f"[{int(length.total_seconds())}s]"]
        end = one.end()
    return "".join([*found, query[end:]])


def as_truth(query: str) -> str | None:
    """The condition so that it gives 1 where it is met and 0 where it is not; None where it is no single comparison.

    Without that nothing tells a condition that is not met from one that nothing is known of.
    """
    found = _comparison(query)
    if found is None:
        return None
    left, sign, right = found
    if right.split()[:1] == ["bool"]:
        return f"{left}{sign}{right}"
    return f"{left}{sign} bool{right if right[:1].isspace() else ' ' + right}"


def against_number(query: str) -> tuple[str, str, float] | None:
    """What a condition compares with a plain number, by which sign, and the number; None where it is not like that."""
    found = _comparison(query)
    if found is None:
        return None
    left, sign, right = found
    number = _blank(right).strip().removeprefix("bool").strip()
    return (left.strip(), sign, float(number)) if _PLAIN.fullmatch(number) else None


def _comparison(query: str) -> tuple[str, str, str] | None:
    """What is left of an expression's one comparison, its sign, and what is right of it; None where it has not one."""
    plain = _blank(query)
    while plain.strip().startswith("(") and _closing(plain, plain.index("(")) == len(plain.rstrip()) - 1:
        begin, end = plain.index("("), len(plain.rstrip()) - 1
        query, plain = query[begin + 1 : end], plain[begin + 1 : end]
    depth, found = 0, []
    for one in _TOKEN.finditer(plain):
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(one[0], 0)
        if depth == 0 and one[0].lower() in _SETS:
            return None
        if depth == 0 and one[0] in _COMPARISONS:
            found.append(one.span())
    if len(found) != 1:
        return None
    begin, end = found[0]
    return query[:begin], query[begin:end], query[end:]


def metrics(query: str) -> frozenset[str]:
    """All names in the expression: its metrics, among functions and labels."""
    return frozenset(found[0] for found in _WORD.finditer(_blank(query)))


def _blank(query: str) -> str:
    """The text with strings and comments blanked out, everything else where it was."""
    return _TEXT.sub(lambda found: " " * len(found[0]), query)


def _function_around(plain: str, at: int) -> str:
    """The function that a place is an argument of; empty where there is none."""
    depth = 0
    for place in range(at - 1, -1, -1):
        depth += {")": 1, "(": -1}.get(plain[place], 0)
        if depth < 0:
            named = _NAME.search(plain[:place])
            return named[1].lower() if named is not None else ""
    return ""


def _closing(plain: str, at: int) -> int:
    """Where the bracket that opens there is closed; -1 where it is not."""
    depth = 0
    for place in range(at, len(plain)):
        depth += {"(": 1, ")": -1}.get(plain[place], 0)
        if depth == 0:
            return place
    return -1


def _length(text: str) -> timedelta:
    """A duration, with years, or a number of seconds."""
    found = _YEARS.fullmatch(text)
    assert found is not None
    try:
        if _NUMBER.fullmatch(text):
            return timedelta(seconds=float(text))
        return timedelta(days=365 * int(found[1] or 0)) + (parse_duration(found[2]) if found[2] else timedelta())
    except (ValueError, OverflowError):
        return timedelta()
