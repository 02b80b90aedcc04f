"""The loop that changes the world: what it does when effects fail, hang, lie, or were cut off by a crash."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest

from rollbackd import facts
from rollbackd.adapter import AdapterError
from rollbackd.execution.preflight import Objection
from rollbackd.execution.runner import process_name
from rollbackd.incident.life import Incident
from rollbackd.incident.next import ADOPTIONS, ATTEMPTS
from rollbackd.journal import Entry, JournalUnavailable
from rollbackd.model import (
    FLEET,
    Change,
    CheckResult,
    Outcome,
    Progress,
    Release,
    Request,
    SignalHold,
    Verdict,
    incident_stream,
)
from rollbackd.system.spawner import Spawner
from tests.unit.house import INCIDENT, V1, FakeFactory, FakeLayer, House, trigger
from tests.unit.test_layers import meet

WHOLE = ["enter page", "apply config v1", "apply code v1", "leave page"]


@pytest.fixture
async def house(tmp_path: Path) -> House:
    one = House(tmp_path)
    await one.open()
    return one


def failing(text: str = "no", times: int = 1, *, permanent: bool = False) -> list[Exception]:
    return [AdapterError(text, permanent=permanent, evidence="the last line") for _ in range(times)]


# -- the whole way ------------------------------------------------------------------------------
async def test_brackets_in_steps_gate_brackets_out_verification_close(house: House) -> None:
    incident = await house.run()
    assert (incident.outcome, house.calls) == (Outcome.RECOVERED, WHOLE)
    assert house.kinds() == [
        "Opened", "Adopted", "Planned", "Entering", "Entered", "ApplyStarted", "Applied", "ApplyStarted", "Applied",
        "Gated", "Leaving", "Left", "Round", "Round", "Closed",
    ]  # fmt: skip
    assert house.read_model.of("shop").present == house.state
    assert house.read_model.of("shop").quarantined == {
        ("config", "v2"): "left behind by shop-1", ("code", "v2"): "left behind by shop-1",
    }  # fmt: skip


async def test_what_a_bracket_says_of_its_crossing_is_in_the_incident(house: House) -> None:
    house.layers["page"].said = "3 sessions are left after 10m,\nand the rollback went on"
    incident = await house.run()
    assert incident.outcome is Outcome.RECOVERED
    assert incident.notes == ("page: 3 sessions are left after 10m, and the rollback went on",), "once"
    facts_ = [record.fact for record in await house.journal.read(f"incident:{INCIDENT}")]
    assert [fact.note for fact in facts_ if isinstance(fact, facts.Entered | facts.Left)] == [
        "3 sessions are left after 10m, and the rollback went on"
    ] * 2


@pytest.mark.parametrize("error", [AdapterError("cannot be seen", permanent=True), RuntimeError("boom")])
async def test_a_bracket_that_cannot_say_anything_is_crossed_all_the_same(house: House, error: Exception) -> None:
    house.layers["page"].said = error
    incident = await house.run()
    assert (incident.outcome, house.calls, incident.notes) == (Outcome.RECOVERED, WHOLE, ())


async def test_driving_it_again_after_its_end_does_nothing(house: House) -> None:
    await house.run()
    before = len(house.journal.records)
    await house.run()
    assert (house.calls, len(house.journal.records)) == (WHOLE, before)


async def test_the_condition_that_triggered_counts_in_verification(house: House) -> None:
    house.conditions = (CheckResult("rule sick", Verdict.BAD, "still sick"),)
    incident = await house.run()
    assert incident.outcome is Outcome.INEFFECTIVE


async def test_a_clock_that_is_set_forward_ends_no_verification_that_nobody_looked_at(house: House) -> None:
    await house.open()
    house.runner.start(INCIDENT)
    await house.until(lambda: "Round" in house.kinds())
    house.clock.jump(timedelta(hours=1))
    await house.until(lambda: "Closed" in house.kinds())
    assert (await house.incident()).outcome is Outcome.RECOVERED
    assert house.kinds()[-4:] == ["Round", "Adopted", "Round", "Closed"]


# -- before the first step ----------------------------------------------------------------------
async def test_when_the_guards_object_nothing_is_touched(house: House) -> None:
    house.objection = Objection(Outcome.PASSED, "it went away")
    incident = await house.run()
    assert (incident.outcome, incident.reason, house.calls) == (Outcome.PASSED, "it went away", [])


async def test_a_state_that_somebody_changed_meanwhile_is_theirs(house: House) -> None:
    house.layers["code"].present = V1
    incident = await house.run()
    assert (incident.outcome, incident.reason) == (Outcome.SUPERSEDED, "somebody else changed code")
    assert house.calls == []


async def test_it_is_theirs_also_when_its_layer_cannot_plan_the_step_any_more(house: House) -> None:
    async def gone(target: Release) -> Change:
        raise AdapterError("v1 is gone", permanent=True)

    house.layers["code"].present = V1
    house.layers["code"].plan = gone  # type: ignore[method-assign]
    incident = await house.run()
    assert (incident.outcome, incident.reason) == (Outcome.SUPERSEDED, "somebody else changed code")


async def test_right_before_the_first_step_the_layers_are_looked_at_and_plan_at_once(house: House) -> None:
    together = asyncio.Barrier(2)
    for method in ("current", "plan"):
        meet(together, house.layers["code"], method)
    assert (await house.run()).outcome is Outcome.RECOVERED


async def test_a_layer_that_cannot_be_seen_ends_it_untouched(house: House) -> None:
    house.layers["code"].errors = [RuntimeError("look")]
    incident = await house.run()
    assert (incident.outcome, house.calls) == (Outcome.FAILED, [])
    assert incident.reason == "nothing was touched: code: cannot be seen"


@pytest.mark.parametrize("layer", ["page", "config", "code"])
async def test_a_layer_that_is_not_ready_ends_it_untouched(house: House, layer: str) -> None:
    house.layers[layer].problems = ("its disk is full",)
    incident = await house.run()
    assert (incident.outcome, house.calls) == (Outcome.FAILED, [])
    assert incident.reason == f"nothing was touched: {layer}: its disk is full"


async def test_a_step_that_cannot_be_taken_back_is_declined_unless_it_is_allowed_by_name(tmp_path: Path) -> None:
    for allowed, outcome in (((), Outcome.DECLINED), (("code",), Outcome.RECOVERED)):
        house = House(tmp_path)
        house.layers["code"].reversible = False
        request = Request("shop", "unix:ann", irreversible=allowed)
        await house.open(trigger=trigger(request=request))
        assert (await house.run()).outcome is outcome
        assert house.calls == (WHOLE if allowed else [])


async def test_a_plan_that_has_nothing_to_do_says_so(tmp_path: Path) -> None:
    house = House(tmp_path)
    for layer in ("config", "code"):
        house.layers[layer].present = V1
    await house.open()
    incident = await house.run()
    assert incident.outcome is Outcome.FAILED
    assert "no step to take" in incident.reason


# -- effects that fail --------------------------------------------------------------------------
async def test_a_failure_that_may_pass_is_tried_again_with_longer_pauses(house: House) -> None:
    house.layers["code"].errors = failing(times=3)
    incident = await house.run()
    assert incident.outcome is Outcome.RECOVERED
    assert house.calls.count("apply code v1") == 4
    times = [one.at for one in house.journal.records if isinstance(one.fact, facts.ApplyStarted)][1:]
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert [round(pause.total_seconds()) for pause in pauses] == [5, 10, 20]


async def test_a_failure_that_stays_ends_it_and_keeps_the_page(house: House) -> None:
    house.layers["code"].errors = failing("no room", permanent=True)
    incident = await house.run()
    assert (incident.outcome, incident.reason) == (Outcome.FAILED, "apply code: no room")
    assert (incident.entered, house.layers["page"].is_inside) == (("page",), True)
    (failed,) = [one.fact for one in house.journal.records if isinstance(one.fact, facts.ApplyFailed)]
    assert failed.evidence == "the last line"


async def test_a_failure_that_quotes_a_secret_is_written_down_without_it(house: House) -> None:
    cast("FakeFactory", house.factory).clean = Spawner(secrets=["hush-hush"]).clean
    house.layers["code"].errors = failing("it answered hush-hush", permanent=True)
    house.layers["page"].said = "somebody else has it, by hush-hush"
    incident = await house.run()
    assert incident.reason == "apply code: it answered [secret]"
    assert incident.notes == ("page: somebody else has it, by [secret]",)


async def test_after_five_tries_it_is_given_up(house: House) -> None:
    house.layers["config"].errors = failing(times=10)
    incident = await house.run()
    assert incident.outcome is Outcome.FAILED
    assert house.calls.count("apply config v1") == ATTEMPTS
    assert "apply code v1" not in house.calls


@pytest.mark.parametrize("error", [RuntimeError("a bug"), OSError("disk"), KeyError("x")])
async def test_an_adapter_that_raises_anything_does_not_end_the_incident(house: House, error: Exception) -> None:
    house.layers["code"].errors = [error]
    incident = await house.run()
    assert incident.outcome is Outcome.RECOVERED
    (failed,) = [one.fact for one in house.journal.records if isinstance(one.fact, facts.ApplyFailed)]
    assert type(error).__name__ in failed.reason
    assert not failed.permanent


async def test_an_effect_that_ended_well_and_did_nothing_is_a_failure(house: House) -> None:
    house.layers["code"].lies = True
    incident = await house.run()
    assert incident.outcome is Outcome.FAILED
    assert "it ended, and yet the layer says that nothing was done" in incident.reason


async def test_a_bracket_that_says_it_is_outside_after_entering_is_a_failure(house: House) -> None:
    house.layers["page"].lies = True
    incident = await house.run()
    assert incident.outcome is Outcome.FAILED
    assert "it ended, and yet the layer says it is outside" in incident.reason
    assert "apply config v1" not in house.calls


async def test_a_layer_that_somebody_moves_meanwhile_is_theirs(house: House) -> None:
    house.layers["code"].says = [Progress.SUPERSEDED]
    incident = await house.run()
    assert incident.outcome is Outcome.SUPERSEDED
    assert "apply code v1" not in house.calls


async def test_a_step_stays_running_until_the_check_that_it_names_passes(tmp_path: Path) -> None:
    layers = {"page": {}, "config": {}, "code": {"done_when": "health"}}
    given = {name: {**one, **layers[name]} for name, one in House.config_layers().items()}
    house = House(tmp_path, layers=given)
    house.check_runner.verdicts["health"] = Verdict.BAD
    await house.open()
    house.runner.start(INCIDENT)
    await house.until(lambda: house.check_runner.asked.count("health") >= 3)
    assert house.kinds()[-1] == "ApplyStarted"
    house.check_runner.verdicts.clear()
    assert (await house.run()).outcome is Outcome.RECOVERED


class StagedLayer(FakeLayer):
    """It asks a check of its service between its stages."""

    async def apply_in_stages(self, change: Change, ask: Callable[[str], Awaitable[CheckResult]]) -> None:
        self.calls.append(f"{(await ask('health')).verdict} between")
        await self.apply(change)


async def test_a_layer_that_goes_in_stages_asks_checks_of_its_service(house: House) -> None:
    house.layers["code"] = StagedLayer("code", house.calls)
    house.check_runner.verdicts["health"] = Verdict.BAD
    await house.open()
    house.runner.start(INCIDENT)
    await house.until(lambda: "apply code v1" in house.calls)
    assert house.calls.index("bad between") == house.calls.index("apply code v1") - 1
    assert "health" in house.check_runner.asked


# -- crashes ------------------------------------------------------------------------------------
async def crash(house: House) -> None:
    """Whatever was under way is gone; a new runner has only the journal."""
    house.runner._parts.stopping.set()  # what is cancelled must not begin again: nothing of a crashed process does
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await house.settle()
    house.runner = house.new_runner()


@pytest.mark.parametrize("effect", range(4))
@pytest.mark.parametrize("finished", [True, False])
async def test_an_effect_that_was_cut_off_is_asked_about_first(house: House, effect: int, finished: bool) -> None:
    """The world went on without us, or stopped with us: in both cases each effect is there once at the end."""
    layer = house.layers[WHOLE[effect].split()[1]]
    layer.hold_up, layer.hold_at = asyncio.Event(), WHOLE[effect].split()[0]
    house.runner.start(INCIDENT)
    await house.until(lambda: WHOLE[effect] in house.calls)
    await crash(house)
    layer.hold_up = None
    layer.said = "it was so"
    if finished:
        layer.present, layer.is_inside = V1, effect == 0
    incident = await house.run()
    assert incident.outcome is Outcome.RECOVERED
    assert incident.notes == (f"{WHOLE[effect].split()[1]}: it was so",), "of a step, too"
    assert house.calls.count(WHOLE[effect]) == (1 if finished else 2)
    assert list(dict.fromkeys(house.calls)) == WHOLE
    assert house.kinds().count("Adopted") == 2


async def test_a_survivor_of_the_crash_is_waited_for_and_not_joined(house: House) -> None:
    code = house.layers["code"]
    code.hold_up = asyncio.Event()
    house.runner.start(INCIDENT)
    await house.until(lambda: "apply code v1" in house.calls)
    await crash(house)
    code.hold_up = None
    code.says = [Progress.RUNNING] * 5
    code.present = V1
    assert (await house.run()).outcome is Outcome.RECOVERED
    assert house.calls.count("apply code v1") == 1
    assert code.says == []


async def cut_off_too_often(house: House) -> None:
    """The step of the code kills its driver again and again."""
    house.layers["code"].hold_up = asyncio.Event()
    for _ in range(ADOPTIONS):
        house.runner.start(INCIDENT)
        before = house.calls.count("apply code v1")
        await house.until(lambda before=before: house.calls.count("apply code v1") > before)  # type: ignore[misc]
        await crash(house)


async def test_a_step_that_kills_its_driver_again_and_again_is_parked_for_a_person(house: House) -> None:
    await cut_off_too_often(house)
    house.runner.start(INCIDENT)
    await house.until(lambda: house.kinds()[-1] == "Parked")
    assert house.calls.count("apply code v1") == ADOPTIONS
    incident = await house.incident()
    assert "it may kill whoever runs it" in incident.parked
    await house.read_model.append(Entry(incident_stream(INCIDENT), facts.AbortRequested(), "unix:ann"))
    house.runner.poke(INCIDENT)
    await house.until(lambda: not house.runner.driving)
    assert (await house.incident()).outcome is Outcome.ABORTED


@pytest.mark.parametrize(("says", "end"), [(Progress.DONE, "Applied"), (Progress.RUNNING, "Parked")])
async def test_what_was_cut_off_too_often_is_a_persons_only_where_it_is_not_done(
    house: House, says: Progress, end: str
) -> None:
    await cut_off_too_often(house)
    house.layers["code"].says = [says]
    house.runner.start(INCIDENT)
    await house.until(lambda: house.kinds()[-1] in {"Parked", "Gated", "Round", "Closed"})
    assert end in house.kinds()
    assert house.calls.count("apply code v1") == ADOPTIONS


# -- what another host had begun ----------------------------------------------------------------
async def begun_elsewhere(house: House, *says: Progress) -> None:
    """Host a began the step of the code; then this runner, of host b, takes over."""
    code = house.layers["code"]
    code.hold_up = asyncio.Event()
    house.journal.host = "a"
    house.runner.start(INCIDENT)
    await house.until(lambda: "apply code v1" in house.calls)
    await crash(house)
    house.journal.host = "b"
    code.hold_up, code.says = None, list(says)
    house.runner.start(INCIDENT)


def notices(house: House) -> list[facts.Notice]:
    return [record.fact for record in house.journal.records if isinstance(record.fact, facts.Notice)]


async def waits(house: House) -> facts.Notice:
    """Until it is said that it waits."""
    await house.until(lambda: bool(notices(house)))
    return notices(house)[0]


async def test_what_another_host_began_is_waited_for_and_not_begun_again(house: House) -> None:
    await begun_elsewhere(house, *[Progress.NOT_STARTED, Progress.RUNNING] * 5, Progress.DONE)
    house.layers["code"].present = V1
    assert (await house.run()).outcome is Outcome.RECOVERED
    assert house.calls == WHOLE
    notice = await waits(house)
    assert (notice.kind, notice.service) == ("taken_over", "shop")
    assert "apply code was begun on a, and may still run there. It goes on once that is done" in notice.text


async def test_what_another_host_began_and_never_ends_is_a_persons_after_its_limit(house: House) -> None:
    await begun_elsewhere(house, *[Progress.RUNNING] * 100)
    await waits(house)
    for kind in ("Adopted", "Parked"):
        assert house.kinds()[-1] == "Adopted"
        house.clock.advance(timedelta(minutes=20))
        await house.until(lambda kind=kind: house.kinds()[-1] == kind)  # type: ignore[misc]
    assert (await house.incident()).parked == "apply code was begun on a, and may still run there"
    assert house.calls.count("apply code v1") == 1


async def test_an_abort_ends_the_waiting_for_another_host(house: House) -> None:
    await begun_elsewhere(house, *[Progress.RUNNING] * 100)
    await waits(house)
    await house.read_model.append(Entry(incident_stream(INCIDENT), facts.AbortRequested(), "unix:ann"))
    await house.until(lambda: not house.runner.driving)
    assert (await house.incident()).outcome is Outcome.ABORTED
    assert house.calls.count("apply code v1") == 1


async def test_a_stop_ends_the_waiting_for_another_host_and_the_next_life_waits_on(house: House) -> None:
    await begun_elsewhere(house, *[Progress.RUNNING] * 100)
    await waits(house)
    stopping = asyncio.create_task(house.runner.stop())
    await house.until(stopping.done)
    assert house.kinds()[-2:] == ["ApplyStarted", "Adopted"]


async def test_a_layer_that_refuses_who_lost_is_gone_on_with_at_once(house: House) -> None:
    house.layers["code"].fences = True
    await begun_elsewhere(house, Progress.NOT_STARTED)
    assert (await house.run()).outcome is Outcome.RECOVERED
    assert house.calls.count("apply code v1") == 2, "the first one never gets there"
    assert notices(house) == []


# -- persons ------------------------------------------------------------------------------------
async def test_a_hold_that_comes_with_the_intent_stops_the_effect(house: House) -> None:
    """It is journaled that the step begins, and a hold comes before it does: it does not."""

    def hold(written: Sequence[Any]) -> None:
        if isinstance(written[0], facts.ApplyStarted):
            house.held = "HOLD by unix:ann"

    house.journal.after = hold
    house.runner.start(INCIDENT)
    await house.until(lambda: house.kinds()[-1] == "Paused")
    assert house.calls == ["enter page"]
    house.clock.advance(timedelta(hours=1))
    await house.settle()
    assert house.calls == ["enter page"]
    house.held, house.journal.after = "", None
    assert (await house.run()).outcome is Outcome.RECOVERED
    assert house.calls == WHOLE


@pytest.mark.parametrize("after", range(3))
async def test_a_hold_stops_it_after_each_effect_and_an_abort_there_leaves_the_page(house: House, after: int) -> None:
    name = WHOLE[after].split()[1]

    def hold() -> None:
        house.held = "HOLD by unix:ann"

    house.layers[name].entered = hold
    house.runner.start(INCIDENT)
    await house.until(lambda: house.kinds()[-1] == "Paused")
    assert house.calls == WHOLE[: after + 1]
    await house.read_model.append(Entry(incident_stream(INCIDENT), facts.AbortRequested("no"), "unix:ann"))
    house.layers[name].entered = lambda: None
    house.held = ""
    incident = await house.run()
    assert (incident.outcome, incident.entered) == (Outcome.ABORTED, ())
    assert house.calls == [*WHOLE[: after + 1], "leave page"]


async def test_an_abort_that_comes_first_wins_over_the_intent(house: House) -> None:
    """The journal refuses an intent that follows a place where somebody else's word stands by now."""

    async def abort(written: Sequence[Any]) -> None:
        if isinstance(written[0], facts.ApplyStarted):
            house.journal.before = None
            await house.journal.append(Entry(incident_stream(INCIDENT), facts.AbortRequested(), "unix:ann"))

    house.journal.before = abort
    incident = await house.run()
    assert incident.outcome is Outcome.ABORTED
    assert house.calls == ["enter page", "leave page"]


