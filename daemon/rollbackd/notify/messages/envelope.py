"""Envelopes: messages in the outbox with where they belong, as JSON, and several of them made into one. No I/O."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from pydantic import TypeAdapter

from rollbackd.adapter import Message
from rollbackd.notify.messages import plain_text
from rollbackd.notify.messages.phrases import Lines

SEVERITIES = ("info", "warning", "critical")
REFUSED = "refused/"
"""The beginning of the threads of refusals."""
TESTS = "test/"
"""The beginning of the threads of tests of receivers, which nothing in the journal speaks of."""
_SHORT = 600
"""How many characters each message's own lines have in a list of several."""
_SMS = 160
"""Characters of several messages in a receiver's own words."""
_SAID = {
    "refused": "need a person, decided alike",
    "observed": "would have been rolled back",
    "reminder": "troubles that nobody has acknowledged",
    "asks": "approval pending, alike",
    "asked_again": "approval pending, asked again",
    "checked": "were checked",
    "approved": "approved, more approvals pending",
    "opened": "rolling back",
    "risen": "rolling back",
    "started": "rolling back, begun",
    "plan_ended": "still failing, the next plan runs",
    "paused": "rollback held",
    "parked": "rollback stopped, needs a person",
    "joined": "more trouble, and nothing is done about it",
    "abort_requested": "rollback is being aborted",
    "not_left": "could not be left",
    "over_target": "rolling back slowly",
    "ineffective": "still failing after the rollback",
    "unverified": "rolled back, and nothing says whether it is well",
    "failed": "rollback failed",
    "superseded": "changed by somebody else meanwhile",
    "expired": "approval expired, nothing was done",
    "passed": "the trouble went away",
    "clock_passed": "out of time",
    "unanswered": "nobody responded",
    "escalated": "need people",
}
"""What several of an event are called in a title; others have the event's own name."""
_ACTING = frozenset({"opened", "risen", "started", "plan_ended"})
_SHOWN = 20
"""How many messages of a list are shown with their lines; of the others there are the names alone."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message on its way."""

    message: Message
    stream: str
    """The stream of the fact that it tells."""
    group: str = ""
    """Messages of one group may go as one; empty: always alone."""
    avoid: str = ""
    """A receiver that must not get it, because it is about that receiver's own failure."""
    tier: int = -1
    """The last tier of people that hears of it besides the routes, and so those before it."""
    only_tier: bool = False
    """Whether it goes to nobody else, and not to those whom routes have told the same already."""
    only: str = ""
    """The one receiver that it is for, whatever the routes say."""
    opens: bool = True
    """Whether a receiver that keeps troubles open may open one by it: it goes on, and its end will be told."""
    closes: bool = False
    """Whether it is for every receiver that keeps troubles open, whatever the routes say, and for no other."""
    since: datetime | None = None
    """Instead of `tier`: when it began to go to more people; the first tier hears it at once."""
    hurried: bool = False
    """Whether it waits for others of its group only while many services are at work at once."""


_ADAPTER = TypeAdapter(Envelope)


def encode(envelope: Envelope) -> bytes:
    return _ADAPTER.dump_json(envelope)


def decode(body: bytes) -> Envelope:
    """The envelope again. :raises ValueError: for what another version wrote and this one cannot read."""
    read = _ADAPTER.validate_json(body)
    return replace(read, message=replace(read.message, lines=tuple(read.message.lines)))


def plain(message: Message) -> str:
    """The message's lines as plain text, `Heading: text` each, or the text alone where there is no heading."""
    return "\n".join(f"{heading}: {text}" if heading else text for heading, text in message.lines)


