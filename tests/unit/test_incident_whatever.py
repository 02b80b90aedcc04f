"""Whatever the world reports and people order, in whatever order: what `next_step` never does, and that it ends."""

from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from rollbackd import facts
from rollbackd.incident.fold import fold
from rollbackd.incident.next import (
    Close,
    EndPlan,
    Look,
    LookAtGate,
    Park,
    Pause,
    Perform,
    Prepare,
    Start,
    Step,
    Stop,
    Unpause,
    Wait,
)
from rollbackd.model import Outcome, Verdict
from tests.unit.builders import (
    FAILED,
    GATED,
    REPORTED,
    STARTED,
    VERIFY,
    Story,
    checked,
    minutes,
    plan,
    seconds,
    trigger,
)

MOODS = (
    (Verdict.GOOD,),
    (Verdict.BAD,),
    (Verdict.BAD, Verdict.INCONCLUSIVE),
    (Verdict.GOOD, Verdict.GOOD, Verdict.BAD, Verdict.INCONCLUSIVE),
)
"""What the rounds of a world say."""
LAYERS = ("config", "code", "process")
BRACKETS = ("traffic", "freeze")
LEAVES = ("steps", "gate", "verified", "acknowledged")
ENOUGH = 3000
"""Steps; an incident of three plans that all fail as slowly as they can takes far fewer."""


