"""Races around a question: what comes while the world is looked at, while it closes, or while the file is edited."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from rollbackd import facts
from rollbackd.execution.preflight import Objection
from rollbackd.execution.runner import Judgement, Runner
from rollbackd.facts import Record
from rollbackd.incident import next as steps
from rollbackd.incident.life import Incident
from rollbackd.journal import Entry
from rollbackd.model import (
    DAEMON,
    Action,
    ApprovalRequest,
    Decision,
    Outcome,
    Priority,
    Release,
    incident_stream,
)
from tests.unit.builders import PRESENT, TARGET, Story, at, decided
from tests.unit.builders import trigger as trouble
from tests.unit.house import INCIDENT, House
from tests.unit.house import trigger as shop_trouble
from tests.unit.judgement import script
from tests.unit.judgement.cases import SHELF
from tests.unit.judgement.stage import Stage

ANN, BOB = "unix:ann", "unix:bob"
RULES = [{"name": name, **SHELF[name]} for name in ("errors", "severe")]


# -- the whole daemon, in virtual time ---------------------------------------------------------------
@asynccontextmanager
async def daemon(directory: Path, *services: str, **settings: Any) -> AsyncIterator[Stage]:
    """Two services by default: v1 good since yesterday, v2 since noon; all is well."""
    names = services or ("shop",)
    stage = Stage(directory, dict.fromkeys(names, ("code",)), {"rules": RULES, **settings}, 0)
    for name in names:
        stage.world.measure("errors", name, 0.01)
        stage.world.measure("requests", name, 1000.0)
    for name in names:
        await play(stage, f"Sun 10:00 {name}: ran v1, good")
    await stage.clock.go(script.parse("11:58 nothing more happens")[0].at)
    await stage.up()
    try:
        yield stage
    finally:
        await stage.down()


async def play(stage: Stage, *lines: str) -> None:
    """What happens, line by line; see `tests.unit.judgement.script`."""
    for line in script.parse("\n".join(lines)):
        await stage.clock.go(line.at)
        await script.perform(stage, line)


def of_kind(stage: Stage, kind: type[Any]) -> list[Record]:
    return [one for one in stage.journal.records if isinstance(one.fact, kind)]


async def test_two_questions_that_end_at_once_do_not_spend_one_budget(tmp_path: Path) -> None:
    limits = {"fleet": {"rollbacks": 1, "per": "2h"}, "common_cause": False}
    asking = {"expires": "10m", "otherwise": "roll_back"}
    async with daemon(tmp_path, "shop", "till", limits=limits, asking=asking, policy=[{"action": "ask"}]) as stage:
        await play(stage, "12:00 all: deploys v2", "13:00 all: errors 40% while v2", "13:30 nothing more happens")
        assert len(of_kind(stage, facts.Rising)) == 1
        ends = [one.fact for one in of_kind(stage, facts.Closed)]
        assert sorted(end.outcome for end in ends) == [Outcome.EXPIRED, Outcome.RECOVERED]
        (expired,) = (end for end in ends if end.outcome is Outcome.EXPIRED)
        assert expired.reason.endswith("1 of 1 rollbacks of the fleet in 2h are used")


async def test_something_worse_is_not_denied_by_a_no_to_what_is_mild(tmp_path: Path) -> None:
    """The no is on disk and not yet carried out when the worse comes: that is another incident."""
    policy = [{"when": {"rule": "errors"}, "action": "ask"}]
    async with daemon(tmp_path, policy=policy) as stage:
        await play(stage, "12:55 deploys v2", "13:00 errors 40% while v2", "13:06:10 errors 90% while v2")
        await play(stage, "13:07:15 nothing more happens")
        stage.daemon.runner.wake_all()  # it looks again by itself in half a minute, after the severe rule is met
        await play(stage, "13:07:20 nothing more happens")
        await stage.journal.append(Entry(incident_stream("shop-1"), facts.Denied("a load test"), BOB))
        await play(stage, "13:20 nothing more happens")
        ends = {one.stream: one.fact.outcome for one in of_kind(stage, facts.Closed)}
        assert ends == {"incident:shop-1": Outcome.DECLINED, "incident:shop-2": Outcome.RECOVERED}
        assert stage.world.runs("shop", "code", "v1")


async def test_what_cannot_be_seen_is_said_as_it_is(tmp_path: Path) -> None:
    async with daemon(tmp_path, policy=[{"action": "ask"}]) as stage:
        await play(stage, "12:55 deploys v2", "13:00 errors 40% while v2", "13:07 code cannot be seen")
        await play(stage, "13:10 unix:ann approves")
        (again,) = of_kind(stage, facts.AskedAgain)
        assert again.fact.changed == (
            "approved by unix:ann, but it cannot be seen what runs: code: the repository is locked"
        )
        await play(stage, "13:12 code can be seen again", "13:13 unix:ann approves", "13:20 nothing more happens")
        assert stage.world.runs("shop", "code", "v1")


async def test_people_have_all_of_their_time_however_long_the_look_took(tmp_path: Path) -> None:
    asking = {"expires": "2m"}
    async with daemon(tmp_path, policy=[{"action": "ask"}], asking=asking) as stage:
        await play(stage, "12:55 deploys v2", "13:00 errors 40% while v2", "13:04 nothing more happens")
        layer = stage.world.layers["shop"]["code"]
        at_once = layer.releases

        async def slowly() -> Sequence[Release]:
            await stage.clock.sleep(timedelta(seconds=50))
            return await at_once()

        layer.releases = slowly  # type: ignore[method-assign]
        await play(stage, "13:08 nothing more happens")
        (opened,) = of_kind(stage, facts.Opened)
        assert opened.at - opened.fact.decision.trigger.reached >= timedelta(seconds=50)
        assert opened.fact.decision.question.expires - opened.at == timedelta(minutes=2)


async def test_a_plan_that_the_file_has_no_more_does_not_stop_the_look(tmp_path: Path) -> None:
    async with daemon(tmp_path) as stage:
        await play(stage, "12:55 deploys v2", "12:56 nothing more happens")
        found = replace(shop_trouble(stage.clock.now()), plan=("of-yesterday",))
        given = await stage.daemon.decision_engine._situations.full(found)
        assert [change.layer for change in given.changes] == ["code"]


async def test_a_change_with_a_long_deadline_goes_back_all_the_same(tmp_path: Path) -> None:
    """The change itself is the trouble, also when it is longer ago than any trouble is put down to."""
    async with daemon(tmp_path) as stage:
        await play(stage, "12:00 unix:ann announces v2 as hotfix, to be confirmed within 4h", "12:01 deploys v2")
        await play(stage, "16:30 nothing more happens")
        assert [one.fact.decision.action for one in of_kind(stage, facts.Opened)] == [Action.ROLL_BACK]
        assert stage.world.runs("shop", "code", "v1")


async def test_confirming_a_hotfix_ends_no_other_trouble(tmp_path: Path) -> None:
    """A question about both: the change is confirmed, and the service is sick all the same."""
    asking = {"expires": "20m", "otherwise": "roll_back"}
    async with daemon(tmp_path, policy=[{"action": "ask"}], asking=asking) as stage:
        await play(
            stage,
            "12:55 unix:ann announces v2 as hotfix with P0, to be confirmed within 10m",
            "12:56 deploys v2",
            "13:00 errors 40% while v2",
            "13:07 nothing more happens",
        )
        (opened,) = of_kind(stage, facts.Opened)
        assert opened.fact.decision.trigger.rule in {"errors", "unconfirmed"}
        assert len(of_kind(stage, facts.Joined)) == 1
        change = stage.daemon.read_model.of("shop").announced[-1]
        await stage.write("service:shop", facts.Confirmed(change.id))
        await play(stage, "13:40 nothing more happens")
        assert [one.fact.outcome for one in of_kind(stage, facts.Closed)] == [Outcome.RECOVERED]


# -- the runner ---------------------------------------------------------------------------------------
def asks(house: House, **more: Any) -> dict[str, Any]:
    question = ApprovalRequest(
        **{"why": ("no change is known",), "expires": house.clock.now() + timedelta(minutes=10), **more}
    )
    return {"action": Action.ASK, "question": question}


def judged_by(house: House, rise: Callable[..., Any]) -> Runner:
    """A runner whose questions become what the test says."""
    usual = house.runner._parts.judgement
    judgement = Judgement(usual.held, usual.confirm, usual.condition, rise)
    return Runner(house.read_model, house.clock, house.factory, house.runner._parts.check_runner, judgement, 2)


async def says(house: House, fact: Any, actor: str) -> None:
    await house.read_model.append(Entry(incident_stream(INCIDENT), fact, actor))
    house.runner.poke(INCIDENT)


async def test_an_answer_that_comes_while_the_news_are_read_is_heard_at_once(tmp_path: Path) -> None:
    house = House(tmp_path)
    await house.open(**asks(house))
    house.runner.start(INCIDENT)
    await house.settle()
    known, late = house.read_model.incident, [facts.Approved()]

    async def known_and_then(name: str) -> Incident | None:
        found = await known(name)
        if late:
            await says(house, late.pop(), ANN)
        return found

    house.read_model.incident = known_and_then  # type: ignore[method-assign]
    house.runner.wake_all()
    await house.until(lambda: "Risen" in house.kinds(), timedelta(seconds=5))
    await house.until(lambda: not house.runner.driving)
    assert (await house.incident()).outcome is Outcome.RECOVERED


@pytest.mark.parametrize(
    ("word", "outcome"), [(facts.Approved(), Outcome.RECOVERED), (facts.Denied(), Outcome.DECLINED)]
)
async def test_an_answer_that_comes_while_the_world_is_looked_at_is_not_lost(
    tmp_path: Path, word: Any, outcome: Outcome
) -> None:
    """It was taken right before the time was over; the look that would have ended the question came to nothing."""
    house = House(tmp_path)
    answers = [word]

    async def rise(incident: Incident, why: str, by_people: bool) -> facts.Risen | Objection:
        if answers:
            await says(house, answers.pop(), ANN)
        if not by_people:
            return Objection(Outcome.EXPIRED, why)
        return facts.Risen(replace(incident.decision, action=Action.ROLL_BACK), why, by_people)

    house.runner = judged_by(house, rise)
    await house.open(**asks(house))
    incident = await house.run()
    assert incident.outcome is outcome
    assert house.kinds().count("Closed") == 1


async def test_people_who_said_yes_need_not_say_it_again_when_the_journal_is_back(tmp_path: Path) -> None:
    house = House(tmp_path)
    await house.open(**asks(house, approvals=2))
    house.runner.start(INCIDENT)
    await says(house, facts.Approved(), ANN)
    await says(house, facts.Approved(), BOB)
    house.journal.broken = True
    house.clock.advance(timedelta(minutes=1))
    await house.settle()
    assert (house.kinds(), house.calls) == (["Opened", "Approved", "Approved"], [])
    house.journal.broken = False
    await house.until(lambda: not house.runner.driving)
    assert (await house.incident()).outcome is Outcome.RECOVERED
    assert house.kinds().count("Risen") == 1


async def test_a_question_whose_look_breaks_is_given_to_a_person_once(tmp_path: Path) -> None:
    house = House(tmp_path)

    async def rise(*_: Any) -> facts.Risen:
        raise RuntimeError("a fault of ours")

    house.runner = judged_by(house, rise)
    await house.open(**asks(house))
    await says(house, facts.Approved(), ANN)
    await house.until(lambda: "Parked" in house.kinds())
    for _ in range(5):  # the judge has every open incident driven, every five seconds
        house.runner.start(INCIDENT)
        house.clock.advance(timedelta(seconds=5))
        await house.settle()
    assert house.kinds().count("Parked") == 1
    await says(house, facts.AbortRequested(), BOB)
    await house.until(lambda: not house.runner.driving)
    assert (await house.incident()).outcome is Outcome.ABORTED


# -- what is entered while it asks -----------------------------------------------------------------------
def frozen(directory: Path) -> House:
    """The page is entered while people are asked, and a person's word leaves it."""
    page = {"adapter": "command", "inside": ["inside"], "enter_by": ["enter"], "leave_by": ["leave"]}
    return House(
        directory, layers={**House.config_layers(), "page": {**page, "enter": "asked", "leave": "acknowledged"}}
    )