def merge(messages: Sequence[Message]) -> Message:
    """One message made of several of a group; a single one stays as it is.

    Of several reminders of one trouble only the newest is kept. The key is made of all keys: were it that of the first,
    a receiver that has seen the first alone would drop what came to it since. Several ends settle all threads.
    """
    newest = {(message.thread if message.event == "reminder" else message.key): message for message in messages}
    kept = tuple(newest.values())
    if len(messages) == 1:
        return kept[0]
    key = "several/" + hashlib.sha256("\n".join(message.key for message in messages).encode()).hexdigest()[:32]
    if len(kept) == 1:
        return replace(kept[0], key=key)
    priorities = [message.priority for message in kept if message.priority is not None]
    first, over = kept[0], all(message.resolves for message in kept)
    threads = {message.thread for message in kept}
    apart = len(threads) > 1 and first.event != "reminder" and not over
    own = _thread(first) if apart else first.thread
    services = tuple(dict.fromkeys(message.service for message in kept if message.service))
    return Message(
        key=key,
        event=first.event,
        title=_title(kept) if any(message.lines for message in kept) else _sentences(kept),
        lines=(*_stop_all(first), *_listed(kept)),
        severity=max((message.severity for message in kept), key=SEVERITIES.index),
        thread=own,
        at=max(message.at for message in kept),
        service=first.service if len({message.service for message in kept}) == 1 else "",
        incident=first.incident if len({message.incident for message in kept}) == 1 else "",
        priority=min(priorities, default=None),
        resolves=over,
        settles=_settled(kept, own, over=over),
        acknowledged=all(message.acknowledged for message in kept),
        count=len(kept),
        services=services if len(services) > 1 else (),
        source=first.source,
        link=first.link if len({message.link for message in kept}) == 1 else "",
        own_words=first.own_words,
    )


def _stop_all(first: Message) -> Lines:
    """The one thing to do about several rollbacks that go on."""
    if first.event not in _ACTING or not first.lines:
        return ()
    return (("Do now", f"on {first.source}: `rollbackd hold --all --reason WHY` stops all of them"),)


def _thread(first: Message) -> str:
    """The thread of a message about several troubles, since one answer must not resolve all; sent again, the same
    one."""
    return "several/" + hashlib.sha256(first.key.encode()).hexdigest()[:32]


def _settled(messages: Sequence[Message], own: str, *, over: bool) -> tuple[str, ...]:
    """The other threads that are over with these, each of which may have been told, and be open, by itself."""
    threads = dict.fromkeys(
        thread for message in messages for thread in (*((message.thread,) if over else ()), *message.settles)
    )
    return tuple(thread for thread in threads if thread != own)


def _listed(messages: Sequence[Message]) -> Lines:
    """The lines of a list of messages; None for messages without lines, such as those in a receiver's own words."""
    if not any(message.lines for message in messages):
        return ()
    shown = [
        (plain_text.line(message.title, 200), plain_text.paragraph(plain(message), _SHORT))
        for message in messages[:_SHOWN]
    ]
    return (*shown, *(("Also", text) for text in _paragraphs([_subject(message) for message in messages[_SHOWN:]])))


def _subject(message: Message) -> str:
    return plain_text.line(message.incident or message.service or message.title, 100)


def _paragraphs(names: Sequence[str]) -> list[str]:
    """The names with commas, in texts of a sane length."""
    texts: list[str] = []
    for name in names:
        if texts and len(texts[-1]) + len(name) < plain_text.PARAGRAPH - 2:
            texts[-1] += f", {name}"
        else:
            texts.append(name)
    return texts


def _sentences(messages: Sequence[Message]) -> str:
    """The sentences of a receiver's own words, as many as an SMS holds, and how many more there are."""
    said = [plain_text.fit(one, _SMS) for one in dict.fromkeys(message.title for message in messages)]
    text = said[0]
    for number, sentence in enumerate(said[1:], 1):
        left = f"; and {len(said) - number} more"
        longer = f"{text}; {sentence}"
        if len(longer) + (len(left) if number + 1 < len(said) else 0) > _SMS:
            return plain_text.fit(text, _SMS - len(left)) + left
        text = longer
    return text


def _title(messages: Sequence[Message]) -> str:
    names = ", ".join(dict.fromkeys(message.service or "rollbackd" for message in messages))
    said = _SAID.get(messages[0].event, messages[0].event.replace("_", " "))
    return plain_text.line(f"{len(messages)} × {said}: {names}")
