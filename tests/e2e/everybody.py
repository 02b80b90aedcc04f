"""Slack, PagerDuty, a gateway for SMS and a mail server at once, for a host that tells them all."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.e2e.toy import served
from tests.fakes.pagerduty import PagerDutyFake
from tests.fakes.receiving import serving
from tests.fakes.slack import SlackFake
from tests.fakes.smtp import MailFake, serving_mail
from tests.fakes.webhook import WebhookFake


@dataclass
class People:
    """Everybody of the example's `notify`, each a fake that is strict about what it is sent."""

    slack: SlackFake = field(default_factory=SlackFake)
    pager: PagerDutyFake = field(default_factory=PagerDutyFake)
    sms: WebhookFake = field(default_factory=WebhookFake)
    mails: MailFake = field(default_factory=MailFake)
    base: str = ""
    server: str = ""

    def mailed(self, to: str) -> list[str]:
        """The subjects of what somebody was mailed."""
        return [str(mail["Subject"]) for mail in self.mails.mails if mail["To"] == f"{to}@example.com"]

    @property
    def texts(self) -> list[str]:
        """What was sent as SMS."""
        return [one["title"] for one in self.sms.once]

    @property
    def paged(self) -> list[tuple[str, str]]:
        """Action and thread of each event of PagerDuty, whose keys begin with the daemon's name."""
        keys = ((one["event_action"], one["dedup_key"].partition("/")[2]) for one in self.pager.taken)
        return list(dict.fromkeys(keys))

    @property
    def said(self) -> str:
        """All that Slack shows, for searching."""
        return json.dumps(self.slack.taken, ensure_ascii=False)


@contextmanager
def reachable() -> Iterator[People]:
    """All of them, until the end of the block."""
    people = People()
    web = serving(people.slack, people.pager, people.sms)
    with served(web) as people.base, served(serving_mail(people.mails, None)) as people.server:
        yield people
    wrong = [*people.slack.wrong, *people.pager.wrong, *people.sms.wrong, *people.mails.wrong]
    assert wrong == [], wrong
