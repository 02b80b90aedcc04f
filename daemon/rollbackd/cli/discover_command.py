"""What runs in a cluster, as services to paste into the configuration."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from rollbackd.cli.command_frame import Session, StopError, UsageError
from rollbackd.cli.terminal_text import safe

if TYPE_CHECKING:
    from rollbackd.adapter import Discovered
    from rollbackd.config.clusters import ConfiguredClusters

_CHECK = "http://{}.example/health"
"""Where it says that it is well nobody but a person knows: a name that no host has."""


def discover(
    session: Session,
    adapter: Annotated[str, typer.Argument(help="kubernetes")],
    cluster: Annotated[str, typer.Argument(help="One of `clusters` of the configuration.")],
    namespaces: Annotated[list[str], typer.Argument(metavar="NAMESPACE...")],
) -> None:
    """Print what runs in a cluster as services to paste. They are in shadow mode and touch nothing.

    Set where each says that it is well, and the labels that its alerts have; then let it act.
    """
    from rollbackd.config.clusters import ConfiguredClusters, read_clusters

    read = read_clusters(session.config_path)
    if not isinstance(read, ConfiguredClusters):
        raise StopError("\n".join(map(str, read)))
    if cluster not in read.clusters:
        known = ", ".join(read.clusters) or "none"
        raise UsageError(f"the configuration has no cluster {cluster}; there is {known}")
    services = dict(_named(read, _asked(read, adapter, cluster, namespaces)))
    made = [_service(name, found) for name, found in services.items()]
    session.show({"services": made}, lambda: print(_text(made, list(services.values())), end=""))


def _asked(read: "ConfiguredClusters", adapter: str, cluster: str, namespaces: Sequence[str]) -> "list[Discovered]":
    """What there is. :raises StopError: it cannot be asked."""
    import asyncio
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from rollbackd.adapter import AdapterError, Discovers, Place
    from rollbackd.plugins import some_adapters
    from rollbackd.system.clock import SystemClock
    from rollbackd.system.name_lookup import EventLoop
    from rollbackd.system.spawner import Spawner

    kind: object = some_adapters(frozenset({adapter})).get(adapter)
    if not isinstance(kind, Discovers):
        raise UsageError(f"adapter {adapter} cannot say what there is; kubernetes can")

    async def ask(place: Place) -> "list[Discovered]":
        return [each for name in dict.fromkeys(namespaces) for each in await kind.discover(place, cluster, name)]

    with TemporaryDirectory() as directory, asyncio.Runner(loop_factory=EventLoop) as runner:
        clock, scratch = SystemClock(), Path(directory)
        place = Place("", "discover", scratch, Spawner(scratch, clock), clock, clusters=read.clusters)
        try:
            return runner.run(ask(place))
        except AdapterError as error:
            raise StopError(str(error)) from error


def _named(read: "ConfiguredClusters", found: "Sequence[Discovered]") -> "Iterator[tuple[str, Discovered]]":
    """What the configuration does not have, each with a name that no other service has."""
    taken = set(read.services)
    for each in found:
        name = next((name for name in each.names if name not in taken), "")
        if name and not any(each.layer.items() <= layer.items() for layer in read.layers):
            taken.add(name)
            yield name, each


def _service(name: str, found: "Discovered") -> dict[str, object]:
    return {
        "name": name,
        "mode": "shadow",
        "match": dict(found.labels),
        "layers": {"code": dict(found.layer)},
        "verify": {"checks": [{"http": _CHECK.format(name)}]},
    }


def _text(services: Sequence[Mapping[str, object]], found: "Sequence[Discovered]") -> str:
    """As YAML, with what stands against each as comments above it."""
    import yaml

    if not services:
        return "services: []    # there is no workload that the configuration does not have already\n"
    lines = ["services:"]
    for service, each in zip(services, found, strict=True):
        lines += [f"  # {safe(remark)}" for remark in each.remarks]
        written = yaml.safe_dump([service], sort_keys=False, width=10_000)
        lines += [f"  {line}" for line in written.splitlines()]
    return "\n".join(lines) + "\n"
