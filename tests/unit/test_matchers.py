"""Alertmanager's matchers: what is read, what is refused, what matches."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollbackd.rules.matchers import Matcher, all_match, named, parse_matchers, selector

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
        ('"service.name"="shop"', {"service.name": "shop"}, True),
        ('{"service.name"=~"sh.p", severity="page"}', {"service.name": "shop", "severity": "page"}, True),
        ('"service.name"="shop"', {"service": "shop"}, False),
        ('service.name!="shop"', {"service.name": "shop"}, False),
        ('k8s.io/app-name = "shop"', {"k8s.io/app-name": "shop"}, True),
        ('"with \\"quotes\\" and, {=}"="x"', {'with "quotes" and, {=}': "x"}, True),
        ("größe=klein", {"größe": "klein"}, True),
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
        ('a=~"("', '"(" is not a regular expression of RE2, missing ): (; mend it'),
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


UTF8 = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)


@given(st.lists(st.tuples(UTF8, st.sampled_from(["=", "!=", "=~", "!~"]), UTF8.map(re.escape)), min_size=1, max_size=3))
def test_matchers_of_any_names_are_read_as_they_are_written(parts: list[tuple[str, str, str]]) -> None:
    matchers = tuple(Matcher(*part) for part in parts)
    assert parse_matchers(", ".join(map(str, matchers))) == matchers
    assert parse_matchers("{" + ",".join(map(str, matchers)) + "}") == matchers


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
        ('"service.name"="a", b="c"', 'ALERTS{"service.name"="a",b="c",alertstate="firing"}'),
        ('a="two\\nlines é"', 'ALERTS{a="two\\nlines é",alertstate="firing"}'),
    ],
)
def test_matchers_are_written_as_promql_and_their_values_stay_text(text: str, written: str) -> None:
    assert selector("ALERTS", parse_matchers(text), alertstate="firing") == written


# -- a linear engine ----------------------------------------------------------------------------
COSTLY = st.one_of(
    st.sampled_from(
        ["(.|.)*!", "([a-z0-9]+[.-]?)+:9100", "(a+)+!", "(a|aa)*!", "(a?){30}a{30}!", "(.*)*=x", "(x+x+)+y"]
    ),
    st.recursive(
        st.sampled_from(["a", ".", "[a-z]", "aa", "x"]),
        lambda inner: st.one_of(
            st.tuples(inner, st.sampled_from(["*", "+", "?"])).map(lambda both: f"({both[0]}){both[1]}"),
            st.tuples(inner, inner).map(lambda both: f"({both[0]}|{both[1]})"),
            st.tuples(inner, inner).map("".join),
        ),
        max_leaves=6,
    ).map(lambda inner: f"({inner})+!"),
)


@given(COSTLY, st.sampled_from(["a" * 1000, "x" * 1000, "web-prod-01.example.internal:9100", "ab" * 500]))
def test_no_expression_takes_long_over_a_label(expression: str, value: str) -> None:
    (matcher,) = parse_matchers(f"instance=~{_quoted(expression)}")
    begun = time.process_time()
    matcher.matches({"instance": value})
    assert time.process_time() - begun < 0.25


@given(st.text(max_size=40), st.text(max_size=20))
def test_any_expression_is_read_or_refused(expression: str, value: str) -> None:
    try:
        matcher = Matcher("a", "=~", expression)
    except ValueError:
        return
    assert matcher.matches({"a": value}) is not Matcher("a", "!~", expression).matches({"a": value})


@pytest.mark.parametrize(
    "beyond", [r"a(?=b)", r"(?!a)b", r"(a)\\1", r"(?<=a)b", "(a{1000}){1000}", r"\\pL{1000}", "x" * 70_000]
)
def test_what_a_linear_engine_cannot_say_is_refused(beyond: str) -> None:
    with pytest.raises(ValueError, match="is not a regular expression of RE2"):
        parse_matchers(f'a=~"{beyond}"')


@pytest.mark.parametrize(
    ("written", "asks"),
    [('severity="critical"', True), ('severity=~"critical|page"', True), ('severity="page"', False),
     ('severity=~".*"', False), ('severity!="page"', False), ('team="critical"', False)],
)  # fmt: skip
def test_matchers_ask_for_a_value_where_not_whatever_there_is_fits(written: str, asks: bool) -> None:
    assert named(parse_matchers(written), "severity", "critical") is asks
