"""Overlaps: names given twice, and what two parts of the file would both match or move. Pure: data in."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations_with_replacement
from pathlib import Path
from typing import TypeVar

from rollbackd.adapter import Needs
from rollbackd.config.outline import Complaint, Outline, ServiceOutline
from rollbackd.config.positions import Loc, entries, mapping, names
from rollbackd.config.schedules import SCHEDULES

T = TypeVar("T", bound=Hashable)


def complaints(outline: Outline) -> Iterator[Complaint]:
    """Everything that the file has twice, or that two of its parts claim."""
    for part in (_names, _peers, _people, _plans, _schedules, _ties, _resources, _nested, _parts):
        yield from part(outline)


def _names(outline: Outline) -> Iterator[Complaint]:
    """Services, receivers and tokens of one name."""
    lists: tuple[tuple[str, object, Loc], ...] = (
        ("service", outline.file.get("services"), ("services",)),
        ("receiver", outline.section("notify").get("receivers"), ("notify", "receivers")),
        ("token", outline.section("daemon").get("tokens"), ("daemon", "tokens")),
    )
    for word, value, loc in lists:
        found = (((*place, "name"), entry.get("name")) for place, entry in entries(value, loc))
        for place, name in _repeated((place, name) for place, name in found if isinstance(name, str)):
            yield place, f'two {word}s are called "{name}"; rename one of them'


def _repeated(found: Iterable[tuple[Loc, T]]) -> Iterator[tuple[Loc, T]]:
    """The things that come a second time."""
    seen: set[T] = set()
    for loc, each in found:
        if each in seen:
            yield loc, each
        seen.add(each)


def _peers(outline: Outline) -> Iterator[Complaint]:
    """Services that are in one group twice."""
    known = {service.name for service in outline.services}
    for group, members in outline.section("peers").items():
        for loc, name in _repeated(names(members, ("peers", group))):
            if name in known:
                yield loc, f'"{name}" is in this group already; take one away'


def _people(outline: Outline) -> Iterator[Complaint]:
    """Names that two people have, or one person twice: whoever had them could count as both."""
    people = [(("people", name), mapping(written)) for name, written in outline.section("people").items()]
    for key in ("unix", "tokens", "slack", "pagerduty"):
        found = ((loc, each) for place, one in people for loc, each in names(one.get(key), (*place, key)) if each)
        for loc, each in _repeated(found):
            yield loc, f'"{each}" is somebody already; each name belongs to one person'


def _plans(outline: Outline) -> Iterator[Complaint]:
    """Plans that a service's list has twice."""
    for service in outline.services:
        for loc, name in _repeated(names(service.raw.get("plan"), (*service.loc, "plan"))):
            if name in service.plan_names:
                yield loc, f'plan "{name}" is named twice; a plan that did not help is not run again'


def _schedules(outline: Outline) -> Iterator[Complaint]:
    """Entries of one kind for one thing at the same times."""
    for kind in SCHEDULES:
        same = (kind, "cron", "every", "when", "plan", "kind", "to")
        written = (((*loc, kind), tuple(str(entry.get(key)) for key in same)) for loc, entry in outline.schedules(kind))
        for loc, _ in _repeated(written):
            yield loc, "this is on the calendar at these times already; take one away"


@dataclass(frozen=True, slots=True)
class _Match:
    """One `match` of one service."""

    n: int
    """Its place in the file."""
    service: ServiceOutline
    loc: Loc
    labels: Mapping[str, str]


def _ties(outline: Outline) -> Iterator[Complaint]:
    """Pairs of matches, of one size and of different services, that one signal can fit; one pair for each match.

    Matches are looked up by the values of the labels that two sets of label names share, since comparing each with
    each would take minutes for thousands of services.
    """
    groups: dict[tuple[str, ...], list[_Match]] = defaultdict(list)
    written = ((service, loc, labels) for service in outline.services for loc, labels in _matches(service))
    for n, (service, loc, labels) in enumerate(written):
        groups[tuple(sorted(labels))].append(_Match(n, service, loc, labels))
    told: set[int] = set()
    for ours, theirs in combinations_with_replacement(groups, 2):
        if len(ours) != len(theirs):
            continue
        for one, other in _compatible(groups[ours], groups[theirs], sorted(set(ours) & set(theirs))):
            first, later = sorted((one, other), key=lambda match: match.n)
            if later.n not in told:
                told.add(later.n)
                yield later.loc, _tie(first, later)


