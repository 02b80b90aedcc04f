"""What a configuration needs of its host beyond the shipped unit: places to write to, units to manage, credentials."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from rollbackd.adapter import Adapter, Needs, written_by
from rollbackd.config.models import JOURNAL, Config
from rollbackd.execution.layers import LayerFactory
from rollbackd.system.clock import SystemClock

_UNITS_OWN = (Path("/var/lib/rollbackd"), Path("/run/rollbackd"))
"""What the shipped unit may write to anyway (`StateDirectory=`, `RuntimeDirectory=`)."""


def read_write_paths(config: Config) -> list[Path]:
    """Files and directories beyond the unit's own that the daemon, or a step of it, writes to."""
    written = _written(config, [adapter for adapter, _ in _layers(config)])
    return [path for path in _outermost(written) if not _is_units_own(path)]


def managed_units(config: Config) -> dict[str, list[str]]:
    """Units of systemd that layers manage, with the verbs that their use in the plans asks for."""
    found: dict[str, set[str]] = {}
    for adapter, entered in _layers(config):
        if isinstance(needs := getattr(adapter, "needs", None), Needs):
            for unit, verbs in (*needs.units.items(), *(needs.bracket_units.items() if entered else ())):
                found.setdefault(unit, set()).update(verbs)
    return {unit: sorted(verbs) for unit, verbs in sorted(found.items())}


def unit_path(path: object) -> str:
    """A path as systemd.unit(5) and systemd.syntax(7) want it."""
    text = str(path).replace("\\", "\\\\").replace("%", "%%").replace('"', '\\"')
    return f'"{text}"' if any(character in str(path) for character in " \t\"'\\") else text


def _layers(config: Config) -> Iterator[tuple[Adapter, bool]]:
    """Every layer, and whether a plan enters it as a bracket."""
    factory = LayerFactory(config.daemon.scratch, None, SystemClock())
    for service in config.services:
        entered = {name for plan in service.plans.values() for name in plan.within}
        for name, adapter in factory.build(service).adapters.items():
            yield adapter, name in entered


def _written(config: Config, adapters: Iterable[Adapter]) -> Iterator[Path]:
    daemon = config.daemon
    if daemon.journal.startswith(JOURNAL):
        yield Path(daemon.journal.removeprefix(JOURNAL)).parent
    yield from (daemon.signals, daemon.scratch, daemon.socket.parent)
    if daemon.reports is not None:
        yield daemon.reports
    for adapter in adapters:
        yield from written_by(adapter)


def _outermost(paths: Iterable[Path]) -> Iterator[Path]:
    """In order, without what is in another one of them."""
    last: Path | None = None
    for path in sorted(set(paths)):
        if last is None or not path.is_relative_to(last):
            last = path
            yield path


def _is_units_own(path: Path) -> bool:
    return any(path.is_relative_to(own) for own in _UNITS_OWN)
