"""Alertmanager's matchers: what is read, what is refused, what matches."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollbackd.rules.matchers import all_match, parse_matchers, selector

NAMES = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,8}", fullmatch=True)
LABELS = st.dictionaries(NAMES, st.text(max_size=8), max_size=4)


@pytest.mark.parametrize(
    ("text", "labels", "matches"),
    [
        ('alertname="HighErrorRate"', {"alertname": "HighErrorRate"}, True),
        ('alertname="HighErrorRate"', {"alertname": "highErrorRate"}, False),
        ('{alertname="A", severity="b"}', {"alertname": "A", "severity": "b"}, True),
        ("alertname=A,severity=b", {"alertname": "A"}, False),
        ('a="1", b="2",', {"a": "1", "b": "2"}, True),
        ('severity=~"critical|page"', {"severity": "page"}, True),
        ('severity=~"critical|page"', {"severity": "pager"}, False),
        ('severity!~"info|none"', {"severity": "page"}, True),
        ('severity!~"info|none"', {"severity": "info"}, False),
        ('team!="web"', {}, True),
        ('team!="web"', {"team": "web"}, False),
        ('team=""', {}, True),
        ("team=", {"team": ""}, True),
        ('team!=""', {}, False),
        ('a="with \\"quotes\\" and \\\\ and \\n"', {"a": 'with "quotes" and \\ and \n'}, True),
        ('a=~"1\\\\.5"', {"a": "1.5"}, True),
        ('a=~"1\\\\.5"', {"a": "1x5"}, False),
        ('a=~"\\d+"', {"a": "15"}, True),
        ('a=~".*"', {"a": "two\nlines"}, True),
        ('a="b.c"', {"a": "bxc"}, False),
        ('  a = "b" ', {"a": "b"}, True),
        ("a=/path/x-y.z", {"a": "/path/x-y.z"}, True),
        ('a="{b}"', {"a": "{b}"}, True),
    ],
)
def test_it_matches_like_alertmanager(text: str, labels: dict[str, str], matches: bool) -> None:
    assert all_match(parse_matchers(text), labels) is matches


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", 'cannot read the matcher at ""'),
        ("{}", 'cannot read the matcher at ""'),
        ("alertname", 'cannot read the matcher at "alertname"'),
        ('a="b", severity critical', 'cannot read the matcher at "severity critical"'),
        ("1a=b", 'cannot read the matcher at "1a=b"'),
        ('a="b" c="d"', 'there is no comma before "c="d""; put one between two matchers'),
        ('a=="b"', 'there is no comma before "="b""'),
        ('a="b",,c="d"', 'cannot read the matcher at ",c="d""'),
        ('a=~"("', '"(" is not a regular expression, missing ), unterminated subpattern at position 0; mend it'),
        ('a="not closed', 'there is no comma before ""not closed"'),
    ],
)
def test_what_cannot_be_read_is_shown(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        parse_matchers(text)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


@given(LABELS.filter(bool))
def test_labels_written_as_matchers_match_themselves(labels: dict[str, str]) -> None:
    text = ", ".join(f"{name}={_quoted(value)}" for name, value in labels.items())
    assert all_match(parse_matchers(text), labels)
    assert all_match(parse_matchers("{" + text + "}"), labels | {"another": "label"})


@given(LABELS, NAMES, st.text(max_size=8))
def test_a_negation_is_the_opposite(labels: dict[str, str], name: str, value: str) -> None:
    for operator, opposite, given_value in (("=", "!=", value), ("=~", "!~", re.escape(value))):
        one = all_match(parse_matchers(f"{name}{operator}{_quoted(given_value)}"), labels)
        other = all_match(parse_matchers(f"{name}{opposite}{_quoted(given_value)}"), labels)
        assert one is not other
        assert one is (labels.get(name, "") == value)


@given(LABELS, st.lists(st.tuples(NAMES, st.text(max_size=4)), min_size=1, max_size=4))
def test_several_matchers_are_all_of_them(labels: dict[str, str], pairs: list[tuple[str, str]]) -> None:
    single = [f"{name}={_quoted(value)}" for name, value in pairs]
    assert all_match(parse_matchers(",".join(single)), labels) is all(
        all_match(parse_matchers(text), labels) for text in single
    )


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        matchers = parse_matchers(text)
    except ValueError:
        return
    assert matchers


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ('alertname="HighErrorRate"', 'ALERTS{alertname="HighErrorRate",alertstate="firing"}'),
        ('severity=~"critical|page", team!="web"', 'ALERTS{severity=~"critical|page",team!="web",alertstate="firing"}'),
        ("a=b,c!~d.*", 'ALERTS{a="b",c!~"d.*",alertstate="firing"}'),
        ('a="say \\"x\\"}, up{b=\\"", c="\\\\"', 'ALERTS{a="say \\"x\\"}, up{b=\\"",c="\\\\",alertstate="firing"}'),
        ('a="two\\nlines é"', 'ALERTS{a="two\\nlines é",alertstate="firing"}'),
    ],
)
def test_matchers_are_written_as_promql_and_their_values_stay_text(text: str, written: str) -> None:
    assert selector("ALERTS", parse_matchers(text), alertstate="firing") == written