def _compatible(ours: list[_Match], theirs: list[_Match], shared: list[str]) -> Iterator[tuple[_Match, _Match]]:
    """Each match with the first one of another service that has the same values of the shared labels."""
    index: dict[tuple[str, ...], list[_Match]] = defaultdict(list)
    for each in theirs:
        index[tuple(each.labels[key] for key in shared)].append(each)
    for one in ours:
        same = index.get(tuple(one.labels[key] for key in shared), ())
        other = next((each for each in same if each.service is not one.service), None)
        if other is not None:
            yield one, other


def _tie(first: _Match, later: _Match) -> str:
    both = ", ".join(f'{key}="{value}"' for key, value in sorted({**first.labels, **later.labels}.items()))
    return f'this match ties with one of "{first.service.name}": a signal with {both} fits both; add a label to one'


def _matches(service: ServiceOutline) -> Iterator[tuple[Loc, Mapping[str, str]]]:
    match = service.raw.get("match")
    loc: Loc = (*service.loc, "match")
    found = [(loc, match)] if isinstance(match, dict) else list(entries(match, loc))
    for place, each in found:
        labels = {key: value for key, value in each.items() if isinstance(value, str)}
        if labels and len(labels) == len(each):
            yield place, labels


def _resources(outline: Outline) -> Iterator[Complaint]:
    """Resources that two layers would both move. A `resource` that layers name in their settings may be shared."""
    owners: dict[str, str] = {}
    for service in outline.services:
        for layer, adapter in service.layers.items():
            if adapter is None or mapping(mapping(service.raw["layers"])[layer]).get("resource"):
                continue
            here = f"{service.name}/{layer}"
            owner = owners.setdefault(adapter.resource, here)
            if owner != here:
                text = f'layer "{owner}" has {adapter.resource} already; a thing belongs to one layer, so take one away'
                yield (*service.loc, "layers", layer), text


def _nested(outline: Outline) -> Iterator[Complaint]:
    """Paths that one layer moves as a whole and that are, or lie in, a path of another layer."""
    owners: defaultdict[Path, dict[str, None]] = defaultdict(dict)
    within: defaultdict[Path, dict[str, None]] = defaultdict(dict)
    told = set[str]()
    for service in outline.services:
        for layer, adapter in service.layers.items():
            here, resource = f"{service.name}/{layer}", getattr(adapter, "resource", "")
            for path in getattr(adapter, "needs", Needs()).alone if resource not in told else ():
                others = [*(one for place in (path, *path.parents) for one in owners.get(place, ())), *within[path]]
                if other := next((one for one in others if one != here), ""):
                    text = f'{path} is also moved by layer "{other}"; a path belongs to one layer, so take one away'
                    yield (*service.loc, "layers", layer), text
                    break
                owners[path][here] = None
                for place in path.parents:
                    within[place][here] = None
            told.add(resource)


def _parts(outline: Outline) -> Iterator[Complaint]:
    """Layers of a part that come after the layer of the whole, which moves the part too."""
    for service in outline.services:
        resources = {layer: adapter.resource for layer, adapter in service.layers.items() if adapter is not None}
        plans = service.plans or {"": {"steps": list(service.layers)}}
        for plan, written in plans.items():
            loc = (*service.loc, "plans", plan) if plan else (*service.loc, "layers")
            steps = [step if isinstance(step, str) else next(iter(mapping(step)), "") for step in _steps(written)]
            for n, whole in enumerate(steps):
                for part, resource in resources.items():
                    if part not in steps[:n] and resource.startswith(f"{resources.get(whole, resource)} "):
                        yield loc, f'"{whole}" moves all of {resources[whole]}, also "{part}"; name "{part}" before it'


def _steps(written: Mapping[str, object]) -> list[object]:
    steps = written.get("steps")
    return steps if isinstance(steps, list) else []
