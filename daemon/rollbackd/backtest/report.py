"""What a play would have done, beside what people did. No I/O."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from statistics import median

from rollbackd import facts
from rollbackd.backtest.play import Played
from rollbackd.backtest.recorded import RecordedChange
from rollbackd.model import Action, Decision, Finding
from rollbackd.policy.guards import ago
from rollbackd.syntax.units import format_duration

_EVIDENCE = 3
"""Pieces of evidence that are shown of one decision."""


@dataclass(frozen=True, slots=True)
class PlayedDecision:
    """One decision of a play that says something new."""

    at: datetime
    service: str
    rule: str
    action: Action
    onset: datetime
    blamed: str
    """What ran; empty when nobody could say."""
    target: str
    incident: str
    """What it opened or became part of."""
    evidence: tuple[str, ...]
    findings: tuple[Finding, ...]
    end: str = ""
    """How its incident ended."""
    people: str = ""
    """What people did then."""
    shared: bool = False
    """Whether people went back from the same release."""

    @property
    def against(self) -> tuple[str, ...]:
        return tuple(one.reason for one in self.findings if one.counted and one.against is not None)


@dataclass(frozen=True, slots=True)
class RecordedRollback:
    """People went back, and what the play made of that trouble."""

    at: datetime
    service: str
    left: str
    since: datetime
    """When what they left began to run."""
    reached: str
    played: str = ""
    lead: timedelta | None = None
    """How much earlier the play went back; None: it did not."""


@dataclass(frozen=True, slots=True)
class PlayFigures:
    """A play in numbers."""

    rollbacks: int
    """Of the play."""
    shared: int
    """Of these, from a release that people went back from, too."""
    missed: int
    """Of people, where the play did not go back."""
    asked: int
    refused: int
    lead: timedelta | None
    """How much earlier than people, in the median of those that both did."""


@dataclass(frozen=True, slots=True)
class Account:
    """All that came of one play."""

    decisions: tuple[PlayedDecision, ...]
    rollbacks: tuple[RecordedRollback, ...]
    ungood: Mapping[str, str] = field(default_factory=dict)

    @property
    def tally(self) -> PlayFigures:
        actions = [one.action for one in self.decisions]
        ours = [one for one in self.decisions if one.action is Action.ROLL_BACK]
        leads = [one.lead for one in self.rollbacks if one.lead is not None]
        return PlayFigures(
            len(ours),
            sum(one.shared for one in ours),
            sum(one.lead is None for one in self.rollbacks),
            actions.count(Action.ASK),
            actions.count(Action.REFUSE) + actions.count(Action.OBSERVE),
            timedelta(seconds=median(lead.total_seconds() for lead in leads)) if leads else None,
        )

    def went_back(self) -> frozenset[tuple[str, str]]:
        """What the play went back from: service and state."""
        return frozenset((one.service, one.blamed) for one in self.decisions if one.action is Action.ROLL_BACK)

    def of(self, service: str) -> "Account":
        """The part that is about one service."""
        return Account(
            tuple(one for one in self.decisions if one.service == service),
            tuple(one for one in self.rollbacks if one.service == service),
            {name: why for name, why in self.ungood.items() if name == service},
        )


def account_of(played: Played, changes: Sequence[RecordedChange], start: datetime, end: datetime) -> Account:
    """What the play made of the changes that people made from `start` to `end`."""
    decisions = _decisions(played)
    recorded = [one for one in _rollbacks(changes) if start < one.at <= end]
    judged = [_judged(one, decisions) for one in recorded]
    by_service: dict[str, list[RecordedChange]] = {}
    for change in changes:
        by_service.setdefault(change.service, []).append(change)
    compared = tuple(_compared(one, judged, by_service.get(one.service, ())) for one in decisions)
    return Account(compared, tuple(judged), played.ungood)


def _decisions(played: Played) -> list[PlayedDecision]:
    ends = {
        record.stream.partition(":")[2]: f"{record.fact.outcome}: {record.fact.reason}"
        for record in played.records
        if isinstance(record.fact, facts.Closed)
    }
    found = []
    for record in played.records:
        if isinstance(record.fact, facts.Decided | facts.Risen):
            found.append(_decision(record.at, record.fact.decision, ends))
    return found


def _decision(at: datetime, decision: Decision, ends: Mapping[str, str]) -> PlayedDecision:
    trigger = decision.trigger
    return PlayedDecision(
        at=at,
        service=trigger.service,
        rule=trigger.rule,
        action=decision.action,
        onset=trigger.onset,
        blamed=decision.present.name if decision.present is not None else "",
        target=decision.target.name if decision.target is not None else "",
        incident=decision.joins,
        evidence=tuple(f"{one.value} {one.threshold}".strip() for one in trigger.evidence[:_EVIDENCE]),
        findings=decision.findings,
        end=ends.get(decision.joins, ""),
    )


def _rollbacks(changes: Sequence[RecordedChange]) -> Iterable[RecordedRollback]:
    before: dict[str, RecordedChange] = {}
    for change in changes:
        left = before.get(change.service)
        if change.rollback and left is not None:
            yield RecordedRollback(change.at, change.service, left.state.name, left.at, change.state.name)
        before[change.service] = change


def _judged(recorded: RecordedRollback, decisions: Sequence[PlayedDecision]) -> RecordedRollback:
    """What the play did while the release that people left ran."""
    meanwhile = [
        one for one in decisions if one.service == recorded.service and recorded.since <= one.at <= recorded.at
    ]
    for action, words in ((Action.ROLL_BACK, "rolled back"), (Action.ASK, "asked")):
        first = next((one for one in meanwhile if one.action is action), None)
        if first is not None:
            lead = recorded.at - first.at
            acted = lead if action is Action.ROLL_BACK else None
            return replace(recorded, played=f"{words} {ago(lead)} earlier ({first.rule})", lead=acted)
    if meanwhile:
        last = meanwhile[-1]
        return replace(recorded, played=f"{last.action}, {last.rule}: {'; '.join(last.against)}")
    return replace(recorded, played="no rule was met")


def _compared(
    decision: PlayedDecision, recorded: Sequence[RecordedRollback], changes: Sequence[RecordedChange]
) -> PlayedDecision:
    """The decision with what people did."""
    back = next(
        (one for one in recorded if one.service == decision.service and one.since <= decision.at <= one.at), None
    )
    if back is not None:
        return replace(decision, people=f"went back {ago(back.at - decision.at)} later", shared=True)
    later = next((one for one in changes if one.at > decision.at), None)
    if later is None:
        return replace(decision, people="changed nothing afterwards")
    return replace(decision, people=f"did not go back; the next change, {ago(later.at - decision.at)} later")


# -- as JSON values -----------------------------------------------------------------------------
def tally_json(tally: PlayFigures) -> dict[str, object]:
    return {
        "rollbacks": tally.rollbacks,
        "shared": tally.shared,
        "missed": tally.missed,
        "asked": tally.asked,
        "refused": tally.refused,
        "lead": format_duration(tally.lead) if tally.lead is not None else None,
    }


def account_json(account: Account) -> dict[str, object]:
    return {
        "summary": tally_json(account.tally),
        "decisions": [_decision_json(one) for one in account.decisions],
        "rollbacks_of_people": [
            {
                "at": one.at.isoformat(),
                "service": one.service,
                "left": one.left,
                "since": one.since.isoformat(),
                "reached": one.reached,
                "played": one.played,
                "lead": format_duration(one.lead) if one.lead is not None else None,
            }
            for one in account.rollbacks
        ],
        "never_good": dict(account.ungood),
    }


def _decision_json(one: PlayedDecision) -> dict[str, object]:
    return {
        "at": one.at.isoformat(),
        "service": one.service,
        "rule": one.rule,
        "action": one.action.value,
        "onset": one.onset.isoformat(),
        "blamed": one.blamed,
        "target": one.target,
        "incident": one.incident,
        "evidence": list(one.evidence),
        "against": list(one.against),
        "findings": [
            {
                "guard": finding.guard,
                "against": finding.against.value if finding.against is not None else None,
                "reason": finding.reason,
                "counted": finding.counted,
            }
            for finding in one.findings
        ],
        "end": one.end,
        "people": one.people,
        "people_went_back": one.shared,
    }
