"""What `rollbackd check` says of a configuration without faults."""

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rollbackd.adapter import Adapter, Needs, written_by
from rollbackd.cli import polkit_rule
from rollbackd.cli.terminal_text import safe, table
from rollbackd.config.load import Loaded
from rollbackd.config.models import JOURNAL, Config, Service
from rollbackd.config.positions import ConfigFault
from rollbackd.core import prometheus_of
from rollbackd.execution.layers import LayerFactory
from rollbackd.rules.spec import AlertWhen
from rollbackd.signals.alert_expressions import outlasting
from rollbackd.system.clock import SystemClock
from rollbackd.system.name_lookup import EventLoop
from rollbackd.system.spawner import Spawner, one_line

_PATIENCE = timedelta(seconds=5)
"""How long Prometheus has to say which alerts it evaluates; without an answer nothing is said of them."""
_UNITS_OWN = (Path("/var/lib/rollbackd"), Path("/run/rollbackd"))
"""What the shipped unit may write to anyway (`StateDirectory=`, `RuntimeDirectory=`)."""


def summary(loaded: Loaded) -> dict[str, Any]:
    """As JSON values; `read_write_paths` is what the unit needs beyond its own directories, `units` what it manages."""
    config = loaded.config
    layers = list(_layers(config))
    with TemporaryDirectory() as locks, asyncio.Runner(loop_factory=EventLoop) as runner:
        noted = [*runner.run(_unfound(config, Path(locks))), *runner.run(_outlasting(config))]
    adapters = [adapter for adapter, _ in layers]
    return {
        "valid": True,
        "files": [str(path) for path in loaded.files],
        "services": [_service(config, service) for service in config.services],
        "rules": [{"name": rule.name, "services": list(rule.services)} for rule in config.rules],
        "receivers": [{"name": one.name, "kind": one.kind} for one in config.notify.receivers],
        "templates": list(_templates(config)),
        "notes": [*loaded.notes, *_missing(config), *_unparsed(loaded.queries), *noted],
        "read_write_paths": [str(path) for path in _outermost(_written(config, adapters)) if not _is_units_own(path)],
        "units": _managed(layers),
    }


def _unparsed(queries: Iterable[ConfigFault]) -> Iterator[str]:
    """Queries that the parser of this version does not know: a server may be newer, or speak a dialect."""
    import promql_parser

    for query in dict.fromkeys(queries):
        try:
            promql_parser.parse(query.text)
        except ValueError as error:
            text = f"this may be no PromQL: {one_line(str(error))}; ask the server: rollbackd check --live"
            yield str(replace(query, text=text))


async def _unfound(config: Config, locks: Path) -> list[str]:
    """Releases that plans fix, and that are not there. Only their layers are asked, and that only reads."""
    factory = LayerFactory(config.daemon.scratch, Spawner(locks, SystemClock()), SystemClock(), config.clusters)
    found = await asyncio.gather(*(factory.build(service).unfound() for service in config.services))
    return [text for texts in found for text in texts]


async def _outlasting(config: Config) -> list[str]:
    """Alerts that may fire for longer than a rollback is verified, where Prometheus evaluates them and answers."""
    prometheus = prometheus_of(config, SystemClock())
    if prometheus is None or not any(isinstance(leaf, AlertWhen) for rule in config.rules for leaf in rule.leaves):
        return []
    try:
        async with asyncio.timeout(_PATIENCE.total_seconds()):
            answer = await prometheus.rules()
        return [] if answer.problem else await outlasting(config, answer)
    except TimeoutError:
        return []
    finally:
        await prometheus.close()


def _service(config: Config, service: Service) -> dict[str, Any]:
    return {
        "name": service.name,
        "mode": config.mode(service),
        "priority": service.priority.value,
        "layers": {name: settings.adapter for name, settings in service.layers.items()},
        "plans": {name: list(plan.layers) for name, plan in service.plans.items()},
        "checks": list(service.checks),
    }


def _missing(config: Config) -> Iterator[str]:
    """Layers whose files or work trees are not there; on another host that means nothing."""
    factory = LayerFactory(config.daemon.scratch, None, SystemClock())
    for service in config.services:
        for name, adapter in factory.build(service).adapters.items():
            needs = getattr(adapter, "needs", None)
            moves = needs.moves if isinstance(needs, Needs) else ()
            if moves and not any(path.exists() for path in moves):
                yield f"{service.name}: what layer {name} moves is not there: {moves[-1]}"


def _templates(config: Config) -> tuple[str, ...]:
    folder = config.notify.templates
    if folder is None:
        return ()
    from rollbackd.config import message_templates

    return message_templates.read(folder)[0].names


def _layers(config: Config) -> Iterator[tuple[Adapter, bool]]:
    """Every layer, and whether a plan enters it as a bracket."""
    factory = LayerFactory(config.daemon.scratch, None, SystemClock())
    for service in config.services:
        entered = {name for plan in service.plans.values() for name in plan.within}
        for name, adapter in factory.build(service).adapters.items():
            yield adapter, name in entered


def _written(config: Config, adapters: Iterable[Adapter]) -> Iterator[Path]:
    """Files and directories that the daemon, or a step of it, writes to."""
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


def _managed(layers: Iterable[tuple[Adapter, bool]]) -> dict[str, list[str]]:
    """Units of systemd that layers manage, with the verbs that their use in the plans asks for."""
    found: dict[str, set[str]] = {}
    for adapter, entered in layers:
        if isinstance(needs := getattr(adapter, "needs", None), Needs):
            for unit, verbs in (*needs.units.items(), *(needs.bracket_units.items() if entered else ())):
                found.setdefault(unit, set()).update(verbs)
    return {unit: sorted(verbs) for unit, verbs in sorted(found.items())}


def _is_units_own(path: Path) -> bool:
    return any(path.is_relative_to(own) for own in _UNITS_OWN)


def show(found: dict[str, Any]) -> None:
    """For people: tables, and the drop-in as it can be pasted."""
    table(
        ("SERVICE", "MODE", "PRIO", "LAYERS", "PLANS"),
        [
            (
                one["name"],
                one["mode"],
                one["priority"],
                ", ".join(f"{name} ({adapter})" for name, adapter in one["layers"].items()),
                "; ".join(f"{name}: {', '.join(layers)}" for name, layers in one["plans"].items()),
            )
            for one in found["services"]
        ],
    )
    rules = [
        f"{one['name']} ({', '.join(one['services'])})" if one["services"] else one["name"] for one in found["rules"]
    ]
    receivers = [f"{one['name']} ({one['kind']})" for one in found["receivers"]]
    print()
    print(f"rules:     {safe(', '.join(rules)) or 'none'}")
    print(f"receivers: {safe(', '.join(receivers)) or 'none'}")
    if found["templates"]:
        print(f"templates: {safe(', '.join(found['templates']))}")
    for note in found["notes"]:
        print(f"note:      {safe(note)}")
    if found["read_write_paths"]:
        print("\n# systemctl edit rollbackd\n[Service]")
        for path in found["read_write_paths"]:
            print(f"ReadWritePaths={_unit_text(path)}")
    if found["units"]:
        print(f"\n// {polkit_rule.PLACE}\n{polkit_rule.rule(found['units'])}", end="")
    print(f"\nok: {', '.join(safe(path) for path in found['files'])}")


def _unit_text(path: str) -> str:
    """A path as systemd.unit(5) and systemd.syntax(7) want it."""
    text = path.replace("\\", "\\\\").replace("%", "%%").replace('"', '\\"')
    return f'"{safe(text)}"' if any(character in path for character in " \t\"'\\") else safe(text)
