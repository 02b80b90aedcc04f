"""Notices about notifications themselves: a receiver that fails, messages that wait, a journal that is full. No I/O."""

from collections.abc import Mapping
from datetime import UTC, datetime

from rollbackd.adapter import Message
from rollbackd.config.message_templates import TemplateTrouble
from rollbackd.facts import Notice
from rollbackd.notify.messages import phrases, plain_text
from rollbackd.notify.messages.envelope import plain
from rollbackd.notify.messages.troubles import notice_thread

TEMPLATE = "template_failed"
UNDELIVERABLE = "undeliverable"
UNREACHABLE = "receiver_unreachable"
WAITING = "messages_waiting"
DIRECT = frozenset({"notice/journal"})
"""Threads that are also told past the journal, so that no outbox knows who heard of them."""
OWN_KINDS = frozenset({UNDELIVERABLE, UNREACHABLE, WAITING})
"""When a message of one of these kinds fails, no other is made of it."""


def undeliverable(receiver: str, message: Message, error: str) -> Notice:
    """A receiver will never get this message; the others get its words."""
    return Notice(
        UNDELIVERABLE,
        f"{receiver} did not get the message below, and it is not tried again: {plain_text.line(error)}",
        service=message.service,
        details={
            "receiver": receiver,
            "subject": f"{receiver}/{plain_text.line(message.key, 100)}",
            "message": plain_text.cut(f"{message.title}\n{plain(message)}", 2000),
        },
    )


def template_failed(trouble: TemplateTrouble) -> Notice:
    """A template could not be used."""
    text = f"{plain_text.line(str(trouble))}; our own words are sent until it is mended"
    return Notice(TEMPLATE, text, details={"subject": trouble.name})


def unreachable(receiver: str, since: datetime, error: str) -> Notice:
    text = f"{receiver} has taken no message since {phrases.moment(since)}: {plain_text.line(error)}; it is tried on"
    return Notice(UNREACHABLE, text, details={"receiver": receiver, "subject": receiver})


def unreachable_thread(receiver: str) -> str:
    """The thread of both."""
    return notice_thread(unreachable(receiver, datetime.min.replace(tzinfo=UTC), ""))


def taken_over(host: str, before: str) -> Notice:
    """To people: who drives now, and that somebody has to look at the other one."""
    text = f"{host} drives now, since {before} did not renew its lease; look at {before}: a step may still run there"
    return Notice("taken_over", text, details={"subject": before})


def reachable(receiver: str) -> Notice:
    text = f"{receiver} takes messages again"
    return Notice(UNREACHABLE, text, over=True, details={"receiver": receiver, "subject": receiver})


def waiting(counts: Mapping[str, int], *, over: bool = False) -> Notice:
    """Too many messages wait, or no longer."""
    shares = ", ".join(f"{name} {count}" for name, count in counts.items() if count)
    text = "the messages that waited are delivered" if over else f"{sum(counts.values())} messages wait: {shares}"
    return Notice(WAITING, text, over=over)


def unopened(at: datetime, error: str) -> Message:
    """When the journal cannot be opened at a start: sent directly."""
    what = f"nothing is watched or rolled back until it can: {plain_text.line(error)}"
    look = "the log of rollbackd, and the disk under the journal; it is started again by itself"
    return _of_the_journal(at, "rollbackd cannot start: its journal cannot be used", what, look)


def unrecorded(at: datetime, error: str) -> Message:
    """The journal cannot be written. The message is sent directly."""
    what = f"nothing new is started until it can: {plain_text.line(error)}"
    return _of_the_journal(
        at, "rollbackd cannot write its journal", what, "space and health of the disk under the journal"
    )


def _of_the_journal(at: datetime, title: str, what: str, look: str) -> Message:
    """A page about the journal, which its end resolves by the same thread."""
    return Message(
        key=f"journal/{at.isoformat()}",
        event="journal",
        title=title,
        lines=phrases.filled(("What", what), ("Look at", look)),
        severity="critical",
        thread="notice/journal",
        at=at,
    )
