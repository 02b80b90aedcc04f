"""How far back a PromQL expression looks, read off its text. No I/O.

https://prometheus.io/docs/prometheus/latest/querying/basics/
"""

import re
from datetime import timedelta

from rollbackd.syntax.units import parse_duration

_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'|`[^`]*`|#[^\n]*')
"""Strings and comments: what stands in them is neither a range nor an offset."""
_RANGE = re.compile(r"\[\s*([0-9a-z.]+)\s*(:[^\]]*)?\]")
_OFFSET = re.compile(r"\boffset\s+([0-9a-z.]+)", re.IGNORECASE)
_YEARS = re.compile(r"(?:(\d+)y)?(.*)")
_NUMBER = re.compile(r"\d+(\.\d+)?")


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
    return max(ranges, default=timedelta()) + sum(subqueries, back)


def _length(text: str) -> timedelta:
    """A duration, with years, or a number of seconds."""
    if _NUMBER.fullmatch(text):
        return timedelta(seconds=float(text))
    found = _YEARS.fullmatch(text)
    assert found is not None
    years = timedelta(days=365 * int(found[1] or 0))
    try:
        return years + (parse_duration(found[2]) if found[2] else timedelta())
    except ValueError:
        return timedelta()
