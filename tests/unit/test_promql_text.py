"""What is surely no query is an error, and what a parser does not know only a note: a server may know more."""

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rollbackd.cli import local_commands
from rollbackd.cli.command_frame import Session
from rollbackd.config.files import packs
from rollbackd.config.load import load
from rollbackd.syntax.promql import unbalanced

CONFIG = """\
daemon: {mode: act, open_on_loopback: true}
prometheus: {url: "http://127.0.0.1:1"}
rules:
%s
services:
  - name: checkout
    match: {service: checkout}
    layers: {code: {adapter: git, repo: /srv/checkout}}
    verify: {checks: [{tcp: 127.0.0.1:3000}]}
"""
KNOWN = (
    'sum by (service) (rate(http_requests_total{code=~"5..", path!="/)"}[5m])) > bool 0.5 # a ( comment',
    "histogram_quantile(0.95, sum by (le) (rate(d_bucket[5m] offset 1d @ end())))",
    "max_over_time(deriv(x[5m])[30m:1m])",
    '{"metric.with.dots", "label.too"=`raw`}',
    "histogram_avg(rate(native[5m]))",
    "info(up)",
    "sum(rate(a[1m])) / ignoring(code) group_left() sum(rate(b[1m]))",
)
UNKNOWN = (
    "rate(requests_total)",  # VictoriaMetrics: a window by itself
    "WITH (x = errors) x default 0",
    "requests keep_metric_names",
    "rate(a[step() * 4])",
    "brand_new_function(up)",
    "up{a=`raw \\`}",
)


@pytest.mark.parametrize("query", [*KNOWN, *UNKNOWN])
def test_no_dialect_is_refused(query: str) -> None:
    assert unbalanced(query) == ""


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("sum(rate(x[5m])", 'the "(" at character 4 is never closed'),
        ("up)", 'the ")" at character 3 closes nothing'),
        ('up{a="b\\"}', 'the quote " at character 6 is never closed'),
        ("(up]", 'the "]" at character 4 closes nothing'),
        ("up{a=`)\\`}", ""),
        ("up # (", ""),
        ("up # ('\n + (down", 'the "(" at character 12 is never closed'),
        ("with\\(bracket", ""),
    ],
)
def test_brackets_and_quotes_must_fit(query: str, said: str) -> None:
    assert unbalanced(query).startswith(said)
    assert bool(unbalanced(query)) is bool(said)


@given(
    st.recursive(
        st.sampled_from(["up", '"(["', "`]`", "'{\\''"]), lambda one: st.builds("({} [{}]{{{}}})".format, one, one, one)
    )
)
def test_what_is_whole_fits_and_without_any_of_its_brackets_does_not(query: str) -> None:
    assert unbalanced(query) == ""
    if query.endswith(")"):
        assert unbalanced(query[:-1])
        assert unbalanced(query[1:])


def test_every_shipped_query_fits() -> None:
    for path in packs().glob("*.yaml"):
        for rule in yaml.safe_load(path.read_text())["rules"]:
            assert unbalanced(json.dumps(rule)) == "", path


def checked(tmp_path: Path, capsys: pytest.CaptureFixture[str], *queries: str) -> list[str]:
    rules = [
        f"  - {{name: rule-{n}, when: {{query: {json.dumps(query)}, above: 1}}}}" for n, query in enumerate(queries)
    ]
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG % "\n".join(rules))
    assert local_commands.check(Session(json=True), path) is None
    notes = json.loads(capsys.readouterr().out)["notes"]
    return [note for note in notes if "PromQL" in note]


def test_a_query_that_the_parser_does_not_know_is_noted_at_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert checked(tmp_path, capsys, *KNOWN) == []
    notes = checked(tmp_path, capsys, "up", *UNKNOWN[:2])
    assert [note.partition(": ")[0] for note in notes] == [f"{tmp_path}/config.yaml:{line}:27" for line in (5, 6)]
    assert all(note.endswith("ask the server: rollbackd check --live") for note in notes)


def test_queries_of_packs_are_noted_where_the_pack_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG % "  - {pack: http}\n  - {pack: slo}\n  - {pack: saturation}")
    loaded = load(path)
    assert {query.line for query in loaded.queries} == {4, 5, 6}
    assert local_commands.check(Session(json=True), path) is None
    assert [note for note in json.loads(capsys.readouterr().out)["notes"] if "PromQL" in note] == []