async def test_a_question_is_asked_within_its_brackets_and_takes_no_place_of_a_rollback(tmp_path: Path) -> None:
    house = frozen(tmp_path)
    house.runner = house.new_runner(concurrent=1)
    await house.open(**asks(house))
    house.runner.start(INCIDENT)
    await house.until(lambda: "Entered" in house.kinds(), timedelta(seconds=2))
    assert house.calls == ["enter page"]
    assert not house.runner._parts.slots.locked()
    await says(house, facts.Approved(), ANN)
    await house.until(lambda: not house.runner.driving)
    assert (await house.incident()).outcome is Outcome.RECOVERED
    assert house.calls == ["enter page", "apply config v1", "apply code v1"]
    await says(house, facts.Acknowledged(), BOB)
    await house.until(lambda: house.calls[-1] == "leave page")


@pytest.mark.parametrize("word", [facts.Denied(), None])
async def test_what_ends_without_a_rollback_is_left_when_nothing_holds_it(tmp_path: Path, word: Any) -> None:
    """Denied, or nobody answered; the hold came after it was entered, and a new life goes on with it."""
    house = frozen(tmp_path)
    house.rise = Objection(Outcome.EXPIRED, "nobody answered")
    await house.open(**asks(house))
    house.runner.start(INCIDENT)
    await house.until(lambda: "Entered" in house.kinds(), timedelta(seconds=2))
    if word is not None:
        house.held = "held by unix:cat"
        await says(house, word, ANN)
    await house.until(lambda: "Closed" in house.kinds())
    if word is not None:
        house.clock.advance(timedelta(minutes=1))
        await house.settle()
        assert house.calls == ["enter page"]
        await house.runner.stop()
        house.held, house.runner = "", house.new_runner()
        house.runner.start(INCIDENT)
    await house.until(lambda: not house.runner.driving)
    assert house.calls == ["enter page", "leave page"]


