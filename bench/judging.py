"""One query's answer for 10,000 services: processor time of receiving, parsing, spreading, judging and tracking it.

The daemon's own poll, in a process of its own, of a stand-in for Prometheus that is another process. All threads count.
"""

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

from bench.alerts import service_name
from bench.host import Host, environment, free_port, serves, service, started, wait_until
from bench.measure import Row, Sizes, middle, span
from rollbackd.clock import SystemClock
from rollbackd.config.models import Config, PrometheusSettings, Service
from rollbackd.core import build
from rollbackd.journal import open_journal
from rollbackd.rules.spec import QueryWhen, Rule
from rollbackd.rules.tracks import Standing

MOST = 0.5
"""Seconds."""
_QUERY = "sum by (service, env) (rate(errors_total[5m])) / sum by (service, env) (rate(requests_total[5m]))"


def measure(root: Path, sizes: Sizes) -> Row:
    """The row."""
    host = Host(root)
    port = free_port(host.port)
    with started(["-m", "bench.answers", str(port), str(sizes.series)], root, "answers.log") as answers:
        wait_until(lambda: serves(port, answers, root / "answers.log"), "the stand-in for Prometheus")
        argv = [sys.executable, "-m", "bench.judging", str(host.root), str(port), str(sizes.series), str(sizes.rounds)]
        done = subprocess.run(argv, env=environment(root), capture_output=True, text=True, check=True, timeout=300)
    took: list[float] = json.loads(done.stdout)
    middling = middle(took)
    what = f"one query's answer for {sizes.series:,} services judged"
    compared = f"processor time of the whole poll, all threads; rounds {span(took, '.2f')} s"
    return Row(what, f"{middling:.2f} s", compared, f"< {MOST} s", middling < MOST)


async def _poll(host: Host, port: int, series: int, rounds: int) -> list[float]:
    clock = SystemClock()
    rule = Rule(name="errors", when=QueryWhen.model_validate({"query": _QUERY, "above": "10%", "for": "1h"}))
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
        seen = core.live.standing(service_name(0), clock.now()), core.live.standing(service_name(1), clock.now())
        if core.polls.problem or seen != (Standing.PENDING, Standing.GOOD):
            raise SystemExit(f"the answer was not judged: {core.polls.problem or seen}")
    finally:
        await core.close()
    return took


def _services(count: int) -> tuple[Service, ...]:
    """Validated one by one; no file of ten thousand is read for this."""
    from rollbackd.config.load import load_service

    return tuple(load_service(service(number, {"code": {"adapter": "fixed"}})) for number in range(count))


if __name__ == "__main__":
    _directory, *_numbers = sys.argv[1:]
    _host = Host(Path(_directory) / "polled")
    print(json.dumps(asyncio.run(_poll(_host, *map(int, _numbers)))))
