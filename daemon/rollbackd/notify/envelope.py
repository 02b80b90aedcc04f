"""What waits in the outbox: a message with where it belongs, as JSON; and several of them made into one. No I/O."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pydantic import TypeAdapter

from rollbackd.adapter import Message
from rollbackd.notify import clean

SEVERITIES = ("info", "warning", "critical")
_SHORT = 600
"""Characters of each message's own lines in a list of several."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message on its way."""

    message: Message
    stream: str
    """The stream of the fact that it tells."""
    group: str = ""
    """What is alike may go as one message; empty: always alone."""
    avoid: str = ""
    """A receiver that must not get it, because it is about that receiver's own failure."""


_ADAPTER = TypeAdapter(Envelope)


def encode(envelope: Envelope) -> bytes:
    return _ADAPTER.dump_json(envelope)


def decode(body: bytes) -> Envelope:
    """:raises ValueError: for what another version wrote and this one cannot read."""
    read = _ADAPTER.validate_json(body)
    return replace(read, message=replace(read.message, lines=tuple(read.message.lines)))


def plain(message: Message) -> str:
    """Its lines as plain text, `Heading: text` each."""
    return "\n".join(f"{heading}: {text}" for heading, text in message.lines)


def merge(messages: Sequence[Message]) -> Message:
    """One message out of several alike; a single one stays as it is.

    Of several reminders of one trouble only the newest is kept. The key is made of all keys: were it that of the
    first, a receiver that has seen the first alone would drop what came to it since.
    """
    newest = {(message.thread if message.event == "reminder" else message.key): message for message in messages}
    kept = tuple(newest.values())
    if len(messages) == 1:
        return kept[0]
    key = "several/" + hashlib.sha256("\n".join(message.key for message in messages).encode()).hexdigest()[:32]
    if len(kept) == 1:
        return replace(kept[0], key=key)
    priorities = [message.priority for message in kept if message.priority is not None]
    first = kept[0]
    return Message(
        key=key,
        event=first.event,
        title=_title(kept),
        lines=tuple((clean.line(message.title, 200), clean.paragraph(plain(message), _SHORT)) for message in kept),
        severity=max((message.severity for message in kept), key=SEVERITIES.index),
        thread=first.thread,
        at=max(message.at for message in kept),
        service=first.service if len({message.service for message in kept}) == 1 else "",
        incident=first.incident if len({message.incident for message in kept}) == 1 else "",
        priority=min(priorities, default=None),
        resolves=all(message.resolves for message in kept),
        acknowledged=all(message.acknowledged for message in kept),
    )


def _title(messages: Sequence[Message]) -> str:
    names = ", ".join(dict.fromkeys(message.service or "rollbackd" for message in messages))
    said = {
        "refused": "need a person, decided alike",
        "observed": "would have been rolled back",
        "reminder": "troubles that nobody has acknowledged",
    }.get(messages[0].event, messages[0].event.replace("_", " "))
    return clean.line(f"{len(messages)} × {said}: {names}")
