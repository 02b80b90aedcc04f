"""When a state is good: what counts as having run well, and what does not."""

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from rollbackd import facts
from rollbackd.decision.bake_timer import BakeTimer
from rollbackd.execution.check_runner import CheckRunner
from rollbackd.journal import Entry, until_written
from rollbackd.model import FLEET, Outcome, Release, State, Verdict, service_stream
from rollbackd.signals.rule_state import RuleStates
from rollbackd.system.clock import JumpWatch
from rollbackd.system.rounds import Rounds, Work
from tests.fakes.clock import START
from tests.unit.house import House

RULE = {"name": "slow", "when": {"query": "latency", "above": 1, "for": "2m"}}
TICK = timedelta(seconds=15)
STREAM = service_stream("shop")


class Kitchen(House):
    """The house with its oven; the shop runs v2 and its rule is good."""

    def __init__(self, directory: Path, **changes: Any) -> None:
        super().__init__(directory, rules=[RULE], prometheus={"url": "http://127.0.0.1:9090"}, **changes)
        self.rule_states = RuleStates(self.config)
        self.stops: tuple[str, ...] = ()
        self.verdict = Verdict.GOOD
        self.jumps = JumpWatch(self.clock)
        self.bake_timer = BakeTimer(
            self.config,
            self.read_model,
            self.rule_states,
            self.clock,
            self.jumps,
            self._stops,
            cast("CheckRunner", self.check_runner),
        )

    def _stops(self, service: str, labels: Mapping[str, str], *, silences: bool = True) -> tuple[str, ...]:
        return self.stops

    async def runs(self, release: str) -> None:
        """This is there now, as the looks say."""
        state = State({"code": Release(release)})
        await self.read_model.append(Entry(STREAM, facts.Changed(state, self.clock.now(), self.clock.now())))

    async def pass_(self, length: timedelta, tick: timedelta = TICK) -> None:
        """Time goes by, tick for tick, the rule being asked before each."""
        for _ in range(round(length / tick)):
            self.clock.advance(tick)
            self.rule_states.observe(
                self.config.rules[0], 0, "shop", self.verdict, "as the test says", self.clock.now()
            )
            await self.bake_timer.tick(self.service, TICK)

    @property
    def good(self) -> list[str]:
        return list(self.read_model.of("shop").good.values())

    @property
    def share(self) -> float:
        return round(self.bake_timer.share(self.service), 2)


@pytest.fixture
async def kitchen(tmp_path: Path) -> Kitchen:
    one = Kitchen(tmp_path)
    await one.runs("v1")
    await one.pass_(TICK)
    return one


async def test_a_state_that_ran_well_for_the_bake_time_and_passes_its_checks_is_good(kitchen: Kitchen) -> None:
    await kitchen.pass_(timedelta(minutes=5))
    assert (kitchen.good, kitchen.share) == ([], 0.5)
    await kitchen.pass_(timedelta(minutes=5))
    assert kitchen.good == ["ran 10m without a trigger and passed its checks"]
    assert kitchen.share == 1.0
    assert kitchen.check_runner.asked == ["health"]
    await kitchen.pass_(timedelta(minutes=30))
    assert len(kitchen.good) == 1


async def test_a_state_in_which_something_is_switched_off_is_never_good_by_itself(kitchen: Kitchen) -> None:
    state, now = State({"code": Release("v2")}), kitchen.clock.now()
    await kitchen.read_model.append(Entry(STREAM, facts.Changed(state, now, now, "shop-1", fixed=("code",))))
    await kitchen.pass_(timedelta(minutes=30))
    assert (kitchen.good, kitchen.share) == ([], 0.0)
    await kitchen.runs("v3")
    await kitchen.pass_(timedelta(minutes=11))
    assert len(kitchen.good) == 1


async def test_trouble_begins_again_already_while_it_is_pending(kitchen: Kitchen) -> None:
    await kitchen.pass_(timedelta(minutes=9))
    kitchen.verdict = Verdict.BAD
    await kitchen.pass_(TICK)
    kitchen.verdict = Verdict.GOOD
    assert kitchen.share == 0.0
    await kitchen.pass_(timedelta(minutes=9, seconds=45))
    assert kitchen.good == []
    await kitchen.pass_(TICK)
    assert len(kitchen.good) == 1


async def test_what_says_nothing_does_not_count_and_loses_nothing(kitchen: Kitchen) -> None:
    await kitchen.pass_(timedelta(minutes=5))
    kitchen.verdict = Verdict.INCONCLUSIVE
    await kitchen.pass_(timedelta(hours=3))
    assert (kitchen.good, kitchen.share) == ([], 0.5)
    kitchen.verdict = Verdict.GOOD
    await kitchen.pass_(timedelta(minutes=5))
    assert len(kitchen.good) == 1


async def test_held_time_does_not_count(kitchen: Kitchen) -> None:
    kitchen.stops = ("HOLD by unix:ann",)
    await kitchen.pass_(timedelta(hours=3))
    assert (kitchen.good, kitchen.share) == ([], 0.0)


