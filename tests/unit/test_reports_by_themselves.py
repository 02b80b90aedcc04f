"""Reports that come by themselves: each rollback has its files, in whichever life it ended, and each month is told once."""

import asyncio
import json
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from rollbackd.config.load import ConfigErrors, load
from rollbackd.facts import Notice
from rollbackd.notification_events import EVENTS
from rollbackd.notify.messages.context import MessageContext
from rollbackd.notify.messages.services import notice
from rollbackd.notify.messages.troubles import MONTHLY, Troubles
from tests.unit.judgement.clock import idle
from tests.unit.test_operations import MINUTE, House, opened

DAY = timedelta(days=1)
MAIL = {"name": "mail", "webhook": {"url": "http://127.0.0.1:1/hook"}}
MONTH = {"report": "month", "cron": "0 7 1 * *", "to": "mail"}


@asynccontextmanager
async def house_with(place: Path, **given: Any) -> AsyncIterator[House]:
    place.mkdir(exist_ok=True)
    one = await opened(place, (), **given)
    yield one
    await one.stage.down()


def writing(house: House, directory: Path) -> asyncio.Task[None]:
    return asyncio.create_task(house.stage.daemon.reports.run(directory))


async def ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def until_there(house: House, *files: Path) -> None:
    """Files are written by threads, which virtual time knows nothing of."""
    async with asyncio.timeout(20):
        while not all(file.exists() for file in files):
            await house.pass_(timedelta(seconds=1))
            await asyncio.sleep(0.01)


async def test_a_rollback_that_ended_has_its_files_and_what_comes_later_is_in_them(tmp_path: Path) -> None:
    kept = tmp_path / "reports"
    kept.mkdir()
    async with house_with(tmp_path / "host") as house:
        task = writing(house, kept)
        await house.event("broken")
        await house.pass_(MINUTE / 2)
        assert list(kept.iterdir()) == [], "it goes on"
        await house.pass_(20 * MINUTE)
        text, page = kept / "shop-1.md", kept / "shop-1.html"
        await until_there(house, text, page)
        assert "# shop-1: recovered" in text.read_text()
        assert page.read_text().startswith("<!doctype html>")
        assert {stat.S_IMODE(one.stat().st_mode) for one in kept.iterdir()} == {0o640}
        assert sorted(one.name for one in kept.iterdir()) == ["shop-1.html", "shop-1.md"]
        before = text.read_text()
        await house.get(house.operations.acknowledge("shop-1", "unix:ann"))
        async with asyncio.timeout(20):
            while text.read_text() == before:
                await house.pass_(timedelta(seconds=1))
                await asyncio.sleep(0.01)
        assert "unix:ann" in text.read_text()
        await ended(task)


async def test_one_that_ended_while_nobody_wrote_is_written_at_the_next_start_and_older_ones_are_not(
    tmp_path: Path,
) -> None:
    kept = tmp_path / "reports"
    kept.mkdir()
    async with house_with(tmp_path / "host") as house:
        await house.event("broken")
        await house.pass_(20 * MINUTE)
        await ended_soon(house, kept)
        await house.deploy("v3")
        await house.event("worse")
        await house.pass_(20 * MINUTE)
        assert list(kept.iterdir()) == []
        await house.stage.down()
        await house.stage.up()
        task = writing(house, kept)
        await until_there(house, kept / "shop-2.md", kept / "shop-2.html")
        await ended(task)
        assert {one.stem for one in kept.iterdir()} == {"shop-2"}


async def ended_soon(house: House, kept: Path) -> None:
    """The first start, which passes over what was before it."""
    task = writing(house, kept)
    await idle()
    await ended(task)


async def test_a_directory_that_cannot_be_written_is_told_once_and_no_report_is_left_out(tmp_path: Path) -> None:
    kept = tmp_path / "unmounted" / "reports"
    async with house_with(tmp_path / "host") as house:
        task = writing(house, kept)
        await house.event("broken")
        for _ in range(100):
            await house.pass_(MINUTE)
            await asyncio.sleep(0.005)
        (told,) = [one for one in house.written(Notice) if one.kind == "report_unwritten"]
        assert told.text == (
            f"reports of rollbacks cannot be written: {kept}: No such file or directory; it is tried again every 5m, "
            "and none is left out"
        )
        kept.parent.mkdir()
        await until_there(house, kept / "shop-1.md", kept / "shop-1.html")
        assert stat.S_IMODE(kept.stat().st_mode) == 0o750
        await ended(task)


async def test_the_month_before_is_told_once_to_whom_it_is_for(tmp_path: Path) -> None:
    given = {"notify": {"receivers": [MAIL, {**MAIL, "name": "other"}]}, "schedules": [MONTH]}
    async with house_with(tmp_path / "host", **given) as house:
        await house.event("broken")
        await house.pass_(20 * MINUTE)

        async def told_after(length: timedelta) -> list[Notice]:
            reports = house.stage.daemon.reports
            await reports.open()
            task = asyncio.create_task(house.stage.daemon.timetable.run())
            house.stage.clock.set(length)
            for _ in range(20):
                await house.pass_(MINUTE)
            await ended(task)
            return [one for one in house.written(Notice) if one.kind == MONTHLY]

        (empty,) = await told_after(10 * DAY)
        assert empty.text.startswith("0 rollbacks in 2026-02")
        (_, first) = await told_after(25 * DAY)
        assert f"{house.now:%Y-%m}" == "2026-04"
        assert first.text == "1 rollback in 2026-03, 1 recovered; `rollbackd report month 2026-03` has all of it"
        assert first.details["Count"].splitlines()[:2] == ["Rollbacks that acted: 1", "Recovered: 1 (100.0%)"]
        assert first.details["Causes"] == "What: broken, How often: 1"
        await house.stage.down()
        await house.stage.up()
        assert await told_after(timedelta()) == [empty, first], "a start tells nothing twice"
        (_, _, missed) = await told_after(70 * DAY)
        assert missed.text.startswith("0 rollbacks in 2026-05"), "of what was missed the last is told"

        record = next(one for one in house.stage.journal.records if one.fact == first)
        context = MessageContext(record, None, None, Troubles(), Troubles(), tmp_path)
        (only,) = notice(context, first)
        assert (only.only, only.opens, only.message.severity) == ("mail", False, "info")
        assert {only.message.event, "report_unwritten"} <= EVENTS.keys()
        assert only.message.title == "the report of last month"
        assert {"What", "Count", "Causes"} <= {heading for heading, _ in only.message.lines}
        assert not {"receivers", "entry"} & {heading for heading, _ in only.message.lines}
        assert house.stage.daemon.read_model.seq >= record.seq


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({**MONTH, "to": "nobody"}, '"nobody"'),
        ({**MONTH, "to": []}, "this is empty"),
        ({"report": "month", "to": "mail"}, 'missing key "cron"'),
        ({**MONTH, "every": "30d"}, 'unknown key "every"'),
        ({**MONTH, "report": "week"}, "month"),
        ({**MONTH, "cron": "never"}, "no cron line"),
    ],
)
def test_an_entry_that_cannot_be_is_an_error_with_its_place(tmp_path: Path, entry: dict[str, Any], said: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps({"daemon": {"mode": "act"}, "notify": {"receivers": [MAIL]}, "schedules": [entry]}))
    with pytest.raises(ConfigErrors) as raised:
        load(file)
    assert f"{file}:1:" in str(raised.value)
    assert said in str(raised.value)
