"""Names that reach across the file: services, rules, receivers, tokens, addresses. Pure: data in, faults out."""

import ipaddress
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

from rollbackd.adapter import Needs
from rollbackd.config import alike, planned, told
from rollbackd.config.models import Daemon, listening
from rollbackd.config.packs import Placed
from rollbackd.config.positions import Fault, Loc
from rollbackd.config.sketch import NO_PROMETHEUS, Scene, Sketch, entries, mapping, names, quoted
from rollbackd.plugins import unknown
from rollbackd.policy.changes import UNCONFIRMED
from rollbackd.policy.spec import Limits
from rollbackd.syntax.units import format_duration, parse_duration

RESERVED = {
    "manual": "that is what people ask for",
    UNCONFIRMED: "that is a change which nobody confirmed",
    "drill": "that is a rollback for practice",
}
"""Names of triggers that no rule makes."""


def faults_across(scene: Scene) -> Iterator[Fault]:
    """Everything that refers to something which the file does not have, or has twice."""
    for part in (
        _services, _access, _twice, _ties, _resources, _nested, _parts, _policy, _skipped, told.faults, alike.groups,
        planned.faults,
    ):  # fmt: skip
        for loc, text in part(scene):
            yield scene.main.fault(loc, text)
    yield from _rules(scene)


Complaint = tuple[Loc, str]


def _services(scene: Scene) -> Iterator[Complaint]:
    if scene.main.data.get("services") in (None, []):
        yield ("services",), "there are no services, so nothing is watched; add one under `services`"


def _access(scene: Scene) -> Iterator[Complaint]:
    """Who may use the HTTP side: whoever has a token, or anybody on this host when the file says so."""
    daemon = scene.section("daemon")
    listen = daemon.get("listen", Daemon().listen)
    try:
        host, _ = listening(listen if isinstance(listen, str) else "")
    except ValueError:
        return
    if daemon.get("open_on_loopback") is True and not _is_loopback(host):
        text = (
            f"open_on_loopback is for a loopback address, and listen is {listen}; listen on 127.0.0.1, or give tokens"
        )
        yield ("daemon", "open_on_loopback"), text
    elif daemon.get("tokens"):
        return
    elif not _is_loopback(host):
        yield (
            ("daemon", "listen"),
            f"{listen} can be reached from elsewhere without a token; add tokens, or listen on 127.0.0.1",
        )
    elif not daemon.get("open_on_loopback"):
        text = f"anybody on this host could use {listen}; add tokens, or say open_on_loopback: true"
        yield ("daemon", "listen"), text


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _twice(scene: Scene) -> Iterator[Complaint]:
    lists: tuple[tuple[str, Any, Loc], ...] = (
        ("service", scene.main.data.get("services"), ("services",)),
        ("receiver", scene.section("notify").get("receivers"), ("notify", "receivers")),
        ("token", scene.section("daemon").get("tokens"), ("daemon", "tokens")),
    )
    for word, value, loc in lists:
        seen: set[str] = set()
        for place, entry in entries(value, loc):
            name = entry.get("name")
            if isinstance(name, str) and name in seen:
                yield (*place, "name"), f'two {word}s are called "{name}"; rename one of them'
            if isinstance(name, str):
                seen.add(name)


@dataclass(frozen=True, slots=True)
class _Match:
    """One `match` of one service."""

    n: int
    """Its place in the file."""
    service: Sketch
    loc: Loc
    labels: Mapping[str, str]


def _ties(scene: Scene) -> Iterator[Complaint]:
    """Two matches of one size and different services that one signal can fit. One tie is told for each match.

    Matches are looked up by the values of the labels that two sets of label names share, since comparing each with
    each would take minutes for thousands of services.
    """
    groups: dict[tuple[str, ...], list[_Match]] = defaultdict(list)
    written = ((service, loc, labels) for service in scene.services for loc, labels in _matches(service))
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
    """For each of ours the first of theirs, of another service, that has the same values of the shared labels."""
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


def _matches(service: Sketch) -> Iterator[tuple[Loc, Mapping[str, str]]]:
    match = service.raw.get("match")
    loc: Loc = (*service.loc, "match")
    found = [(loc, match)] if isinstance(match, dict) else list(entries(match, loc))
    for place, each in found:
        if each and all(isinstance(value, str) for value in each.values()):
            yield place, each