async def test_a_hold_of_another_host_that_comes_first_wins_over_the_intent(house: House) -> None:
    async def hold(written: Sequence[Any]) -> None:
        if isinstance(written[0], facts.ApplyStarted):
            house.journal.before = None
            holds = (SignalHold("*", "unix:ann@ops-2", "HOLD"),)
            await house.journal.append(Entry(FLEET, facts.SignalHolds("ops-2", holds)))
            house.held = "held on ops-2: HOLD"

    house.journal.before = hold
    house.runner.start(INCIDENT)
    await house.until(lambda: house.kinds()[-1] == "Paused")
    assert "ApplyStarted" not in house.kinds(), "it was not even begun"
    house.held = ""
    assert (await house.run()).outcome is Outcome.RECOVERED
    assert house.calls == WHOLE


async def units(house: House, before: Callable[[Sequence[Any]], Awaitable[None]] | None = None) -> list[list[str]]:
    """What was written together, up to the first effect or the end."""
    found: list[list[str]] = []
    house.journal.before = before
    house.journal.after = lambda written: found.append([type(fact).__name__ for fact in written])
    house.runner.start(INCIDENT)
    await house.until(lambda: bool(house.calls) or not house.runner.driving)
    return found


async def test_the_plan_and_the_first_start_share_a_commit(house: House) -> None:
    assert (await units(house))[0] == ["Adopted", "Planned", "Entering"]


