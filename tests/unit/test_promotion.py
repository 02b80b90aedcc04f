"""What becomes of a question when it is answered, or its time is over, and the world has moved meanwhile."""

import asyncio
from collections.abc import Coroutine, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from rollbackd import facts
from rollbackd.config.models import Config
from rollbackd.decision.approvals import Approvals
from rollbackd.execution.preflight import Objection
from rollbackd.journal import Entry
from rollbackd.model import FLEET, Action, Outcome, Release, Request, State, incident_stream
from tests.unit.judgement.script import SHOP
from tests.unit.judgement.shop import PAGE, Shop

SLOW = {"name": "slow", "when": {"query": "latency", "above": "2s"}}
ROLL_BACK = {"asking": {"expires": "30m", "otherwise": "roll_back"}}
YES = "approved by unix:ann"
LATE = "nobody answered in 30m"

Found = facts.Risen | facts.AskedAgain | Objection


class Court(Shop):
    """It asks: an alert fires twenty minutes after the change, which is too late to put it down to that."""

    def __init__(self, directory: Path, *rules: Mapping[str, Any], **settings: Any) -> None:
        limits = {"change_window": "10m", **settings.pop("limits", {})}
        super().__init__(directory, *rules, limits=limits, **settings)

    async def open(self) -> None:
        await super().open()
        await self.let("10:20 alert Sick fires")
        assert [word for word in self.words if word != "tells"] == ["asks"]  # people hear of a rule without data, too

    def asking(self, **config: Any) -> Approvals:
        """As it is built; `config` replaces parts of the configuration, as of a later one."""
        parts = self.daemon
        given = {name: getattr(self.config, name) for name in Config.model_fields}
        return Approvals(
            Config(**given | config),
            parts.read_model,
            parts.rule_states,
            parts.clock,
            parts.decision_engine._situations,
        )

    async def answered(self, **config: Any) -> Found:
        return await self.found(self.asking(**config).rise(await self.incident(), YES, by_people=True))

    async def late(self) -> Found:
        return await self.found(self.asking().rise(await self.incident(), LATE, by_people=False))

    async def found(self, rise: Coroutine[Any, Any, Found]) -> Found:
        """What it says; two looks at the layers take a moment."""
        rising = asyncio.create_task(rise)
        await self.wait(seconds=1)
        return await rising

    async def joined(self, **more: Any) -> None:
        """Another trigger came while it asks."""
        await self.daemon.read_model.append(Entry(incident_stream("shop-1"), facts.Joined(self.trigger(**more))))


@pytest.fixture
async def court(tmp_path: Path) -> Any:
    one = Court(tmp_path, PAGE, SLOW, **ROLL_BACK)
    await one.open()
    yield one
    await one.down()


def name(state: State | None) -> str:
    return state.releases["code"].id if state is not None else ""


# -- people said yes ------------------------------------------------------------------------------
async def test_a_yes_to_what_still_is_so_is_a_rollback(court: Court) -> None:
    found = await court.answered()
    assert isinstance(found, facts.Risen)
    assert (found.why, found.by_people) == (YES, True)
    assert (found.decision.action, found.decision.joins) == (Action.ROLL_BACK, "shop-1")
    assert name(found.decision.target) == "v1"


async def test_a_yes_for_a_service_that_is_no_longer_configured_does_nothing(court: Court) -> None:
    found = await court.answered(services=())
    assert found == Objection(Outcome.DECLINED, f"{YES}, but the service is no longer in the configuration")


async def test_a_yes_when_another_release_runs_is_a_new_question_with_its_own_time(court: Court) -> None:
    await court.let("10:30 deploys v3")
    asked = court.clock.now()
    found = await court.answered()
    assert isinstance(found, facts.AskedAgain)
    assert found.changed == f"{YES}, but now code v3 runs"
    question = found.decision.question
    assert question is not None
    assert (name(found.decision.present), name(found.decision.target)) == ("v3", "v1")
    assert not question.over
    assert timedelta() <= question.expires - asked - timedelta(minutes=30) < timedelta(seconds=1)


async def test_everything_that_moved_is_named(court: Court) -> None:
    await court.let("10:30 deploys v3", "10:31 alert Sick resolves")
    found = await court.answered()
    assert isinstance(found, facts.AskedAgain)
    assert found.changed == f"{YES}, but now code v3 runs; the trouble is over: no such alert fires"
    assert found.decision.question is not None
    assert found.decision.question.over


async def test_a_yes_is_none_to_what_cannot_be_taken_back_unless_it_was_asked_by_name(court: Court) -> None:
    await court.let("10:30 code cannot be taken back")
    again = await court.answered()
    assert isinstance(again, facts.AskedAgain)
    assert again.changed == f"{YES}, but cannot be taken back: code"
    assert again.decision.question is not None
    assert "cannot be taken back: code" in again.decision.question.why
    await court.daemon.read_model.append(Entry(incident_stream("shop-1"), again))
    assert isinstance(await court.answered(), facts.Risen)


