"""What `rollbackd check` says of a configuration without faults."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rollbackd.cli.text import safe, table
from rollbackd.clock import SystemClock
from rollbackd.config.load import Loaded
from rollbackd.config.models import JOURNAL, Config, Service
from rollbackd.layers import LayerFactory

_PATH = re.compile(r"(?:[a-z_]+:)?(/.*)", re.DOTALL)
"""A resource that is a place on this host: `git:/srv/checkout`."""
_UNITS_OWN = (Path("/var/lib/rollbackd"), Path("/run/rollbackd"))
"""What the shipped unit may write to anyway (`StateDirectory=`, `RuntimeDirectory=`)."""


def summary(loaded: Loaded) -> dict[str, Any]:
    """As JSON values; `read_write_paths` is what the unit needs beyond its own directories."""
    config = loaded.config
    return {
        "valid": True,
        "files": [str(path) for path in loaded.files],
        "services": [_service(config, service) for service in config.services],
        "rules": [{"name": rule.name, "services": list(rule.services)} for rule in config.rules],
        "receivers": [{"name": one.name, "kind": one.kind} for one in config.notify.receivers],
        "notes": list(loaded.notes),
        "read_write_paths": sorted({str(path) for path in _written(config) if not _is_units_own(path)}),
    }


def _service(config: Config, service: Service) -> dict[str, Any]:
    return {
        "name": service.name,
        "mode": config.mode(service),
        "priority": service.priority.value,
        "layers": {name: settings.adapter for name, settings in service.layers.items()},
        "plans": {name: list(plan.layers) for name, plan in service.plans.items()},
        "checks": list(service.checks),
    }


def _written(config: Config) -> Iterator[Path]:
    """Directories that the daemon, or a step of it, writes to."""
    daemon = config.daemon
    yield from (Path(daemon.journal.removeprefix(JOURNAL)).parent, daemon.signals, daemon.scratch, daemon.socket.parent)
    factory = LayerFactory(daemon.scratch, None, SystemClock())
    for service in config.services:
        for adapter in factory.build(service).adapters.values():
            if found := _PATH.fullmatch(adapter.resource):
                yield Path(found[1])


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
    for note in found["notes"]:
        print(f"note:      {safe(note)}")
    if found["read_write_paths"]:
        print("\n# systemctl edit rollbackd\n[Service]")
        for path in found["read_write_paths"]:
            print(f"ReadWritePaths={_unit_text(path)}")
    print(f"\nok: {', '.join(safe(path) for path in found['files'])}")


def _unit_text(path: str) -> str:
    """A path as systemd.unit(5) and systemd.syntax(7) want it."""
    text = path.replace("\\", "\\\\").replace("%", "%%").replace('"', '\\"')
    return f'"{safe(text)}"' if any(character in path for character in " \t\"'\\") else safe(text)