async def test_an_abort_that_comes_before_the_plan_is_written_lets_nothing_start(house: House) -> None:
    async def abort(written: Sequence[Any]) -> None:
        house.journal.before = None
        await house.journal.append(Entry(incident_stream(INCIDENT), facts.AbortRequested(), "unix:ann"))

    found = await units(house, abort)
    assert found[:2] == [["AbortRequested"], ["Adopted", "Planned"]]
    assert (await house.incident()).outcome is Outcome.ABORTED
    assert (house.calls, house.kinds()[-1]) == ([], "Closed")


async def test_evidence_that_comes_before_the_plan_is_written_costs_no_commit(house: House) -> None:
    async def examined(written: Sequence[Any]) -> None:
        house.journal.before = None
        await house.journal.append(Entry(incident_stream(INCIDENT), facts.Examined(())))

    found = await units(house, examined)
    assert found[:2] == [["Examined"], ["Adopted", "Planned", "Entering"]]


async def test_a_hold_that_comes_while_the_layers_are_looked_at_lets_nothing_start(house: House) -> None:
    confirm = house._confirm

    async def hold(_incident: Incident) -> Objection | None:
        house.held = "HOLD by unix:ann"
        return await confirm(_incident)

    house._confirm = hold  # type: ignore[method-assign]
    house.runner = house.new_runner()
    house.runner.start(INCIDENT)
    await house.until(lambda: house.kinds()[-1] == "Paused")
    assert (house.kinds(), house.calls) == (["Opened", "Adopted", "Planned", "Paused"], [])


