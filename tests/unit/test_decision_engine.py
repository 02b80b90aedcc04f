"""The shell around decisions: races for the journal, a disk that is full, storms, slow services, a stop."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from rollbackd import facts
from rollbackd.config.models import Service
from rollbackd.decision import engine
from rollbackd.journal import Entry, JournalUnavailable
from rollbackd.model import FLEET, Action, CheckResult, Release, State, Trigger, incident_stream, service_stream
from tests.fakes.journal import MemoryJournal
from tests.unit.judgement.clock import idle
from tests.unit.judgement.shop import PAGE, Shop
from tests.unit.judgement.world import WorldLayer

SHOP = "shop"


@pytest.fixture
async def shop(tmp_path: Path) -> Any:
    one = Shop(tmp_path, limits={"change_window": "10m"})
    await one.open()
    yield one
    await one.down()


def opens(written: Sequence[Any]) -> bool:
    return any(isinstance(fact, facts.Opening) for fact in written)


class Rival:
    """Somebody who writes a fact to the fleet's stream right before an opening is written, so many times."""

    def __init__(self, shop: Shop, *entries: Entry, times: int = 1) -> None:
        self.tried = 0
        self._shop = shop
        self._entries = entries
        self._times = times
        shop.journal.before = self

    async def __call__(self, written: Sequence[Any]) -> None:
        if opens(written):
            self.tried += 1
            if self.tried <= self._times:
                await MemoryJournal.append(self._shop.journal, *self._entries)


NIGHT = {"days": "mon-sun", "from": "22:00", "to": "06:00", "zone": "UTC"}
"""A window outside of which people are asked, all day long."""
NEWS = Entry(FLEET, facts.Notice("internal", "something else"))


def slow_down(layer: WorldLayer, shop: Shop) -> None:
    """Each look at it takes a minute."""

    async def current() -> Release:
        await shop.clock.sleep(timedelta(minutes=1))
        return layer.present

    setattr(layer, "current", current)  # noqa: B010


# -- what is written down -------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("heard", "blamed"), [("10:20:08 alert Sick fires", None), ("10:35 alert Sick fires since 10:33", "code v2 -> v3")]
)
async def test_a_refusal_without_a_look_blames_no_change_that_may_not_be_the_last(
    shop: Shop, heard: str, blamed: str | None
) -> None:
    await shop.let("10:10 unix:ann holds", "10:20:05 deploys v3", heard)
    await shop.wait(seconds=2)
    (made,) = (one.fact.decision for one in shop.journal.records if isinstance(one.fact, facts.Decided))
    assert (made.change.name if made.change is not None else None) == blamed
    assert (made.present is None) == (blamed is None)


# -- races ----------------------------------------------------------------------------------------
async def test_who_loses_the_race_for_an_opening_decides_again_and_opens_once(shop: Shop) -> None:
    rival = Rival(shop, NEWS)
    decision = await shop.daemon.decision_engine.consider(shop.trigger())
    assert rival.tried == 2
    assert (decision.action, decision.joins) == (Action.ROLL_BACK, "shop-1")
    assert shop.words.count("rolls back") == 1


async def test_a_hold_that_wins_the_race_is_honoured(shop: Shop) -> None:
    Rival(shop, Entry(FLEET, facts.Held("stop everything"), "unix:ann"))
    decision = await shop.daemon.decision_engine.consider(shop.trigger())
    assert decision.action is Action.REFUSE
    assert [finding.guard for finding in decision.against] == ["hold"]
    assert shop.words[-1] == "refuses"


async def test_an_opening_that_wins_the_race_spends_the_last_of_the_budget(tmp_path: Path) -> None:
    shop = Shop(tmp_path, limits={"fleet": {"rollbacks": 1, "per": "1h"}})
    await shop.open()
    Rival(shop, Entry(FLEET, facts.Opening("bank", "bank-1")))
    decision = await shop.daemon.decision_engine.consider(shop.trigger())
    assert {finding.guard for finding in decision.against} == {"fleet_budget"}
    await shop.down()


