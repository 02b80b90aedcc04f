"""Slack's signature, and what is read of a click: nothing but ids, times and our own words, each of a fixed form."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rollbackd.adapter import AnswerButton
from rollbackd.notify.receivers.slack_clicks import NotAClickError, block, is_fresh, is_signed, payload_of, read_click
from tests.fakes.slack import SIGNING_SECRET, SlackApiFake, posted

AT = datetime(2026, 11, 30, 14, 3, tzinfo=UTC)
BUTTON = AnswerButton("approve", "checkout-3", "rollbackd approve checkout-3", "It goes back.", AT)
POST = {"ts": "1700000000.000001", "blocks": [block(BUTTON)]}


def a_click(**more: Any) -> dict[str, Any]:
    return SlackApiFake().click(POST, "Approve", "U0123ABCD", **more)


def test_slacks_own_example_is_signed_by_slack() -> None:
    body = (
        b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name="
        b"foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks"
        b".slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121"
        b".803a0bc887a14d10d2c447fce8b6703c"
    )
    right = "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"
    assert is_signed(SIGNING_SECRET, "1531420618", body, right)
    assert not is_signed(SIGNING_SECRET, "1531420619", body, right)
    assert not is_signed(SIGNING_SECRET, "1531420618", body + b"&", right)
    assert not is_signed("another", "1531420618", body, right)
    assert not is_signed(SIGNING_SECRET, "1531420618", body, "v0=\udcff\u00e9")


@pytest.mark.parametrize(
    ("said", "fresh"),
    [(0, True), (-299, True), (299, True), (-301, False), (301, False)],
)
def test_five_minutes_are_fresh(said: int, fresh: bool) -> None:
    assert is_fresh(str(int((AT + timedelta(seconds=said)).timestamp())), AT) is fresh


@pytest.mark.parametrize("said", ["", "now", "1e9", "-5", "9" * 400, "\u0661\u0662", "1700000000.5"])
def test_a_time_that_is_no_number_is_not_fresh(said: str) -> None:
    assert not is_fresh(said, AT)


def test_a_click_is_read_and_the_same_click_has_the_same_key() -> None:
    read = read_click(json.dumps(a_click()))
    assert (read.user, read.channel, read.order, read.of, read.asked) == (
        "U0123ABCD", SlackApiFake.CHANNEL, "approve", "checkout-3", AT,
    )  # fmt: skip
    assert read.key == read_click(json.dumps(a_click(trigger_id="9.9.9"))).key
    assert read.key != read_click(json.dumps(a_click(at=1700000001.5))).key


def test_the_payload_is_a_field_of_a_form() -> None:
    body, _ = posted(a_click(), AT.timestamp())
    assert json.loads(payload_of(body)) == a_click()
    assert payload_of(b"\xff") == payload_of(b"a=" + b"&a=" * 1000) == payload_of(b"") == ""


def _with(path: str, value: object) -> dict[str, Any]:
    """A click with one part replaced."""
    click = a_click()
    *way, last = path.split(".")
    found: Any = click
    for part in way:
        found = found[int(part) if part.isdigit() else part]
    found[int(last) if last.isdigit() else last] = value
    return click


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("type", "view_submission"),
        ("user.id", "../../etc"),
        ("user.id", "U0123ABCD\n"),
        ("user.id", None),
        ("channel.id", "C1/../x"),
        ("container.message_ts", "1; reboot"),
        ("actions", []),
        ("actions", [{}] * 2),
        ("actions.0.action_id", "approve"),
        ("actions.0.action_id", "rollbackd.rollback"),
        ("actions.0.action_ts", "$(reboot)"),
        ("actions.0.value", "checkout-3"),
        ("actions.0.value", json.dumps({"of": "*"})),
        ("actions.0.value", json.dumps({"of": "../checkout"})),
        ("actions.0.value", json.dumps({"of": "checkout-3 --over-hold"})),
        ("actions.0.value", json.dumps({"of": "checkout-3", "asked": "2026-11-30T14:03:00"})),
        ("actions.0.value", "[" * 400),
    ],
)
def test_what_has_another_form_is_no_click(path: str, value: object) -> None:
    with pytest.raises(NotAClickError):
        read_click(json.dumps(_with(path, value)))


@pytest.mark.parametrize("payload", ["", "null", "[]", "{", "[" * 100_000, "{}"])
def test_what_is_no_payload_is_no_click(payload: str) -> None:
    with pytest.raises(NotAClickError):
        read_click(payload)