async def test_on_a_full_disk_the_plan_is_written_in_the_reserve_and_nothing_starts(house: House) -> None:
    append, urgently = house.journal.append, list[list[str]]()

    async def full(*entries: Entry, urgent: bool = False, **more: Any) -> Any:
        if not urgent:
            raise JournalUnavailable("no space left on device", full=True)
        urgently.append([type(entry.fact).__name__ for entry in entries])
        return await append(*entries, urgent=urgent, **more)

    house.journal.append = full  # type: ignore[method-assign]
    house.runner.start(INCIDENT)
    await house.until(lambda: bool(urgently))
    house.clock.advance(timedelta(seconds=10))
    await house.settle()
    assert (urgently, house.calls) == ([["Adopted", "Planned"]], [])
    house.journal.append = append  # type: ignore[method-assign]
    await house.until(lambda: not house.runner.driving)
    assert ((await house.incident()).outcome, house.calls) == (Outcome.RECOVERED, WHOLE)


# -- stopping, and more than one ----------------------------------------------------------------
async def test_stop_lets_the_effect_in_hand_end_and_begins_no_other(house: House) -> None:
    config = house.layers["config"]
    config.hold_up = asyncio.Event()
    house.runner.start(INCIDENT)
    await house.until(lambda: "apply config v1" in house.calls)
    stopping = asyncio.create_task(house.runner.stop())
    await house.settle()
    assert not stopping.done()
    config.hold_up.set()
    await house.until(stopping.done)
    assert house.kinds()[-1] == "Applied"
    assert house.calls == WHOLE[:2]
    house.runner.start(INCIDENT)
    assert house.runner.driving == ()
    house.runner = house.new_runner()
    assert (await house.run()).outcome is Outcome.RECOVERED
    assert house.calls == WHOLE


