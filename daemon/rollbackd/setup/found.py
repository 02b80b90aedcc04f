"""What is on this host: a Prometheus, an Alertmanager, repositories, and the units that run what is in them.

Only looks: files are read, and servers on loopback are asked whether they are what they seem to be.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from pathlib import Path

from rollbackd.setup.steps import TargetHost
from rollbackd.signals.alertmanager_client import Alertmanager, Unreachable
from rollbackd.signals.prometheus import Prometheus
from rollbackd.system.clock import SystemClock
from rollbackd.system.http_client import HttpSession

PROMETHEUS, ALERTMANAGER = "http://127.0.0.1:9090", "http://127.0.0.1:9093"
"""Where they listen unless somebody says otherwise."""
_PATIENCE = timedelta(seconds=3)
_BASES = tuple(map(Path, ("/srv", "/opt", "/var/www")))
_MOST = 500
"""Entries of a directory that are looked at."""
_UNITS = Path("/etc/systemd/system")
_RUNS = re.compile(r"^(?:WorkingDirectory|ExecStart)=(.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Repository:
    """A work tree, and the units whose program or directory is in it."""

    path: Path
    units: tuple[str, ...]

    @property
    def name(self) -> str:
        """What a service of it may be called."""
        return re.sub(r"[^a-z0-9._-]+", "-", self.path.name.lower()).strip("-._") or "service"


async def is_prometheus(url: str) -> bool:
    """Whether a Prometheus, or what speaks its language, answers there."""
    client = Prometheus(url, _PATIENCE, SystemClock())
    try:
        return not (await client.instant("vector(1)")).problem
    finally:
        await client.close()


async def has_series(url: str, metric: str, labels: Sequence[str]) -> bool:
    """Whether a Prometheus has a metric with all of these labels."""
    client = Prometheus(url, _PATIENCE, SystemClock())
    wanted = ", ".join(f'{label}!=""' for label in labels)
    try:
        return bool((await client.instant(f"count({metric}{{{wanted}}})")).series)
    finally:
        await client.close()


async def is_alertmanager(url: str) -> bool:
    """Whether an Alertmanager answers there."""
    session = HttpSession()
    try:
        await Alertmanager(url, _PATIENCE, session).silences()
    except Unreachable:
        return False
    finally:
        await session.close()
    return True


def repositories(host: TargetHost) -> list[Repository]:
    """Work trees where services usually are, at most two directories deep."""
    found = sorted({path for base in _BASES for path in _work_trees(host.at(base), 2)})
    inside = [Path("/") / path.relative_to(host.root) for path in found]
    return [Repository(path, units_of(host, path)) for path in inside]


def units_of(host: TargetHost, repo: Path) -> tuple[str, ...]:
    """The administrator's services that run what is in a directory."""
    return tuple(path.name for path in sorted(host.at(_UNITS).glob("*.service")) if _runs_in(path, repo))


def _work_trees(directory: Path, depth: int) -> Iterator[Path]:
    with suppress(OSError):
        for path in islice(sorted(directory.iterdir()), _MOST):
            if (path / ".git").exists():
                yield path
            elif depth > 1 and path.is_dir() and not path.is_symlink():
                yield from _work_trees(path, depth - 1)


def _runs_in(unit: Path, repo: Path) -> bool:
    with suppress(OSError, UnicodeDecodeError):
        words = [word.lstrip("-@:+!") for line in _RUNS.findall(unit.read_text()) for word in line.split()]
        return any(word == str(repo) or word.startswith(f"{repo}/") for word in words)
    return False
