"""Restores that are cut off or refused, and clocks that are set back: nothing is lost by them, nothing made up."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from rollbackd import facts
from rollbackd.journal import Entry
from rollbackd.model import FLEET, Outcome, service_stream
from rollbackd.snapshots import NotKept
from tests.fakes.layer_snapshots import refused
from tests.unit.test_snapshot_manager import ANN, DAY, HOUR, MINUTE, NIGHTLY, House, made

__all__ = ["made"]

BEGUN = facts.SnapshotBegun("config", "run-1", "restore", name="one")


async def cut_off(house: House) -> None:
    """An earlier life began to restore `one`, of release r0."""
    house.layer.add("one", "r0", DAY)
    await house.read_model.append(Entry(service_stream("shop"), BEGUN, ANN))


async def test_what_is_there_is_no_state_until_a_restore_that_was_cut_off_is_finished(
    made: Any, tmp_path: Path
) -> None:
    house = made(tmp_path)
    await cut_off(house)
    house.snapshot_manager.expect()
    looking = asyncio.create_task(house.snapshot_manager.being_restored("shop"))
    await house.settle()
    assert not looking.done(), "nothing is known before the journal was read"
    held = ["HOLD"]
    house.snapshot_manager.heed(lambda _service: held)
    await house.snapshot_manager.open()
    assert await looking == "config: snapshot one is being restored, was cut off, and waits while that is held"
    assert house.layer.present == "r1"
    held.clear()
    house.tasks = [asyncio.create_task(house.snapshot_manager.run())]
    await house.settle()
    assert house.layer.present == "r0"
    assert await house.snapshot_manager.being_restored("shop") == ""


async def test_a_restore_that_could_not_be_written_down_is_finished_later(made: Any, tmp_path: Path) -> None:
    house = made(tmp_path)
    await house.live()
    await cut_off(house)
    house.snapshot_manager.all_layers()[0].past.open["run-1"] = (await opened(house))["run-1"]
    assert await house.snapshot_manager.being_restored("shop") == "config: snapshot one is being restored"
    await house.pass_time(6 * MINUTE, MINUTE)
    assert await house.snapshot_manager.being_restored("shop") == ""
    assert len(house.of(facts.SnapshotRestored)) == 1


async def opened(house: House) -> dict[str, Any]:
    """What a keeper that reads the journal now knows of."""
    other = house.new_keeper()
    other.heed(lambda _service: ["HOLD"])
    await other.open()
    return other.all_layers()[0].past.open


async def test_a_rollback_since_then_is_not_undone(made: Any, tmp_path: Path) -> None:
    house = made(tmp_path)
    await cut_off(house)
    house.clock.advance(MINUTE)
    await house.read_model.append(
        Entry(FLEET, facts.Opening("shop", "shop-1", manual=True)),
        Entry(FLEET, facts.Ended("shop", "shop-1", Outcome.RECOVERED, True)),
    )
    await house.live()
    assert house.layer.present == "r1"
    ((told, _),) = house.told
    assert "was cut off, and is left as shop-1 left it; restore it again if that is still wanted" in told
    assert await house.snapshot_manager.being_restored("shop") == ""


async def test_a_snapshot_that_cannot_be_put_in_place_is_passed_over_and_one_by_name_is_not(
    made: Any, tmp_path: Path
) -> None:
    house = made(tmp_path)
    await house.live()
    house.layer.add("two", "r2", HOUR)
    house.layer.add("one", "r0", DAY)
    for _ in range(2):
        house.layer.errors.setdefault("restore", []).append(refused("a file is not accepted"))
    with pytest.raises(NotKept, match="not restored to two: a file is not accepted"):
        await house.snapshot_manager.restore("shop", "config", "two", (), ANN)
    done = await house.snapshot_manager.restore("shop", "config", "", (), ANN)
    assert (done.snapshot, done.passed_over) == ("one", ("snapshot two: a file is not accepted",))
    assert house.layer.present == "r0"


async def test_what_may_pass_is_no_reason_to_go_farther_back(made: Any, tmp_path: Path) -> None:
    house = made(tmp_path)
    await house.live()
    house.layer.add("two", "r2", HOUR)
    house.layer.add("one", "r0", DAY)
    house.layer.errors["restore"] = [refused("no room", permanent=False)]
    with pytest.raises(NotKept, match="not restored to two: no room"):
        await house.snapshot_manager.restore("shop", "config", "", (), ANN)
    assert house.layer.present == "r1"


async def test_whoever_sent_a_file_that_is_no_snapshot_is_told_of_it_by_no_name_of_ours(
    made: Any, tmp_path: Path
) -> None:
    house = made(tmp_path)
    await house.live()
    house.layer.errors["import"] = [refused(f"{tmp_path}/x: not a snapshot that can be taken in")]
    with pytest.raises(NotKept, match=r"^shop/config: the file: not a snapshot that can be taken in$"):
        await house.snapshot_manager.take_in("shop", "config", tmp_path / "x", ANN)


async def test_a_clock_that_was_set_back_costs_no_snapshot(made: Any, tmp_path: Path) -> None:
    house = made(tmp_path, NIGHTLY)
    house.clock.advance(4 * DAY)  # what is monotonic stays above zero when it is set back
    await house.live()
    await house.to(2)
    await house.to(2)
    assert house.layer.calls.count("take schedule") == 2
    await house.end()
    house.clock.advance(-3 * DAY)
    await house.live()
    await house.to(2)
    assert house.layer.calls.count("take schedule") == 3
    view = await house.snapshot_manager.view("shop", "config")
    assert view.next is not None
    assert view.next - house.clock.now() < DAY + HOUR
