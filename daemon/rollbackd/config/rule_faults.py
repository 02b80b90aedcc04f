"""Rules and the policy's rows, as far as they are about other parts of the file. Pure: data in, faults out."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta

from rollbackd.config.models import Daemon
from rollbackd.config.outline import NO_PROMETHEUS, Complaint, Outline
from rollbackd.config.packs import Placed
from rollbackd.config.positions import ConfigFault, Loc, entries, mapping, names, quoted
from rollbackd.config.references import scope
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


def faults(outline: Outline) -> Iterator[ConfigFault]:
    """What is wrong with rules, in whatever files they stand, and with rows about them."""
    for loc, row in entries(outline.file.get("policy"), ("policy",)):
        for key in ("approvals", "by", "expires", "otherwise"):
            if key in row and row.get("action") in ("observe", "refuse"):
                text = f"nobody is asked where the action is {row['action']}; leave `{key}` out"
                yield outline.main.fault((*loc, key), text)
    seen: set[str] = set()
    for rule in outline.rules:
        if rule.name in seen:
            yield rule.point(("name",), f'two rules are called "{rule.name}"; rename one, or give its pack an `as`')
        elif rule.name in RESERVED:
            yield rule.point(("name",), f'a rule cannot be called "{rule.name}": {RESERVED[rule.name]}; rename it')
        if rule.name:
            seen.add(rule.name)
        for loc, text in _conditions(outline, rule):
            yield rule.point(loc, text)


def _conditions(outline: Outline, rule: Placed) -> Iterator[Complaint]:
    services = [service.name for service in scope(outline, rule)]
    if "query" in mapping(mapping(rule.raw).get("users")) and "prometheus" not in outline.file:
        yield ("users", "query"), NO_PROMETHEUS
    stale_after = _duration(outline.section("limits").get("stale_after")) or Limits().stale_after
    keep = _duration(outline.section("daemon").get("keep")) or Daemon().keep
    for loc, leaf in leaves(mapping(rule.raw).get("when")):
        if "query" in leaf and "prometheus" not in outline.file:
            yield (*loc, "query"), NO_PROMETHEUS
        yield from compared(outline, leaf, services, loc)
        if _longer(leaf.get("for"), stale_after):
            text = f"`for` is longer than limits.stale_after, {format_duration(stale_after)}: it would always be stale"
            yield (*loc, "for"), f"{text}; make stale_after longer"
        if "event" in leaf and _longer(leaf.get("within"), keep):
            text = f"`within` is longer than daemon.keep, {format_duration(keep)}: a start would have forgotten some"
            yield (*loc, "within"), f"{text}; keep them longer"


def leaves(when: object, loc: Loc = ("when",)) -> Iterator[tuple[Loc, Mapping[str, object]]]:
    """The conditions that are no `all` and no `any`, each with its place."""
    for kind in ("all", "any"):
        if isinstance(when, dict) and kind in when:
            for place, part in entries(when[kind], (*loc, kind)):
                yield from leaves(part, place)
            return
    yield loc, mapping(when)


def _longer(text: object, limit: timedelta) -> bool:
    length = _duration(text)
    return length is not None and length > limit


def _duration(text: object) -> timedelta | None:
    """A duration; None for anything else, which the models report."""
    try:
        return parse_duration(text)
    except ValueError:
        return None


def compared(outline: Outline, query: Mapping[str, object], services: Sequence[str], loc: Loc) -> Iterator[Complaint]:
    """What is wrong with the group of peers that a query compares these services with."""
    group = mapping(query.get("against")).get("peers")
    if not isinstance(group, str):
        return
    known = outline.section("peers")
    place = (*loc, "against", "peers")
    if group not in known:
        yield place, unknown("group of peers", group, known)
        return
    members = {name for _, name in names(known[group], ())}
    strangers = [service for service in services if service not in members]
    if strangers:
        are = "is" if len(strangers) == 1 else "are"
        text = f'{quoted(strangers)} {are} not in the group "{group}"'
        yield place, f"{text}; add it there, or name the services that this is for"
