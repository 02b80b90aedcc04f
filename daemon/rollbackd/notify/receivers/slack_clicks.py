"""Slack's buttons and the clicks on them: what we show, what comes back, and whether Slack signed it. No I/O.

https://docs.slack.dev/reference/interaction-payloads/block_actions-payload
https://docs.slack.dev/authentication/verifying-requests-from-slack
Of a click only ids, times and our own words are taken, each of a fixed form; the rest is not looked at.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Literal, get_args
from urllib.parse import parse_qsl

from pydantic import AwareDatetime, BaseModel, Field, ValidationError

from rollbackd.adapter import AnswerButton, AnswerOrder
from rollbackd.notify.messages import plain_text

FRESH = timedelta(minutes=5)
"""How old a request may be, and how far ahead its clock."""
_PREFIX = "rollbackd."
_ORDERS: Mapping[str, AnswerOrder] = {f"{_PREFIX}{order}": order for order in get_args(AnswerOrder)}
_STYLES: Mapping[str, str] = {"approve": "primary", "deny": "danger", "abort": "danger"}


class _User(BaseModel):
    id: Annotated[str, Field(pattern=r"^[UW][A-Z0-9]{6,30}$")]


class _Channel(BaseModel):
    id: Annotated[str, Field(pattern=r"^[CGD][A-Z0-9]{6,30}$")]


class _Container(BaseModel):
    message_ts: Annotated[str, Field(pattern=r"^[0-9]{1,12}\.[0-9]{1,9}$")]


class _Action(BaseModel):
    action_id: Annotated[str, Field(max_length=100)]
    action_ts: Annotated[str, Field(pattern=r"^[0-9]{1,12}\.[0-9]{1,9}$")]
    value: Annotated[str, Field(max_length=500)]


class _Value(BaseModel):
    of: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,100}$")]
    asked: AwareDatetime | None = None


class _BlockActions(BaseModel):
    """The parts of Slack's payload that are read."""

    type: Literal["block_actions"]
    user: _User
    channel: _Channel
    container: _Container
    actions: Annotated[list[_Action], Field(min_length=1, max_length=1)]


@dataclass(frozen=True, slots=True)
class SlackClick:
    """Somebody clicked one of our buttons."""

    key: str
    """The same for a click that is delivered twice."""
    user: str
    """The member id."""
    channel: str
    order: AnswerOrder
    of: str
    """An incident's id, or a service; whether there is one is not known."""
    asked: datetime | None
    """When the question that it answers was asked."""


class NotAClickError(Exception):
    """What came is no click on a button of ours."""


def payload_of(form: bytes) -> str:
    """The field of a form that has the click; empty: there is none."""
    with suppress(ValueError):
        return dict(parse_qsl(form.decode(), max_num_fields=10)).get("payload", "")
    return ""


def read_click(payload: str | bytes) -> SlackClick:
    """:raises NotAClickError: it is something else, or not in the documented form."""
    try:
        read = _BlockActions.model_validate_json(payload)
        (action,) = read.actions
        value = _Value.model_validate_json(action.value)
    except (ValidationError, RecursionError) as error:
        raise NotAClickError("this is no click on a button") from error
    order = _ORDERS.get(action.action_id)
    if order is None:
        raise NotAClickError("this is no button of rollbackd's")
    key = f"slack/{read.channel.id}/{read.container.message_ts}/{read.user.id}/{order}/{action.action_ts}"
    return SlackClick(key, read.user.id, read.channel.id, order, value.of, value.asked)


def is_signed(secret: str, timestamp: str, body: bytes, signature: str) -> bool:
    """Whether Slack, who knows the app's signing secret, sent these bytes at that time; in constant time."""
    signed = b"v0:" + timestamp.encode(errors="replace") + b":" + body
    right = f"v0={hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()}"
    return hmac.compare_digest(right.encode(), signature.encode(errors="replace"))


def is_fresh(timestamp: str, now: datetime) -> bool:
    """Whether a request was made now; a time that is no number is none."""
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
        return False
    return abs(now.timestamp() - int(timestamp)) <= FRESH.total_seconds()


def block(button: AnswerButton) -> dict[str, object]:
    """The command, and beside it the button that says the same; it asks once more before it counts."""
    label = button.order.capitalize()
    value = {"of": button.of, **({"asked": button.asked.isoformat()} if button.asked is not None else {})}
    shown: dict[str, object] = {
        "type": "button",
        "action_id": f"{_PREFIX}{button.order}",
        "text": {"type": "plain_text", "text": label},
        "value": json.dumps(value),
        "confirm": {
            "title": {"type": "plain_text", "text": plain_text.fit(f"{label} {button.of}?", 100)},
            "text": {"type": "plain_text", "text": plain_text.fit(button.meaning, 300)},
            "confirm": {"type": "plain_text", "text": label},
            "deny": {"type": "plain_text", "text": "Cancel"},
        },
    }
    if button.order in _STYLES:
        shown["style"] = _STYLES[button.order]
    text = {"type": "mrkdwn", "text": f"`{plain_text.line(button.command, 200)}`", "verbatim": True}
    return {"type": "section", "text": text, "accessory": shown}
