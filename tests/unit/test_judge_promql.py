"""The judge's PromQL against Prometheus's own engine, on the judge's own samples.

No time is one of a scrape: a range has its own beginning in it up to Prometheus 2, and from 3 on it has not.
"""

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.judge.corpus import Case
from tests.judge.incident import SHOP, Outage
from tests.judge.peers import Watched
from tests.judge.promql import Evaluation, NotSpoken, parse
from tests.judge.series import PACE, Metric
from tests.judge.traffic import BUCKETS, REQUESTS, UP, Traffic

_BEGIN = -600.0
_QUERIES = (
    'sum by (service) (rate(http_requests_total{code=~"5.."}[5m]))',
    'sum by (service) (rate(http_requests_total{code=~"5.."}[1m])) / sum by (service) (rate(http_requests_total[1m]))',
    '(sum by (service) (rate(http_requests_total{code=~"5.."}[5m])) or sum by (service) (increase(up[5m])) * 0) + 1',
    "sum by (service) (increase(http_requests_total[5m]))",
    "sum without (instance, version, code) (increase(http_requests_total[2m] offset 1m))",
    "histogram_quantile(0.95, sum by (service, le) (rate(http_request_duration_seconds_bucket[5m])))",
    "avg by (service) (avg_over_time(up[5m]))",
    "avg by (service) (up)",
    "count by (service) (up == 1)",
    "max by (service) (max_over_time(up[1m])) - min by (service) (min_over_time(up[3m]))",
    "sum by (service) (resets(http_requests_total[10m]))",
    "sum by (service) (http_requests_total) - sum by (service) (http_requests_total offset 5m)",
    "clamp_min(avg by (service) (up), 0.7) > bool 0.8",
    "sum by (service) (count_over_time(up[4m])) unless sum by (service) (up) == 0",
    "sum by (service) (last_over_time(http_requests_total[2m])) and sum by (service) (up) > 0",
)


def _metrics(kind: str, number: int) -> dict[str, Metric]:
    """The shop's series around the release, as if every target were scraped on the grid."""
    incident = Case(kind, number, 3).made()
    incident = replace(incident, hosts=incident.hosts[:1], outages=(*incident.outages, Outage(700, 790)))
    watched = Watched(incident, (1, 2, number))
    traffic = Traffic(incident, (1, 2, number), {key: tuple(each) for key, each in watched.turns.items()}, 3600.0)
    found = {}
    for name in (REQUESTS, BUCKETS, UP):
        metric = traffic.metric(name, 0.0)
        assert metric is not None
        first = int((_BEGIN - metric.begin) / PACE)
        span = slice(first, first + 120)
        zero = np.zeros_like(metric.offsets)
        found[name] = Metric(metric.labels, _BEGIN, zero, metric.samples[:, span], metric.stale[:, span])
    return found


def _series(name: str, metric: Metric) -> list[dict[str, str]]:
    found = []
    for labels, samples, stale in zip(metric.labels, metric.samples, metric.stale, strict=True):
        words = [
            "stale" if ended else "_" if np.isnan(one) else f"{one:.0f}"
            for one, ended in zip(samples, stale, strict=True)
        ]
        inside = ", ".join(f'{key}="{value}"' for key, value in labels.items())
        found.append({"series": f"{name}{{{inside}}}", "values": " ".join(words)})
    return found


@pytest.mark.needs("promtool")
@pytest.mark.parametrize(
    ("kind", "number"), [("crash loop", 0), ("slow leak", 1), ("routine restarts", 2), ("bad canary", 3)]
)
def test_it_says_what_prometheus_says(kind: str, number: int, tmp_path: Path) -> None:
    metrics = _metrics(kind, number)
    times = np.array([_BEGIN + at for at in (47, 307, 611, 633, 703, 947, 1201, 1311, 1333, 1402, 1601, 1779)])
    work = Evaluation(metrics.get, times)
    tests: list[dict[str, Any]] = []
    compared = 0
    for query in _QUERIES:
        found = work.of(parse(query))
        assert not isinstance(found, float)
        rows = [row for row, labels in enumerate(found.labels) if labels.get("service") == SHOP]
        for column, at in enumerate(times):
            there = [row for row in rows if found.there[row, column]]
            assert len(there) <= 1
            expected: list[dict[str, object]] = []
            asked = f"({query})"
            if there:
                value = float(found.values[there[0], column])
                same = f"abs({asked} - {value!r}) <= bool {max(1e-9, abs(value) * 1e-9)!r}"
                asked = f"{asked} != bool {asked}" if np.isnan(value) else same
                expected = [{"labels": f'{{service="{SHOP}"}}', "value": 1}]
                compared += 1
            tests.append({"expr": asked, "eval_time": f"{int(at - _BEGIN)}s", "exp_samples": expected})
    assert compared > len(tests) / 2
    series = [one for name, metric in metrics.items() for one in _series(name, metric)]
    document = {
        "rule_files": [],
        "evaluation_interval": "15s",
        "tests": [{"interval": "15s", "input_series": series, "promql_expr_test": tests}],
    }
    path = tmp_path / "test.yaml"
    path.write_text(yaml.safe_dump(document))
    run = subprocess.run(
        ["promtool", "test", "rules", str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]


@pytest.mark.parametrize(
    "query",
    ["rate(x)", "x[5m]", "topk(3, x)", "x and 3", "x * on (a) group_left y", "sum(x", "rate(x[5m:15s])", "x ~ y"],
)
def test_what_is_not_spoken_here_is_an_error(query: str) -> None:
    with pytest.raises((NotSpoken, ValueError)):
        Evaluation(lambda _: None, np.zeros(1)).of(parse(query))
