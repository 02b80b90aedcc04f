"""The asking drill at a start: what it found is shown, and written down only where it is news."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from rollbackd import facts
from rollbackd.config.models import Config, Service
from rollbackd.drills import DrillRunner
from rollbackd.drills.readiness_watch import ReadinessWatch
from rollbackd.facts import Drilled
from rollbackd.journal import Journal, JournalUnavailable
from rollbackd.journal.memory import MemoryJournal
from rollbackd.state.read_model import ReadModel
from rollbackd.system.tasks import end
from tests.fakes.clock import ManualClock
from tests.unit.test_operations import House, opened

BROKEN = "no repository; clone it again"


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    one = await opened(tmp_path, ())
    yield one
    await one.stage.down()


def breaks(house: House) -> None:
    house.stage.world.layers["shop"]["code"].problems = (BROKEN,)


def mended(house: House) -> None:
    house.stage.world.layers["shop"]["code"].problems = ()


def told(house: House) -> list[tuple[str, bool]]:
    return [(one.service, one.over) for one in house.written(facts.Notice) if one.kind == "readiness"]


async def test_what_is_found_is_shown_and_nothing_is_written(house: House) -> None:
    watch = house.stage.daemon.readiness_watch
    breaks(house)
    assert (await house.service()).drilled is None
    await house.get(watch.ask())
    shown = await house.service()
    assert shown.unready == (f"code: {BROKEN}",)
    assert shown.drilled is not None
    readiness = await house.operations.readiness()
    assert f"a rollback of shop would not work: code: {BROKEN}" in readiness.problems
    assert readiness.ready, "rollbackd itself is"
    assert house.written(Drilled) == []
    assert told(house) == []

    mended(house)
    await house.get(watch.ask())
    assert (await house.service()).unready == ()
    assert not any("would not work" in text for text in (await house.operations.readiness()).problems)


async def test_when_one_cannot_be_asked_no_worker_is_left_behind() -> None:
    names = ("first", "second", "third")
    ended = list[str]()

    async def glance(service: Service, _actor: str) -> None:
        if service.name == "first":
            raise JournalUnavailable("no space left on device")
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(service.name)

    services = tuple(SimpleNamespace(name=name) for name in names)
    drills = SimpleNamespace(is_ready=lambda _service: False, glance=glance)
    watch = ReadinessWatch(
        cast("Config", SimpleNamespace(services=services)),
        ReadModel(cast("Journal", MemoryJournal(ManualClock()))),
        cast("DrillRunner", drills),
        ManualClock(),
    )
    with pytest.raises(JournalUnavailable):
        await watch.ask()
    assert ended == ["second"]


async def test_what_is_ready_is_not_asked_again(house: House) -> None:
    watch = house.stage.daemon.readiness_watch
    await house.get(watch.ask())
    first = (await house.service()).drilled
    await house.pass_(timedelta(minutes=1))
    await house.get(watch.ask())
    assert (await house.service()).drilled == first


async def test_what_is_written_of_a_service_that_is_not_ready_is_asked_about_at_once(house: House) -> None:
    watching = asyncio.create_task(house.stage.daemon.readiness_watch.run())
    try:
        breaks(house)
        await house.pass_(timedelta(seconds=5))
        assert (await house.service()).unready == (f"code: {BROKEN}",)
        mended(house)
        await house.pass_(timedelta(seconds=30))
        assert (await house.service()).unready == (f"code: {BROKEN}",), "nobody said that anything changed"
        await house.get(house.operations.good("shop", {}, "unix:ann"))
        await house.pass_(timedelta(seconds=5))
        assert (await house.service()).unready == ()
    finally:
        await end([watching])


async def test_what_is_no_longer_as_the_last_drill_said_is_written_and_told(house: House) -> None:
    watch = house.stage.daemon.readiness_watch
    await house.get(house.operations.drill("shop", "", "unix:ann"))
    breaks(house)
    house.stage.daemon.drills.found.clear()  # as after a restart
    await house.get(watch.ask())
    assert [one.result for one in house.written(Drilled)] == ["ready", "not_ready"]
    assert told(house) == [("shop", False)]
    mended(house)
    await house.get(watch.ask())
    assert told(house) == [("shop", False), ("shop", True)]


async def test_a_rollback_goes_first_and_it_is_asked_later(house: House) -> None:
    watch = house.stage.daemon.readiness_watch
    await house.event("broken")
    await house.get(watch.ask())
    assert (await house.service()).drilled is None
    await house.pass_(timedelta(minutes=30))
    await house.get(watch.ask())
    assert (await house.service()).drilled is not None
