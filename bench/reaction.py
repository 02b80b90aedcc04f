"""How long from a POST to the first call of an adapter, the look that a rollback begins with, and to `apply`.

The adapter is one in the daemon's own process that notes when it is called, so that no program's start is measured.
Each try is another service's rollback, from its alert to its end; the next try begins when the daemon is idle again.
"""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench import floor, past
from bench.alerts import alert, service_name
from bench.host import Host, fixed_services, wait_until
from bench.measure import Row, Sizes, middle, percentile, span

P50, P99 = 10.0, 50.0
"""Milliseconds to the first call."""
P50_APPLY = 20.0
_APPLY_SHARE = 4
"""A median needs fewer tries than the slowest of a hundred."""


def measure(root: Path, sizes: Sizes) -> Row:
    """To the first call."""
    seen = _measured(root, sizes.rounds, sizes.tries)
    p50, p99 = (
        middle([percentile([one.first for one in tries], share) for tries in seen.rounds]) for share in (0.5, 0.99)
    )
    return Row(
        what="POST to the first adapter call, idle",
        measured=f"p50 {p50:.1f} ms, p99 {p99:.1f} ms",
        floor=f"{seen.answer + seen.commit:.1f} ms: a bare handler's answer, and the alert on disk",
        rest=f"matched, judged, decided; {len(seen.rounds) * sizes.tries} tries, first call `current`",
        must=f"p50 < {P50:.0f} ms, p99 < {P99:.0f} ms",
        ok=p50 < P50 and p99 < P99,
    )


def measure_apply(root: Path, sizes: Sizes) -> Row:
    """To `apply`: with the decision, the plan and the intent on disk."""
    seen = _measured(root, sizes.rounds, max(1, sizes.tries // _APPLY_SHARE))
    p50s = [percentile([one.apply for one in tries], 0.5) for tries in seen.rounds]
    p50, commits = middle(p50s), middle([one.commits for tries in seen.rounds for one in tries])
    least = seen.answer + commits * seen.commit
    return Row(
        what="POST to `apply`, idle",
        measured=f"p50 {p50:.1f} ms",
        floor=f"{least:.1f} ms: a bare handler's answer, and {commits:.0f} commits of {seen.commit:.1f} ms in a row",
        rest=f"{p50 - least:.1f} ms: matched, decided, looked, planned, saved; rounds {span(p50s, '.1f')} ms",
        must=f"p50 < {P50_APPLY:.0f} ms",
        ok=p50 < P50_APPLY,
    )


@dataclass(frozen=True, slots=True)
class _Try:
    """One rollback: milliseconds from its POST to two calls, and the commits in a row that the second waited for."""

    first: float
    apply: float
    commits: int


@dataclass(frozen=True, slots=True)
class _Seen:
    rounds: list[list[_Try]]
    answer: float
    """Milliseconds of a bare handler's answer."""
    commit: float


def _measured(root: Path, rounds: int, tries: int) -> _Seen:
    host = Host(root)
    count = rounds * tries + 1
    calls = root / "calls"
    host.write_config(fixed_services(count, record=str(calls)))
    past.release_all(host.journal, [service_name(number) for number in range(count)])
    with host.daemon():
        wait_until(lambda: calls.exists() and len(_calls(calls)) >= count, "the first looks")
        every = [_try(host, number) for number in range(count)][1:]  # the first one warms up
    split = [every[start : start + tries] for start in range(0, len(every), tries)]
    return _Seen(split, floor.answers(root) * 1000, floor.commits(root) * 1000)


def _try(host: Host, number: int) -> _Try:
    """One rollback from its alert to its end."""
    calls, name = host.root / "calls", service_name(number)
    end = calls.stat().st_size
    sick = alert(number, number)
    since, begun = datetime.now(UTC), time.time_ns()
    host.roll_back(f"incident:{name}-1", sick)
    after = [(method, at) for service, method, at in _calls(calls, end) if service == name and at >= begun]
    applied = next(at for method, at in after if method == "apply")
    commits = host.commits(name, since, "ApplyStarted")
    return _Try((after[0][1] - begun) / 1e6, (applied - begun) / 1e6, commits)


def _calls(path: Path, start: int = 0) -> list[tuple[str, str, int]]:
    with path.open() as lines:
        lines.seek(start)
        return [(name, method, int(at)) for name, method, at in (line.split() for line in lines)]