async def test_a_race_that_is_lost_for_ever_starts_nothing(shop: Shop) -> None:
    Rival(shop, NEWS, times=1000)
    with pytest.raises(JournalUnavailable, match="lost 20 races"):
        await shop.daemon.decision_engine.consider(shop.trigger())
    assert "rolls back" not in shop.words


@pytest.mark.parametrize("last", [facts.Paged("pager", "page/1", ("shop-1",)), facts.NoticeAcknowledged()])
async def test_whatever_was_written_of_the_fleet_last_a_rollback_opens_after_it(shop: Shop, last: object) -> None:
    """A page about several troubles once kept every rollback from opening, until something else was written."""
    await MemoryJournal.append(shop.journal, Entry(FLEET, last))
    decision = await shop.daemon.decision_engine.consider(shop.trigger())
    assert (decision.action, decision.joins) == (Action.ROLL_BACK, "shop-1")


async def test_two_triggers_at_once_are_one_incident(shop: Shop) -> None:
    decision_engine = shop.daemon.decision_engine
    for rule in ("page", "other"):
        decision_engine.consider_soon(shop.trigger(rule))
    await decision_engine.settle()
    assert shop.words[-2:] == ["rolls back", "joins"]
    assert [one.rule for one in (await shop.incident()).joined] == ["other"]


# -- the journal ----------------------------------------------------------------------------------
async def test_nothing_starts_while_the_journal_cannot_be_written_and_it_is_decided_after_that(shop: Shop) -> None:
    trigger = shop.trigger()
    shop.journal.broken = True
    shop.daemon.decision_engine.consider_soon(trigger, handled=(7,))
    await shop.wait(seconds=11)
    assert shop.words == []
    assert shop.journal.done == set()
    shop.journal.broken = False
    await shop.wait(seconds=3)
    assert shop.words[0] == "rolls back"
    assert 7 in shop.journal.done


async def test_a_signal_that_comes_while_its_episode_is_thought_about_is_handled_with_it(shop: Shop) -> None:
    slow_down(shop.world.layers[SHOP]["code"], shop)
    decision_engine, trigger = shop.daemon.decision_engine, shop.trigger()
    decision_engine.consider_soon(trigger, handled=(7,))
    decision_engine.consider_soon(trigger, handled=(8,))
    await idle()
    assert shop.words == []
    decision_engine.consider_soon(trigger, handled=(9,))
    await shop.wait(minutes=3)
    assert {7, 8, 9} <= shop.journal.done
    assert shop.words.count("rolls back") == 1


async def test_an_episode_that_was_decided_is_considered_no_more_unless_a_signal_waits(shop: Shop) -> None:
    decision_engine, trigger = shop.daemon.decision_engine, shop.trigger()
    await decision_engine.consider(trigger)
    await shop.wait(seconds=1)
    before = len(shop.told)
    decision_engine.consider_soon(trigger)
    assert not decision_engine._tasks
    decision_engine.consider_soon(trigger, handled=(7,))
    await decision_engine.settle()
    assert len(shop.told) == before
    assert 7 in shop.journal.done


async def test_a_trigger_that_cannot_be_judged_ends_nothing_and_is_judged_at_the_next_start(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_trigger: Trigger) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr(shop.daemon.decision_engine._situations, "quick", broken)
        await shop.let("10:03 alert Sick fires")
        await shop.daemon.decision_engine.settle()
    assert shop.words == []
    assert [row.source for row in await shop.journal.unhandled()] == ["alert"]
    await shop.down()
    await shop.up()
    await shop.wait(seconds=1)
    assert shop.words[0] == "rolls back"
    assert await shop.journal.unhandled() == []


# -- looks ----------------------------------------------------------------------------------------
def count_looks(layer: WorldLayer) -> list[str]:
    looks: list[str] = []
    real = layer.current

    async def current() -> Release:
        looks.append(layer.present.id)
        return await real()

    setattr(layer, "current", current)  # noqa: B010
    return looks


