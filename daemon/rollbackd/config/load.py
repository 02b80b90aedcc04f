"""The configuration, from its files to values: all of it, or every fault at once."""

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import starmap
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rollbackd.config import (
    access,
    files,
    followed,
    notify,
    overlaps,
    queries,
    references,
    report_lists,
    rule_faults,
    scheduled,
    service_faults,
)
from rollbackd.config.explain import faults_of
from rollbackd.config.models import Config, Service
from rollbackd.config.outline import Outline, ServiceOutline, outline_of
from rollbackd.config.packs import NO_SETTINGS, Rules, read_rules
from rollbackd.config.positions import ConfigFault, entries, mapping
from rollbackd.config.secrets import reveal
from rollbackd.config.shape import Shape, receiver, shape_of
from rollbackd.incident.plan import default_plan
from rollbackd.plugins import PluginError, Plugins, named
from rollbackd.rules.compared import percent
from rollbackd.rules.spec import AlertWhen, QueryWhen
from rollbackd.syntax.units import Percentage, Secret
from rollbackd.system.certificates import try_tls


class ConfigErrors(Exception):  # noqa: N818  # it is many
    """All that is wrong, one line each: `FILE:LINE:COLUMN: what is wrong; what to do`, sorted."""

    def __init__(self, faults: list[ConfigFault]) -> None:
        self.faults = tuple(sorted(set(faults)))
        super().__init__("\n".join(map(str, self.faults)))


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration without faults."""

    config: Config
    path: Path
    text_hash: str
    """SHA-256 over all files that it was made of, in hex."""
    files: tuple[Path, ...]
    """Those files: the configuration, its rule files, its packs."""
    settings: frozenset[str] = frozenset()
    """The settings that its packs have."""
    queries: tuple[ConfigFault, ...] = ()
    """Every query that is asked of Prometheus, as the text of what a fault would be at its place."""
    notes: tuple[str, ...] = ()
    """What is allowed and may still be a mistake; sentences for `rollbackd check` and the log."""


def load(
    path: Path,
    plugins: Plugins | None = None,
    *,
    look_for: Callable[[Secret], object] | None = reveal,
    settings: Mapping[str, object] = NO_SETTINGS,
) -> Loaded:
    """Read a configuration and everything that it names.

    `look_for` is called with each secret and raises ValueError when it is not there; None leaves secrets and
    certificates alone, for a file that is checked on another machine. `settings` are put in the place of those of every
    pack that has them.

    Services that follow a cluster are among the others, as they were found last. What was found never makes a sound
    file unsound: then they are left out, and a note says why.

    :raises ConfigErrors: with all faults of all its files.
    """
    source = files.read(path)
    found = followed.found_in(followed.scratch_of(source.document))
    try:
        return _load(source, plugins, look_for, settings, found)
    except ConfigErrors as error:
        if not found:
            raise
        loaded = _load(files.read(path), plugins, look_for, settings, ())
        return replace(loaded, notes=(*loaded.notes, f"what follows a cluster is left out: {error}"))


def _load(
    source: files.ConfigFile,
    plugins: Plugins | None,
    look_for: Callable[[Secret], object] | None,
    settings: Mapping[str, object],
    found: Sequence[followed.FollowedService],
) -> Loaded:
    path = source.path
    made = followed.expand(source.document, found)
    try:
        shape = shape_of(named(_adapters_of(source.document.data)) if plugins is None else plugins)
    except PluginError as error:
        raise ConfigErrors([ConfigFault(str(path), 1, 1, str(error)), *source.document.faults]) from error
    if source.document.root is None:
        raise ConfigErrors(source.document.faults)
    taken = read_rules(source.document, path.parent, settings)
    outline = outline_of(source.document, shape, taken.placed, made.names)
    faults = [*source.document.faults, *taken.faults, *outline.faults]
    asked = list(queries.written(outline))
    faults += [*references.faults(outline), *rule_faults.faults(outline), *queries.faults(asked)]
    faults += _template_faults(outline, here=look_for is not None)
    for part in (access, overlaps, service_faults, notify, report_lists, scheduled):
        faults += starmap(source.document.fault, part.complaints(outline))
    written = None
    context = {} if look_for is None else {"look_for": look_for, "try_tls": try_tls}
    try:
        written = shape.file.model_validate(source.document.data, context=context)
    except ValidationError as error:
        faults += faults_of(error, shape.file, source.document)
    if written is None or faults:
        raise ConfigErrors(faults)
    config = _config(written, outline, taken, made.idle)
    sources = (source, *taken.sources)
    files_read = tuple(each.path for each in sources)
    settings_of = frozenset(taken.settings)
    return Loaded(config, path, _hash(sources), files_read, settings_of, tuple(asked), tuple(_notes(config)))


def _adapters_of(data: object) -> Iterator[str]:
    """Names of the adapters that a file uses."""
    file = mapping(data)
    for _, service in entries(file.get("services"), ()):
        yield from _adapters_in(service)
    for _, entry in entries(file.get("services_from"), ()):
        yield str(entry.get("adapter", "kubernetes"))


def _adapters_in(service: Mapping[str, object]) -> Iterator[str]:
    for layer in mapping(service.get("layers")).values():
        yield str(mapping(layer).get("adapter"))


def _config(written: Config, outline: Outline, taken: Rules, idle: Collection[str]) -> Config:
    """The values that the core uses: rules in order, receivers by kind, plans spelled out, without what is idle."""
    both = [pair for pair in zip(written.services, outline.services, strict=True) if pair[0].name not in idle]
    receivers = tuple(receiver(each) for each in written.notify.receivers)
    changed = {
        "rules": tuple(placed.rule for placed in taken.placed if placed.rule is not None),
        "notify": written.notify.model_copy(update={"receivers": receivers}),
        "services": tuple(_with_plans(service, read, outline.shape) for service, read in both),
    }
    kept = {name: getattr(written, name) for name in Config.model_fields if name not in changed}
    return Config(**kept, **changed)


def _template_faults(outline: Outline, *, here: bool) -> Iterator[ConfigFault]:
    """What is wrong with the templates of messages; on another machine there may be none. What is wrong with the
    folder's name is told by itself.
    """
    folder = outline.section("notify").get("templates")
    if isinstance(folder, str) and Path(folder).is_absolute() and (here or Path(folder).is_dir()):
        from rollbackd.config import message_templates  # it takes Jinja2, which most commands do without

        yield from message_templates.faults(Path(folder), tuple(outline.shape.plugins.notifiers))


def _with_plans(service: Service, read: ServiceOutline, shape: Shape) -> Service:
    """The service with its plans as written; where there are none, with the plan `default`."""
    if service.plans:
        return service
    traits = {name: adapter.traits for name, adapter in read.layers.items() if adapter is not None}
    return service.model_copy(update={"plans": {"default": shape.plan(steps=default_plan(traits).steps)}})


def _hash(sources: tuple[files.ConfigFile, ...]) -> str:
    digest = hashlib.sha256()
    for source in sources:
        digest.update(f"{source.path}\0{len(source.body)}\0".encode())
        digest.update(source.body)
    return digest.hexdigest()


def _notes(config: Config) -> Iterator[str]:
    if not config.notify.receivers:
        yield "nobody is told anything: there are no receivers under `notify`"
    if not config.rules:
        yield "nothing makes a rollback by itself: there are no rules"
    for rule in config.rules:
        for leaf in rule.leaves:
            if isinstance(leaf, QueryWhen) and isinstance(leaf.above, Percentage) and leaf.above >= 1:
                said = f"is never met where the query is a share; write {leaf.above:g} where it is none"
                yield f"rule {rule.name}: `above: {percent(leaf.above)}` {said}"
    alerts = [rule.name for rule in config.rules if any(isinstance(leaf, AlertWhen) for leaf in rule.leaves)]
    if alerts and config.alertmanager is None:
        said = "nobody says that an alert ended while it was silenced, and no silence holds"
        yield f"rule {alerts[0]} asks for alerts: without `alertmanager: {{url: …}}` {said}"


def dump_service(service: Service) -> dict[str, Any]:
    """A service as JSON for the journal: durations as text, secrets as references."""
    return service.model_dump(mode="json", by_alias=True)


def digest(config: Config) -> str:
    """Stands for what hosts that share a journal should have in common: all but what is each one's own.

    Services that follow a cluster are found by each host in its turn, so only their templates count.
    """
    found = {each.name for each in followed.found_in(config.daemon.scratch)}
    own = tuple(service for service in config.services if service.name not in found)
    shared = config.model_copy(update={"services": own}).model_dump(
        mode="json",
        exclude={"daemon"},
        exclude_defaults=True,  # so that another version, which knows more keys, comes to the same
    )
    text = json.dumps([config.daemon.mode, config.daemon.called, shared], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def load_service(data: Mapping[str, Any], plugins: Plugins | None = None) -> Service:
    """A service that `dump_service` wrote; the parts of plugins are validated again.

    :raises pydantic.ValidationError: a plugin it needs is gone, or has other settings now.
    """
    shape = shape_of(named(_adapters_in(data)) if plugins is None else plugins)
    return shape.service.model_validate(dict(data))
