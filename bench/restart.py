"""A restart with so many facts: from the start of the process to its first `/healthz`, against an empty journal's.

The facts are a fleet's past: releases, marks, decisions, rollbacks with their rounds, told messages. A daemon has run
with each journal before, and was ended orderly. In turns.
"""

import asyncio
import time
from datetime import UTC, datetime
from pathlib import Path

from bench import past
from bench.host import Host, fixed_services, processor_time, started, wait_until
from bench.measure import Row, Sizes, middle, span

MOST, MOST_MANY = 0.3, 1.0
"""Seconds."""
_SERVICES = 200
_ROUNDS_MANY = 3


def measure(root: Path, sizes: Sizes) -> Row:
    """With the facts of a year."""
    return _measured(root, sizes.facts, sizes.rounds, MOST)


def measure_many(root: Path, sizes: Sizes) -> Row:
    """With the facts of ten years."""
    return _measured(root, sizes.many_facts, min(sizes.rounds, _ROUNDS_MANY), MOST_MANY)


def _measured(root: Path, facts: int, rounds: int, most: float) -> Row:
    full, empty = Host(root / "full"), Host(root / "empty")
    services = fixed_services(_SERVICES)
    for host in (full, empty):
        host.write_config(services)
    entries = past.years(_SERVICES, past.as_opened(services[0]), datetime.now(UTC))
    asyncio.run(past.write(full.journal, entries, facts))
    size = (full.root / "journal.db").stat().st_size / 2**20
    more, bases, works = [], [], []
    for number in range(-1, rounds):  # the first one is the life before
        (base, base_work), (whole, work) = _start(empty), _start(full)
        if number >= 0:
            more.append(whole - base)
            bases.append(base)
            works.append(work - base_work)
    return Row(
        what=f"restart with {facts:,} facts",
        measured=f"{middle(more):+.2f} s",
        floor=f"+0, an empty daemon's start in {middle(bases):.2f} s",
        rest=f"{middle(works):.2f} s of it processor time; rounds {span(more, '.2f')} s; a journal of {size:.0f} MiB",
        must=f"< {most:g} s more",
        ok=middle(more) < most,
    )


def _start(host: Host) -> tuple[float, float]:
    """Seconds until it serves, and of processor time until then."""
    begun = time.perf_counter()
    argv = ["-m", "rollbackd", "run", "--config", str(host.config)]
    with started(argv, host.root, "rollbackd.log") as process:
        wait_until(lambda: host.serves(process), "the daemon", glance=0.005)
        return time.perf_counter() - begun, processor_time(process)
