"""Services that follow a cluster: made of a template in the file, once for each workload that was found.

What was found is in a file beside the layers' scratch directories, so that every command reads the same. From it come
names, which are checked, and nothing else: in a template they may stand in `match` and in `namespace` and `workload` of
layers, so that nothing from a cluster becomes a command, an address or a query.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import BaseModel, Field, ValidationError

from rollbackd.config.models import NAME, Daemon, Name
from rollbackd.config.positions import Document, Loc, Node, entries, mapping

_FILE = "services_from.json"
_WORDS = re.compile(r"\{(name|namespace|workload)\}")
_KINDS = ("namespace", "workload")
_MISPLACED = (
    "a name from the cluster may stand only in `match`, and in `namespace` and `workload` of layers; take it out"
)
_UNNAMED = "`match` of the template fits every service alike; put {name} into it"
_ALIKE = "no layer of the template has {workload}, so all services would move the same; put it into one"
_LABEL = re.compile(NAME)


class FollowedService(BaseModel):
    """A workload that takes part, as it was seen last."""

    cluster: str
    label: str
    name: Name
    namespace: Annotated[str, Field(pattern=r"^[a-z0-9][-a-z0-9]{0,62}$")]
    workload: Annotated[str, Field(pattern=r"^[a-z]+/[a-z0-9][-a-z0-9.]{0,252}$")]
    gone: float | None = None
    """When it was missed first, in seconds since 1970; None while it is there."""

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What it is, whatever it is called."""
        return self.cluster, self.label, self.namespace, self.workload


class _Found(BaseModel):
    """The file."""

    services: tuple[FollowedService, ...] = ()


def found_in(scratch: Path) -> tuple[FollowedService, ...]:
    """What was found last; nothing where nobody looked yet, or the file is damaged: then it is looked for anew."""
    try:
        return _Found.model_validate_json((scratch / _FILE).read_bytes()).services
    except (OSError, ValidationError):
        return ()


def kept(services: Sequence[FollowedService]) -> tuple[str, bytes]:
    """Where that is kept in the scratch directory, and how."""
    return _FILE, _Found(services=tuple(services)).model_dump_json(indent=1).encode()


def scratch_of(document: Document) -> Path:
    """Where the layers' scratch directories are, as far as the file can be read."""
    written = mapping(mapping(document.data).get("daemon")).get("scratch")
    return Path(written) if isinstance(written, str) else Daemon().scratch


class Made(NamedTuple):
    """Services that were added to a file's own."""

    names: frozenset[str]
    idle: frozenset[str]
    """Those that are only there to be judged: a sample of each template, and what is gone."""


def expand(document: Document, found: Sequence[FollowedService]) -> Made:
    """Add to a file's services those that its templates make, and for each template a sample."""
    names: set[str] = set()
    idle: set[str] = set()
    if document.root is None:
        return Made(frozenset(), frozenset())
    taken = {str(raw.get("name")) for _, raw in entries(mapping(document.data).get("services"), ())}
    for loc, entry in entries(mapping(document.data).get("services_from"), ("services_from",)):
        template = _at(document.root, (*loc, "template"))
        if template is None or not isinstance(template.data, dict):
            continue
        _judge(document, template)
        sample = _sample(str(loc[-1]))
        acts = _names(entry.get("act"))
        for each in (sample, *(one for one in found if _belongs(one, entry))):
            if each.name not in taken:
                taken.add(each.name)
                names.add(each.name)
                idle |= {each.name} if each is sample or each.gone is not None else set()
                words = {"name": each.name, "namespace": each.namespace, "workload": each.workload}
                own = {"name": each.name, "mode": "act" if each.name in acts else "shadow"}
                _add(document.root, _service(document, template, words, own))
    return Made(frozenset(names), frozenset(idle))


def _judge(document: Document, template: Node) -> None:
    """Say what would make all services of a template the same."""
    written = mapping(template.data)
    if "{name}" not in str(written.get("match")):
        document.add(template.line, template.column, _UNNAMED)
    if "{workload}" not in str(written.get("layers")):
        document.add(template.line, template.column, _ALIKE)


def _sample(number: str) -> FollowedService:
    name = f"services-from-{number}"
    return FollowedService(cluster="", label="", name=name, namespace="sample", workload="deployment/sample")


def _belongs(found: FollowedService, entry: Mapping[str, object]) -> bool:
    known = (entry.get("cluster"), entry.get("label"))
    return known == (found.cluster, found.label) and found.namespace in _names(entry.get("namespaces"))