async def test_what_is_held_anyway_is_not_looked_at(shop: Shop) -> None:
    await shop.let("10:02 unix:ann holds")
    looks = count_looks(shop.world.layers[SHOP]["code"])
    decision = await shop.daemon.decision_engine.consider(shop.trigger())
    assert decision.action is Action.REFUSE
    assert looks == []


async def test_what_only_a_look_can_tell_is_looked_at(shop: Shop) -> None:
    """A rollback is refused for want of a target, which may be there again."""
    await shop.let("10:02 unix:ann quarantines v1")
    looks = count_looks(shop.world.layers[SHOP]["code"])
    assert (await shop.daemon.decision_engine.consider(shop.trigger())).escalate
    assert looks


async def test_more_of_what_would_ask_anyway_is_not_looked_at_while_people_are_asked(tmp_path: Path) -> None:
    """A storm under one cause: the first alert of a service is looked at, since people are shown what runs."""
    shop = Shop(tmp_path, windows=[NIGHT])
    await shop.open()
    looks = count_looks(shop.world.layers[SHOP]["code"])
    await shop.daemon.decision_engine.consider(shop.trigger())
    seen = len(looks)
    assert seen
    assert (await shop.daemon.decision_engine.consider(shop.trigger("other"))).joins == "shop-1"
    assert shop.words == ["asks", "joins"]
    assert [one.rule for one in (await shop.incident()).joined] == ["other"]
    assert len(looks) == seen
    await shop.down()


async def test_what_was_not_looked_at_makes_the_question_act_when_nothing_stands_against_it_any_more(
    tmp_path: Path,
) -> None:
    shop = Shop(tmp_path, windows=[{**NIGHT, "from": "10:10"}])
    await shop.open()
    await shop.let("10:03 alert Sick fires")
    await shop.daemon.decision_engine.consider(shop.trigger("other"))
    assert shop.words == ["asks", "joins"]
    await shop.let("10:10 nothing more happens")
    await shop.wait(seconds=30)
    assert "rises" in shop.words
    await shop.down()


async def test_a_service_whose_layers_hang_holds_up_no_other(shop: Shop) -> None:
    slow_down(shop.world.layers["bank"]["code"], shop)
    decision_engine = shop.daemon.decision_engine
    decision_engine.consider_soon(shop.trigger(service="bank"))
    decision_engine.consider_soon(shop.trigger())
    await idle()
    assert [(one.service, one.what) for one in shop.told][:1] == [(SHOP, "rolls back")]
    await shop.wait(minutes=3)
    assert ("bank", "rolls back") in [(one.service, one.what) for one in shop.told]


async def test_a_storm_of_triggers_of_one_service_makes_few_tasks_and_each_is_decided_on(shop: Shop) -> None:
    """Thousands of tasks that wait for the same would hold the loop when they are ended together."""
    await shop.daemon.operations.hold(SHOP, "unix:ann", "deploying", None)
    decision_engine, before = shop.daemon.decision_engine, len(asyncio.all_tasks())
    situations, gathered = decision_engine._situations, list[str]()
    quick = situations.quick

    def counted(trigger: Trigger, present: State | None = None) -> Any:
        gathered.append(trigger.episode)
        return quick(trigger, present)

    setattr(situations, "quick", counted)  # noqa: B010
    for number in range(300):
        decision_engine.consider_soon(replace(shop.trigger(), episode=f"sick/{number}"))
    assert len(asyncio.all_tasks()) - before <= 4
    assert (decision_engine.deciding, decision_engine.services_deciding) == (300, 1)
    await decision_engine.settle()
    assert (decision_engine.deciding, decision_engine.services_deciding) == (0, 0)
    assert shop.words.count("refuses") == 300
    assert len(gathered) == 300  # what memory alone refuses is decided once


