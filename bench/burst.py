"""A storm in one request: 10,000 alerts for many services, answered when all are on disk; none is lost or twice.

A hold lies on all services. The clock runs from the first byte sent to the whole answer; then every alert must be in
the inbox once, and in the end judged.
"""

import time
from pathlib import Path

from bench import floor, past
from bench.alerts import alert, body, service_name
from bench.host import Host, fixed_services
from bench.measure import Row, Sizes, middle, span

MOST = 1.5
"""Seconds."""


def measure(root: Path, sizes: Sizes) -> Row:
    """The row."""
    took, lost, judged = [], 0, []
    for number in range(sizes.rounds):
        host = Host(root / str(number))
        host.hold()
        host.write_config(fixed_services(sizes.services))
        past.release_all(host.journal, [service_name(number) for number in range(sizes.services)])
        with host.daemon():
            host.post(body([alert(sizes.burst, 0)]))  # warm
            host.wait_until_judged()
            content = body(alert(index, index % sizes.services) for index in range(sizes.burst))
            begun = time.perf_counter()
            answer = host.post(content)
            took.append(time.perf_counter() - begun)
            stored = host.count("SELECT count(DISTINCT key) FROM inbox") - 1
            lost += sizes.burst - min(stored, answer["accepted"])
            host.wait_until_judged()
            judged.append(time.perf_counter() - begun)
    middling = middle(took)
    parsed, written = floor.parsed(content), floor.commits(root, sizes.burst, times=3)
    return Row(
        what=f"one request with {sizes.burst:,} alerts for {sizes.services:,} services",
        measured=f"{middling:.2f} s",
        floor=f"{parsed + written:.2f} s: parsed {parsed:.2f} s, so many rows in one commit {written:.2f} s",
        rest=f"checked, matched; rounds {span(took, '.2f')} s; {lost} lost; all judged {middle(judged):.1f} s later",
        must=f"< {MOST} s, 0 lost",
        ok=middling < MOST and not lost,
    )
