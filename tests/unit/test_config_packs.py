"""The shipped packs: what they become, and what Prometheus makes of their queries."""

import json
import subprocess
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest

from rollbackd.config.files import pack_names, packs, read
from rollbackd.config.load import ConfigErrors, load
from rollbackd.rules.spec import CheckWhen, QueryWhen, Rule
from tests.unit.stand_ins import STAND_INS

CONFIG = """\
daemon: {mode: act, open_on_loopback: true}
prometheus: {url: http://127.0.0.1:9090}
rules: [RULES]
services:
  - name: checkout
    match: {service: checkout}
    layers: {code: {adapter: git, repo: /srv/checkout}}
    checks: {smoke: {command: [/opt/test]}, quick: {command: [/opt/quick]}}
    verify: {checks: [smoke]}
"""


def _rules(tmp_path: Path, entries: str) -> dict[str, Rule]:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.replace("RULES", entries))
    return {rule.name: rule for rule in load(path, STAND_INS).config.rules}


def _query(rule: Rule) -> QueryWhen:
    assert isinstance(rule.when, QueryWhen)
    return rule.when


def test_these_packs_are_shipped() -> None:
    assert pack_names() == [
        "auth",
        "business",
        "database",
        "http",
        "kubernetes",
        "saturation",
        "security",
        "slo",
        "smoke",
    ]


def test_all_packs_can_be_used_at_once_by_their_names_alone(tmp_path: Path) -> None:
    rules = _rules(tmp_path, ", ".join(f"{{pack: {name}}}" for name in pack_names()))
    assert len(rules) >= 20


def test_a_pack_can_be_for_some_services_and_of_some_rules(tmp_path: Path) -> None:
    rules = _rules(tmp_path, "{pack: http, as: early, services: checkout, only: [slow]}, {pack: http, only: slow}")
    assert {name: rule.services for name, rule in rules.items()} == {"early-slow": ("checkout",), "slow": ()}


def test_a_pack_for_an_unknown_service_or_of_an_unknown_rule_is_refused_at_the_entry(tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors) as caught:
        _rules(tmp_path, "{pack: http, services: [checkout, chekout], only: [slow, slower]}")
    assert str(caught.value).splitlines() == [
        f'{tmp_path}/config.yaml:3:43: unknown service "chekout"; did you mean "checkout"?',
        f'{tmp_path}/config.yaml:3:66: unknown rule "slower"; did you mean "slow"?',
    ]


@pytest.mark.parametrize("name", pack_names())
def test_a_pack_says_what_it_expects(name: str) -> None:
    text = (packs() / f"{name}.yaml").read_text()
    assert read(packs() / f"{name}.yaml").document.faults == []
    assert "Expects" in text.partition("settings:")[0]


def test_the_http_pack_has_the_thresholds_that_it_promises(tmp_path: Path) -> None:
    rules = _rules(tmp_path, "{pack: http}")
    assert list(rules) == [
        "error-score", "new-version-fails", "high-error-rate", "slow", "unavailable",
    ]  # fmt: skip
    score, new, errors, slow, gone = (_query(rule) for rule in rules.values())
    assert (new.by_label, new.limit) == ("version", f"{score.limit.replace('2m30s', '30s')} against {new.other}")
    assert score.limit == "score 10 (5% or 20% of requests, in 2m30s at the soonest)"
    assert (errors.above, slow.above, gone.above) == (0.1, 2.0, 0.6)
    assert {errors.for_, slow.for_, gone.for_} == {timedelta(minutes=3, seconds=45)}
    assert "[1m]" in errors.query
    assert errors.samples is not None
    assert errors.samples.at_least == 10


def test_the_slo_pack_burns_by_its_objective(tmp_path: Path) -> None:
    fast, slow = _rules(tmp_path, "{pack: slo, objective: 99%}").values()
    for rule, windows, rate in ((fast, ("1h", "5m"), 14.4), (slow, ("6h", "30m"), 6.0)):
        for leaf, window in zip(rule.leaves, windows, strict=True):
            assert isinstance(leaf, QueryWhen)
            assert f"[{window}]" in leaf.query
            assert leaf.query.rstrip().endswith("/ (1 - 0.99)")
            assert leaf.above == rate


def test_a_pack_can_be_used_again_with_other_settings(tmp_path: Path) -> None:
    rules = _rules(tmp_path, "{pack: http}, {pack: http, as: early, error_rate: 5%, requests: nginx_total, window: 1m}")
    early = _query(rules["early-high-error-rate"])
    assert early.above == 0.05
    assert "nginx_total[1m]" in early.query
    assert _query(rules["high-error-rate"]).above == 0.1


