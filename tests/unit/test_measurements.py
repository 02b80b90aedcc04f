"""What a rule measured around the onset: kept once the first step has begun and again at the end; no step waits for it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch
from xml.etree import ElementTree as ET

import pytest

from rollbackd.facts import ApplyStarted, Closed, Measured
from rollbackd.journal import JournalUnavailable
from rollbackd.model import Outcome
from rollbackd.signals.prometheus import RangeAnswer, RulesAnswer
from rollbackd.signals.query_answers import AlertingRule
from tests.unit.judgement.world import DOWN
from tests.unit.test_operations import MINUTE, SECOND, House, opened

ERRORS = {"query": "errors", "above": "10%", "for": "1m"}
SCORE = {"query": "increase(failed[1m])", "score": {"of": "increase(requests[1m])", "around": "10%"}}
ASKS = {"when": {"rule": "sick"}, "action": "ask", "expires": "3d"}


@asynccontextmanager
async def shop(place: Path, when: dict[str, Any], *policy: dict[str, Any]) -> AsyncIterator[House]:
    """v2 runs well for five minutes; what is measured of it is as it should be."""
    place.mkdir(exist_ok=True)
    house = await opened(place, policy, rules=[{"name": "sick", "when": when}])
    for service in ("shop", "desk"):
        house.stage.world.measure("errors", service, 0.01)
        house.stage.world.measure("requests", service, 600)
    yield house
    await house.stage.down()


async def sick(house: House, length: timedelta = MINUTE * 30) -> None:
    house.stage.world.measure("errors", "shop", 0.4, ("code", "v2"))
    await house.pass_(length)


def kinds(house: House) -> list[type]:
    return [type(one.fact) for one in house.stage.journal.records if one.stream == "incident:shop-1"]


async def test_what_the_rule_measured_is_kept_after_the_first_step_has_begun_and_at_the_end(tmp_path: Path) -> None:
    async with shop(tmp_path, ERRORS) as house:
        await sick(house)
        first, last = house.written(Measured)
        assert (first.at_end, last.at_end) == (False, True)
        order = kinds(house)
        assert order.index(ApplyStarted) < order.index(Measured) < order.index(Closed)
        assert order.count(Measured) == 2
        assert (first.query, first.threshold, first.limit, first.step) == ("errors", 0.1, "> 0.1", SECOND * 30)
        assert {*first.values} == {*last.values} == {0.01, 0.4}
        assert (first.values[0], first.values[-1], last.values[-1]) == (0.01, 0.4, 0.01), "from well to well again"
        plot = (await house.operations.incident("shop-1")).plot
        assert plot is not None
        assert [value for _, value in plot.points] == list(last.values)
        assert [one.kind for one in plot.marks] == ["change", "onset", "decision", "rollback", "end"]
        assert [one.at for one in plot.marks] == sorted(one.at for one in plot.marks)
        assert plot.points[0][0] <= plot.marks[0].at - MINUTE * 14, "also what was before the change"
        assert (await house.operations.incident("shop-1", after=2)).plot is None, "news has none"


async def test_a_question_has_it_while_it_waits_and_an_answer_that_hangs_or_fails_holds_up_nothing(
    tmp_path: Path,
) -> None:
    async with shop(tmp_path / "ask", ERRORS, ASKS) as house:
        await sick(house, MINUTE * 5)
        assert (await house.incident()).waits
        assert len(house.written(Measured)) == 1
    async with shop(tmp_path / "hangs", ERRORS) as house:
        asked, answer = asyncio.Event(), house.stage.world.prometheus.range

        async def hangs(query: str, start: Any, end: Any, step: timedelta) -> RangeAnswer:
            if house.written(ApplyStarted):
                asked.set()
                await house.stage.clock.sleep(SECOND * 5)
                return RangeAnswer(problem=DOWN)
            return await answer(query, start, end, step)

        house.stage.world.prometheus.range = hangs  # type: ignore[method-assign]
        await sick(house)
        assert asked.is_set()
        assert [one.outcome for one in house.written(Closed)] == [Outcome.RECOVERED]
        assert house.written(Measured) == []
        assert (await house.operations.incident("shop-1")).plot is None


@pytest.mark.parametrize(("away", "taken"), [(MINUTE, [True]), (MINUTE * 11, [])])
async def test_the_next_life_asks_what_a_kill_kept_from_being_asked(
    tmp_path: Path, away: timedelta, taken: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shop(tmp_path, ERRORS) as house:
        monkeypatch.setattr(house.stage.daemon.measurement_taker._wanted, "put_nowait", lambda _: None)
        await sick(house, MINUTE * 2)
        while not house.written(Closed):
            await house.pass_(MINUTE)
        assert house.written(Measured) == []
        await house.stage.down()
        await house.pass_(away)
        for _ in range(2):
            await house.stage.up()
            await house.pass_(MINUTE)
            await house.stage.down()
        assert [one.at_end for one in house.written(Measured)] == taken, "once"
        await house.stage.up()


async def test_of_an_alert_its_own_expression_is_asked_where_prometheus_knows_it(tmp_path: Path) -> None:
    async with shop(tmp_path, {"alert": 'alertname="Sick"'}) as house:
        world = house.stage.world
        known = (AlertingRule("Sick", "errors > bool 0.1", {}), AlertingRule("Other", "requests", {}))

        async def rules() -> RulesAnswer:
            return RulesAnswer(known)

        world.prometheus.rules = rules  # type: ignore[method-assign]
        world.measure("errors", "shop", 0.4, ("code", "v2"))
        world.fire("Sick", {"service": "shop"}, house.now, ("code", "v2"))
        await house.pass_(MINUTE * 30)
        assert [(one.query, one.threshold, one.limit) for one in house.written(Measured)] == [
            ("errors", 0.1, "> 0.1")
        ] * 2


async def test_an_alert_that_prometheus_does_not_know_and_an_event_have_none(tmp_path: Path) -> None:
    async with shop(tmp_path, {"any": [{"alert": 'alertname="Sick"'}, {"event": "broken"}]}) as house:
        await house.event("broken")
        await house.pass_(MINUTE * 30)
        assert house.written(Closed)
        assert house.written(Measured) == []


async def test_of_a_score_it_is_the_share_of_errors_and_the_share_at_which_the_score_rises(tmp_path: Path) -> None:
    async with shop(tmp_path, SCORE) as house:
        await sick(house)
        first, last = house.written(Measured)
        assert first.query == "(increase(failed[1m])) / (increase(requests[1m]))"
        assert first.threshold == 0.1103
        assert last.values[0] == 0.01
        assert max(one for one in last.values if one is not None) == 0.4


async def test_300_points_at_most_are_kept_of_two_days_at_most_and_one_answer_serves_a_storm(tmp_path: Path) -> None:
    async with shop(tmp_path, ERRORS, ASKS) as house:
        await sick(house, MINUTE * 5)
        taker, incident = house.stage.daemon.measurement_taker, await house.incident()
        trigger = incident.decision.trigger
        old = replace(incident.decision, trigger=replace(trigger, onset=house.now - timedelta(days=9)))
        fact = await taker._measured(replace(incident, decision=old), ended=True)
        assert fact is not None
        assert len(fact.values) == 299
        assert house.now - fact.begin == timedelta(days=2) <= fact.step * 300

        span = (house.now - MINUTE * 20, house.now)
        first = await taker._answer(trigger, span)
        assert first is not None
        assert {"shop", "desk"} == {*first.values}
        near = (span[0] + SECOND * 20, span[1] + SECOND * 5)
        assert await taker._answer(replace(trigger, service="desk"), near) is first
        for other in ((span[0] - MINUTE * 5, span[1]), (span[0], span[1] + SECOND * 10)):
            assert await taker._answer(trigger, other) is not first


async def test_a_message_waits_a_little_for_its_plot_and_goes_without_one_where_there_is_none(tmp_path: Path) -> None:
    async with shop(tmp_path, ERRORS, ASKS) as house:
        taker, answered = house.stage.daemon.measurement_taker, asyncio.Event()
        answer = house.stage.world.prometheus.range

        async def slow(query: str, start: Any, end: Any, step: timedelta) -> RangeAnswer:
            if house.stage.daemon.read_model.open_incidents():
                await answered.wait()
            return await answer(query, start, end, step)

        house.stage.world.prometheus.range = slow  # type: ignore[method-assign]
        await sick(house, MINUTE * 5)
        waiting = asyncio.create_task(taker.plot("shop-1"))
        await house.pass_(SECOND * 4)
        assert not waiting.done()
        await house.pass_(SECOND * 2)
        assert await waiting == "", "it goes without"

        waiting = asyncio.create_task(taker.plot("shop-1"))
        answered.set()
        await house.pass_(SECOND)
        svg = ET.fromstring(await waiting)
        names = [one.tag.rpartition("}")[2] for one in svg.iter()]
        assert names[:4] == ["svg", "style", "title", "desc"]
        assert names.count("polyline") == 1
        assert await taker.plot("desk-1") == ""
        with patch.object(house.stage.journal, "latest", side_effect=JournalUnavailable("the disk is gone")):
            assert await taker.plot("shop-1") == ""
