"""Units as people write them: durations as in Prometheus, percentages, sizes. No I/O; imports nothing of ours."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainSerializer,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

_DURATION = re.compile(r"(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?(?:(\d+)ms)?")
_DURATION_UNITS = (7 * 86_400_000, 86_400_000, 3_600_000, 60_000, 1000, 1)
_DIGITS = 20
"""The most digits in any unit; numbers of thousands of digits cannot be read."""
_LONGEST = 100 * 366 * 86_400_000
_DURATION_NAMES = ("w", "d", "h", "m", "s", "ms")
_SECOND = timedelta(seconds=1)
_PERCENT = re.compile(r"(-?\d+(?:\.\d+)?)\s*%")
_SIZE = re.compile(r"(\d{1,15})\s*(B|KiB|MiB|GiB)")
_NO_UTF8 = re.compile("[\ud800-\udfff]")
_SIZE_UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def parse_duration(text: object) -> timedelta:
    """Read a Prometheus duration (`250ms`, `30s`, `1h30m`, `1d`).

    :raises ValueError: with what to write instead.
    """
    if isinstance(text, timedelta):
        return text
    if text == "0":
        return timedelta()
    found = _DURATION.fullmatch(text) if isinstance(text, str) and text else None
    if found is None:
        raise ValueError(f"{show(text)} is not a duration; write it like 250ms, 30s, 5m, 1h30m or 1d")
    parts = zip(found.groups(), _DURATION_UNITS, strict=True)
    milliseconds = sum(int(number[:_DIGITS]) * unit for number, unit in parts if number)
    if milliseconds > _LONGEST:
        raise ValueError(f"{show(text)} is longer than a hundred years; write it like 5m, 1h30m or 1d")
    return timedelta(milliseconds=milliseconds)


@lru_cache(maxsize=1024)
def format_duration(value: timedelta) -> str:
    """Write a duration as Prometheus does, without weeks: `1h30m`; under a millisecond is `0s`."""
    rest = round(value.total_seconds() * 1000)
    if rest < 0:
        return f"-{format_duration(-value)}"
    text = ""
    for unit, name in list(zip(_DURATION_UNITS, _DURATION_NAMES, strict=True))[1:]:
        number, rest = divmod(rest, unit)
        text += f"{number}{name}" if number else ""
    return text or "0s"


def whole_seconds(value: timedelta) -> timedelta:
    """The nearest length without fractions of a second."""
    return timedelta(seconds=round(value.total_seconds()))


def roughly(value: timedelta) -> str:
    """A duration that is read once: from a second on without fractions."""
    return format_duration(whole_seconds(value) if abs(value) >= _SECOND else value)


class Percentage(float):
    """A number that was written as a percentage: a part of a whole, which is never above 1."""


def parse_ratio(text: object) -> float:
    """Read `10%` as 0.1, and a bare number as it is.

    :raises ValueError: with what to write instead.
    """
    if isinstance(text, (int, float)) and not isinstance(text, bool) and math.isfinite(text):
        return float(text)
    found = _PERCENT.fullmatch(text.strip()) if isinstance(text, str) else None
    if found is not None and math.isfinite(share := float(found.group(1)) / 100):
        return Percentage(share)
    duration_like = isinstance(text, str) and text and _DURATION.fullmatch(text)
    if duration_like:
        return parse_duration(text).total_seconds()
    raise ValueError(f"{show(text)} is not a number; write it like 0.1, 10% or 2s")


def parse_size(text: object) -> int:
    """Read `64MiB` as bytes.

    :raises ValueError: with what to write instead.
    """
    if isinstance(text, int) and not isinstance(text, bool):
        return text
    found = _SIZE.fullmatch(text.strip()) if isinstance(text, str) else None
    if found is None:
        raise ValueError(f"{show(text)} is not a size; write it like 512KiB, 64MiB or 1GiB")
    return int(found.group(1)) * _SIZE_UNITS[found.group(2)]


def format_size(value: int) -> str:
    """Write bytes as `parse_size` reads them, in the largest unit that leaves a whole number."""
    unit, size = next(part for part in reversed(_SIZE_UNITS.items()) if value % part[1] == 0)
    return f"{value // size}{unit}"


_EARLIEST, _LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)


def bounded_time(time: datetime) -> datetime:
    """A time with its zone, in UTC, and from 1970 to 2200: what lies beyond counts as one of them.

    Every length can be added to it and taken from it: those of years 1 and 9999 cannot be reckoned with.
    """
    try:
        return min(max(time.astimezone(UTC), _EARLIEST), _LATEST)
    except OverflowError:
        return _EARLIEST if time.year < _EARLIEST.year else _LATEST


Instant = Annotated[AwareDatetime, AfterValidator(bounded_time)]
"""A point of time with its offset, as people and programs write it."""


def show(value: object) -> str:
    """A value as an error message quotes it: JSON-like and short."""
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "…"


def shortened(text: str, most: int) -> str:
    """A text of so many characters at most; of a longer one the beginning, and how long it is."""
    return text if len(text) <= most else f"{text[:most]}… ({len(text)} characters)"


def writable(text: str) -> str:
    r"""The text with what no UTF-8 can hold written out: a file's name may be any bytes, such as `caf\xe9`.

    Journal, API and messages are UTF-8; whatever has such a name must not keep a rollback from being written down.
    """
    return _NO_UTF8.sub(_written_out, text)


def _written_out(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def _schema(pattern: str, example: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": pattern, "examples": [example]})


def _number_schema(example: str) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string"}], "examples": [example]})


def _as_given(value: Any) -> Any:
    return value


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    _schema(r"^(\d+w)?(\d+d)?(\d+h)?(\d+m)?(\d+s)?(\d+ms)?$", "5m"),
]
"""A `timedelta`, written as Prometheus writes durations."""


def _ratio(value: object, validate: ValidatorFunctionWrapHandler) -> float:
    """The number as it was read, so that a share stays one; pydantic gives back a plain float."""
    number = parse_ratio(value)
    validate(number)
    return number


Ratio = Annotated[float, WrapValidator(_ratio), PlainSerializer(_as_given), _number_schema("10%")]
"""A number; a percentage is divided by 100, a duration becomes seconds, so that a threshold reads like its metric."""

SIZE_TEXT = r"^\d+\s*(B|KiB|MiB|GiB)$"
"""How a schema says that a text is a size."""
Size = Annotated[int, BeforeValidator(parse_size), PlainSerializer(_as_given), _schema(SIZE_TEXT, "64MiB")]
"""Bytes."""


def in_words(argv: tuple[str, ...]) -> tuple[str, ...]:
    """A whole command line in one argument would be looked for as a program of that name, at the first rollback."""
    if len(argv) == 1 and len(words := argv[0].split()) > 1 and not argv[0].startswith("/"):
        raise ValueError(f"{show(argv[0])} is one argument; write each word by itself, like [{', '.join(words)}]")
    return argv


Vector = Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(in_words)]
"""A program and its arguments; there is no shell."""


class OneOrMany:
    """Beside a tuple's type: one value may be written without the list around it."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._listed, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        many = handler(schema)
        return {"anyOf": [many["items"], many]}

    @staticmethod
    def _listed(value: Any) -> Any:
        return value if isinstance(value, list | tuple) or value is None else (value,)


