"""One query's answer for 10,000 services: processor time of receiving, parsing, spreading, judging and tracking it.

The daemon's own poll, with its own care of memory, in a process of its own, of a stand-in for Prometheus that is
another process. All threads count.
"""

import asyncio
import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from bench.alerts import service_name
from bench.answers import REQUESTS
from bench.host import BenchError, Host, environment, free_port, serves, service, started, wait_until
from bench.measure import Row, Sizes, middle, span
from rollbackd.app import spare_what_stays
from rollbackd.config.load import load_service
from rollbackd.config.models import Config, PrometheusSettings, Service
from rollbackd.core import build
from rollbackd.journal import open_journal
from rollbackd.rules.spec import QueryWhen, Rule
from rollbackd.rules.tracks import Standing
from rollbackd.system.clock import SystemClock

MOST, MOST_COMPARED = 0.35, 1.0
"""Seconds."""
MOST_SCORED = 1.3
"""Times as long as a threshold."""
_QUERY = "sum by (service, env) (rate(errors_total[5m])) / sum by (service, env) (rate(requests_total[5m]))"

_ERRORS = "sum by (service, env) (increase(errors_total[1m]))"


def measure(root: Path, sizes: Sizes) -> Row:
    """One query against a threshold."""
    return _measured(root, sizes, "threshold", "one query's answer for {:,} services judged", MOST)


def measure_compared(root: Path, sizes: Sizes) -> Row:
    """One query against the same of two hours ago: two answers."""
    return _measured(root, sizes, "compared", "one query's two answers for {:,} services compared", MOST_COMPARED)


def measure_scored(root: Path, sizes: Sizes) -> Row:
    """Errors and requests that add up to a score, two answers, beside one query against a threshold."""
    judged, scored = (_times(root, sizes, kind) for kind in ("threshold", "score"))
    middling = middle([one / other for one, other in zip(scored[0], judged[0], strict=True)])
    return Row(
        what=f"a score of {sizes.series:,} services, beside one query's answer judged",
        measured=f"{middling:.2f}",
        floor=f"1, {middle(judged[0]):.3f} s of one query's answer",
        rest=f"{middle(scored[0]):.3f} s: two answers, spread, counted, tracked; rounds {span(scored[0], '.3f')} s",
        must=f"<= {MOST_SCORED}",
        ok=middling <= MOST_SCORED,
    )


_WHENS: dict[str, dict[str, Any]] = {
    "threshold": {"query": _QUERY, "above": "10%", "for": "1h"},
    "compared": {"query": _QUERY, "rises_by": "50%", "against": {"offset": "2h"}, "for": "1h"},
    "score": {"query": _ERRORS, "score": {"of": REQUESTS, "threshold": 100}},
}


def _measured(root: Path, sizes: Sizes, kind: str, what: str, most: float) -> Row:
    took, parsed = _times(root, sizes, kind)
    middling = middle(took)
    return Row(
        what=what.format(sizes.series),
        measured=f"{middling:.3f} s",
        floor=f"{parsed:.3f} s: received and parsed alone",
        rest=f"spread over services, judged, tracked; processor time, all threads; rounds {span(took, '.3f')} s",
        must=f"< {most} s",
        ok=middling < most,
    )


def _times(root: Path, sizes: Sizes, kind: str) -> tuple[list[float], float]:
    """The seconds that each poll took, and those of receiving and parsing its answers alone."""
    host = Host(root)
    port = free_port(host.port)
    with started(["-m", "bench.answers", str(port), str(sizes.series)], root, "answers.log") as answers:
        wait_until(lambda: serves(port, answers, root / "answers.log"), "the stand-in for Prometheus")
        numbers = map(str, (port, sizes.series, sizes.rounds))
        argv = [sys.executable, "-m", "bench.judging", str(host.root), kind, *numbers]
        done = subprocess.run(argv, env=environment(root), capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        raise BenchError(f"the poll failed: {done.stderr[-2000:]}")
    took, parsed = json.loads(done.stdout)
    return took, parsed


async def _poll(host: Host, kind: str, port: int, series: int, rounds: int) -> list[float]:
    clock = SystemClock()
    when = QueryWhen.model_validate(_WHENS[kind])
    rule = Rule(name="errors", when=when)
    config = Config(
        prometheus=PrometheusSettings(url=f"http://127.0.0.1:{port}"), rules=(rule,), services=_services(series)
    )
    config = config.model_copy(
        update={"daemon": config.daemon.model_copy(update={"signals": host.root / "signals", "mode": "shadow"})}
    )
    core = await build(config, await open_journal(host.journal, clock), clock)
    assert core.polls is not None
    spare_what_stays()
    took = []
    try:
        for number in range(rounds + 1):
            begun = time.process_time()
            await core.polls.poll()
            if number:  # the first one warms up
                took.append(time.process_time() - begun)
        seen = (
            core.rule_states.standing(service_name(0), clock.now()),
            core.rule_states.standing(service_name(1), clock.now()),
        )
        sick = Standing.PENDING if kind == "threshold" else Standing.GOOD  # the stand-in answers alike for all times
        scores = {one: share for _, one, share in core.rule_states.scores()}
        if kind == "score" and not scores[service_name(0)] > scores[service_name(1)] == 0:
            raise SystemExit(f"the answer was not counted: {core.polls.problem}")
        if core.polls.problem or seen != (sick, Standing.GOOD):
            raise SystemExit(f"the answer was not judged: {core.polls.problem or seen}")
    finally:
        await core.close()
    return took


def _services(count: int) -> tuple[Service, ...]:
    """Validated one by one; no file of ten thousand is read for this."""
    return tuple(load_service(service(number, {"code": {"adapter": "fixed"}})) for number in range(count))


def _fetched(port: int) -> float:
    """Seconds of processor time of receiving and parsing one answer; the median of five."""
    took = []
    for _ in range(5):
        begun = time.process_time()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/query", timeout=60) as answer:
            json.load(answer)
        took.append(time.process_time() - begun)
    return middle(took)


if __name__ == "__main__":
    _directory, _kind, *_numbers = sys.argv[1:]
    _host = Host(Path(_directory) / "polled")
    _took = asyncio.run(_poll(_host, _kind, *map(int, _numbers)))
    print(json.dumps((_took, _fetched(int(_numbers[0])) * (1 if _kind == "threshold" else 2))))
