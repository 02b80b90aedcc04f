"""A bot in Slack: one message for each trouble, edited to how it is now, with its story in the thread."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from pydantic import ValidationError

from rollbackd.adapter import AnswerButton, DeliveryError
from rollbackd.notify.receivers.slack import Slack, SlackSettings, payload
from rollbackd.syntax.units import Secret
from tests.contract.test_notifiers import FORMS, HOSTILE, a_message
from tests.fakes.clock import START
from tests.fakes.receiving import Fault, serving
from tests.fakes.slack import SIGNING_SECRET, SlackApiFake, posted

TOKEN = Secret(env="TOKEN")


@asynccontextmanager
async def bots(fake: SlackApiFake, count: int = 1, **more: Any) -> AsyncIterator[list[Slack]]:
    """So many processes, one after the other."""
    secrets = {TOKEN.env: fake.TOKEN, "SIGNING": SIGNING_SECRET}
    async with serving(fake) as base, aiohttp.ClientSession() as session:
        settings = SlackSettings(token=TOKEN, channel=fake.CHANNEL, api=f"{base}/api", **more)
        yield [Slack(settings, lambda secret: secrets[secret.env], lambda: session) for _ in range(count)]
    assert fake.wrong == []


async def test_a_trouble_is_one_message_that_shows_how_it_is_and_its_story_is_in_the_thread() -> None:
    fake = SlackApiFake()
    async with bots(fake) as (bot,):
        await bot.send(a_message(severity="warning"))
        await bot.send(a_message(key="2", event="started", title="checkout rolling back", severity="warning"))
        await bot.send(
            a_message(key="3", event="recovered", title="checkout recovered", severity="info", resolves=True)
        )
        await bot.send(a_message(key="4", thread="cart-1", title="cart rolling back"))
    first, other = fake.roots
    assert "checkout recovered" in first["text"]
    assert "cart rolling back" in other["text"]
    assert [(one["text"].split(" ", 2)[2], one["reply_broadcast"]) for one in fake.story(first["ts"])] == [
        ("checkout rolling back", False), ("checkout recovered", True),
    ]  # fmt: skip
    assert [sent.body["limit"] for sent in fake.sent if "limit" in sent.body] == [200, 200], "once for each trouble"


async def test_another_process_goes_on_with_the_message_that_it_finds() -> None:
    fake = SlackApiFake()
    async with bots(fake, 2) as (before, after):
        await before.send(a_message(source="ops-1"))
        await after.send(a_message(source="ops-1", event="failed", title="checkout rollback failed"))
        assert len(fake.roots) == 1
        await after.send(a_message(source="ops-1", event="passed"))
    assert len(fake.roots) == 1
    async with bots(fake) as (other,):
        await other.send(a_message(source="ops-2"))
    assert len(fake.roots) == 2, "another daemon's message is its own"


async def test_what_others_write_into_the_channel_hides_no_message_of_ours() -> None:
    fake = SlackApiFake()
    async with bots(fake, 2) as (before, after):
        await before.send(a_message())
        odd: tuple[Any, ...] = (None, 1, [], {}, {"event_payload": None}, {"event_payload": [1]}, {"event_payload": {}})
        fake.posts += [{"ts": f"1.{place}", "text": "x", "metadata": one} for place, one in enumerate(odd)]
        await after.send(a_message(event="failed", title="checkout rollback failed"))
    assert [one for one in fake.roots if "checkout" in one["text"]] == [fake.roots[0]]


async def test_a_success_that_names_no_message_is_one() -> None:
    class Forgetful(SlackApiFake):
        def success(self, body: Any) -> web.Response:
            super().success(body)
            return web.json_response({"ok": True})

    fake = Forgetful()
    async with bots(fake) as (bot,):
        await bot.send(a_message())
    assert len(fake.roots) == 1


BUTTONS = (
    AnswerButton("approve", "checkout-3", "rollbackd approve checkout-3", "It goes back.", START),
    AnswerButton("deny", "checkout-3", "rollbackd deny checkout-3", HOSTILE * 20),
    AnswerButton("acknowledge", "checkout-3", "rollbackd ack checkout-3", "Its reminders stop."),
)


async def test_buttons_are_there_only_while_they_can_be_answered() -> None:
    fake = SlackApiFake()
    async with bots(fake, signing_secret=Secret(env="SIGNING")) as (bot,):
        await bot.send(a_message(event="asks", buttons=(*BUTTONS, BUTTONS[0]), lines=(("Why", "&"),) * 100))
        assert list(fake.buttons(fake.roots[0])) == ["Approve", "Deny", "Acknowledge"]
        await bot.send(a_message(event="approved", buttons=BUTTONS[:1]))
        assert list(fake.buttons(fake.roots[0])) == ["Approve"]
        assert "blocks" not in fake.story(fake.roots[0]["ts"])[0], "what is told in the thread cannot be answered"
        await bot.send(a_message(event="risen"))
        assert fake.buttons(fake.roots[0]) == {}
    assert all("accessory" not in one for one in payload(a_message(buttons=BUTTONS))["blocks"])


async def test_what_waited_for_others_does_not_undo_what_a_message_shows_since() -> None:
    fake = SlackApiFake()
    checked = a_message(event="checked", title="checkout approval pending, checked", buttons=BUTTONS)
    async with bots(fake, 2, signing_secret=Secret(env="SIGNING")) as (before, after):
        await before.send(a_message(event="asks", buttons=BUTTONS))
        await before.send(a_message(event="risen", title="checkout rolling back", at=START + timedelta(seconds=9)))
        await before.send(checked)
        await after.send(checked)
        assert "checkout rolling back" in fake.roots[0]["text"]
        assert fake.buttons(fake.roots[0]) == {}
        assert [("checked" in one["text"]) for one in fake.story(fake.roots[0]["ts"])] == [False, True, True]
        await after.send(a_message(title="the clock was set back", at=START - timedelta(hours=1)))
    assert "the clock was set back" in fake.roots[0]["text"]


async def test_one_member_is_told_what_nobody_else_sees() -> None:
    fake = SlackApiFake()
    async with bots(fake) as (bot,):
        await bot.whisper("U0123ABCD", HOSTILE)
        fake.refused = "user_not_in_channel"
        with pytest.raises(DeliveryError, match="user_not_in_channel"):
            await bot.whisper("U0123ABCD", "nothing was done")
    assert [user for user, _ in fake.whispers] == ["U0123ABCD"]
    assert "&lt;!channel&gt;" in fake.whispers[0][1]
    assert fake.roots == []


async def test_what_slack_signed_is_known_by_the_secret_of_the_receivers_app() -> None:
    body, headers = posted({"type": "block_actions"}, 1700000000)
    given = headers["X-Slack-Request-Timestamp"], body, headers["X-Slack-Signature"]
    async with bots(SlackApiFake(), signing_secret=Secret(env="SIGNING")) as (bot,):
        assert bot.is_signed(*given)
        assert not bot.is_signed(given[0], body + b" ", given[2])
    async with bots(SlackApiFake()) as (bot,):
        assert not bot.is_signed(*given)


async def test_a_message_that_somebody_deleted_is_written_anew() -> None:
    fake = SlackApiFake()
    async with bots(fake) as (bot,):
        await bot.send(a_message())
        fake.posts.clear()
        await bot.send(a_message(event="failed"))
        await bot.send(a_message(event="acknowledged"))
    assert (len(fake.roots), len(fake.posts)) == (1, 2)


@pytest.mark.parametrize("form", FORMS)
async def test_every_form_is_taken_twice(form: str) -> None:
    fake = SlackApiFake()
    async with bots(fake) as (bot,):
        await bot.send(FORMS[form])
        await bot.send(FORMS[form])
    assert (len(fake.roots), len(fake.posts)) == (1, 2)


@pytest.mark.parametrize("error", ["channel_not_found", "not_in_channel", "invalid_auth", "missing_scope"])
async def test_a_success_that_says_no_is_a_failure_and_names_no_secret(error: str) -> None:
    fake = SlackApiFake()
    async with bots(fake) as (bot,):
        fake.refused = error
        with pytest.raises(DeliveryError, match=error) as caught:
            await bot.send(a_message())
        assert not caught.value.permanent
        assert fake.TOKEN not in str(caught.value)
        fake.retry_after = "7"
        fake.fail(Fault.TOO_MANY)
        with pytest.raises(DeliveryError) as caught:
            await bot.send(a_message())
        assert caught.value.retry_after is not None
        assert caught.value.retry_after.total_seconds() == 7
        await bot.send(a_message())
    assert len(fake.posts) == 1


async def test_blocks_that_are_not_taken_are_written_as_text() -> None:
    fake = SlackApiFake()
    async with bots(fake) as (bot,):
        await bot.send(a_message(severity="warning"))
        fake.refused = "invalid_blocks"
        await bot.send(a_message(event="failed", title="checkout rollback failed"))
    assert "Stop it: `rollbackd abort checkout-3`" in fake.roots[0]["text"]


def test_a_socket_without_its_package_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"token": TOKEN, "channel": "C0123ABCD", "app_token": TOKEN}
    assert SlackSettings.model_validate(given).takes_clicks
    monkeypatch.setattr("rollbackd.notify.receivers.slack.find_spec", lambda _name: None)
    with pytest.raises(ValidationError, match=r"install it: rollbackd\[slack\]"):
        SlackSettings.model_validate(given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "nothing says how"),
        ({"token": TOKEN, "webhook_url": TOKEN, "channel": "C0123ABCD"}, "two things do"),
        ({"token": TOKEN}, "belong together"),
        ({"webhook_url": TOKEN, "channel": "C0123ABCD"}, "belong together"),
        ({"token": TOKEN, "channel": "#room"}, "pattern"),
        ({"webhook_url": TOKEN, "signing_secret": TOKEN}, "only a bot's messages have buttons"),
    ],
)
def test_settings_that_say_no_way_or_two_are_refused(given: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        SlackSettings.model_validate(given)