def _resources(scene: Scene) -> Iterator[Complaint]:
    """What two layers would both move. A `resource` that layers name themselves is one they mean to share."""
    owners: dict[str, str] = {}
    for service in scene.services:
        for layer, adapter in service.layers.items():
            if adapter is None or mapping(mapping(service.raw["layers"])[layer]).get("resource"):
                continue
            here = f"{service.name}/{layer}"
            owner = owners.setdefault(adapter.resource, here)
            if owner != here:
                text = f'layer "{owner}" has {adapter.resource} already; a thing belongs to one layer, so take one away'
                yield (*service.loc, "layers", layer), text


def _nested(scene: Scene) -> Iterator[Complaint]:
    """A path that one layer moves as a whole and that is, or lies in, what another one moves."""
    owners: defaultdict[Path, dict[str, None]] = defaultdict(dict)
    within: defaultdict[Path, dict[str, None]] = defaultdict(dict)
    told = set[str]()
    for service in scene.services:
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


def _parts(scene: Scene) -> Iterator[Complaint]:
    """What moves a whole thing moves its parts too: those that are layers of their own go before it."""
    for service in scene.services:
        resources = {layer: adapter.resource for layer, adapter in service.layers.items() if adapter is not None}
        plans = service.plans or {"": {"steps": list(service.layers)}}
        for plan, written in plans.items():
            loc = (*service.loc, "plans", plan) if plan else (*service.loc, "layers")
            steps = [step if isinstance(step, str) else next(iter(mapping(step)), "") for step in _steps(written)]
            for n, whole in enumerate(steps):
                for part, resource in resources.items():
                    if part not in steps[:n] and resource.startswith(f"{resources.get(whole, resource)} "):
                        yield loc, f'"{whole}" moves all of {resources[whole]}, also "{part}"; name "{part}" before it'


def _steps(written: Mapping[str, Any]) -> list[Any]:
    steps = written.get("steps")
    return steps if isinstance(steps, list) else []


def _unknown_services(scene: Scene, value: Any, loc: Loc) -> Iterator[Complaint]:
    known = {service.name for service in scene.services}
    for place, name in names(value, loc):
        if name not in known:
            yield place, unknown("service", name, known)


def _policy(scene: Scene) -> Iterator[Complaint]:
    rules = {rule.name: rule for rule in scene.rules}
    decided = {*rules, UNCONFIRMED}  # a table that asks about all it does not name would ask about it, too
    yield from _unknown_groups(scene, scene.section("asking"), ("asking",))
    for loc, row in entries(scene.main.data.get("policy"), ("policy",)):
        when = mapping(row.get("when"))
        for place, name in names(when.get("rule"), (*loc, "when", "rule")):
            if name not in decided:
                yield place, unknown("rule", name, decided)
        yield from _unknown_services(scene, when.get("service"), (*loc, "when", "service"))
        named = {name for _, name in names(when.get("service"), ())}
        for _, name in names(when.get("rule"), ()):
            if not when.get("service") and name in rules:
                named |= {service.name for service in _scope(scene, rules[name])}
        services = [each for each in scene.services if each.name in named or not named]
        yield from _plans_in(services, row.get("plan"), (*loc, "plan"))
        yield from _unknown_groups(scene, row, loc)
        yield from _for_nothing(row, loc)


def _unknown_groups(scene: Scene, row: Mapping[str, Any], loc: Loc) -> Iterator[Complaint]:
    groups = mapping(scene.main.data.get("groups"))
    for place, name in names(row.get("by"), (*loc, "by")):
        if name not in groups:
            yield place, unknown("group", name, groups)


def _for_nothing(row: Mapping[str, Any], loc: Loc) -> Iterator[Complaint]:
    """Nobody is ever asked by a row that observes or refuses."""
    for key in ("approvals", "by", "expires", "otherwise"):
        if key in row and row.get("action") in ("observe", "refuse"):
            yield (*loc, key), f"nobody is asked where the action is {row['action']}; leave `{key}` out"


