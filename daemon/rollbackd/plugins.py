"""Plugins: the installed adapters, checks and notifiers, by their entry points. One that does not fit is an error.

Shipped or not, all are found alike: a distribution names a class under `rollbackd.adapters`, `rollbackd.checks` or
`rollbackd.notifiers`, and the configuration uses the entry point's name.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from types import MappingProxyType
from typing import Any

from rollbackd.adapter import (
    Adapter,
    Check,
    CheckPlace,
    CheckSettings,
    Notifier,
    NotifierSettings,
    Place,
    Settings,
)
from rollbackd.syntax.units import Secret, Spec

ADAPTERS = "rollbackd.adapters"
CHECKS = "rollbackd.checks"
NOTIFIERS = "rollbackd.notifiers"

_SETTINGS: Mapping[str, type[Spec]] = {ADAPTERS: Settings, CHECKS: CheckSettings, NOTIFIERS: NotifierSettings}
_WORDS = {ADAPTERS: "adapter", CHECKS: "check", NOTIFIERS: "notifier"}


class PluginError(Exception):
    """Something installed cannot be used, or something named is not installed; the text says what to do."""


@dataclass(frozen=True, eq=False)
class Plugins:
    """Classes by the names that the configuration gives them. Compared by identity, since models derive from it."""

    adapters: Mapping[str, type[Any]]
    checks: Mapping[str, type[Any]]
    notifiers: Mapping[str, type[Any]]
    others: frozenset[str] = frozenset()
    """Names of adapters that are installed beside these and were not loaded."""


@cache
def installed() -> Plugins:
    """Every plugin that this Python can load. :raises PluginError: one of them does not fit."""
    return Plugins(adapters(), checks(), notifiers())


_named: set[str] = set()


def named(adapters: Iterable[str]) -> Plugins:
    """The adapters that were named so far, these among them, and all checks and notifiers.

    What nobody names takes no memory and no time; and a part of a file gets the models that the whole file has.

    :raises PluginError: one of them does not fit.
    """
    _named.update(adapters)
    return _with(frozenset(_named))


@cache
def _with(adapters: frozenset[str]) -> Plugins:
    return Plugins(some_adapters(adapters), checks(), notifiers(), adapter_names() - adapters)


@cache
def adapters() -> Mapping[str, type[Any]]:
    """Adapters by name; the name is what `adapter:` says. :raises PluginError: when one does not fit."""
    return _load(ADAPTERS)


def adapter_names() -> frozenset[str]:
    """All names of adapters; loads none of them."""
    return frozenset(point.name for point in metadata.entry_points(group=ADAPTERS))


@cache
def some_adapters(names: frozenset[str]) -> Mapping[str, type[Any]]:
    """The adapters of these names that are installed; no other is loaded. :raises PluginError: one does not fit."""
    return _load(ADAPTERS, names)


@cache
def checks() -> Mapping[str, type[Any]]:
    """Checks by kind; the kind is a key of the check and a field of its settings. :raises PluginError: as above."""
    return _load(CHECKS)


@cache
def notifiers() -> Mapping[str, type[Any]]:
    """Notifiers by kind; the kind is a key of the receiver. :raises PluginError: as above."""
    return _load(NOTIFIERS)


def build_adapter(settings: Settings, place: Place, plugins: Plugins | None = None) -> Adapter:
    """The layer that settings describe. Touches nothing.

    :raises PluginError: no such adapter is installed.
    """
    known = some_adapters(frozenset({settings.adapter})) if plugins is None else plugins.adapters
    made: Adapter = pick(known, settings.adapter, ADAPTERS)(settings, place)
    return made


def other_layer(layers: Mapping[str, Adapter | None], name: str) -> Adapter:
    """What a layer is given of another one of its service. :raises ValueError: there is none."""
    found = layers.get(name)
    if found is None:
        raise ValueError(f'layer "{name}" cannot be asked; name one that the service has')
    return found


def check_kind(settings: CheckSettings, plugins: Plugins | None = None) -> str:
    """Which kind of check these settings are for. :raises PluginError: for none that is installed."""
    known = checks() if plugins is None else plugins.checks
    for kind, check in known.items():
        if isinstance(settings, check.settings_model) and kind in type(settings).model_fields:
            return kind
    raise PluginError(f"no check is installed whose settings are {type(settings).__name__}; install what ships it")


def build_check(settings: CheckSettings, place: CheckPlace, plugins: Plugins | None = None) -> Check:
    """The check that settings describe. Touches nothing. :raises PluginError: no such check is installed."""
    known = checks() if plugins is None else plugins.checks
    made: Check = known[check_kind(settings, plugins)](settings, place)
    return made


def build_notifier(
    kind: str,
    settings: NotifierSettings,
    reveal: Callable[[Secret], str],
    http: Callable[[], Any],
    plugins: Plugins | None = None,
) -> Notifier:
    """The notifier that a receiver names. :raises PluginError: no such notifier is installed."""
    known = notifiers() if plugins is None else plugins.notifiers
    made: Notifier = pick(known, kind, NOTIFIERS)(settings, reveal, http)
    return made


def pick(known: Mapping[str, type[Any]], name: str, group: str) -> type[Any]:
    """One class by name. :raises PluginError: with the nearest name, or with all there are."""
    if name in known:
        return known[name]
    raise PluginError(unknown(_WORDS[group], name, known))


def unknown(word: str, name: str, known: Iterable[str]) -> str:
    """`unknown adapter "gti"; did you mean "git"?`, or what there is when nothing is near it."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f'unknown {word} "{name}"; did you mean "{near[0]}"?'
    if not names:
        return f'unknown {word} "{name}"; there is none, define it first'
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f'unknown {word} "{name}"; there is {", ".join(names[:8])}{more}'


def _load(group: str, only: frozenset[str] | None = None) -> Mapping[str, type[Any]]:
    found: dict[str, type[Any]] = {}
    origin: dict[str, str] = {}
    for point in sorted(metadata.entry_points(group=group), key=lambda point: (point.name, point.value)):
        if only is not None and point.name not in only:
            continue
        if origin.setdefault(point.name, point.value) != point.value:
            both = f"{origin[point.name]} and {point.value}"
            raise PluginError(f'two {_WORDS[group]}s are called "{point.name}": {both}; uninstall one of them')
        found[point.name] = fitting(point.name, _imported(point, group), group)
    return MappingProxyType(found)


def _imported(point: metadata.EntryPoint, group: str) -> Any:
    try:
        return point.load()
    except Exception as error:  # a foreign module may fail in any way while it is imported
        home = f" of {point.dist.name}" if point.dist is not None else ""
        what = f'{_WORDS[group]} "{point.name}" ({point.value}{home})'
        raise PluginError(
            f"{what} cannot be imported: {type(error).__name__}: {error}; mend or uninstall it"
        ) from error


def fitting(name: str, made: Any, group: str) -> type[Any]:
    """The class when it keeps its group's contract. :raises PluginError: when it does not."""
    what = f'{_WORDS[group]} "{name}" ({made!r})'
    base = _SETTINGS[group]
    model = getattr(made, "settings_model", None)
    if not isinstance(made, type):
        raise PluginError(f"{what} is not a class; its entry point must name one")
    if not (isinstance(model, type) and issubclass(model, base)):
        raise PluginError(f"{what} has no settings_model that derives from {base.__name__}; give it one")
    if group == CHECKS and name not in model.model_fields:
        raise PluginError(f'{what} has settings without a field "{name}"; that key is what makes it this kind of check')
    return made
