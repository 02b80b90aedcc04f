"""Durable intake: alerts a second that are on disk when they are answered, one a request.

Compared with a bare aiohttp handler in a process of its own that only parses the same JSON, under the same load from a
third process, in turns. A hold lies on all services, so nothing is rolled back; every alert is matched, stored, judged
and its decision journaled, while the load goes on. The rate counts answers; before the other's turn all is judged.
"""

import json
import subprocess
import time
from pathlib import Path

from bench import past
from bench.alerts import service_name
from bench.host import Host, fixed_services, free_port, processor_time, serves, started, wait_until
from bench.measure import Row, Sizes, middle, span

LEAST = 0.5


def measure(root: Path, sizes: Sizes) -> Row:
    """The row."""
    host = Host(root)
    host.hold()
    host.write_config(fixed_services(sizes.services))
    past.release_all(host.journal, [service_name(number) for number in range(sizes.services)])
    port = free_port(host.port)
    ratios, ours, bares, drains, works, bare_works = [], [], [], [], [], []
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with (
        host.daemon() as daemon,
        started(["-m", "bench.bare", str(port)], root, "bare.log") as bare,
        started(["-m", "bench.load"], root, "load.log", **pipes) as load,
    ):
        wait_until(lambda: serves(port, bare, root / "bare.log"), "the bare handler")
        host.wait_until_idle(daemon)
        for number in range(-1, sizes.rounds):  # the first one warms up
            first = (number + 1) * sizes.posts
            used = processor_time(daemon), processor_time(bare)
            rate = _rate(load, host.port, first, sizes)
            begun = time.monotonic()
            host.wait_until_judged()
            drains.append(time.monotonic() - begun)
            plain = _rate(load, port, first, sizes)
            if number >= 0:
                ratios.append(rate / plain)
                ours.append(rate)
                bares.append(plain)
                works.append((processor_time(daemon) - used[0]) / sizes.posts)
                bare_works.append((processor_time(bare) - used[1]) / sizes.posts)
        stored = host.count("SELECT count(*) FROM inbox")
    lost = (sizes.rounds + 1) * sizes.posts - stored
    ratio = middle(ratios)
    rest = (
        f"{middle(ours):.0f}/s; an alert takes {middle(works) * 1e6:.0f} us of processor time until it is judged, "
        f"{middle(bare_works) * 1e6:.0f} us in the bare handler; rounds {span(ratios, '.2f')}; {lost} lost; "
        f"all judged {middle(drains):.1f} s later"
    )
    return Row(
        what=f"durable intake, one alert a request, {sizes.connections} connections",
        measured=f"{ratio:.2f}",
        floor=f"1, a bare handler's {middle(bares):.0f}/s",
        rest=rest,
        must=f">= {LEAST}",
        ok=ratio >= LEAST and not lost,
    )


def _rate(load: subprocess.Popen[str], port: int, first: int, sizes: Sizes) -> float:
    """Answers a second."""
    assert load.stdin is not None
    assert load.stdout is not None
    asked = {"port": port, "first": first, "count": sizes.posts, "services": sizes.services}
    load.stdin.write(json.dumps({**asked, "connections": sizes.connections}) + "\n")
    load.stdin.flush()
    answer = json.loads(load.stdout.readline())
    return float(answer["accepted"] / answer["seconds"])
