"""Events as CI jobs, scanners and business systems post them. No I/O; what cannot be read is refused in a sentence."""

import hashlib
from datetime import datetime, timedelta
from typing import Annotated, Literal

from pydantic import ConfigDict, FailFast, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, from_json, to_json

from rollbackd.model import Event
from rollbackd.plugins import unknown
from rollbackd.rules.spec import EVENT, LONGEST_WITHIN
from rollbackd.rules.weight import LABEL
from rollbackd.signals.alertmanager_webhook import Time, is_dense, sentence_of, validate_json
from rollbackd.syntax.units import Spec, format_duration, shortened, whole_seconds

AHEAD = timedelta(minutes=1)
"""How far a sender's clock may be ahead of ours; an event of the future counts from now."""
_NAMES = {EVENT: "letters, digits and . _ : -", LABEL: "one without control characters"}
MOST_EVENTS = 20_000
"""In one body."""
_TEXT = 1000
"""Characters of an event's text that are kept."""


class EventError(Exception):
    """What was posted cannot be taken, or is too large; the sentence says what is wrong, where, and what to write."""

    def __init__(self, text: str, *, too_large: bool = False) -> None:
        super().__init__(text)
        self.too_large = too_large


class Posted(Spec):
    """An event as it is posted."""

    model_config = ConfigDict(strict=True)

    event: str = Field(pattern=EVENT, max_length=200)
    """Its name, as rules ask for it."""
    service: str = Field(default="", max_length=100)
    """Whose it is; without it the labels say it, or the only service of a rule that asks for it."""
    labels: dict[Annotated[str, Field(pattern=LABEL, max_length=1000)], Annotated[str, Field(max_length=1000)]] = Field(
        default={}, max_length=64
    )
    """As those of an alert: they place it, and rules choose by them."""
    key: str = Field(default="", max_length=200)
    """An idempotency key: sent again for the same event, service and state it is a duplicate, whatever else it says.

    Without it all that was sent, with the time, is the key.
    """
    at: Time | None = None
    """When it happened, RFC 3339 with an offset; at most a day ago. Without it: now."""
    text: str = Field(default="", max_length=2**20)
    """For people; a thousand characters are kept."""
    url: str = Field(default="", max_length=2000)
    """Where people see more, http or https."""
    state: Literal["firing", "resolved"] = "firing"
    """`resolved` ends what was reported until then."""


_ONE = TypeAdapter(Posted)
_MANY = TypeAdapter(Annotated[tuple[Posted, ...], Field(max_length=MOST_EVENTS), FailFast()])


def parse_events(body: bytes) -> tuple[Posted, ...]:
    """Read one event, or a list of them: all or none.

    :raises EventError: for anything else.
    """
    if is_dense(body):
        raise _too_many()
    try:
        if body.lstrip()[:1] == b"[":
            return validate_json(_MANY.validate_json, body)
        return (validate_json(_ONE.validate_json, body),)
    except ValidationError as error:
        if (
            not (first := error.errors(include_url=False, include_input=False)[0])["loc"]
            and first["type"] == "too_long"
        ):
            raise _too_many() from error
        raise EventError(sentence_of(error, _said)) from error
    except (ValueError, RecursionError) as error:
        raise EventError(f"the body is no JSON: {error}") from error


def _too_many() -> EventError:
    return EventError(f"there are more than {MOST_EVENTS} events in one body; send them in several", too_large=True)


def event_of(posted: Posted, now: datetime) -> Event:
    """The event as a value that came now. :raises EventError: its time is too far from ours."""
    at = posted.at or now
    if at - now > AHEAD:
        ahead = format_duration(whole_seconds(at - now))
        raise EventError(f"{posted.event}: `at` lies {ahead} in the future; set the sender's clock, or leave `at` away")
    if now - at > LONGEST_WITHIN:
        said = f"{posted.event}: `at` is {posted.at}, longer ago than any rule counts"
        raise EventError(f"{said}; send events within {format_duration(LONGEST_WITHIN)}")
    return Event(
        posted.event,
        posted.key or _hash(posted, at),
        min(at, now),
        posted.state == "firing",
        posted.service,
        posted.labels,
        shortened(posted.text, _TEXT),
        posted.url,
    )


def _hash(posted: Posted, at: datetime) -> str:
    """32 hex digits over all that was sent; the same content at the same time is the same event."""
    said = [posted.service, sorted(posted.labels.items()), at.isoformat(), posted.text, posted.url]
    return hashlib.sha256(to_json(said)).hexdigest()[:32]


def event_key(event: Event, service: str) -> str:
    """The key under which the inbox knows an event of this service; the same key again is a duplicate."""
    return f"event/{event.name}/{service}/{'firing' if event.firing else 'resolved'}/{event.key}"


def event_to_json(event: Event) -> bytes:
    """An event as the inbox keeps it."""
    return to_json(
        {
            "name": event.name,
            "key": event.key,
            "at": event.at.isoformat(),
            "firing": event.firing,
            "service": event.service,
            "labels": event.labels,
            "text": event.text,
            "url": event.url,
        }
    )


def event_from_json(body: bytes) -> Event:
    """The event that `event_to_json` wrote. :raises ValueError: for anything else."""
    try:
        read = from_json(body)
        at = datetime.fromisoformat(read.pop("at"))
        return Event(at=at, **read)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"not an event of the inbox: {error}") from error


def _said(fault: ErrorDetails) -> str:
    """What is wrong with one value, and what to write."""
    if fault["type"] == "extra_forbidden":
        return unknown("key", str(fault["loc"][-1]), Posted.model_fields)
    if fault["type"] == "string_pattern_mismatch":
        return f"no name; write {_NAMES[fault['ctx']['pattern']]}"
    return fault["msg"][:1].lower() + fault["msg"][1:]
