"""What the journal says became of a situation, a line each: when, whose, what, against which guards, why."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from rollbackd import facts
from rollbackd.facts import Record
from rollbackd.model import Action, Decision, State, incident_service
from tests.unit.judgement.script import SHOP, parse_time
from tests.unit.judgement.stage import Stage

_WORDS = (
    "rolls back", "rises", "asks again", "asks", "observes", "refuses", "escalates", "joins", "recovered", "ineffective",
    "unverified", "failed", "aborted", "declined", "expired", "passed", "superseded", "relapsed", "pauses", "goes on",
    "parked", "next plan", "tells", "answers no",
)  # fmt: skip
_EXPECTED = re.compile(
    r"(?:(?:(Sun|Mon|Tue|Wed) )?(\d\d):(\d\d) )?(?:(?P<service>[a-z][a-z0-9-]*): )?"
    rf"(?P<what>{'|'.join(_WORDS)})(?: to (?P<target>[^\s:]+))?(?: \((?P<guards>[a-z_, ]*)\))?(?:: (?P<why>.+))?"
)
_EXPLAINED = {"asks", "observes", "refuses", "escalates"}
"""Decisions that are not to roll back say which guards stood against it."""


@dataclass(frozen=True, slots=True)
class Told:
    """One thing that was made of it."""

    at: datetime
    service: str
    what: str
    why: str
    target: str = ""
    guards: frozenset[str] = frozenset()

    def __str__(self) -> str:
        service = f"{self.service}: " if self.service != SHOP else ""
        target = f" to {self.target}" if self.target else ""
        guards = f" ({', '.join(sorted(self.guards))})" if self.guards else ""
        return f"{self.at:%H:%M} {service}{self.what}{target}{guards}: {self.why}"


@dataclass(frozen=True, slots=True)
class Expected:
    """What should be made of it."""

    text: str
    at: datetime | None
    service: str
    what: str
    target: str | None
    guards: frozenset[str] | None
    why: str

    def fits(self, told: Told) -> bool:
        in_time = self.at is None or self.at <= told.at < self.at + timedelta(minutes=1)
        return (
            in_time
            and (self.service, self.what) == (told.service, told.what)
            and self.target in {None, told.target}
            and self.guards in {None, told.guards}
            and self.why in told.why
        )


def parse(text: str) -> tuple[Expected, ...]:
    """What is expected, in order; `nothing` alone expects that nothing is said. :raises ValueError: with the line."""
    found = []
    for written in filter(None, map(str.strip, text.splitlines())):
        if written == "nothing":
            continue
        fits = _EXPECTED.fullmatch(written)
        if fits is None or (fits["what"] in _EXPLAINED and fits["guards"] is None):
            raise ValueError(f"nothing can be expected like this: {written}")
        at = parse_time(*fits.group(1, 2, 3)) if fits[2] else None
        guards = frozenset(fits["guards"].replace(" ", "").split(",")) if fits["guards"] is not None else None
        found.append(
            Expected(written, at, fits["service"] or SHOP, fits["what"], fits["target"], guards, fits["why"] or "")
        )
    return tuple(found)


def told(stage: Stage, after: int) -> tuple[Told, ...]:
    """What was made of a situation, from the journal's facts after so many of them."""
    records = _of_records(stage.journal.records[after:])
    found = [(record.seq, 0, one) for record, one in records if one.service not in stage.crowd]
    found += [(seq, 1, Told(at, service, "answers no", text)) for seq, at, service, text in stage.answers]
    return tuple(one for *_, one in sorted(found, key=lambda each: each[:2]))


def _of_records(records: list[Record]) -> Iterator[tuple[Record, Told]]:
    begun: set[tuple[str, str]] = set()
    """Incident and episode of decisions that were told as what they opened."""
    for record in records:
        one = _of_record(record, begun)
        if one is not None:
            yield record, one


def _of_record(record: Record, begun: set[tuple[str, str]]) -> Told | None:
    at, fact = record.at, record.fact
    service = incident_service(record.stream)
    match fact:
        case facts.Opened(_, decision):
            begun.add((decision.joins, decision.trigger.episode))
            return _decided(at, decision, "asks" if decision.action is Action.ASK else "rolls back")
        case facts.Risen(decision, why):
            begun.add((decision.joins, decision.trigger.episode))
            return Told(at, service, "rises", why, name_of(decision.target))
        case facts.AskedAgain(decision, why):
            return Told(at, service, "asks again", why, name_of(decision.target), _guards(decision))
        case facts.Decided(decision):
            if (decision.joins, decision.trigger.episode) in begun:
                return None
            return _decided(at, decision, _word(decision))
        case facts.Closed(outcome, why):
            return Told(at, service, outcome.value, why)
        case facts.Relapsed(trigger):
            return Told(at, service, "relapsed", trigger.rule)
        case facts.Paused(why):
            return Told(at, service, "pauses", why)
        case facts.Unpaused():
            return Told(at, service, "goes on", "")
        case facts.Parked(why):
            return Told(at, service, "parked", why)
        case facts.PlanEnded(name):
            return Told(at, service, "next plan", name)
        case facts.Notice(kind, text, whose):
            return Told(at, whose or SHOP, "tells", f"{kind}: {text}")
        case _:
            return None


def _word(decision: Decision) -> str:
    if decision.joins:
        return "joins"
    words = {Action.ASK: "asks", Action.OBSERVE: "observes", Action.REFUSE: "refuses"}
    if decision.action is Action.REFUSE and decision.escalate:
        return "escalates"
    return words.get(decision.action, "rolls back")


def _decided(at: datetime, decision: Decision, word: str) -> Told:
    reasons = [finding.reason for finding in decision.against]
    change = next((one.reason for one in decision.findings if one.guard == "change" and one.against is None), "")
    seen = "; ".join(f"{one.source}: {one.value}, {one.threshold}".rstrip(", ") for one in decision.trigger.evidence)
    why = "; ".join(reasons) or "; ".join(filter(None, (seen, change)))
    target = name_of(decision.target) if word in {"rolls back", "asks"} else ""
    return Told(at, decision.trigger.service, word, f"{decision.trigger.rule}: {why}", target, _guards(decision))


def _guards(decision: Decision) -> frozenset[str]:
    return frozenset(finding.guard for finding in decision.against)


def name_of(state: State | None) -> str:
    """`v1` of one layer, `code=v1,config=c1` of two."""
    if state is None:
        return ""
    if list(state.releases) == ["code"]:
        return state.releases["code"].id
    return ",".join(f"{layer}={release.id}" for layer, release in sorted(state.releases.items()))
