"""The far side's own configuration, from its file to values: which layers are served. Every fault at once."""

from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SerializeAsAny, ValidationError, create_model

from rollbackd import plugins
from rollbackd.adapter import Adapter, AdapterError, Place, Settings
from rollbackd.config import files
from rollbackd.config.explain import faults_of
from rollbackd.config.models import AbsolutePath, Name
from rollbackd.config.positions import ConfigFault, Document, mapping
from rollbackd.config.secrets import reveal
from rollbackd.config.shape import layer_union
from rollbackd.syntax.connections import Tls
from rollbackd.syntax.units import Spec

PATH = Path("/etc/rollbackd/layers.yaml")
_DICT: Any = dict  # its parts are types that are made while the program runs


class ServedErrors(Exception):  # noqa: N818  # it is many
    """All that is wrong with the file, one line each. (`config.load` has its like; importing that takes a tenth of a
    second of every request.)"""

    def __init__(self, faults: list[ConfigFault]) -> None:
        self.faults = tuple(sorted(set(faults)))
        super().__init__("\n".join(map(str, self.faults)))


class Served(Spec):
    """What a host serves to an ops host."""

    scratch: AbsolutePath
    """Locks and markers of the layers; survives a reboot. Whoever logs in must be able to write it."""
    service: Name = "served"
    """What commands are told in ROLLBACKD_SERVICE."""
    layers: Annotated[dict[Name, SerializeAsAny[Settings]], Field(min_length=1)]
    """What is served, as in the daemon's own configuration; nothing else is."""

    def place(self, layer: str, spawner: Any, clock: Any) -> Place:
        return Place(self.service, layer, self.scratch / self.service / layer, spawner, clock, reveal)


def load(path: Path) -> Served:
    """Read it. Only the adapters that it names are loaded, since every request starts a process of its own.

    :raises ServedErrors: with all faults.
    """
    document = files.read(path).document
    if _is_missing(path):
        text = "there is no such file; write it as docs/adapters.md shows for `remote`, or name another with --config"
        raise ServedErrors([ConfigFault(str(path), 1, 1, text)])
    if document.root is None:
        raise ServedErrors(document.faults)
    faults = list(document.faults)
    layers = mapping(mapping(document.data).get("layers"))
    named = {name: settings.get("adapter") for name, settings in layers.items() if isinstance(settings, dict)}
    known = plugins.adapter_names()
    for name, adapter in named.items():
        if isinstance(adapter, str) and adapter not in known:
            text = plugins.unknown("adapter", adapter, known)
            faults.append(document.fault(("layers", name, "adapter"), text))
    if faults:
        raise ServedErrors(faults)
    try:
        model = _shape(frozenset(each for each in named.values() if isinstance(each, str)))
        served: Served = model.model_validate(document.data, context={"look_for": reveal, "try_tls": _try_tls})
    except plugins.PluginError as error:
        raise ServedErrors([ConfigFault(str(path), 1, 1, str(error))]) from error
    except ValidationError as error:
        raise ServedErrors(list(faults_of(error, model, document))) from error
    if faults := _unbuildable(served, document):
        raise ServedErrors(faults)
    return served


def _try_tls(tls: Tls) -> None:
    """:raises ValueError: its files cannot be used. (Imported for who has any: it is of no use to the others.)"""
    from rollbackd.system.certificates import try_tls

    try_tls(tls)


def _is_missing(path: Path) -> bool:
    try:
        path.stat()
    except OSError as error:
        return isinstance(error, FileNotFoundError)
    return False


@cache
def _shape(adapters: frozenset[str]) -> Any:
    """`Served` with the settings of these adapters."""
    layers: Any = _DICT[Name, layer_union(plugins.Plugins(plugins.some_adapters(adapters), {}, {}))]
    return create_model("Served", __base__=Served, __doc__=Served.__doc__, layers=(layers, Field(min_length=1)))


def _unbuildable(served: Served, document: Document) -> list[ConfigFault]:
    """Layers that no adapter can be made of, and those that move the same thing."""
    faults: list[ConfigFault] = []
    owners: dict[str, str] = {}
    for name in served.layers:
        try:
            resource = build(served, name, None, None).resource
        except (ValueError, AdapterError) as error:
            faults.append(document.fault(("layers", name), str(error)))
            continue
        if (other := owners.setdefault(resource, name)) != name:
            text = f'layers "{other}" and "{name}" both move {resource}; make it one layer'
            faults.append(document.fault(("layers", name), text))
    return faults


def build(served: Served, name: str, spawner: Any, clock: Any) -> Adapter:
    """One layer as a live adapter. Touches nothing."""
    settings = served.layers[name]
    return plugins.build_adapter(
        settings,
        served.place(name, spawner, clock),
        plugins.Plugins(plugins.some_adapters(frozenset({settings.adapter})), {}, {}),
    )