def _names(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else [value]


def _at(node: Node | None, loc: Loc) -> Node | None:
    for part in loc:
        node = None if node is None else node.items.get(part)
    return node


def _service(document: Document, template: Node, words: Mapping[str, str], own: Mapping[str, str]) -> Node:
    """A copy of a template with its words filled in; it stands where the template stands."""
    made = _filled(document, template, words, ())
    place = (template.line, template.column)
    for key, text in own.items():
        made.keys[key], made.items[key] = place, Node(*place, text, text)
    made.data = {key: child.data for key, child in made.items.items()}
    return made


def _filled(document: Document, node: Node, words: Mapping[str, str], loc: Loc) -> Node:
    if isinstance(node.data, str) and _WORDS.search(node.data):
        if not _is_open(loc):
            document.add(node.line, node.column, _MISPLACED)
            return node
        text = _WORDS.sub(lambda word: words[word[1]], node.data)
        return Node(node.line, node.column, text, text)
    if not node.items:
        return node
    items = {key: _filled(document, child, words, (*loc, key)) for key, child in node.items.items()}
    values = [child.data for child in items.values()]
    data = values if isinstance(node.data, list) else dict(zip(items, values, strict=True))
    return Node(node.line, node.column, data, node.source, dict(node.keys), items, node.size)


def _is_open(loc: Loc) -> bool:
    """Whether a place of a template may have a name from the cluster."""
    return loc[:1] == ("match",) or (loc[:1] == ("layers",) and len(loc) == 3 and loc[2] in _KINDS)


def _add(root: Node, service: Node) -> None:
    """Put a service behind those that are written."""
    services = root.items.get("services")
    if services is None:
        services = Node(service.line, service.column, [], items={})
        root.keys["services"], root.items["services"] = (service.line, service.column), services
        assert isinstance(root.data, dict)
        root.data["services"] = services.data
    if isinstance(services.data, list):
        services.items[len(services.items)] = service
        services.data.append(service.data)


class Looked(NamedTuple):
    """What one look at a cluster changes."""

    services: tuple[FollowedService, ...]
    told: tuple[str, ...]
    """Sentences for people."""


def looked(
    known: Sequence[FollowedService],
    seen: Sequence[FollowedService],
    taken: Sequence[str],
    at_most: int,
    now: float,
) -> Looked:
    """Bring what is known of one cluster and label up to what was seen there just now.

    :param taken: names of services that are written in the file, or follow another cluster.
    :param at_most: so many take part; who came first stays. What is gone longest is forgotten beyond that.
    """
    there = {each.key: each for each in seen}
    services: list[FollowedService] = []
    told: list[str] = []
    for each in known:
        if each.key in there and there[each.key].name == each.name:
            told += [f"{each.name} is back as {_place(each)}"] if each.gone is not None else []
            services.append(each.model_copy(update={"gone": None}))
        else:
            text = f"{each.name} is gone: {_place(each)}; it is parked, and not watched until it is back"
            told += [text] if each.gone is None else []
            services.append(each.model_copy(update={"gone": each.gone or now}))
    names = {*taken, *(each.name for each in services if each.gone is None)}
    fresh = [each for key, each in there.items() if (key, each.name) not in {(one.key, one.name) for one in services}]
    for each in sorted(fresh, key=lambda one: one.key):
        services, said = _joined(services, each, names, fresh, at_most)
        told += said
    gone = sorted((each for each in services if each.gone is not None), key=lambda each: each.gone or 0)
    forgotten = gone[: max(0, len(services) - at_most)]
    return Looked(tuple(each for each in services if each not in forgotten), tuple(told))


def _joined(
    services: list[FollowedService],
    fresh: FollowedService,
    names: set[str],
    others: Sequence[FollowedService],
    at_most: int,
) -> tuple[list[FollowedService], list[str]]:
    """With one more, or with why not."""
    if sum(each.name == fresh.name for each in others) > 1 or fresh.name in names:
        return services, [f"{fresh.name}: {_place(fresh)} is refused, since another service has that name; rename one"]
    if sum(each.gone is None for each in services) >= at_most:
        return services, [f"{fresh.name}: {_place(fresh)} is refused, since {at_most} take part; raise `at_most`"]
    rest = [each for each in services if each.name != fresh.name]
    return [*rest, fresh], [f"{fresh.name} is new as {_place(fresh)}, in shadow mode unless `act` names it"]


def _place(service: FollowedService) -> str:
    return f"{service.workload} in {service.namespace} of {service.cluster}"


def is_service_name(text: str) -> bool:
    """Whether a label's value can be a service's name."""
    return _LABEL.fullmatch(text) is not None


def of_entry(services: Sequence[FollowedService], cluster: str, label: str) -> Iterator[FollowedService]:
    """Those of one entry of `services_from`."""
    return (each for each in services if (each.cluster, each.label) == (cluster, label))
