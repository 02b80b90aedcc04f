"""One layer's copies elsewhere hang: the snapshots of the others are taken, sent and fetched all the same."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from rollbackd import facts
from rollbackd.model import Release, State
from rollbackd.snapshots.offsite import digest_of
from tests.unit.test_snapshot_manager import DAY, MINUTE, NIGHTLY, OFFSITE, made

__all__ = ["made"]

SECOND = timedelta(seconds=1)
LAYERS = ("config", "assets", "templates", "fonts")


def went_on(*layers: str, now: datetime) -> tuple[Any, ...]:
    """From r0, which was good, to r1, which runs."""
    good, runs = (State({name: Release(release) for name in layers}) for release in ("r0", "r1"))
    began = (facts.Changed(good, now - 2 * DAY, now - 2 * DAY), facts.MarkedGood(good, "ran"))
    return (*began, facts.Changed(runs, now - DAY, now - DAY))


async def test_copies_that_hang_delay_no_snapshot_and_no_copy_of_another_layer(made: Any, tmp_path: Path) -> None:
    house = made(tmp_path, {**NIGHTLY, "snapshot": "shop", "offsite": OFFSITE}, layers=LAYERS)
    house.remote.hangs = lambda argv: argv[0] == "send" and "@fonts@" not in argv[1]
    await house.live()
    await house.to(1, 59)
    await house.pass_time(4 * MINUTE, 10 * SECOND)
    assert {one.layer for one in house.of(facts.Snapshotted)} == set(LAYERS)
    assert [one.layer for one in house.of(facts.SnapshotCopied)] == ["fonts"]
    assert "fonts" in {one.layer for one in house.of(facts.SnapshotEnded)}
    assert house.told == []
    await house.pass_time(100 * MINUTE, MINUTE)
    assert len(house.told) == 3, "each of those that hung is told once"


async def test_a_list_has_a_limit_of_its_own(made: Any, tmp_path: Path) -> None:
    slow = {**OFFSITE, "list_timeout": "20s"}
    house = made(tmp_path, {**NIGHTLY, "offsite": OFFSITE}, {**NIGHTLY, "cron": "0 5 * * *", "offsite": slow})
    await house.live()
    await house.to(3)
    assert house.remote.limits["list"] == MINUTE
    assert house.remote.limits["send"] == 30 * MINUTE
    await house.to(6)
    assert house.remote.limits["list"] == 20 * SECOND


async def test_a_copy_that_does_not_come_keeps_no_other_layer_from_being_looked_after(
    made: Any, tmp_path: Path
) -> None:
    plans = [
        {"snapshot": f"shop/{name}", "cron": "0 2 * * *", "offsite": {**OFFSITE, "list": ["list", name]}}
        for name in LAYERS[:2]
    ]
    house = made(tmp_path, *plans, layers=LAYERS[:2])
    house.remote.hangs = lambda argv: argv[1] == "config" or "@config@" in argv[1]
    await house.say(*went_on(*LAYERS[:2], now=house.clock.now()))
    name = f"shop@assets@20260228T020000Z@{digest_of('r0')}.snapshot"
    await house.sent(name, "kept r0", "assets")
    await house.live()
    assert [one.release for one in house.layers["assets"].kept] == ["r0"], "at once, beside the one that hangs"
    house.layers["assets"].kept = []
    await house.pass_time(5 * MINUTE, 10 * SECOND)
    assert [one.release for one in house.layers["assets"].kept] == ["r0"], "and at each look after that"
    assert sum(argv == ("list", "config") for argv in house.remote.ran) == 1, "what hung is looked for anew in an hour"


async def test_a_copy_that_an_adapter_chokes_on_is_looked_for_again(made: Any, tmp_path: Path) -> None:
    house = made(tmp_path, {**NIGHTLY, "offsite": OFFSITE})
    await house.say(*went_on("config", now=house.clock.now()))
    await house.sent(f"shop@config@20260228T020000Z@{digest_of('r0')}.snapshot", "kept r0")
    house.layer.errors["import"] = [RuntimeError("a bug of somebody else's")]
    await house.live()
    assert house.layer.kept == []
    assert not house.tasks[0].done(), "it goes on"
    await house.pass_time(70 * MINUTE, MINUTE)
    assert [one.release for one in house.layer.kept] == ["r0"]


async def test_a_copy_that_could_not_be_written_down_ends_nothing(made: Any, tmp_path: Path) -> None:
    house = made(tmp_path, {**NIGHTLY, "offsite": OFFSITE})
    await house.say(*went_on("config", now=house.clock.now()))
    await house.sent(f"shop@config@20260228T020000Z@{digest_of('r0')}.snapshot", "kept r0")
    house.journal.broken = True
    await house.live()
    assert not house.tasks[0].done(), "it goes on"
    house.journal.broken, house.layer.kept = False, []
    await house.pass_time(5 * MINUTE, MINUTE)
    assert [one.release for one in house.layer.kept] == ["r0"]
    assert len(house.of(facts.Snapshotted)) == 1
