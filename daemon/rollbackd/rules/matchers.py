"""Alertmanager's matcher syntax. No I/O.

https://prometheus.io/docs/alerting/latest/configuration/#matcher
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from rollbackd.syntax.expressions import Expression

_MATCHER = re.compile(
    r"""\s*(?:"(?P<quoted_name>(?:[^"\\]|\\.)+)"|(?P<name>[^\s"'`,{}=~!\\0-9][^\s"'`,{}=~!\\]*))\s*(?P<op>=~|!~|!=|=)\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<bare>[^\s"',{}=~!]*))\s*"""
)
_PLAIN = re.compile("[a-zA-Z_][a-zA-Z0-9_]*")
"""A name that needs no quotes."""
_NOBODYS = "\0"
"""A value that no label has."""
_ESCAPE = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Matcher:
    """One comparison of one label. :raises ValueError: its regular expression is none of RE2's."""

    name: str
    operator: str
    """`=`, `!=`, `=~` or `!~`."""
    value: str
    expression: Expression | None = field(init=False, default=None, repr=False, compare=False)
    """What a regular expression is matched by: anchored at both ends, in linear time."""

    def __post_init__(self) -> None:
        if self.operator.endswith("~"):
            object.__setattr__(self, "expression", Expression(self.value))

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether the labels fit; a label that is missing counts as empty."""
        given = labels.get(self.name, "")
        fits = given == self.value if self.expression is None else self.expression.fits(given)
        return fits is not self.operator.startswith("!")

    def __str__(self) -> str:
        """As PromQL has it; a JSON string is one of PromQL's too, so whatever a value holds stays text."""
        name = self.name if _PLAIN.fullmatch(self.name) else json.dumps(self.name, ensure_ascii=False)
        return f"{name}{self.operator}{json.dumps(self.value, ensure_ascii=False)}"


@lru_cache(maxsize=1024)
def parse_matchers(text: str) -> tuple[Matcher, ...]:
    """Read `alertname="HighErrorRate", severity=~"critical|page"`, with or without braces; all must match.

    :raises ValueError: with the place where it stops making sense.
    """
    body = text.strip()
    if body.startswith("{") and body.endswith("}"):
        body = body[1:-1]
    matchers: list[Matcher] = []
    at = 0
    while True:
        found = _MATCHER.match(body, at)
        if found is None:
            rest = body[at:].strip()[:40]
            raise ValueError(f'cannot read the matcher at "{rest}"; write it like severity="critical"')
        matchers.append(_matcher(found))
        at = found.end()
        if at < len(body) and body[at] == ",":
            at += 1
            if not body[at:].strip():
                return tuple(matchers)
        elif at == len(body):
            return tuple(matchers)
        else:
            raise ValueError(f'there is no comma before "{body[at:].strip()[:40]}"; put one between two matchers')


def _matcher(found: re.Match[str]) -> Matcher:
    value = found["bare"] if found["quoted"] is None else _ESCAPE.sub(_unescape, found["quoted"])
    try:
        return Matcher(found["name"] or _ESCAPE.sub(_unescape, found["quoted_name"]), found["op"], value)
    except ValueError as error:
        raise ValueError(f'"{value}" is not a regular expression of RE2, {error}; mend it') from error


def named(matchers: tuple[Matcher, ...], label: str, value: str) -> bool:
    """Whether they ask for this very value of a label; one that takes whatever there is asks for none."""
    asked = [one for one in matchers if one.name == label and not one.operator.startswith("!")]
    return any(one.matches({label: value}) and not one.matches({label: _NOBODYS}) for one in asked)


def _unescape(found: re.Match[str]) -> str:
    return {"n": "\n", '"': '"', "\\": "\\"}.get(found[1], found[0])


def selector(metric: str, matchers: tuple[Matcher, ...], **more: str) -> str:
    """The series of a metric that have such labels, in PromQL: `ALERTS{severity=~"page|warn",alertstate="firing"}`."""
    own = map(str, (*matchers, *(Matcher(name, "=", value) for name, value in more.items())))
    return f"{metric}{{{','.join(own)}}}"


def all_match(matchers: tuple[Matcher, ...], labels: Mapping[str, str]) -> bool:
    """Whether every matcher does."""
    return all(matcher.matches(labels) for matcher in matchers)
