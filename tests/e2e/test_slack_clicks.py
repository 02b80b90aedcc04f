"""Buttons in Slack with the real daemon: who clicks is somebody of `people`, and what is not Slack's does nothing."""

import asyncio
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.toy import Toy, served, toy
from tests.fakes.receiving import serving
from tests.fakes.slack import SIGNING_SECRET, SlackApiFake, posted
from tests.fakes.slack_socket import APP_TOKEN, SlackSocketFake
from tests.servers import wait_until

ANN, BOB, EVE, NOBODY = "U0000ANN1", "U0000BOB1", "U0000EVE1", "U0STRANGER"
PEOPLE = {
    "ann": {"tokens": "desk", "slack": ANN, "role": "operator"},
    "bob": {"unix": "bob", "slack": BOB, "role": "operator"},
    "eve": {"unix": "eve", "slack": EVE},
}


class Room:
    """A channel of Slack beside a daemon, and people who click in it."""

    def __init__(self, shop: Toy, fake: SlackApiFake) -> None:
        self.shop = shop
        self.fake = fake
        self.clicks = 0

    def post(self, body: bytes, headers: Mapping[str, str]) -> int:
        url = f"http://127.0.0.1:{self.shop.port}/api/v1/slack"
        request = urllib.request.Request(url, body, dict(headers), method="POST")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                assert answer.read() == b""
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    def payload(self, label: str, user: str, **more: Any) -> dict[str, Any]:
        """A new click on the newest message that has such a button."""
        wait_until(lambda: any(label in self.fake.buttons(one) for one in self.fake.roots), f"there is {label}")
        shown = [one for one in self.fake.roots if label in self.fake.buttons(one)][-1]
        self.clicks += 1
        return self.fake.click(shown, label, user, time.time() + self.clicks / 1000, **more)

    def click(self, label: str, user: str) -> int:
        return self.post(*posted(self.payload(label, user), time.time()))

    def told(self, user: str, words: str) -> bool:
        return any(one == user and words in text for one, text in self.fake.whispers)

    def until_told(self, user: str, words: str) -> None:
        wait_until(lambda: self.told(user, words), f"{user} is told {words}: {self.fake.whispers}")

    def shows(self, words: str) -> bool:
        return any(words in one["text"] for one in self.fake.roots)

    def counted(self, result: str) -> int:
        headers = {"Authorization": self.shop.headers["Authorization"]}
        request = urllib.request.Request(f"http://127.0.0.1:{self.shop.port}/metrics", headers=headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            found = re.search(rf'rollbackd_slack_requests_total{{result="{result}"}} ([0-9.]+)', answer.read().decode())
        return int(float(found[1])) if found else 0


@contextmanager
def asking(root: Path, *launcher: str, socket: SlackSocketFake | None = None, **policy: Any) -> Iterator[Room]:
    """A service that is sick, a daemon that asks, and the room that it asks in."""
    fake = socket.api if socket is not None else SlackApiFake()
    for name, text in (("token", fake.TOKEN), ("signing_secret", f"{SIGNING_SECRET}\n"), ("app_token", APP_TOKEN)):
        (root / name).write_text(text)
        (root / name).chmod(0o600)
    with served(socket.serving() if socket is not None else serving(fake)) as base, toy(root / "shop") as shop:
        way = "app_token" if socket is not None else "signing_secret"
        secrets = {name: {"file": str(root / name)} for name in ("token", way)}
        slack = {"channel": fake.CHANNEL, "api": f"{base}/api", **secrets}
        shop.configure(
            policy=[{"action": "ask", "expires": "10m", **policy}],
            notify={"receivers": [{"name": "room", "slack": slack}]},
            people=PEOPLE,
        )
        shop.start_with_two_states(*launcher)
        shop.alert()
        yield Room(shop, fake)
    assert fake.wrong == []


def test_a_question_is_approved_from_a_phone_and_the_message_shows_how_it_went(tmp_path: Path) -> None:
    with asking(tmp_path, approvals=2) as room:
        assert room.click("Approve", ANN) == 200
        room.until_told(ANN, "you approved shop-1; missing: 1 more person")
        wait_until(lambda: room.shows("approved by slack:ann, more approvals pending"), "the message is edited")
        again = room.shop.ask("POST", "incidents/shop-1/approve", {})
        assert again["missing"] == "1 more person", "by another of her names she is no other person"
        assert room.click("Approve", ANN) == 200
        wait_until(lambda: len(room.fake.whispers) == 2, "a second click of hers is answered")
        assert room.shop.kinds("shop-1").count("Approved") == 1, "one person is one yes"
        assert room.shop.runs == "co-v2"

        body, headers = posted(room.payload("Approve", BOB), time.time())
        codes: list[int] = []
        twice = [threading.Thread(target=lambda: codes.append(room.post(body, headers))) for _ in range(2)]
        for one in twice:
            one.start()
        for one in twice:
            one.join()
        assert codes == [200, 200]
        assert room.shop.until_closed("shop-1")["outcome"] == "recovered"
        assert room.counted("repeated") == 1, "a click that is delivered twice is one order"
        approved = [one["actor"] for one in room.shop.records("shop-1") if one["kind"] == "Approved"]
        assert approved == ["slack:ann", "slack:bob"]
        wait_until(lambda: room.shows("recovered"), "the end is shown")
        assert all(room.fake.buttons(one) == {} for one in room.fake.roots)


def test_what_is_not_slacks_or_not_allowed_does_nothing_and_is_recorded(tmp_path: Path) -> None:
    with asking(tmp_path) as room:
        payload, now = room.payload("Approve", ANN), time.time()
        body, headers = posted(payload, now)
        assert room.post(*posted(payload, now, "another secret")) == 401
        assert room.post(body + b"&x=1", headers) == 401
        assert room.post(body, headers | {"X-Slack-Request-Timestamp": str(int(now) + 1)}) == 401
        assert room.post(body, {"Content-Type": headers["Content-Type"]}) == 401
        assert room.post(*posted(payload, now - 301)) == 401
        assert room.post(*posted(payload, now + 320)) == 401
        assert (room.counted("forged"), room.counted("late")) == (4, 2)
        assert room.post(b"payload=" + b"x" * (512 * 1024), headers) == 413
        assert room.post(body, headers | {"Content-Encoding": "gzip"}) == 415
        assert room.post(body, headers | {"Content-Type": "application/json"}) == 415
        assert room.post(*posted({**payload, "type": "view_submission"}, now)) == 400
        elsewhere = {**payload, "channel": {"id": "C0000OTHER"}}
        assert room.post(*posted(elsewhere, now)) == 400
        assert (room.counted("unreadable"), room.counted("elsewhere")) == (4, 1)

        assert room.click("Approve", EVE) == 200
        room.until_told(EVE, "nothing was done: eve may read, and gives no orders from Slack")
        assert room.click("Deny", NOBODY) == 200
        room.until_told(NOBODY, "nothing was done: nobody in `people` of")
        assert (room.counted("viewer"), room.counted("unknown"), room.counted("taken")) == (1, 1, 0)
        assert "a request from Slack did nothing" in room.shop.log
        assert room.shop.kinds("shop-1")[-1] not in {"Approved", "Denied"}
        assert room.shop.runs == "co-v2"
        assert SIGNING_SECRET not in room.shop.log

        stale = room.payload("Approve", ANN)
        assert room.click("Deny", ANN) == 200
        assert room.shop.until_closed("shop-1")["outcome"] == "declined"
        assert room.post(*posted(stale, time.time())) == 200
        room.until_told(ANN, "nothing was done: shop-1 asks nothing any more, it has ended: declined")
        assert room.shop.runs == "co-v2"


def test_a_click_that_was_taken_is_carried_out_after_a_crash(tmp_path: Path) -> None:
    with asking(tmp_path, "--kill-at", "clicks.taken") as room:
        body, headers = posted(room.payload("Approve", ANN), time.time())
        with pytest.raises(OSError):
            room.post(body, headers)
        room.shop.stop()
        room.shop.start()
        assert room.shop.until_closed("shop-1")["outcome"] == "recovered"


def test_a_click_comes_over_a_socket_where_nobody_can_reach_us(tmp_path: Path) -> None:
    fake = SlackSocketFake()
    with asking(tmp_path, socket=fake) as room:
        click = room.payload("Approve", ANN)
        wait_until(lambda: bool(fake.sockets), "the socket is open")
        assert fake.loop is not None
        asyncio.run_coroutine_threadsafe(fake.deliver("e1", click), fake.loop).result(30)
        assert room.shop.until_closed("shop-1")["outcome"] == "recovered"
        assert room.post(*posted(click, time.time())) == 401, "without a signing secret nothing is signed"
        assert fake.acknowledged == ["e1"]
