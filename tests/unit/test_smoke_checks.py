"""Checks that a rule asks again and again, or for a time after a change."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

from rollbackd import facts
from rollbackd.decision.engine import DecisionEngine
from rollbackd.execution.check_runner import CheckRunner
from rollbackd.journal import Entry
from rollbackd.model import FLEET, Release, State, Trigger, Verdict, service_stream
from rollbackd.rules.tracks import Standing
from rollbackd.signals.rule_state import RuleStates
from rollbackd.signals.smoke_checks import SmokeChecks
from rollbackd.system.rounds import Rounds, Work
from tests.fakes.clock import START
from tests.unit.house import House

SECOND = timedelta(seconds=1)


class Considering:
    """Notes what it is to consider."""

    def __init__(self) -> None:
        self.triggers: list[Trigger] = []

    def consider_soon(self, trigger: Trigger) -> None:
        self.triggers.append(trigger)


class Watch(House):
    """The house with one rule that asks `health` every 15 s."""

    def __init__(self, directory: Path, **when: Any) -> None:
        super().__init__(directory, rules=[{"name": "smoke", "when": {"check": "health", "failures": 3, **when}}])
        self.rule_states = RuleStates(self.config)
        self.decision_engine = Considering()
        self.smoke = SmokeChecks(
            self.config,
            self.read_model,
            self.rule_states,
            cast("DecisionEngine", self.decision_engine),
            self.clock,
            cast("CheckRunner", self.check_runner),
        )

    async def changed(self, release: str, incident: str = "") -> None:
        now = self.clock.now()
        await self.read_model.append(
            Entry(service_stream("shop"), facts.Changed(State({"code": Release(release)}), now, now, incident))
        )

    @property
    def notices(self) -> list[facts.Notice]:
        return [one.fact for one in self.journal.records if isinstance(one.fact, facts.Notice)]

    async def ask(self, times: int = 1) -> None:
        for _ in range(times):
            await self.smoke.ask(*self.smoke.watched[0])
            self.clock.advance(15 * SECOND)

    def standing(self) -> Standing:
        return self.rule_states.standing("shop", self.clock.now())


async def test_so_many_failures_in_a_row_are_a_trigger(tmp_path: Path) -> None:
    watch = Watch(tmp_path)
    watch.check_runner.verdicts["health"] = Verdict.BAD
    await watch.ask(2)
    watch.check_runner.verdicts["health"] = Verdict.GOOD
    await watch.ask()
    watch.check_runner.verdicts["health"] = Verdict.BAD
    await watch.ask(2)
    assert watch.decision_engine.triggers == []
    await watch.ask()
    (met,) = watch.decision_engine.triggers
    assert met.onset == START + 45 * SECOND
    assert met.evidence[0].threshold == "3 failures in a row"


async def test_a_check_that_says_nothing_is_no_failure_and_no_success(tmp_path: Path) -> None:
    watch = Watch(tmp_path)
    watch.check_runner.verdicts["health"] = Verdict.BAD
    await watch.ask(2)
    watch.check_runner.verdicts["health"] = Verdict.INCONCLUSIVE
    await watch.ask(2)
    assert watch.decision_engine.triggers == []
    watch.check_runner.verdicts["health"] = Verdict.BAD
    await watch.ask()
    assert len(watch.decision_engine.triggers) == 1


async def test_a_check_that_says_nothing_five_times_in_a_row_is_told_once(tmp_path: Path) -> None:
    watch = Watch(tmp_path)
    watch.check_runner.verdicts["health"] = Verdict.INCONCLUSIVE
    await watch.ask(4)
    assert watch.notices == []
    await watch.ask(10)
    (told,) = watch.notices
    assert (told.kind, told.text.split(":")[:2]) == ("rule_fault", ["rule smoke cannot be judged", " shop"])
    assert [one[:2] for one in watch.rule_states.all_unjudged()] == [("smoke", "shop")]


async def test_after_a_change_it_asks_for_a_while_and_for_as_long_as_the_check_fails(tmp_path: Path) -> None:
    watch = Watch(tmp_path, after_change="1m")
    watch.check_runner.verdicts["health"] = Verdict.BAD
    await watch.changed("v1")
    await watch.ask(5)
    assert (watch.check_runner.asked, watch.standing()) == ([], Standing.GOOD)
    await watch.changed("v2")
    await watch.ask(3)
    assert len(watch.decision_engine.triggers) == 1
    assert watch.standing() == Standing.BAD
    await watch.ask(10)
    assert (len(watch.check_runner.asked), watch.standing()) == (13, Standing.BAD)
    watch.check_runner.verdicts["health"] = Verdict.GOOD
    await watch.ask(3)
    assert (len(watch.check_runner.asked), watch.standing()) == (14, Standing.GOOD)


async def test_our_own_rollback_is_no_change(tmp_path: Path) -> None:
    watch = Watch(tmp_path, after_change="1m")
    await watch.changed("v1")
    await watch.changed("v0", incident="shop-1")
    await watch.ask(3)
    assert watch.check_runner.asked == []


def begin(_: str, work: Work) -> asyncio.Task[Any]:
    return asyncio.ensure_future(work())


async def test_while_a_rollback_runs_its_own_verification_looks(tmp_path: Path) -> None:
    watch = Watch(tmp_path)
    running = asyncio.create_task(Rounds(watch.smoke.turns(), watch.clock, begin).run())
    await watch.settle()
    assert len(watch.check_runner.asked) == 1
    await watch.read_model.append(Entry(FLEET, facts.Opening("shop", "shop-1")))
    for _ in range(10):
        watch.clock.advance(15 * SECOND)
        await watch.settle()
    assert len(watch.check_runner.asked) == 1
    running.cancel()
