"""What `rollbackd check` says of a configuration without faults."""

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rollbackd.adapter import Needs, refuses_older
from rollbackd.cli.terminal_text import safe, table
from rollbackd.config.load import Loaded
from rollbackd.config.models import Config, Service
from rollbackd.config.positions import ConfigFault
from rollbackd.core import prometheus_of
from rollbackd.execution.layers import LayerFactory
from rollbackd.journal.place import is_postgres
from rollbackd.rules.spec import AlertWhen
from rollbackd.setup import polkit_rule
from rollbackd.setup.host_needs import managed_units, read_write_paths, unit_path
from rollbackd.signals.alert_expressions import outlasting
from rollbackd.system.clock import SystemClock
from rollbackd.system.name_lookup import EventLoop
from rollbackd.system.spawner import Spawner, one_line

_PATIENCE = timedelta(seconds=5)
"""How long Prometheus has to say which alerts it evaluates; without an answer nothing is said of them."""


def summary(loaded: Loaded) -> dict[str, Any]:
    """As JSON values; `read_write_paths` is what the unit needs beyond its own directories, `units` what it manages."""
    config = loaded.config
    with TemporaryDirectory() as locks, asyncio.Runner(loop_factory=EventLoop) as runner:
        noted = [*runner.run(_unfound(config, Path(locks))), *runner.run(_outlasting(config))]
    return {
        "valid": True,
        "files": [str(path) for path in loaded.files],
        "services": [_service(config, service) for service in config.services],
        "rules": [{"name": rule.name, "services": list(rule.services)} for rule in config.rules],
        "receivers": [{"name": one.name, "kind": one.kind} for one in config.notify.receivers],
        "templates": list(_templates(config)),
        "notes": [*loaded.notes, *_missing(config), *_unfenced(config), *_unparsed(loaded.queries), *noted],
        "read_write_paths": [str(path) for path in read_write_paths(config)],
        "units": managed_units(config),
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


def _unfenced(config: Config) -> Iterator[str]:
    """Layers at which another daemon that takes over waits, since what they move does not refuse the one that lost."""
    if not (is_postgres(config.daemon.journal) and config.daemon.standby):
        return
    factory = LayerFactory(config.daemon.scratch, None, SystemClock())
    for service in config.services:
        found = [name for name, adapter in factory.build(service).adapters.items() if not refuses_older(adapter)]
        if found:
            yield (
                f"{service.name}: {', '.join(found)} cannot refuse a daemon that lost; one that takes over in the "
                "middle of a step there waits until it is done, or its limit has passed"
            )


def _templates(config: Config) -> tuple[str, ...]:
    folder = config.notify.templates
    if folder is None:
        return ()
    from rollbackd.config import message_templates

    return message_templates.read(folder)[0].names


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
            print(f"ReadWritePaths={safe(unit_path(path))}")
    if found["units"]:
        print(f"\n// {polkit_rule.PLACE}\n{polkit_rule.rule(found['units'])}", end="")
    print(f"\nok: {', '.join(safe(path) for path in found['files'])}")