class World:
    """Answers each step by chance and throws in what people and crashes do, checking all the while."""

    def __init__(self, chance: Random) -> None:
        self.chance = chance
        names = ("first", "second", "third")[: chance.randint(1, 3)]
        self.story = Story(plans=names, verify=chance.choice((VERIFY, GATED)))
        self.verdicts = chance.choice(MOODS)
        self.poison = chance.choice((0.0, 0.0, 0.7))
        """How likely an effect kills its driver."""
        self.failing = chance.choice((0.0, 0.3))
        self.troubles = chance.randint(0, 12)
        self.held = ""
        self.applied: set[tuple[int, str]] = set()
        self.recent: list[Verdict] = []
        """Conclusive rounds since the last step, hold or plan."""
        self.steps = 0

    def run(self) -> None:
        while self.steps < ENOUGH:
            self.steps += 1
            if self.troubles and self.chance.random() < 0.2:
                self.troubles -= 1
                self.disturb()
            step = self.story.next(self.held)
            self.check(step)
            if isinstance(step, Stop):
                return
            self.answer(step)
        raise AssertionError("it does not end")

    def tell(self, fact: Any) -> None:
        self.story.tell(fact, actor="unix:ann")

    # -- what people and crashes do -----------------------------------------------------------------
    def disturb(self) -> None:
        match self.chance.choice(("hold", "crash", "crash", "abort", "ack", "leave", "join", "time")):
            case "hold":
                self.held = "" if self.held else "HOLD"
            case "crash":
                self.tell(facts.Adopted("p"))
            case "abort" if self.story.incident.outcome is None:
                self.tell(facts.AbortRequested())
            case "ack":
                self.tell(facts.Acknowledged())
            case "leave":
                self.tell(facts.Acknowledged(leave=True))
            case "join":
                self.tell(facts.Joined(trigger("latency")))
            case _:
                self.story.wait(minutes(self.chance.randint(0, 20)))

    # -- what must never be -------------------------------------------------------------------------
    def check(self, step: Step) -> None:
        incident = self.story.incident
        if self.held:
            assert isinstance(step, Pause | Wait | Stop)
        if incident.aborted and incident.outcome is None and isinstance(step, Start):
            assert step.what == "leave"
        if isinstance(step, Start):
            assert incident.flight is None
            assert step.what != "apply" or (incident.tried, step.layer) not in self.applied
            assert step.what == "leave" or step.layer not in incident.entered
            assert step.what != "leave" or step.layer in incident.inside, "it was never begun to be entered"
        if isinstance(step, Perform):
            assert step.flight == incident.flight
        if isinstance(step, Close):
            assert incident.outcome is None
            assert incident.flight is None
        if isinstance(step, Close) and step.outcome is Outcome.RECOVERED:
            assert self.recent[-incident.rounds :].count(Verdict.GOOD) >= self.story.verify.passes
            assert all(incident.brackets[layer] == "acknowledged" for layer in incident.entered)
        if isinstance(step, Stop):
            assert incident.outcome is not None

    # -- the world's answers ------------------------------------------------------------------------
    def answer(self, step: Step) -> None:
        match step:
            case Prepare():
                self.prepare()
            case Start(what, layer, attempt):
                self.tell(STARTED[what](layer, attempt))
            case Perform():
                self.perform(step)
            case LookAtGate():
                verdict = self.chance.choice(self.verdicts)
                self.tell(facts.Gated(verdict, checked(verdict)))
            case Look():
                self.look(self.chance.choice(self.verdicts))
            case EndPlan(name, outcome):
                self.recent = []
                self.tell(facts.PlanEnded(name, outcome))
            case Close(outcome, reason):
                self.tell(facts.Closed(outcome, reason))
            case Park(reason):
                self.tell(facts.Parked(reason))
            case Pause(reason):
                self.recent = []
                self.tell(facts.Paused(reason))
            case Unpause():
                self.tell(facts.Unpaused())
            case Wait(until):
                self.wait(until)
            case _:
                raise AssertionError(step)

    def prepare(self) -> None:
        if self.chance.random() < 0.1:
            return self.tell(facts.Closed(Outcome.PASSED, "the trouble went away"))
        layers = self.chance.sample(LAYERS, self.chance.randint(1, 3))
        leave = {layer: self.chance.choice(LEAVES) for layer in BRACKETS[: self.chance.randint(0, 2)]}
        present = self.story.incident.present
        return self.tell(facts.Planned(plan(*layers, name=self.story.incident.running, **leave), present))

    def perform(self, step: Perform) -> None:
        what, layer = step.flight.what, step.flight.layer
        self.story.wait(seconds(self.chance.randint(0, 100)))
        if self.chance.random() < self.poison:
            return self.tell(facts.Adopted("p"))
        if self.chance.random() < self.failing:
            return self.tell(FAILED[what](layer, "it broke", self.chance.random() < 0.2))
        if what == "apply" and self.chance.random() < self.failing / 10:
            return self.tell(facts.StepSuperseded(layer))
        if what == "apply":
            self.applied.add((self.story.incident.tried, layer))
            self.recent = []
        return self.tell(REPORTED[what](layer))

    def look(self, verdict: Verdict) -> None:
        if verdict is not Verdict.INCONCLUSIVE:
            self.recent.append(verdict)
        if verdict is Verdict.BAD:
            self.recent = []
        self.tell(facts.Round(verdict, checked(verdict)))

    def wait(self, until: Any) -> None:
        if until is not None:
            self.story.now = max(self.story.now, until)
        elif self.held:
            self.held = ""
        else:
            assert self.story.incident.parked, "it waits for nobody"
            self.tell(facts.AbortRequested())


@settings(max_examples=400)
@given(st.randoms(use_true_random=False))
def test_it_ends_and_never_does_what_it_must_not(chance: Random) -> None:
    world = World(chance)
    world.run()
    assert fold(world.story.told) == world.story.incident
    assert [type(one.fact) for one in world.story.told].count(facts.Closed) == 1


@settings(max_examples=100)
@given(st.randoms(use_true_random=False))
def test_a_step_is_begun_anew_only_after_it_failed(chance: Random) -> None:
    """From the journal alone: between two starts of a step in one plan its failure, or its driver's end, is told."""
    world = World(chance)
    world.run()
    begun: dict[str, bool] = {}
    for record in world.story.told:
        match record.fact:
            case facts.ApplyStarted(layer, _):
                assert not begun.get(layer), f"{layer} was begun twice"
                begun[layer] = True
            case facts.ApplyFailed(layer, _, _, _):
                begun[layer] = False
            case facts.PlanEnded():
                begun = {}
            case _:
                pass