async def test_a_refused_episode_that_a_look_did_not_free_is_not_looked_at_again_for_a_minute(shop: Shop) -> None:
    """From memory alone it looks free; each full look says that a layer is not ready."""
    await shop.let("10:02 code is not ready: the disk is full", "10:03 alert Sick fires")
    await idle()
    assert shop.words == ["escalates"]
    asked: list[float] = []
    full = shop.daemon.decision_engine._situations.full

    async def counted(trigger: Trigger) -> Any:
        asked.append(shop.clock.monotonic())
        return await full(trigger)

    setattr(shop.daemon.decision_engine._situations, "full", counted)  # noqa: B010
    await shop.wait(minutes=3.5)
    assert 3 <= len(asked) <= 4
    assert all(later - earlier >= 60 for earlier, later in pairwise(asked))
    assert shop.words == ["escalates"]


async def test_of_many_refused_episodes_each_has_its_turn(tmp_path: Path) -> None:
    rules = [{**PAGE, "name": f"page-{n}"} for n in range(12)]
    shop = Shop(tmp_path, *rules)
    await shop.open()
    await shop.let("10:02 unix:ann holds", "10:03 alert Sick fires", "10:04 unix:ann resumes")
    assert shop.words == ["refuses"] * 12
    await shop.wait(seconds=30)
    assert shop.words.count("rolls back") == 1
    assert shop.words.count("joins") == 11
    await shop.down()


# -- questions of a storm -------------------------------------------------------------------------
async def test_questions_are_written_together_and_news_of_the_fleet_costs_them_no_race(tmp_path: Path) -> None:
    shop = Shop(tmp_path, windows=[NIGHT])
    await shop.open()
    blocked, tried = asyncio.Event(), list[str]()

    async def slow(written: Sequence[Any]) -> None:
        tried.extend(fact.service for fact in written if isinstance(fact, facts.Opening))
        if opens(written) and tried == ["bank"]:
            await blocked.wait()
            await MemoryJournal.append(shop.journal, NEWS)

    shop.journal.before = slow
    decision_engine = shop.daemon.decision_engine
    decision_engine.consider_soon(shop.trigger(service="bank"))
    decision_engine.consider_soon(shop.trigger())
    await idle()
    assert [(one.service, one.what) for one in shop.told] == [(SHOP, "asks")]
    blocked.set()
    await decision_engine.settle()
    assert tried == ["bank", SHOP]
    assert ("bank", "asks") in [(one.service, one.what) for one in shop.told]
    await shop.down()


async def test_a_question_that_somebody_else_asked_first_is_asked_once(tmp_path: Path) -> None:
    shop = Shop(tmp_path, windows=[NIGHT])
    await shop.open()
    streams = {facts.Opening: FLEET, facts.Opened: incident_stream("shop-1"), facts.Decided: service_stream(SHOP)}

    async def first(written: Sequence[Any]) -> None:
        shop.journal.before = None
        await MemoryJournal.append(shop.journal, *(Entry(streams[type(fact)], fact) for fact in written))

    shop.journal.before = first
    await shop.daemon.decision_engine.consider(shop.trigger())
    assert sum(isinstance(one.fact, facts.Opening) for one in shop.journal.records) == 1
    assert [ledger.incident for ledger in shop.daemon.read_model.of(SHOP).rollbacks] == ["shop-1"]
    await shop.down()


async def test_only_so_many_services_are_checked_for_people_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_SHOWN_AT_ONCE", 1)
    shop = Shop(tmp_path, windows=[NIGHT])
    await shop.open()
    decision_engine = shop.daemon.decision_engine
    running, most = 0, 0

    async def run_checks(_service: Service) -> tuple[CheckResult, ...]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await idle()
        running -= 1
        return ()

    monkeypatch.setattr(decision_engine, "_run_checks", run_checks)
    for service in (SHOP, "bank"):
        decision_engine.consider_soon(shop.trigger(service=service))
    await decision_engine.settle()
    assert sum(isinstance(one.fact, facts.Examined) for one in shop.journal.records) == 2
    assert most == 1
    await shop.down()