async def test_no_more_than_so_many_at_once_and_one_that_is_held_takes_no_place(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.runner = house.new_runner(concurrent=1)
    for name in ("shop-1", "shop-2"):
        await house.open(name)
    house.layers["config"].hold_up = asyncio.Event()
    for name in ("shop-1", "shop-2"):
        house.runner.start(name)
    await house.until(lambda: "apply config v1" in house.calls)
    assert house.kinds("shop-2") == ["Opened"]
    house.held = "HOLD by unix:ann"
    house.layers["config"].hold_up.set()
    await house.until(lambda: house.kinds("shop-1")[-1] == house.kinds("shop-2")[-1] == "Paused")
    house.held = ""
    await house.until(lambda: not house.runner.driving)
    assert (await house.incident("shop-1")).outcome is Outcome.RECOVERED


async def test_one_that_is_verified_takes_no_place(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.runner = house.new_runner(concurrent=1)
    house.check_runner.verdicts["health"] = Verdict.INCONCLUSIVE
    for name in ("shop-1", "shop-2"):
        await house.open(name)
        house.runner.start(name)
    await house.until(lambda: house.kinds("shop-2")[-1] == "Closed")
    assert house.kinds("shop-1")[-1] in {"Applied", "Gated"}


# -- the journal in trouble ---------------------------------------------------------------------
async def test_what_was_done_is_written_when_the_disk_has_room_again_and_not_done_twice(house: House) -> None:
    def full() -> None:
        house.journal.broken = True

    house.layers["config"].entered = full
    house.runner.start(INCIDENT)
    await house.until(lambda: "apply config v1" in house.calls)
    house.clock.advance(timedelta(minutes=5))
    await house.settle()
    assert house.kinds()[-1] == "ApplyStarted"
    assert house.read_model.trouble
    house.layers["config"].entered = lambda: None
    house.journal.broken = False
    assert (await house.run()).outcome is Outcome.RECOVERED
    assert house.calls == WHOLE


async def test_nothing_begins_while_its_intent_cannot_be_written(house: House) -> None:
    house.journal.broken = True
    house.runner.start(INCIDENT)
    await house.settle()
    house.clock.advance(timedelta(minutes=5))
    await house.settle()
    assert house.calls == []
    house.journal.broken = False
    house.runner.poke(INCIDENT)
    await house.until(lambda: not house.runner.driving)
    house.runner.start(INCIDENT)
    assert (await house.run()).outcome is Outcome.RECOVERED


async def test_the_book_says_why_it_cannot_be_written_until_it_is(house: House) -> None:
    house.journal.broken = True
    with pytest.raises(JournalUnavailable):
        await house.read_model.append(Entry("x", facts.Applied("code")))
    assert house.read_model.trouble == "no space left on device"
    house.journal.broken = False
    await house.read_model.append(Entry("x", facts.Applied("code")), urgent=True)
    assert house.read_model.trouble, "what is urgent also goes into the room of the reserve"
    await house.read_model.append(Entry("x", facts.Applied("code")))
    assert house.read_model.trouble == ""


def test_two_processes_never_have_the_same_name() -> None:
    boot, _, number = process_name().rpartition("/")
    assert boot
    assert number.isdigit()
