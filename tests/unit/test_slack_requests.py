"""`POST /api/v1/slack` before anything is known of who sends it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from rollbackd.api.problems import as_problems
from rollbackd.api.slack import LONGEST, MOST, PATH, SlackRequests
from rollbackd.operations.slack_orders import ClickRefusedError, SlackOrders

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


class Orders:
    """Takes requests when the test lets it."""

    def __init__(self) -> None:
        self.refusals: list[str] = []
        self.posted_: list[tuple[str, str, bytes]] = []
        self.open = asyncio.Event()
        self.trouble: ClickRefusedError | None = None

    def refused(self, why: Any, text: str, user: str = "") -> ClickRefusedError:
        self.refusals.append(why)
        return ClickRefusedError(why, text)

    async def posted(self, timestamp: str, signature: str, body: bytes) -> None:
        self.posted_.append((timestamp, signature, body))
        await self.open.wait()
        if self.trouble is not None:
            raise self.trouble


Post = Callable[..., Awaitable[Any]]


@asynccontextmanager
async def listening(orders: Orders | None) -> AsyncIterator[Post]:
    """Posts a body, and gives the status and what was said."""
    app = web.Application(middlewares=[as_problems])
    app.router.add_post(PATH, SlackRequests(cast("SlackOrders | None", orders)).clicked)
    async with TestClient(TestServer(app)) as client:

        async def post(body: bytes = b"payload={}", **headers: str) -> tuple[int, str]:
            async with client.post(PATH, data=body, headers=FORM | headers) as answer:
                return answer.status, await answer.text()

        yield post


async def test_without_a_signing_secret_there_is_nothing_to_post_to() -> None:
    async with listening(None) as post:
        assert (await post())[0] == 404


async def test_few_are_in_hand_at_once_and_more_are_refused_and_recorded() -> None:
    orders = Orders()
    async with listening(orders) as post:
        held = [asyncio.ensure_future(post()) for _ in range(MOST)]
        async with asyncio.timeout(30):
            while len(orders.posted_) < MOST:
                await asyncio.sleep(0.01)
        assert (await post())[0] == 503
        orders.open.set()
        assert {(await one)[0] for one in held} == {200}
        assert (await post())[0] == 200
    assert orders.refusals == ["busy"]


@pytest.mark.parametrize(
    ("why", "status"),
    [("forged", 401), ("late", 401), ("unreadable", 400), ("elsewhere", 400),
     ("unknown", 200), ("viewer", 200), ("repeated", 200)],
)  # fmt: skip
async def test_who_may_not_click_hears_it_in_slack_and_a_stranger_by_the_status(why: Any, status: int) -> None:
    orders = Orders()
    orders.open.set()
    orders.trouble = ClickRefusedError(why, "so it is")
    async with listening(orders) as post:
        assert (await post())[0] == status


async def test_the_bytes_are_bounded_before_they_are_looked_at_and_handed_over_as_they_came() -> None:
    orders = Orders()
    orders.open.set()
    async with listening(orders) as post:
        assert (await post(b"x" * (LONGEST + 1)))[0] == 413
        assert (await post(b"x", **{"Content-Encoding": "gzip"}))[0] == 415
        assert (await post(b"x", **{"Content-Type": "application/json"}))[0] == 415
        assert (orders.posted_, orders.refusals) == ([], ["unreadable"] * 3)
        stamped = {"X-Slack-Request-Timestamp": "1700000000", "X-Slack-Signature": "v0=ab"}
        assert await post(b"payload=%7B%7D&x=\xff", **stamped) == (200, "")
    assert orders.posted_ == [("1700000000", "v0=ab", b"payload=%7B%7D&x=\xff")]
