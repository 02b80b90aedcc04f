"""How far back a PromQL expression looks, read off its text. No I/O.

https://prometheus.io/docs/prometheus/latest/querying/basics/
"""

import re
from datetime import timedelta

from rollbackd.units import parse_duration

_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'|`[^`]*`')
_RANGE = re.compile(r"\[\s*([0-9a-z]+)\s*(?::[^\]]*)?\]")
_OFFSET = re.compile(r"\boffset\s+([0-9a-z]+)")


def reach(query: str) -> timedelta:
    """The sum of the longest range, the longest subquery around it and the longest offset: never less than the truth.

    A selector in square brackets that is no duration counts as nothing: Prometheus refuses it anyway.
    """
    text = _STRINGS.sub('""', query)
    ranges = [_length(found[1]) for found in _RANGE.finditer(text) if ":" not in found[0]]
    subqueries = [_length(found[1]) for found in _RANGE.finditer(text) if ":" in found[0]]
    offsets = [_length(found[1]) for found in _OFFSET.finditer(text)]
    return max(ranges, default=timedelta()) + sum(subqueries, timedelta()) + max(offsets, default=timedelta())


def _length(text: str) -> timedelta:
    try:
        return parse_duration(text)
    except ValueError:
        return timedelta()