async def test_evidence_wakes_what_acts_and_leaves_a_question_asleep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop(tmp_path, windows=[NIGHT])
    await shop.open()
    woken: list[str] = []
    decision_engine = shop.daemon.decision_engine
    monkeypatch.setattr(decision_engine, "_opened", woken.append)
    await decision_engine.consider(shop.trigger())
    await decision_engine.consider(shop.trigger("other"))
    assert woken == ["shop-1"]
    await decision_engine.consider(shop.order())
    await decision_engine.consider(shop.trigger("third"))
    assert woken == ["shop-1"] * 3
    await shop.down()


# -- besides --------------------------------------------------------------------------------------
async def test_the_checks_are_shown_beside_what_asks_or_acts(shop: Shop) -> None:
    await shop.let("10:02 check health fails")
    await shop.daemon.decision_engine.consider(shop.trigger())
    await shop.daemon.decision_engine.settle()
    assert [(one.name, one.verdict.value) for one in (await shop.incident()).examined] == [("health", "bad")]


async def test_checks_that_cannot_be_written_down_cost_nothing(shop: Shop) -> None:
    async def full(written: Sequence[Any]) -> None:
        if any(isinstance(fact, facts.Examined) for fact in written):
            raise JournalUnavailable("no space left on device")

    shop.journal.before = full
    await shop.let("10:03 alert Sick fires while v2")
    await shop.wait(minutes=2)
    assert "recovered" in shop.words
    assert (await shop.incident()).examined == ()


async def test_trouble_that_blames_no_release_takes_no_mark(tmp_path: Path) -> None:
    """Ambient trouble asks, and the present state stays good; held trouble right after a change takes its mark."""
    shop = Shop(tmp_path, limits={"change_window": "10m"})
    await shop.open()
    await shop.let("10:02 unix:ann marks v2 good", "10:02 bank: unix:ann marks v2 good", "10:03 unix:ann holds")
    read_model, key = shop.daemon.read_model, shop.daemon.read_model.of(SHOP).spells[-1].state.key
    await shop.let("10:04 alert Sick fires")
    assert key not in read_model.of(SHOP).good
    await shop.let("10:20 bank: alert Sick fires")
    assert key in read_model.of("bank").good
    await shop.down()


async def test_an_order_while_it_asks_makes_it_act_and_names_who_ordered(shop: Shop) -> None:
    await shop.let("10:20 alert Sick fires")
    assert shop.words == ["asks"]
    decision = await shop.daemon.decision_engine.consider(shop.order())
    assert decision.joins == "shop-1"
    incident = await shop.incident()
    assert (incident.risen, incident.by_people) == ("ordered by unix:ann", True)


async def test_a_rise_that_loses_the_race_is_decided_again(shop: Shop) -> None:
    await shop.let("10:20 alert Sick fires")

    async def rival(written: Sequence[Any]) -> None:
        if any(isinstance(fact, facts.Rising) for fact in written):
            shop.journal.before = None
            await MemoryJournal.append(shop.journal, NEWS)

    shop.journal.before = rival
    await shop.daemon.decision_engine.consider(shop.order())
    assert shop.words[:3] == ["asks", "tells", "rises"]
    streams = [one.stream for one in shop.journal.records if isinstance(one.fact, facts.Risen)]
    assert streams == [incident_stream("shop-1")]


async def test_a_stop_cuts_off_what_hangs_and_leaves_it_for_the_next_start(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_GOODBYE", timedelta(milliseconds=10))

    layer = shop.world.layers[SHOP]["code"]
    slow_down(layer, shop)
    await shop.let("10:03 alert Sick fires")
    await shop.daemon.decision_engine.settle()
    delattr(layer, "current")
    assert shop.words == []
    assert len(await shop.journal.unhandled()) == 1
    await shop.down()
    await shop.up()
    await shop.wait(seconds=1)
    assert shop.words[0] == "rolls back"


async def test_a_decision_is_written_with_its_actor(shop: Shop) -> None:
    await shop.daemon.decision_engine.consider(shop.order("unix:bob"))
    actors = {one.actor for one in shop.journal.records if isinstance(one.fact, facts.Decided | facts.Opened)}
    assert actors == {"unix:bob"}
    assert [one.stream for one in shop.journal.records if isinstance(one.fact, facts.Decided)] == [service_stream(SHOP)]
