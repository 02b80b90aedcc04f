"""Five hundred services sick at once, each of them rolled back: one message a channel at the start, one at the end."""

from contextlib import AsyncExitStack
from datetime import timedelta

import aiohttp
import pytest

from rollbackd import facts
from rollbackd.adapter import NotifierSettings
from rollbackd.config.models import Config, Daemon, Notify, Receiver
from rollbackd.journal import Entry
from rollbackd.model import FLEET, Outcome, Verdict
from rollbackd.notify.dispatcher import NotificationDispatcher
from rollbackd.notify.receivers.apprise import Apprise, AppriseSettings
from rollbackd.notify.receivers.email import Email, EmailSettings
from rollbackd.notify.receivers.grafana import Grafana, GrafanaSettings
from rollbackd.notify.receivers.pagerduty import PagerDuty, PagerDutySettings
from rollbackd.notify.receivers.slack import Slack, SlackSettings
from rollbackd.notify.receivers.webhook import Webhook, WebhookSettings
from rollbackd.notify.sending_times import TOGETHER
from rollbackd.syntax.units import Secret
from tests.fakes.apprise_json import AppriseJsonFake
from tests.fakes.clock import ManualClock
from tests.fakes.grafana import TOKEN as GRAFANA_TOKEN
from tests.fakes.grafana import GrafanaFake
from tests.fakes.journal import MemoryJournal
from tests.fakes.notifications import opened, planned, round_of
from tests.fakes.pagerduty import ROUTING_KEY, PagerDutyFake
from tests.fakes.receiving import serving
from tests.fakes.slack import SlackApiFake, SlackFake
from tests.fakes.smtp import MailFake, serving_mail
from tests.fakes.webhook import WebhookFake

MANY = 500
NAMES = tuple(f"s{number}" for number in range(MANY))
SECOND = timedelta(seconds=1)


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
async def test_five_hundred_are_one_message_a_channel_at_the_start_and_one_at_the_end() -> None:
    room, bot, oncall, desk = SlackFake(), SlackApiFake(), PagerDutyFake(), WebhookFake()
    graphs, phone, post, users = GrafanaFake(), AppriseJsonFake(), MailFake(), WebhookFake("/users")
    async with AsyncExitStack() as stack:
        base = await stack.enter_async_context(serving(room, oncall, desk, users, graphs, phone, bot))
        smtp = await stack.enter_async_context(serving_mail(post, None))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        secrets = {
            "ROOM": f"{base}{room.path}", "BOT": bot.TOKEN, "KEY": ROUTING_KEY, "GRAFANA": GRAFANA_TOKEN,
            "PHONE": f"{base.replace('http', 'json')}{phone.path}",
        }  # fmt: skip
        made = {
            "room": (Slack, SlackSettings(webhook_url=Secret(env="ROOM"))),
            "bot": (Slack, SlackSettings(token=Secret(env="BOT"), channel=bot.CHANNEL, api=f"{base}/api")),
            "oncall": (PagerDuty, PagerDutySettings(routing_key=Secret(env="KEY"), url=f"{base}{oncall.path}")),
            "desk": (Webhook, WebhookSettings(url=f"{base}{desk.path}")),
            "users": (Webhook, WebhookSettings(url=f"{base}{users.path}")),
            "graphs": (
                Grafana,
                GrafanaSettings.model_validate({"url": base, "authorization": {"credentials": {"env": "GRAFANA"}}}),
            ),
            "phone": (Apprise, AppriseSettings(url=Secret(env="PHONE"), short=True)),
            "post": (
                Email,
                EmailSettings.model_validate(
                    {"to": "a@example.com", "from": "r@example.com", "smtp": smtp, "security": "none"}
                ),
            ),
        }
        notifiers = {
            name: kind(settings, lambda one: secrets[one.env], lambda: session)
            for name, (kind, settings) in made.items()
        }
        told = Receiver(name="users", kind="webhook", settings=NotifierSettings(), audience="users")
        clock = ManualClock()
        journal = MemoryJournal(clock)
        left = MANY
        config = Config(daemon=Daemon(name="ops-1"), notify=Notify(receivers=(told,)))
        dispatcher = NotificationDispatcher(
            journal, config, notifiers, clock, deciding=lambda: left, services_deciding=lambda: left
        )

        async def look(length: timedelta = timedelta()) -> None:
            clock.advance(length)
            for work in (dispatcher.pump, dispatcher.deliver, dispatcher.pump, dispatcher.deliver):
                await work()
            await dispatcher._watch_the_queue()

        def counts() -> dict[str, int]:
            found = {one.name: len(one.taken) for one in (room, oncall, desk, graphs, phone)}
            return {**found, "bot": len(bot.posts), "mail": len(post.mails), "users": len(users.taken)}

        for begin in range(0, MANY, 50):
            for name in NAMES[begin : begin + 50]:
                await journal.append(Entry(f"incident:{name}-1", opened(name)))
                left -= 1
            await look(SECOND)
            for name in NAMES[begin : begin + 50]:
                steps = (planned(), facts.ApplyStarted("code"), facts.Applied("code"), round_of(Verdict.GOOD))
                await journal.append(*(Entry(f"incident:{name}-1", fact) for fact in steps))
        await look(10 * SECOND)
        assert counts() == dict.fromkeys(counts(), 1)
        assert (len(oncall.open), oncall.opened) == (1, list(oncall.open))
        begun = phone.taken[0]["message"]
        assert begun.startswith("[ops-1] P1 500 x rolling back: s0, s1, s2, ")
        assert len(begun) <= 160
        assert users.taken[0]["title"].startswith("We are looking into trouble with s0, s1, s2, s3, s4 and 495 more")
        assert desk.taken[0]["services"] == list(NAMES)
        words = " ".join(line["text"] for line in desk.taken[0]["lines"])
        assert all(f"{name}-1" in words for name in NAMES)

        for begin in range(0, MANY, 100):
            for name in NAMES[begin : begin + 100]:
                await journal.append(Entry(f"incident:{name}-1", facts.Closed(Outcome.RECOVERED, "well")))
            await look(10 * SECOND)
        assert (oncall.open, oncall.closed, oncall.dropped) == ({}, oncall.opened, []), "with the end of the last"
        await look(TOGETHER)
        assert counts() == dict.fromkeys(counts(), 2)
        assert oncall.opened == oncall.closed
        assert phone.taken[1]["message"].startswith("[ops-1] P1 500 x recovered: s0, s1, ")
        assert users.taken[1]["title"] == "The trouble with s0, s1, s2, s3, s4 and 495 more is over."
        paged = [one.fact for one in await journal.read(FLEET)]
        assert [type(one) for one in paged] == [facts.Paged], "nobody was told that too many messages wait"
        assert await journal.waiting() == []
    assert [one.wrong for one in (room, bot, oncall, desk, users, graphs, phone, post)] == [[]] * 8
