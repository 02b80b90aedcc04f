"""A restart with 100,000 facts: from the start of the process to its first `/healthz`, against an empty journal's.

The facts are a fleet's past: releases, marks, decisions, rollbacks with their rounds, told messages. In turns.
"""

import asyncio
import time
from datetime import UTC, datetime
from pathlib import Path

from bench import past
from bench.host import Host, fixed_services, started, wait_until
from bench.measure import Row, Sizes, middle, span
from rollbackd.config.load import dump_service, load_service

MOST = 1.0
"""Seconds."""
_SERVICES = 200


def measure(root: Path, sizes: Sizes) -> Row:
    """The row."""
    full, empty = Host(root / "full"), Host(root / "empty")
    services = fixed_services(_SERVICES)
    for host in (full, empty):
        host.write_config(services)
    entries = past.years(_SERVICES, _as_opened(services[0]), datetime.now(UTC))
    asyncio.run(past.write(full.journal, entries, sizes.facts))
    size = (full.root / "journal.db").stat().st_size / 2**20
    differences, bases = [], []
    for _ in range(sizes.rounds):
        base, with_facts = _start(empty), _start(full)
        differences.append(with_facts - base)
        bases.append(base)
    more = middle(differences)
    compared = (
        f"{middle(bases):.2f} s with none; rounds {span(differences, '.2f')} s more; the journal has {size:.0f} MiB"
    )
    what = f"restart with {sizes.facts:,} facts"
    return Row(what, f"{more:+.2f} s", compared, f"< {MOST:.0f} s more", more < MOST)


def _as_opened(service: dict[str, object]) -> dict[str, object]:
    """As an `Opened` fact carries it; the bench's own adapter is not installed here, and a name makes no difference."""
    layer = {"code": {"adapter": "command", **{name: ["/bin/true"] for name in ("current", "releases", "apply")}}}
    return dump_service(load_service({**service, "layers": layer}))


def _start(host: Host) -> float:
    """Seconds until it serves."""
    begun = time.perf_counter()
    argv = ["-m", "rollbackd", "run", "--config", str(host.config)]
    with started(argv, host.root, "rollbackd.log") as process:
        wait_until(lambda: host.serves(process), "the daemon", glance=0.005)
        return time.perf_counter() - begun
