"""Values of the pure core by name: states, triggers, ledgers, situations, incidents. Nothing here asserts."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Self

from rollbackd import facts
from rollbackd.facts import Record
from rollbackd.incident.fold import evolve, opened
from rollbackd.incident.life import Incident
from rollbackd.incident.next import Start, Step, next_step
from rollbackd.incident.spec import VerifySpec
from rollbackd.model import (
    DAEMON,
    FLEET,
    Action,
    Bracketed,
    Change,
    CheckResult,
    Decision,
    Finding,
    Outcome,
    Plan,
    Priority,
    Release,
    State,
    Trigger,
    Verdict,
    incident_stream,
    service_stream,
)
from rollbackd.policy.guards import Situation
from rollbackd.policy.ledger import FleetLedger, ServiceLedger
from rollbackd.policy.ledger import fold_fleet as fleet_after
from rollbackd.policy.ledger import fold_service as ledger_after
from rollbackd.policy.spec import Limits
from rollbackd.policy.target import Candidate, candidates
from tests.fakes.clock import START

SERVICE = "checkout"
FAILED = {"enter": facts.EnterFailed, "apply": facts.ApplyFailed, "leave": facts.LeaveFailed}
REPORTED = {"enter": facts.Entered, "apply": facts.Applied, "leave": facts.Left}
STARTED = {"enter": facts.Entering, "apply": facts.ApplyStarted, "leave": facts.Leaving}


def minutes(count: float) -> timedelta:
    return timedelta(minutes=count)


def seconds(count: float) -> timedelta:
    return timedelta(seconds=count)


def at(count: float) -> datetime:
    """So many minutes after the start of all tests' time."""
    return START + minutes(count)


def state(code: str = "", **layers: str) -> State:
    """`state("v1")` is a state of one layer, `code`."""
    named = {"code": code, **layers} if code else layers
    return State({layer: Release(release) for layer, release in named.items()})


def trigger(rule: str = "errors", onset: datetime = START, **more: Any) -> Trigger:
    """Trouble of `checkout` that reached us as it began."""
    values: dict[str, Any] = {
        "service": SERVICE,
        "rule": rule,
        "priority": Priority.P1,
        "episode": f"{rule}/{SERVICE}/{onset.isoformat()}",
        "onset": onset,
        "reached": onset,
    }
    return Trigger(**values | more)


def decided(
    action: Action = Action.ROLL_BACK,
    by: Trigger | None = None,
    present: State | None = None,
    target: State | None = None,
    against: Mapping[str, Action] | None = None,
    joins: str = "",
) -> Decision:
    """A decision; `against` maps guards to what they want instead."""
    findings = tuple(Finding(guard, wanted, f"because of {guard}") for guard, wanted in (against or {}).items())
    return Decision(by or trigger(), action, findings, present, target, joins=joins)


def records(stream: str, *told: tuple[datetime, Any] | tuple[datetime, Any, str], after: int = 0) -> list[Record]:
    """Facts of one stream, each with its time and perhaps its actor."""
    found = []
    for n, (when, fact, *actor) in enumerate(told, after + 1):
        found.append(Record(n, stream, n, when, actor[0] if actor else DAEMON, fact))
    return found


def service_of(*told: tuple[datetime, Any] | tuple[datetime, Any, str]) -> ServiceLedger:
    """The ledger of `checkout` after these facts."""
    return fold_service(records(service_stream(SERVICE), *told))


def fold_service(found: Iterable[Record], ledger: ServiceLedger | None = None) -> ServiceLedger:
    ledger = ledger or ServiceLedger()
    for record in found:
        ledger = ledger_after(ledger, (record,))
    return ledger


def fleet_of(*told: tuple[datetime, Any] | tuple[datetime, Any, str]) -> FleetLedger:
    """The fleet's ledger after these facts."""
    return fold_fleet(records(FLEET, *told))


def fold_fleet(found: Iterable[Record], ledger: FleetLedger | None = None) -> FleetLedger:
    ledger = ledger or FleetLedger()
    for record in found:
        ledger = fleet_after(ledger, (record,))
    return ledger


def changed(code: str | State, after: float, by: float, incident: str = "") -> tuple[datetime, facts.Changed]:
    """A state first seen `by` so many minutes, the one before seen last at `after`."""
    reached = code if isinstance(code, State) else state(code)
    return at(by), facts.Changed(reached, at(after), at(by), incident)


def good(code: str | State, when: float, why: str = "ran 30m without a trigger") -> tuple[datetime, facts.MarkedGood]:
    return at(when), facts.MarkedGood(code if isinstance(code, State) else state(code), why)


def released() -> ServiceLedger:
    """`v1` ran and was good, `v2` replaced it ten minutes before the start, seen within half a minute."""
    return service_of(changed("v1", -600, -600), good("v1", -500), changed("v2", -10.5, -10))