async def test_a_hold_that_was_there_first_lets_nothing_be_entered(tmp_path: Path) -> None:
    house = frozen(tmp_path)
    house.held = "held by unix:cat"
    await house.open(**asks(house))
    house.runner.start(INCIDENT)
    await house.until(lambda: house.clock.now() > at(2))
    assert (house.kinds(), house.calls) == (["Opened"], [])
    house.held = ""
    house.runner.wake_all()
    await house.until(lambda: house.calls == ["enter page"], timedelta(seconds=2))
    await house.runner.stop()


# -- its life -----------------------------------------------------------------------------------------
def asked(config: Mapping[str, Any] | None = None, plans: Sequence[str] = ("default",), **more: Any) -> Story:
    """The story of an incident that was opened to ask."""
    story = Story()
    question = ApprovalRequest(why=("no change is known",), expires=at(15))
    decision = replace(decided(Action.ASK, present=PRESENT, target=TARGET, **more), question=question)
    opened = facts.Opened("checkout", decision, config or {}, tuple(plans))
    story.told = [Record(1, story.stream, 1, story.now, DAEMON, opened)]
    from rollbackd.incident.fold import opened as begin

    story.incident = begin(story.told[0])
    return story


def test_what_was_asked_about_stays_evidence_when_something_worse_makes_it_rise() -> None:
    mild, severe = trouble("mild", priority=Priority.P0), trouble("severe", priority=Priority.P2)
    story = asked(by=mild).tell(facts.Risen(decided(by=severe, present=PRESENT, target=TARGET), "severe came"))
    assert story.incident.decision.trigger == severe
    assert story.incident.joined == (mild,)
    assert story.incident.priority is Priority.P0


def test_the_same_trouble_is_evidence_once() -> None:
    mild = trouble("mild")
    story = asked(by=mild).tell(facts.Risen(decided(by=mild, present=PRESENT, target=TARGET), "approved"))
    assert story.incident.joined == ()


def test_it_runs_plans_of_its_own_configuration_alone() -> None:
    def rises(*plans: str) -> tuple[str, ...]:
        acts: Decision = replace(decided(present=PRESENT, target=TARGET), plans=plans)
        return asked({"plans": {"old": {}, "default": {}}}).tell(facts.Risen(acts, "approved")).incident.plans

    assert rises("new", "old") == ("old",)
    assert rises("new") == ("default",)


def test_what_was_parked_while_it_asked_waits_for_a_person_and_goes_on_when_it_rises() -> None:
    story = asked().tell(facts.Approved(), actor=ANN).tell(facts.Parked("rollbackd itself failed"))
    assert story.next() == steps.Wait(None)
    story.tell(facts.Risen(decided(present=PRESENT, target=TARGET), "ordered by unix:bob", by_people=True))
    assert story.next() == steps.Prepare()
