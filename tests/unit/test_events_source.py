"""Events as they are posted: read, bounded, named, and kept in the inbox."""

import json
import time
from datetime import timedelta
from typing import Any

import pytest

from rollbackd.model import Event
from rollbackd.rules.conditions import event_evidence
from rollbackd.rules.spec import EventWhen
from rollbackd.signals.events import (
    MOST_EVENTS,
    EventError,
    Posted,
    event_from_json,
    event_key,
    event_of,
    event_to_json,
    parse_events,
)
from tests.unit.builders import at, seconds


def posted(**more: Any) -> Posted:
    (one,) = parse_events(json.dumps({"event": "e2e_failed", **more}).encode())
    return one


def test_one_or_a_list_is_read() -> None:
    one = {"event": "e2e_failed", "service": "checkout", "labels": {"suite": "a"}, "at": "2026-03-02T11:00:00+01:00"}
    (found,) = parse_events(json.dumps(one).encode())
    assert event_of(found, at(5)) == Event(
        "e2e_failed", event_of(found, at(5)).key, at(0), service="checkout", labels={"suite": "a"}
    )
    assert parse_events(b"\n [" + json.dumps(one).encode() + b"]") == (found,)
    assert parse_events(b"[]") == ()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "the body is no JSON: "),
        (b"{", "the body is no JSON: "),
        (b"null", "the body: input should be an object"),
        (b'{"event":"a"} x', "the body is no JSON: trailing characters"),
        (b"{}", "event: field required"),
        (b'[{"event":"a"},{"event":"b c"}]', "[1].event: no name; write letters, digits and . _ : -"),
        (b'{"event":"a","lables":{}}', 'lables: unknown key "lables"; did you mean "labels"?'),
        (
            b'{"event":"a","labels":{"":"c"}}',
            "labels..[key]: no name; write one without control characters",
        ),
        (b'{"event":"a","labels":{"a":1},"x":1}', "labels.a: input should be a valid string (and 1 more)"),
        (b'{"event":"a","at":1700000000}', "at: input should be"),
        (b'{"event":"a","at":"2026-03-02T10:00:00"}', "at: input should have timezone info"),
        (b'{"event":"a","state":"maybe"}', "state: input should be 'firing' or 'resolved'"),
        (b'{"event":"a","key":"' + b"k" * 201 + b'"}', "key: string should have at most 200 characters"),
        (b"[" * 100_000, "the body is no JSON: "),
    ],
)
def test_what_is_no_event_is_refused_with_its_place(body: bytes, said: str) -> None:
    with pytest.raises(EventError) as caught:
        parse_events(body)
    assert said.lower() in str(caught.value).lower()
    assert len(str(caught.value)) < 500


def test_text_that_no_database_takes_is_mended() -> None:
    (one,) = parse_events(rb'{"event":"a","text":"a\u0000b\ud800","key":"k"}')
    assert (one.text, one.key) == ("a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}", "k")


def test_without_a_time_it_happens_now() -> None:
    assert event_of(posted(), at(3)).at == at(3)


def test_a_clock_a_little_ahead_is_forgiven() -> None:
    ahead = (at(0) + seconds(59)).isoformat()
    assert event_of(posted(at=ahead), at(0)).at == at(0)


@pytest.mark.parametrize(
    ("offset", "words"),
    [
        (seconds(61), "e2e_failed: `at` lies 1m1s in the future; set the sender's clock, or leave `at` away"),
        (-timedelta(days=1, seconds=1), "longer ago than any rule counts; send events within 1d"),
    ],
)
def test_a_time_too_far_from_ours_is_refused(offset: timedelta, words: str) -> None:
    with pytest.raises(EventError) as caught:
        event_of(posted(at=(at(0) + offset).isoformat()), at(0))
    assert words in str(caught.value)


def test_the_senders_key_is_the_key_whatever_else_it_says() -> None:
    first, second = event_of(posted(key="job-7", text="a"), at(0)), event_of(posted(key="job-7", text="b"), at(1))
    assert event_key(first, "checkout") == event_key(second, "checkout") == "event/e2e_failed/checkout/firing/job-7"
    over = event_of(posted(key="job-7", state="resolved"), at(2))
    others = {event_key(first, "search"), event_key(over, "checkout")}
    assert len(others | {event_key(first, "checkout")}) == 3


def test_without_a_key_the_same_content_at_the_same_time_is_the_same() -> None:
    when = at(0).isoformat()
    one = posted(at=when, text="a", labels={"b": "c", "d": "e"})
    again = posted(text="a", at=when, labels={"d": "e", "b": "c"})
    assert event_of(one, at(1)).key == event_of(again, at(2)).key
    others = [posted(at=when, text="b"), posted(at=when, text="a", url="http://x"), posted(text="a")]
    assert len({event_of(each, at(1)).key for each in (one, *others)}) == 4
    assert event_of(posted(), at(1)).key != event_of(posted(), at(2)).key


def test_a_long_text_is_cut_and_differs_all_the_same() -> None:
    when = at(0).isoformat()
    one, other = posted(at=when, text="x" * 5000), posted(at=when, text="x" * 4999 + "y")
    assert event_of(one, at(0)).text == "x" * 1000 + "… (5000 characters)"
    assert event_of(one, at(0)).key != event_of(other, at(0)).key


def test_evidence_says_how_long_the_text_was_and_not_how_long_it_is_now() -> None:
    taken = event_of(posted(text="x" * 5000), at(0))
    shown = event_evidence(EventWhen(event=taken.name), taken)
    assert shown.value == "x" * 1000 + "… (5000 characters)"


def test_the_inbox_gives_back_what_was_put_in() -> None:
    one = event_of(posted(service="checkout", labels={"a": "b"}, text="ä", url="http://x", state="resolved"), at(0))
    assert event_from_json(event_to_json(one)) == one


@pytest.mark.parametrize("body", [b"{}", b"[]", b"{", b'{"at":"x"}', b'{"at":"2026-03-02T10:00:00+00:00","x":1}'])
def test_what_is_no_event_of_the_inbox_is_a_value_error(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        event_from_json(body)


@pytest.mark.parametrize(
    "each", ['{"event":"e","service":"shop","key":"%d"}', "%d", '{"event":"e","labels":{"n":"%d"}}']
)
def test_so_many_events_are_too_many_for_one_body(each: str) -> None:
    began = time.thread_time()
    body = "[" + ",".join(each % number for number in range(400_000)) + "]"
    with pytest.raises(EventError) as caught:
        parse_events(body.encode())
    assert caught.value.too_large or each == "%d"
    assert time.thread_time() - began < 2
    with pytest.raises(EventError, match="more than 20000 events in one body") as caught:
        parse_events(("[" + ",".join('{"event":"e"}' for _ in range(MOST_EVENTS + 1)) + "]").encode())
    assert caught.value.too_large
    assert (
        len(parse_events(("[" + ",".join('{"event":"e"}' for _ in range(MOST_EVENTS)) + "]").encode())) == MOST_EVENTS
    )


@pytest.mark.parametrize("field", ["event", "service", "key", "text", "url", "labels"])
def test_no_part_of_an_event_is_larger_than_it_may_be(field: str) -> None:
    long = "x" * (2**20 + 1)
    with pytest.raises(EventError) as caught:
        parse_events(json.dumps({"event": "e", field: {"a": long} if field == "labels" else long}).encode())
    assert len(str(caught.value)) < 500