def test_the_smoke_pack_asks_a_check_of_the_service(tmp_path: Path) -> None:
    when = _rules(tmp_path, "{pack: smoke, check: quick, failures: 2}")["smoke-failed"].when
    assert when == CheckWhen(check="quick", failures=2, every=timedelta(seconds=15), after_change=timedelta(minutes=10))


WIDE = "{pack: http, window: 5m}"
"""For samples a minute apart."""
SERIES = {
    # 60 answers a minute; of `bad`, one in five fails.
    'http_requests_total{service="bad", code="200", instance="a"}': "0+24x30",
    'http_requests_total{service="bad", code="200", instance="b"}': "0+24x30",
    'http_requests_total{service="bad", code="503", instance="a"}': "0+12x30",
    'http_requests_total{service="fine", code="200"}': "0+60x30",
    'http_requests_total{service="idle", code="200"}': "5+0x30",
    'http_request_duration_seconds_bucket{service="bad", le="1"}': "0+30x30",
    'http_request_duration_seconds_bucket{service="bad", le="3"}': "0+60x30",
    'http_request_duration_seconds_bucket{service="bad", le="+Inf"}': "0+60x30",
    'http_request_duration_seconds_bucket{service="fine", le="1"}': "0+60x30",
    'http_request_duration_seconds_bucket{service="fine", le="+Inf"}': "0+60x30",
    'up{service="bad", instance="a"}': "1x30",
    'up{service="bad", instance="b"}': "0x30",
    'up{service="fine", instance="a"}': "1x30",
}


RESTARTED = {
    'http_requests_total{service="restarted", code="200", instance="a"}': "9000+60x17 60 120 180 240",
    'http_requests_total{service="restarted", code="503", instance="b"}': "9+3x30",
}


def _promtool(tmp_path: Path, query: str, expected: dict[str, float], more: Mapping[str, str] | None = None) -> None:
    """Have Prometheus' own engine evaluate a query after 20 minutes of the series above."""
    samples = [{"labels": f'{{service="{service}"}}', "value": value} for service, value in expected.items()]
    test = {
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": series, "values": values} for series, values in {**SERIES, **(more or {})}.items()
                ],
                "promql_expr_test": [{"expr": query, "eval_time": "20m", "exp_samples": samples}],
            }
        ],
    }
    path = tmp_path / "test.yaml"
    path.write_text(json.dumps(test))
    ran = subprocess.run(
        ["promtool", "test", "rules", str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.needs("promtool")
def test_the_error_rate_is_zero_and_not_nothing_without_errors(tmp_path: Path) -> None:
    """`idle` has 0 of 0, which is no number: inconclusive."""
    query = _query(_rules(tmp_path, WIDE)["high-error-rate"]).query
    _promtool(tmp_path, f"({query}) >= 0", {"bad": 0.2, "fine": 0})
    _promtool(tmp_path, f"count by (service) (({query}) != ({query}))", {"idle": 1})


@pytest.mark.needs("promtool")
def test_the_score_counts_errors_and_answers_and_survives_counters_that_begin_anew(tmp_path: Path) -> None:
    """Each series is counted by itself, so that one instance's restart takes nothing from the others."""
    score = _query(_rules(tmp_path, "{pack: http, score_window: 5m}")["error-score"])
    _promtool(tmp_path, score.query, {"bad": 60, "fine": 0, "idle": 0, "restarted": 15}, RESTARTED)
    _promtool(tmp_path, score.counting, {"bad": 300, "fine": 300, "idle": 0, "restarted": 315}, RESTARTED)


@pytest.mark.needs("promtool")
def test_a_burn_rate_of_one_uses_up_the_budget_at_the_months_end(tmp_path: Path) -> None:
    """One in five fails, and one in a hundred may."""
    short = _rules(tmp_path, "{pack: slo, objective: 99%}")["budget-burns-fast"].leaves[1]
    assert isinstance(short, QueryWhen)
    _promtool(tmp_path, f"round(({short.query}) >= 0)", {"bad": 20, "fine": 0})


@pytest.mark.needs("promtool")
def test_latency_and_availability_are_seen(tmp_path: Path) -> None:
    rules = _rules(tmp_path, WIDE)
    _promtool(tmp_path, _query(rules["slow"]).query, {"bad": 2.8, "fine": 0.95})
    _promtool(tmp_path, _query(rules["unavailable"]).query, {"bad": 0.5, "fine": 0})


@pytest.mark.needs("promtool")
def test_the_samples_are_the_answers_in_the_window(tmp_path: Path) -> None:
    samples = _query(_rules(tmp_path, WIDE)["high-error-rate"]).samples
    assert samples is not None
    _promtool(tmp_path, samples.query, {"bad": 300, "fine": 300, "idle": 0})