def situation(**more: Any) -> Situation:
    """One that every guard passes for `trigger()`: `v2` is sick two minutes after the onset, `v1` is good."""
    ledger: ServiceLedger = more.get("ledger", released())
    present = ledger.present
    found = candidates(ledger, present)
    given = Situation(
        ledger=ledger,
        fleet=FleetLedger(),
        limits=Limits(),
        now=at(2),
        present=present,
        target=found[0] if found else None,
        troubled=(START,),
        services=100,
    )
    return replace(given, **more)


PASSED = (None, False)
ASKS = (Action.ASK, False)
REFUSES = (Action.REFUSE, False)
ESCALATES = (Action.REFUSE, True)
OBSERVES = (Action.OBSERVE, False)


def against(finding: Finding) -> tuple[Action | None, bool]:
    """What stands against, and whether it pages: one of these."""
    return finding.against, finding.escalate


def candidate(code: str = "v1", changes: int = 1, left: datetime | None = None) -> Candidate:
    return Candidate(state(code), changes, left)


# -- incidents ------------------------------------------------------------------------------------
VERIFY = VerifySpec(settle=seconds(15), every=seconds(30), passes=3, deadline=minutes(10), checks=("health",))
GATED = VERIFY.model_copy(update={"gate": ("health",)})
PRESENT = state(code="v2", config="c2")
TARGET = state(code="v1", config="c1")


def change(layer: str, before: str = "", after: str = "") -> Change:
    """A layer's step; by default from release 2 to release 1 of it."""
    letter = {"code": "v", "config": "c"}.get(layer, "")
    return Change(layer, Release(before or f"{letter}2"), Release(after or f"{letter}1"))


def plan(*steps: str, name: str = "default", **leave: str) -> Plan:
    """A plan of these layers; `traffic="gate"` puts it within a bracket that is left after the gate."""
    brackets = tuple(Bracketed(layer, when) for layer, when in leave.items())
    return Plan(name, tuple(change(layer) for layer in steps), brackets)


def checked(verdict: Verdict, name: str = "health") -> tuple[CheckResult, ...]:
    return (CheckResult(name, verdict, f"it is {verdict}"),)


class Story:
    """An incident told fact by fact; time goes forward by what each fact takes."""

    def __init__(
        self,
        plans: tuple[str, ...] = ("default",),
        target: State | None = TARGET,
        verify: VerifySpec = VERIFY,
        by: Trigger | None = None,
        present: State = PRESENT,
    ) -> None:
        decision = decided(by=by, present=present, target=target)
        self.verify = verify
        self.now = START
        self.stream = incident_stream(f"{SERVICE}-1")
        self.told = records(self.stream, (START, facts.Opened(SERVICE, decision, {}, plans)))
        self.incident: Incident = opened(self.told[0])

    def tell(self, *found: Any, took: timedelta = timedelta(), actor: str = DAEMON) -> Self:
        """Facts, each so long after the one before."""
        for fact in found:
            self.now += took
            n = len(self.told) + 1
            self.told.append(Record(n, self.stream, n, self.now, actor, fact))
            self.incident = evolve(self.incident, self.told[-1])
        return self

    def wait(self, length: timedelta) -> Self:
        self.now += length
        return self

    def next(self, held: str = "") -> Step:
        return next_step(self.incident, self.verify, held, self.now)

    def planned(self, *steps: str, name: str = "default", **leave: str) -> Self:
        return self.tell(facts.Planned(plan(*steps, name=name, **leave), self.incident.present))

    def did(self, what: str, layer: str, attempt: int = 1) -> Self:
        """An effect from its start to its report."""
        return self.tell(STARTED[what](layer, attempt), REPORTED[what](layer))

    def failed(self, what: str, layer: str, attempt: int = 1, *, permanent: bool = False) -> Self:
        """An effect from its start to its failure."""
        return self.tell(STARTED[what](layer, attempt), FAILED[what](layer, "it broke", permanent))

    def gated(self, verdict: Verdict = Verdict.GOOD) -> Self:
        return self.tell(facts.Gated(verdict, checked(verdict)))

    def round(self, verdict: Verdict = Verdict.GOOD, took: timedelta = timedelta()) -> Self:
        return self.tell(facts.Round(verdict, checked(verdict)), took=took)

    def verified(self) -> Self:
        """As many good rounds as it takes."""
        for _ in range(self.verify.passes):
            self.round(took=self.verify.every)
        return self

    def closed(self, outcome: Outcome = Outcome.RECOVERED) -> Self:
        return self.tell(facts.Closed(outcome, "it is over"))


def start(what: str, layer: str, attempt: int = 1) -> Start:
    return Start(what, layer, attempt)


def whole(leave: str = "gate") -> Story:
    """Configuration, then code, within traffic; nothing has happened yet."""
    return Story(verify=GATED).planned("config", "code", traffic=leave)


def entered(leave: str = "gate") -> Story:
    return whole(leave).did("enter", "traffic")


def stepped(leave: str = "gate") -> Story:
    return entered(leave).did("apply", "config").did("apply", "code")


def plain() -> Story:
    """One step without brackets or gate, done."""
    return Story().planned("code").did("apply", "code")