def read_by(parse: Callable[[str], object]) -> AfterValidator:
    """Beside a text's type: the text stays as it is written, and is one that the function reads."""

    def check(text: str) -> str:
        parse(text)
        return text

    return AfterValidator(check)


@dataclass(frozen=True, slots=True)
class Ref:
    """Beside a type: its texts are names of things that stand elsewhere in the configuration, such as services."""

    kind: str
    """What they name, in the words of an error: `unknown service "chekout"`."""


class Spec(BaseModel):
    """What every part of the configuration derives from: frozen, and an unknown key is an error.

    Its validator is built when it is first used: most parts are only ever read as parts of another.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, defer_build=True)


class Secret(Spec):
    """Where a secret is; the secret itself is read when it is used and is never part of the configuration."""

    env: str = ""
    """An environment variable."""
    file: str = ""
    """A file; a trailing newline is removed."""
    credential: str = ""
    """A name under systemd's `LoadCredential=`."""

    @model_validator(mode="after")
    def _one_place(self, info: ValidationInfo) -> Self:
        """A context may have `look_for`: called with the secret, it raises ValueError when there is none."""
        if sum(map(bool, (self.env, self.file, self.credential))) != 1:
            raise ValueError("a secret is one of {env: NAME}, {file: PATH} or {credential: NAME}; write exactly one")
        if info.context and (look_for := info.context.get("look_for")):
            look_for(self)
        return self
