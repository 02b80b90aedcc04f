"""How long from a POST to the first call of an adapter: the look that a decision to roll back begins with.

The adapter is one in the daemon's own process that notes when it is called, so that no program's start is measured.
Each try is another service's rollback, from its alert to its end; the next try begins when the daemon is idle again.
"""

import time
from pathlib import Path

from bench import past
from bench.alerts import alert, body, service_name
from bench.host import Host, fixed_services, wait_until
from bench.measure import Row, Sizes, middle, percentile

P50, P99 = 20.0, 100.0
"""Milliseconds."""


def measure(root: Path, sizes: Sizes) -> Row:
    """The row."""
    host = Host(root)
    count = sizes.rounds * sizes.tries + 1
    calls = root / "calls"
    host.write_config(fixed_services(count, record=str(calls)))
    names = [service_name(number) for number in range(count)]
    past.release_all(host.journal, names)
    first: list[float] = []
    applied: list[float] = []
    with host.daemon():
        wait_until(lambda: calls.exists() and len(_calls(calls)) >= count, "the first looks")
        for number in range(count):
            begun, end = _try(host, number)
            own = [(method, at) for name, method, at in _calls(calls, end) if name == service_name(number)]
            after = [(method, at) for method, at in own if at >= begun]
            if number:  # the first one warms up
                first.append((after[0][1] - begun) / 1e6)
                applied.append((next(at for method, at in after if method == "apply") - begun) / 1e6)
    rounds = [first[start : start + sizes.tries] for start in range(0, len(first), sizes.tries)]
    p50 = middle([percentile(one, 0.5) for one in rounds])
    p99 = middle([percentile(one, 0.99) for one in rounds])
    compared = f"{len(first)} tries, first call `current`; to `apply`: p50 {percentile(applied, 0.5):.0f} ms"
    must = f"p50 < {P50:.0f} ms, p99 < {P99:.0f} ms"
    measured = f"p50 {p50:.1f} ms, p99 {p99:.1f} ms"
    return Row("POST to the first adapter call, idle", measured, compared, must, p50 < P50 and p99 < P99)


def _try(host: Host, number: int) -> tuple[int, int]:
    """One rollback from its alert to its end; when the request was sent, and how long the record of calls was then."""
    end = (host.root / "calls").stat().st_size
    content = body([alert(number, number)])
    begun = time.time_ns()
    host.post(content)
    stream = f"incident:{service_name(number)}-1"
    closed = "SELECT count(*) FROM facts WHERE stream = ? AND kind = 'Closed'"
    wait_until(lambda: host.count(closed, stream) == 1, f"the end of {stream}")
    return begun, end


def _calls(path: Path, start: int = 0) -> list[tuple[str, str, int]]:
    with path.open() as lines:
        lines.seek(start)
        return [(name, method, int(at)) for name, method, at in (line.split() for line in lines)]
