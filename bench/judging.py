"""One query's answer for 10,000 services: processor time of receiving, parsing, spreading, judging and tracking it.

The daemon's own poll, in a process of its own, of a stand-in for Prometheus that is another process. All threads count.
"""

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.alerts import service_name
from bench.host import Host, environment, free_port, serves, service, started, wait_until
from bench.measure import Row, Sizes, middle, span
from rollbackd.config.models import Config, PrometheusSettings, Service
from rollbackd.core import build
from rollbackd.journal import open_journal
from rollbackd.rules.spec import QueryWhen, Rule
from rollbackd.rules.tracks import Standing
from rollbackd.system.clock import SystemClock

MOST = 0.5
"""Seconds, for each answer."""
_QUERY = "sum by (service, env) (rate(errors_total[5m])) / sum by (service, env) (rate(requests_total[5m]))"


def measure(root: Path, sizes: Sizes) -> Row:
    """One query against a threshold."""
    return _measured(root, sizes, "threshold", "one query's answer for {:,} services judged", MOST)


def measure_compared(root: Path, sizes: Sizes) -> Row:
    """One query against the same of two hours ago: two answers."""
    return _measured(root, sizes, "compared", "one query's two answers for {:,} services compared", MOST * 2)


_WHENS: dict[str, dict[str, Any]] = {
    "threshold": {"above": "10%"},
    "compared": {"rises_by": "50%", "against": {"offset": "2h"}},
}


def _measured(root: Path, sizes: Sizes, kind: str, what: str, most: float) -> Row:
    host = Host(root)
    port = free_port(host.port)
    with started(["-m", "bench.answers", str(port), str(sizes.series)], root, "answers.log") as answers:
        wait_until(lambda: serves(port, answers, root / "answers.log"), "the stand-in for Prometheus")
        numbers = map(str, (port, sizes.series, sizes.rounds))
        argv = [sys.executable, "-m", "bench.judging", str(host.root), kind, *numbers]
        done = subprocess.run(argv, env=environment(root), capture_output=True, text=True, check=True, timeout=300)
    took: list[float] = json.loads(done.stdout)
    middling = middle(took)
    compared = f"processor time of the whole poll, all threads; rounds {span(took, '.2f')} s"
    return Row(what.format(sizes.series), f"{middling:.2f} s", compared, f"< {most} s", middling < most)


async def _poll(host: Host, kind: str, port: int, series: int, rounds: int) -> list[float]:
    clock = SystemClock()
    when = QueryWhen.model_validate({"query": _QUERY, "for": "1h", **_WHENS[kind]})
    rule = Rule(name="errors", when=when)
    config = Config(
        prometheus=PrometheusSettings(url=f"http://127.0.0.1:{port}"), rules=(rule,), services=_services(series)
    )
    config = config.model_copy(update={"daemon": config.daemon.model_copy(update={"signals": host.root / "signals"})})
    core = await build(config, await open_journal(host.journal, clock), clock)
    assert core.polls is not None
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
        if core.polls.problem or seen != (sick, Standing.GOOD):
            raise SystemExit(f"the answer was not judged: {core.polls.problem or seen}")
    finally:
        await core.close()
    return took


def _services(count: int) -> tuple[Service, ...]:
    """Validated one by one; no file of ten thousand is read for this."""
    from rollbackd.config.load import load_service

    return tuple(load_service(service(number, {"code": {"adapter": "fixed"}})) for number in range(count))


if __name__ == "__main__":
    _directory, _kind, *_numbers = sys.argv[1:]
    _host = Host(Path(_directory) / "polled")
    print(json.dumps(asyncio.run(_poll(_host, _kind, *map(int, _numbers)))))
