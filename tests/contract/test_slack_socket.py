"""Socket Mode on slack-sdk's own client: clicks come, Slack is told that they did, and a silent socket is told."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any, cast

import aiohttp
import pytest

from rollbackd import facts
from rollbackd.adapter import AnswerButton
from rollbackd.api import slack_sockets
from rollbackd.api.slack_sockets import SlackSockets
from rollbackd.config.models import Config, Person
from rollbackd.journal import Entry, JournalUnavailable
from rollbackd.model import FLEET
from rollbackd.notify.receivers.slack import Slack, SlackSettings
from rollbackd.notify.receivers.slack_clicks import block
from rollbackd.operations import Operations
from rollbackd.operations.slack_orders import SlackOrders
from rollbackd.state.read_model import ReadModel
from rollbackd.syntax.units import Secret
from rollbackd.system.clock import SystemClock
from rollbackd.system.tasks import end
from tests.fakes.slack_socket import APP_TOKEN, SlackSocketFake
from tests.unit.house import HookedJournal

ANN = "U0000ANN1"
BUTTON = AnswerButton("acknowledge", "checkout-3", "rollbackd ack checkout-3", "Its reminders stop.")
POST = {"ts": "1700000000.000001", "blocks": [block(BUTTON)]}


@dataclass
class Desk:
    """The one operation that is asked here."""

    acknowledged: list[tuple[str, str]] = field(default_factory=list)

    async def acknowledge(self, name: str, actor: str) -> None:
        self.acknowledged.append((name, actor))


@dataclass
class Office:
    """A daemon's parts for clicks, with a journal in memory."""

    fake: SlackSocketFake
    journal: HookedJournal
    desk: Desk
    orders: SlackOrders

    @property
    def notices(self) -> list[tuple[str, bool]]:
        found = (record.fact for record in self.journal.records)
        return [(one.text, one.over) for one in found if isinstance(one, facts.Notice)]


@asynccontextmanager
async def listening(fake: SlackSocketFake, *earlier: facts.Notice) -> AsyncIterator[Office]:
    """Sockets are kept until the end of the block."""
    async with fake.serving(), aiohttp.ClientSession() as session:
        secrets = {"TOKEN": fake.api.TOKEN, "APP": APP_TOKEN}
        settings = SlackSettings(
            token=Secret(env="TOKEN"), channel=fake.api.CHANNEL, api=f"{fake.base}/api", app_token=Secret(env="APP")
        )
        room = Slack(settings, lambda secret: secrets[secret.env], lambda: session)
        config = Config(people={"ann": Person(slack=ANN, role="operator")})
        clock, journal, desk = SystemClock(), HookedJournal(SystemClock()), Desk()
        read_model = ReadModel(cast("Any", journal))
        await read_model.open()
        for notice in earlier:
            await journal.append(Entry(FLEET, notice))
        orders = SlackOrders(config, read_model, clock, cast("Operations", desk), {"room": room})
        sockets = SlackSockets(orders, read_model, clock)
        tasks = [asyncio.create_task(orders.run()), asyncio.create_task(sockets.run())]
        try:
            yield Office(fake, journal, desk, orders)
        finally:
            await end(tasks)
    assert fake.api.wrong == []


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence is told after two seconds."""
    for name, value in {"SILENT": timedelta(seconds=2), "_LOOK": timedelta(seconds=0.1),
                        "_AGAIN": timedelta(seconds=0.2), "_PING": 0.25}.items():  # fmt: skip
        monkeypatch.setattr(slack_sockets, name, value)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.02)


async def test_a_click_is_taken_once_and_slack_is_told_that_it_came() -> None:
    fake = SlackSocketFake()
    async with listening(fake) as office:
        await until(lambda: fake.sockets)
        click = fake.api.click(POST, "Acknowledge", ANN)
        for envelope in ("e1", "e2"):
            await fake.deliver(envelope, click)
            await until(partial(fake.has_acknowledged, envelope))
        await fake.deliver("e3", {"event": "app_mention"}, "events_api")
        await until(lambda: "e3" in fake.acknowledged)
        await fake.deliver("e4", fake.api.click(POST, "Acknowledge", "U0STRANGER"))
        await until(lambda: "e4" in fake.acknowledged)
        await fake.deliver("e5", {**click, "channel": {"id": "C0000OTHER"}})
        await until(lambda: "e5" in fake.acknowledged)
        await until(lambda: office.desk.acknowledged)
        await until(lambda: len(fake.api.whispers) == 2)
    assert office.desk.acknowledged == [("checkout-3", "slack:ann")]
    assert dict(office.orders.counts) == {"taken": 1, "repeated": 1, "unknown": 1, "elsewhere": 1}
    assert office.notices == []


async def test_a_click_that_cannot_be_written_is_not_acknowledged_and_comes_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = SlackSocketFake()
    async with listening(fake) as office:
        await until(lambda: fake.sockets)
        click = fake.api.click(POST, "Acknowledge", ANN)
        receive, tried = office.journal.receive, asyncio.Event()

        async def full(_items: Any) -> Any:
            tried.set()
            raise JournalUnavailable("the disk is full")

        monkeypatch.setattr(office.journal, "receive", full)
        await fake.deliver("e1", click)
        await tried.wait()
        monkeypatch.setattr(office.journal, "receive", receive)
        await fake.deliver("e2", click)
        await until(lambda: office.desk.acknowledged)
    assert fake.acknowledged == ["e2"]


async def test_a_socket_that_falls_silent_is_told_and_opened_anew() -> None:
    fake = SlackSocketFake()
    async with listening(fake) as office:
        await until(lambda: fake.sockets)
        fake.mute = True
        await until(lambda: len(office.notices) == 1)
        text, over = office.notices[0]
        assert text.startswith("the socket of room to Slack is silent (")
        assert text.endswith("buttons do nothing, the commands beside them do")
        assert not over
        assert "/link/" not in text
        fake.mute = False
        await until(lambda: len(office.notices) == 2)
        assert office.notices[1] == ("the socket of room to Slack is open again, and buttons are heard", True)
        await fake.deliver("e1", fake.api.click(POST, "Acknowledge", ANN))
        await until(lambda: office.desk.acknowledged)


async def test_slacks_own_reason_is_told_once_and_what_an_earlier_process_told_is_taken_back() -> None:
    fake = SlackSocketFake()
    fake.error = "invalid_auth"
    async with listening(fake) as office:
        await until(lambda: office.notices)
        fake.error = ""
        await until(lambda: len(office.notices) == 2)
    assert "(Slack says invalid_auth)" in office.notices[0][0]
    assert all(APP_TOKEN not in text for text, _ in office.notices)
    told = facts.Notice(slack_sockets.KIND, "silent", details={"subject": "room"})
    async with listening(SlackSocketFake(), told) as office:
        await until(lambda: len(office.notices) == 2)
    assert [over for _, over in office.notices] == [False, True]


async def test_the_environments_proxy_is_nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    fake = SlackSocketFake()
    async with listening(fake):
        await until(lambda: fake.sockets)