async def test_time_that_nobody_looked_at_does_not_count(kitchen: Kitchen) -> None:
    await kitchen.pass_(timedelta(minutes=5))
    await kitchen.pass_(timedelta(hours=3), tick=timedelta(hours=3))
    assert (kitchen.good, kitchen.share) == ([], 0.5)


async def test_a_tick_that_comes_a_little_late_counts_for_no_more_than_two(kitchen: Kitchen) -> None:
    await kitchen.pass_(timedelta(seconds=45), tick=timedelta(seconds=45))
    assert kitchen.bake_timer._baking["shop"].baked == 2 * TICK


@pytest.mark.parametrize("shift", [timedelta(hours=8), -timedelta(hours=1)])
async def test_a_clock_that_was_set_bakes_nothing(tmp_path: Path, shift: timedelta) -> None:
    """Wall time shows the hours that the machine was suspended, monotonic time does not."""
    kitchen = Kitchen(tmp_path)
    await kitchen.runs("v1")
    await kitchen.pass_(timedelta(minutes=5, seconds=15))
    before = kitchen.clock.now
    setattr(kitchen.clock, "now", lambda: before() + shift)  # noqa: B010  # mypy knows that it is a method
    await kitchen.pass_(TICK)
    assert (kitchen.good, kitchen.share) == ([], 0.5)
    assert kitchen.jumps.last_jump is not None


async def test_another_state_begins_from_nothing_and_an_older_one_too(kitchen: Kitchen) -> None:
    await kitchen.pass_(timedelta(minutes=9))
    await kitchen.runs("v2")
    await kitchen.pass_(timedelta(minutes=9))
    assert kitchen.good == []
    await kitchen.runs("v1")
    await kitchen.pass_(timedelta(minutes=9))
    assert kitchen.good == []
    assert kitchen.share == 0.88


async def test_a_state_that_fails_its_exam_begins_again_and_one_that_says_nothing_waits_half_as_long(
    kitchen: Kitchen,
) -> None:
    kitchen.check_runner.verdicts["health"] = Verdict.BAD
    await kitchen.pass_(timedelta(minutes=10))
    assert (kitchen.good, kitchen.share) == ([], 0.0)
    kitchen.check_runner.verdicts["health"] = Verdict.INCONCLUSIVE
    await kitchen.pass_(timedelta(minutes=10))
    assert (kitchen.good, kitchen.share) == ([], 0.5)
    kitchen.check_runner.verdicts.clear()
    await kitchen.pass_(timedelta(minutes=5))
    assert len(kitchen.good) == 1


async def test_nothing_bakes_in_an_incident_nor_quarantined(kitchen: Kitchen) -> None:
    await kitchen.pass_(timedelta(minutes=5))
    await kitchen.read_model.append(Entry(FLEET, facts.Opening("shop", "shop-1")))
    await kitchen.pass_(timedelta(minutes=30))
    assert (kitchen.good, kitchen.share) == ([], 0.0)
    await kitchen.read_model.append(Entry(FLEET, facts.Ended("shop", "shop-1", Outcome.PASSED, acted=False)))
    await kitchen.read_model.append(Entry(STREAM, facts.Quarantined({"code": "v1"}, "by unix:ann")))
    await kitchen.pass_(timedelta(minutes=30))
    assert (kitchen.good, kitchen.share) == ([], 0.0)
    await kitchen.read_model.append(Entry(STREAM, facts.QuarantineLifted({"code": "v1"})))
    await kitchen.pass_(timedelta(minutes=11))
    assert len(kitchen.good) == 1


async def test_a_release_that_comes_while_its_checks_are_asked_is_not_marked(kitchen: Kitchen) -> None:
    ask = kitchen.check_runner.run

    async def run(*arguments: Any) -> Any:
        await kitchen.runs("v2")
        return await ask(*arguments)

    setattr(kitchen.check_runner, "run", run)  # noqa: B010
    await kitchen.pass_(timedelta(minutes=10))
    assert kitchen.good == []


async def test_a_mark_that_cannot_be_written_is_written_later(kitchen: Kitchen) -> None:
    def begin(_: str, work: Work) -> asyncio.Task[Any]:
        return asyncio.create_task(until_written(work, kitchen.clock, TICK, print))

    running = asyncio.create_task(Rounds(kitchen.bake_timer.turns(), kitchen.clock, begin).run())
    kitchen.journal.broken = True
    for _ in range(60):
        kitchen.rule_states.observe(kitchen.config.rules[0], 0, "shop", Verdict.GOOD, "fine", kitchen.clock.now())
        kitchen.clock.advance(TICK)
        await kitchen.settle()
    assert (kitchen.good, kitchen.share) == ([], 1.0)
    kitchen.journal.broken = False
    kitchen.rule_states.observe(kitchen.config.rules[0], 0, "shop", Verdict.GOOD, "fine", kitchen.clock.now())
    kitchen.clock.advance(TICK)
    await kitchen.settle()
    assert len(kitchen.good) == 1
    assert kitchen.clock.now() > START
    running.cancel()