def _plans_in(services: list[Sketch], value: Any, loc: Loc) -> Iterator[Complaint]:
    """A plan that is named for several services must be in each of them."""
    for place, name in names(value, loc):
        lacking = [service.name for service in services if name not in service.plan_names]
        if lacking and len(lacking) == len(services):
            yield place, unknown("plan", name, {plan for service in services for plan in service.plan_names})
        elif lacking:
            yield place, f'plan "{name}" is not in {quoted(lacking)}; add it there, or name the services this is for'


def _skipped(scene: Scene) -> Iterator[Complaint]:
    """The rules that a plan's verification leaves out."""
    rules = {rule.name: rule for rule in scene.rules}
    for service in scene.services:
        for plan, written in service.plans.items():
            loc: Loc = (*service.loc, "plans", plan, "verify", "skip_rules")
            for place, name in names(mapping(written.get("verify")).get("skip_rules"), loc):
                if name not in rules:
                    yield place, unknown("rule", name, rules)
                elif service not in _scope(scene, rules[name]):
                    yield place, f'rule "{name}" is not for "{service.name}"; leave it out here'


# -- rules -------------------------------------------------------------------------------------------
def _scope(scene: Scene, rule: Placed) -> list[Sketch]:
    """The services that a rule is for."""
    named = {name for _, name in names(mapping(rule.raw).get("services"), ())}
    return [service for service in scene.services if not named or service.name in named]


def _rules(scene: Scene) -> Iterator[Fault]:
    seen: set[str] = set()
    for rule in scene.rules:
        if rule.name in seen:
            yield rule.point(("name",), f'two rules are called "{rule.name}"; rename one, or give its pack an `as`')
        elif rule.name in RESERVED:
            yield rule.point(("name",), f'a rule cannot be called "{rule.name}": {RESERVED[rule.name]}; rename it')
        if rule.name:
            seen.add(rule.name)
        raw = mapping(rule.raw)
        for part in (
            _unknown_services(scene, raw.get("services"), ("services",)),
            _plans_in(_scope(scene, rule), raw.get("plan"), ("plan",)),
            _conditions(scene, rule),
        ):
            for loc, text in part:
                yield rule.point(loc, text)


def _conditions(scene: Scene, rule: Placed) -> Iterator[Complaint]:
    services = _scope(scene, rule)
    if "query" in mapping(mapping(rule.raw).get("users")) and "prometheus" not in scene.main.data:
        yield ("users", "query"), NO_PROMETHEUS
    stale_after = _duration(scene.section("limits").get("stale_after")) or Limits().stale_after
    keep = _duration(scene.section("daemon").get("keep")) or Daemon().keep
    for loc, leaf in _leaves(mapping(rule.raw).get("when")):
        if "query" in leaf and "prometheus" not in scene.main.data:
            yield (*loc, "query"), NO_PROMETHEUS
        yield from alike.compared(scene, leaf, [service.name for service in services], loc)
        if _longer(leaf.get("for"), stale_after):
            text = f"`for` is longer than limits.stale_after, {format_duration(stale_after)}: it would always be stale"
            yield (*loc, "for"), f"{text}; make stale_after longer"
        if "event" in leaf and _longer(leaf.get("within"), keep):
            text = f"`within` is longer than daemon.keep, {format_duration(keep)}: a start would have forgotten some"
            yield (*loc, "within"), f"{text}; keep them longer"
        check = leaf.get("check")
        if not isinstance(check, str):
            continue
        lacking = [service.name for service in services if check not in service.checks]
        if lacking and len(lacking) == len(services):
            yield (*loc, "check"), unknown("check", check, {name for each in services for name in each.checks})
        elif lacking and mapping(rule.raw).get("services"):
            yield (*loc, "check"), f'check "{check}" is not in {quoted(lacking)}; add it there'


def _leaves(when: Any, loc: Loc = ("when",)) -> Iterator[tuple[Loc, Mapping[str, Any]]]:
    for kind in ("all", "any"):
        if isinstance(when, dict) and kind in when:
            for place, part in entries(when[kind], (*loc, kind)):
                yield from _leaves(part, place)
            return
    yield loc, mapping(when)


def _longer(text: Any, limit: timedelta) -> bool:
    length = _duration(text)
    return length is not None and length > limit


def _duration(text: Any) -> timedelta | None:
    """A duration, or None: what is wrong with it the models say."""
    try:
        return parse_duration(text)
    except ValueError:
        return None