async def test_a_yes_to_a_question_that_was_asked_after_the_trouble_is_meant(court: Court) -> None:
    await court.let("10:31 alert Sick resolves")
    again = await court.answered()
    assert isinstance(again, facts.AskedAgain)
    await court.daemon.read_model.append(Entry(incident_stream("shop-1"), again))
    assert isinstance(await court.answered(), facts.Risen)


async def test_the_trouble_is_over_when_all_of_it_is(court: Court) -> None:
    await court.joined(rule="slow")
    await court.let("10:25 latency 9", "10:31 alert Sick resolves", "10:32 nothing more happens")
    assert isinstance(await court.answered(), facts.Risen)
    await court.let("10:35 latency 0.2", "10:36 nothing more happens")
    found = await court.answered()
    assert isinstance(found, facts.AskedAgain)
    assert "the trouble is over" in found.changed


async def test_trouble_of_a_rule_that_is_gone_is_never_said_to_be_over(court: Court) -> None:
    await court.joined(rule="removed")
    await court.let("10:31 alert Sick resolves")
    assert isinstance(await court.answered(), facts.Risen)


async def test_trouble_that_nobody_can_see_any_more_is_not_over(court: Court) -> None:
    await court.joined(rule="slow")
    await court.let("10:25 latency NaN", "10:31 alert Sick resolves")
    assert isinstance(await court.answered(), facts.Risen)


async def test_a_yes_while_the_layers_move_is_asked_again_about_what_was_asked(court: Court) -> None:
    await court.let("10:30 code changes at each look")
    found = await court.answered()
    assert isinstance(found, facts.AskedAgain)
    assert (name(found.decision.present), name(found.decision.target)) == ("v2", "v1")
    assert "the layers are being changed right now" in found.changed


async def test_an_order_that_a_journal_has_as_evidence_lets_nothing_through_that_moved(court: Court) -> None:
    """Nothing writes it any more; a stored one gives the yes of others no more weight than it has."""
    await court.let("10:30 deploys v3", "10:31 alert Sick resolves")
    await court.joined(rule="manual", request=Request("shop", "unix:ann"))
    found = await court.answered()
    assert isinstance(found, facts.AskedAgain)
    assert found.decision.trigger.request is None


async def test_a_yes_goes_nowhere_without_a_good_state(court: Court) -> None:
    await court.let("10:30 unix:bob quarantines v1")
    found = await court.answered()
    assert isinstance(found, Objection)
    assert found.outcome is Outcome.FAILED
    assert found.reason.startswith(f"{YES}, but nothing was touched: no good state")


async def test_a_yes_while_a_layer_does_not_say_what_it_can_go_back_to_is_asked_again(court: Court) -> None:
    """It may be passing; an approval that ended the incident would have to be found and given anew."""
    layer = court.world.layers[SHOP]["code"]
    layer.forgets = True
    found = await court.answered()
    assert isinstance(found, facts.AskedAgain)
    assert found.changed == f"{YES}, but code: cannot be listed"
    assert found.decision.target == State({"code": Release("v1")})
    layer.forgets = False
    assert isinstance(await court.answered(), facts.Risen)


# -- nobody answered ------------------------------------------------------------------------------
async def test_nobody_answered_and_nothing_else_stands_against_it(court: Court) -> None:
    await court.let("10:45 nothing more happens")  # stale by now, from waiting alone
    found = await court.late()
    assert isinstance(found, facts.Risen)
    assert (found.why, found.by_people, found.decision.action) == (LATE, False, Action.ROLL_BACK)


async def test_nobody_answered_and_the_configuration_escalates(tmp_path: Path) -> None:
    court = Court(tmp_path)
    await court.open()
    assert await court.late() == Objection(Outcome.EXPIRED, LATE)
    await court.down()


async def test_nobody_answered_and_the_trouble_is_over(court: Court) -> None:
    await court.let("10:31 alert Sick resolves")
    assert await court.late() == Objection(Outcome.PASSED, "the trouble is over: no such alert fires")


async def test_nobody_answered_and_somebody_deployed(court: Court) -> None:
    await court.let("10:30 deploys v3")
    found = await court.late()
    assert found == Objection(Outcome.SUPERSEDED, f"{LATE}, and somebody else changed the layers meanwhile")


async def test_nobody_answered_and_a_guard_that_nobody_was_asked_about_stands_now(court: Court) -> None:
    await court.let("10:30 code cannot be taken back")
    found = await court.late()
    assert found == Objection(Outcome.EXPIRED, f"{LATE}, and cannot be taken back: code")


async def test_nobody_answered_and_the_budget_is_spent_meanwhile(court: Court) -> None:
    openings = [Entry(FLEET, facts.Opening("bank", f"bank-{n}")) for n in range(1, 6)]
    await court.daemon.read_model.append(*openings)
    found = await court.late()
    assert isinstance(found, Objection)
    assert (found.outcome, "5 of 5 rollbacks of the fleet" in found.reason) == (Outcome.EXPIRED, True)


async def test_a_question_that_is_missing_is_no_yes(court: Court) -> None:
    incident = await court.incident()
    empty = replace(incident, decision=replace(incident.decision, question=None))
    assert await court.asking().rise(empty, LATE, by_people=False) == Objection(Outcome.EXPIRED, LATE)
