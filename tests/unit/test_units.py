"""Durations, shares, sizes and secrets as people write them."""

import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Annotated

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import Field, TypeAdapter, ValidationError

from rollbackd.syntax.units import (
    Duration,
    OneOrMany,
    Ratio,
    Secret,
    Size,
    Spec,
    Vector,
    bounded_time,
    format_duration,
    format_size,
    parse_duration,
    parse_ratio,
    parse_size,
    show,
)


class Sample(Spec):
    """One of each."""

    length: Duration = timedelta()
    share: Ratio = 0
    room: Size = 0
    names: Annotated[tuple[str, ...], OneOrMany()] = Field(default=(), max_length=2)


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("250ms", 250),
        ("30s", 30_000),
        ("5m", 300_000),
        ("1h30m", 5_400_000),
        ("1d", 86_400_000),
        ("2w", 14 * 86_400_000),
        ("1w1d1h1m1s1ms", 694_861_001),
        ("0s", 0),
        ("0", 0),
    ],
)
def test_a_duration_reads_as_in_prometheus(text: str, milliseconds: int) -> None:
    assert parse_duration(text) == timedelta(milliseconds=milliseconds)


@pytest.mark.parametrize("text", ["", "5", "5 m", "-5m", "1m1h", "1.5h", "5min", "m", 5, 0, 1.5, None, True, ["5m"]])
def test_anything_else_is_no_duration_and_says_how_to_write_one(text: object) -> None:
    with pytest.raises(ValueError, match="is not a duration; write it like 250ms, 30s, 5m, 1h30m or 1d"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["10100w", "9" * 18 + "d", "9" * 5000 + "ms", "1" + "0" * 30 + "s"])
def test_a_duration_has_an_end(text: str) -> None:
    with pytest.raises(ValueError, match="is longer than a hundred years"):
        parse_duration(text)


def test_a_duration_is_taken_as_it_is() -> None:
    assert parse_duration(timedelta(days=3)) == timedelta(days=3)


@given(st.integers(0, 10**12))
def test_a_duration_survives_being_written(milliseconds: int) -> None:
    length = timedelta(milliseconds=milliseconds)
    assert parse_duration(format_duration(length)) == length


@given(st.timedeltas(timedelta(), timedelta(days=10_000)))
def test_writing_a_duration_loses_less_than_a_millisecond(length: timedelta) -> None:
    assert abs(parse_duration(format_duration(length)) - length) <= timedelta(milliseconds=1)


@pytest.mark.parametrize(
    ("length", "text"),
    [
        (timedelta(), "0s"),
        (timedelta(microseconds=1), "0s"),
        (timedelta(hours=1, minutes=30), "1h30m"),
        (timedelta(weeks=1), "7d"),
        (timedelta(minutes=-5), "-5m"),
        (timedelta(seconds=1, milliseconds=1), "1s1ms"),
    ],
)
def test_a_duration_is_written_short(length: timedelta, text: str) -> None:
    assert format_duration(length) == text


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("10%", 0.1),
        ("0.5 %", 0.005),
        ("-3%", -0.03),
        (" 7% ", 0.07),
        (0.1, 0.1),
        (3, 3.0),
        ("2s", 2.0),
        ("250ms", 0.25),
    ],
)
def test_a_threshold_reads_like_its_metric(text: object, number: float) -> None:
    assert parse_ratio(text) == pytest.approx(number)


@pytest.mark.parametrize(
    "text", ["", "ten", "10", "%", "1.5s", "10%%", True, None, [], float("nan"), float("inf"), "9" * 400 + "%"]
)
def test_anything_else_is_no_number(text: object) -> None:
    with pytest.raises(ValueError, match=re.escape("is not a number; write it like 0.1, 10% or 2s")):
        parse_ratio(text)


@given(st.integers(-(10**6), 10**6))
def test_a_percentage_is_a_hundredth(percent: int) -> None:
    assert parse_ratio(f"{percent}%") == percent / 100


@pytest.mark.parametrize(
    ("text", "size"), [("0B", 0), ("512B", 512), ("1KiB", 1024), ("64MiB", 64 * 2**20), ("2 GiB", 2**31), (7, 7)]
)
def test_a_size_reads_as_bytes(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "5", "5MB", "-5MiB", "1.5GiB", True, None, 1.5, "9" * 5000 + "B"])
def test_anything_else_is_no_size(text: object) -> None:
    with pytest.raises(ValueError, match="is not a size; write it like 512KiB, 64MiB or 1GiB"):
        parse_size(text)


@given(st.text() | st.integers() | st.lists(st.text()))
def test_what_an_error_quotes_is_short(value: object) -> None:
    assert len(show(value)) <= 60


def test_a_spec_survives_json() -> None:
    sample = Sample.model_validate({"length": "1h30m", "share": "10%", "room": "64MiB", "names": ["a", "b"]})
    assert sample.model_dump(mode="json") == {"length": "1h30m", "share": 0.1, "room": 67108864, "names": ["a", "b"]}
    assert Sample.model_validate_json(sample.model_dump_json()) == sample


def test_a_spec_is_frozen_and_knows_its_keys() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Sample().length = timedelta(1)  # type: ignore[misc]
    with pytest.raises(ValidationError, match="extra_forbidden"):
        Sample.model_validate({"lenght": "5m"})


@pytest.mark.parametrize(("written", "names"), [("a", ("a",)), (["a"], ("a",)), (("a", "b"), ("a", "b")), ([], ())])
def test_one_may_stand_for_a_list_of_one(written: object, names: tuple[str, ...]) -> None:
    assert Sample.model_validate({"names": written}).names == names


@pytest.mark.parametrize("written", [None, 3, [3], {"a": "b"}, ["a", "b", "c"]])
def test_one_or_many_is_still_checked(written: object) -> None:
    with pytest.raises(ValidationError):
        Sample.model_validate({"names": written})


def test_the_schema_says_that_one_may_be_written() -> None:
    names = Sample.model_json_schema()["properties"]["names"]
    assert names["anyOf"] == [{"type": "string"}, {"items": {"type": "string"}, "maxItems": 2, "type": "array"}]
    assert Sample.model_json_schema()["properties"]["length"]["examples"] == ["5m"]


def test_whoever_validates_can_have_secrets_looked_for() -> None:
    seen: list[Secret] = []
    TypeAdapter(list[Secret]).validate_python([{"env": "A"}, {"file": "/b"}], context={"look_for": seen.append})
    assert seen == [Secret(env="A"), Secret(file="/b")]
    assert TypeAdapter(Secret).validate_python({"env": "A"}, context={}) == Secret(env="A")


@pytest.mark.parametrize("argv", [["make", "build"], ["/opt/our tools/build"], ["make build", "now"], ["make"]])
def test_an_argument_vector_is_words(argv: list[str]) -> None:
    assert TypeAdapter[tuple[str, ...]](Vector).validate_python(argv) == tuple(argv)


def test_a_command_line_in_one_argument_is_refused() -> None:
    with pytest.raises(ValidationError, match=r'"make build" is one argument; write each word .* like \[make, build\]'):
        TypeAdapter[tuple[str, ...]](Vector).validate_python(["make build"])


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0GiB"), (1, "1B"), (1025, "1025B"), (2048, "2KiB"), (33554432, "32MiB"), (3 * 2**30, "3GiB")],
)
def test_a_size_is_written_as_it_is_read(size: int, text: str) -> None:
    assert format_size(size) == text
    assert parse_size(text) == size


OFFSETS = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(st.datetimes(timezones=OFFSETS), st.integers(0, 100 * 366))
@example(datetime.min.replace(tzinfo=timezone(timedelta(hours=2))), 1)
@example(datetime.max.replace(tzinfo=timezone(timedelta(hours=-2))), 1)
def test_every_time_can_be_reckoned_with_and_those_of_our_lives_stay_the_same(time: datetime, days: int) -> None:
    bounded = bounded_time(time)
    assert bounded - timedelta(days=days) < bounded + timedelta(days=days + 1)
    assert bounded.tzinfo is UTC
    if 1970 < time.year < 2200:
        assert bounded == time
    else:
        assert 1970 <= bounded.year <= 2200
