"""Alertmanager's webhook as values. No I/O; what cannot be read is refused with a sentence that says where.

https://prometheus.io/docs/alerting/latest/configuration/#webhook_config

Alerts are taken one by one, each by its own `status`. What people wrote into labels and annotations stays text.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NotRequired, TypeVar

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import ErrorDetails, from_json, to_json
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from rollbackd.model import Alert
from rollbackd.syntax.units import bounded_time, shortened

T = TypeVar("T")
VERSIONS = ("4", "1")
"""Alertmanager's, and Grafana's, which has the same body and more fields."""
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_NEVER = bounded_time(datetime.min.replace(tzinfo=UTC))
"""Go's zero time, of the year 1: it stands for "not ended", and for a beginning that nobody knows."""
MOST_ALERTS = 20_000
"""In one body; Alertmanager can be told to send fewer at once (`max_alerts`)."""
LARGEST_ALERT = 16 * 2**20
"""Characters of an alert's labels, annotations and all else that it carries, as it comes."""
LONGEST_TEXT = 4096
"""Characters of one label or annotation that are kept."""
_LARGEST_KEPT = 2**16
"""Characters of an alert, once its texts are cut: it is in facts and messages again and again."""
_MOST_COMMAS = 50 * MOST_ALERTS
_MOST_BRACES = 4 * MOST_ALERTS
_MOST_ESCAPES = 50 * MOST_ALERTS
_LONGEST_HASHED = 2**16
"""Characters of labels whose fingerprint we compute as Alertmanager does, byte by byte."""
_LONGEST_NAME = 1000
_FNV_OFFSET, _FNV_PRIME, _64_BITS = 0xCBF29CE484222325, 0x100000001B3, 0xFFFFFFFFFFFFFFFF
_FINGERPRINT = 16
"""Hex digits."""
_DEEPEST = 50
"""Lists and objects in each other, of what is damaged: what is deeper is left out. No text of an alert is in any."""
_LONGEST_NUMBER = 300
"""Digits, of what is damaged: longer ones take long to read, and no alert has any."""
_HEX = frozenset("0123456789abcdef")


class WebhookError(Exception):
    """A body is no webhook, or is too large; the sentence says what is wrong and where."""

    def __init__(self, text: str, *, too_large: bool = False) -> None:
        super().__init__(text)
        self.too_large = too_large


@dataclass(frozen=True, slots=True)
class WebhookPayload:
    """One notification of one group."""

    alerts: tuple[Alert, ...]
    truncated: int = 0
    """How many alerts of the group were left out (`max_alerts`)."""
    group_key: str = ""
    group_labels: Mapping[str, str] = field(default_factory=dict)
    receiver: str = ""
    """The receiver's plain name; Alertmanager sends it quoted as a regular expression."""
    damaged: tuple[str, ...] = ()
    """Why an alert of it cannot be read, a sentence each; the others are here."""
    grafana: bool = False
    """Grafana sent it: no Alertmanager knows of these alerts."""


def _to_milliseconds(time: datetime) -> datetime:
    utc = bounded_time(time)
    finer = utc.microsecond % 1000
    return utc.replace(microsecond=utc.microsecond - finer) if finer else utc


Time = Annotated[AwareDatetime, AfterValidator(_to_milliseconds)]
"""A point of time with its zone, in UTC from here on, cut to milliseconds.

Alertmanager's webhook writes nanoseconds and its API milliseconds: an episode must have one name by both ways.
"""


def _nothing(_value: Any) -> None:
    return None


def _readable(value: Any) -> dict[str, str]:
    """The texts of annotations that are not all text, as JSON where they are something else."""
    given = value.items() if isinstance(value, dict) else ()
    return {name: text if isinstance(text, str) else json.dumps(text) for name, text in given if text is not None}


def _some(value: Any) -> int:
    return 0 if value is None else 1


_Needless = Annotated[T | Annotated[Any, AfterValidator(_nothing)], Field(union_mode="left_to_right")]
"""What no judgement needs: as good as absent where it is null or of another kind."""
_Texts = Annotated[dict[str, str] | Annotated[Any, AfterValidator(_readable)], Field(union_mode="left_to_right")]
"""What people read: where it is of another kind, what of it can be shown."""
_Omitted = Annotated[
    Annotated[int, Field(ge=0)] | Annotated[Any, AfterValidator(_some)], Field(union_mode="left_to_right")
]
"""How many are missing: where it is of another kind some may be."""


class AlertBody(TypedDict):
    """An alert as the webhook and the API write it. It is a dictionary, because a storm of them is read fast.

    It is judged by its labels, its start and its status; nothing else that is wrong with it costs it.
    """

    __pydantic_config__ = ConfigDict(strict=True)  # type: ignore[misc]  # where pydantic looks for it

    labels: dict[str, str]
    annotations: NotRequired[_Texts]
    startsAt: Time
    endsAt: NotRequired[_Needless[Time]]
    generatorURL: NotRequired[_Needless[str]]
    fingerprint: NotRequired[_Needless[str]]


class _WebhookAlert(AlertBody):
    status: Literal["firing", "resolved"]


class _Head(BaseModel):
    """The version, read first, so that another one is not called a mass of missing fields."""

    version: str | int = ""


class _Envelope(TypedDict):
    truncatedAlerts: NotRequired[_Omitted]
    groupKey: NotRequired[_Needless[str]]
    groupLabels: NotRequired[_Needless[dict[str, str]]]
    receiver: NotRequired[_Needless[str]]
    version: Literal["4", "1", 4, 1]


class _Body(_Envelope):
    __pydantic_config__ = ConfigDict(strict=True)  # type: ignore[misc]  # as above

    alerts: Annotated[list[_WebhookAlert], Field(max_length=MOST_ALERTS), FailFast()]


class _Pieces(_Envelope):
    """A body of which not all alerts can be read."""

    __pydantic_config__ = ConfigDict(strict=True)  # type: ignore[misc]  # as above

    alerts: Annotated[list[Any], Field(max_length=MOST_ALERTS)]


_BODY = TypeAdapter(_Body)
_PIECES = TypeAdapter(_Pieces)
_ALERT = TypeAdapter(_WebhookAlert)


def alert_of(body: AlertBody, *, firing: bool) -> Alert:
    """The alert as a value, its texts cut. One that has ended without a time counts as ended when it began."""
    labels, starts_at = body["labels"], body["startsAt"]
    fingerprint = body.get("fingerprint") or ""
    if len(fingerprint) != _FINGERPRINT or not _HEX.issuperset(fingerprint):
        fingerprint = fingerprint_of(labels)
    ends_at = None if firing else starts_at
    ended = body.get("endsAt")
    if not firing and ended is not None and ended > _NEVER:
        ends_at = ended
    url = (body.get("generatorURL") or "")[:LONGEST_TEXT]
    return Alert(fingerprint, _cut(labels), _cut(body.get("annotations") or {}), starts_at, ends_at, url)


def parse_webhook(body: bytes) -> WebhookPayload:
    """Read a notification of any Alertmanager, payload version 4, or of Grafana; fields it does not know are ignored.

    NUL, lone surrogates and what is no UTF-8 become U+FFFD. An alert that cannot be read never costs the others.

    :raises WebhookError: for anything else, also when no alert of it can be read.
    """
    if body.count(b'"startsAt"') > MOST_ALERTS or is_dense(body):
        raise _too_many()
    damaged: tuple[str, ...] = ()
    try:
        read = validate_json(_BODY.validate_json, body)
    except (ValueError, RecursionError) as error:
        if isinstance(error, ValidationError) and _first(error)["type"] == "too_long":
            raise _too_many() from error
        pieces = _piecewise(body)
        if pieces is None:
            said = _sentence(error, body) if isinstance(error, ValidationError) else f"the body is no JSON: {error}"
            raise WebhookError(said) from error
        read, damaged = pieces
    wrong = {place: why for place, alert in enumerate(read["alerts"]) if (why := too_large(alert))}
    damaged += tuple(f"alerts[{place}]: {why}" for place, why in wrong.items())
    if wrong and len(wrong) == len(read["alerts"]):
        raise WebhookError(damaged[0], too_large=True)
    alerts = [alert for place, alert in enumerate(read["alerts"]) if place not in wrong]
    return WebhookPayload(
        tuple([alert_of(alert, firing=alert["status"] == "firing") for alert in alerts]),
        read.get("truncatedAlerts") or 0,
        (read.get("groupKey") or "")[:_LONGEST_NAME],
        read.get("groupLabels") or {},
        _unquoted((read.get("receiver") or "")[:_LONGEST_NAME]),
        damaged,
        str(read["version"]) != VERSIONS[0],
    )


def _too_many() -> WebhookError:
    said = f"there are more than {MOST_ALERTS} alerts in one body, or as many values as they would have"
    return WebhookError(f"{said}; set `max_alerts` of the webhook, or group by more", too_large=True)


def is_dense(body: bytes) -> bool:
    """Whether it has so many values that to read it takes twenty times its size, and the processor for seconds."""
    if len(body) <= _MOST_BRACES:  # the smallest of the limits
        return False
    limits = {b"}": _MOST_BRACES, b",": _MOST_COMMAS, b"\\u": _MOST_ESCAPES}
    return any(body.count(mark) > most for mark, most in limits.items())


def too_large(alert: AlertBody) -> str:
    """Why an alert is too large to be taken; empty when it is not."""
    size = kept = len(alert.get("generatorURL") or "") + len(alert.get("fingerprint") or "")
    for texts in (alert["labels"], alert.get("annotations") or {}):
        for name, text in texts.items():
            length = len(name) + len(text)
            size += length
            kept += min(length, LONGEST_TEXT)
    if size > LARGEST_ALERT:
        return f"its labels and annotations have more than {LARGEST_ALERT} characters"
    return f"it has more than {_LARGEST_KEPT} characters in many labels" if kept > _LARGEST_KEPT else ""


def _cut(texts: dict[str, str]) -> dict[str, str]:
    """The same, none longer than what is kept."""
    if max(map(len, (*texts, *texts.values())), default=0) <= LONGEST_TEXT:
        return texts
    return {name[:LONGEST_TEXT]: shortened(text, LONGEST_TEXT) for name, text in texts.items()}


def _piecewise(body: bytes) -> tuple[_Body, tuple[str, ...]] | None:
    """A body with those of its alerts that can be read, and why the others cannot; None when there are none."""
    text = body.decode(errors="replace")
    try:
        read = _PIECES.validate_json(_tamed(text))
    except (ValueError, RecursionError):
        return None
    alerts, damaged = read_each(_ALERT, read["alerts"])
    if not alerts:
        return None
    return {**read, "alerts": alerts}, tuple(f"alerts{why}" for why in damaged)


def read_each(kind: TypeAdapter[T], items: Sequence[Any]) -> tuple[list[T], list[str]]:
    """Those items of parsed JSON that are of a kind, and for each of the others its place and what is wrong."""
    found, wrong = [], []
    for place, item in enumerate(items):
        try:
            found.append(kind.validate_json(to_json(item)))
        except ValidationError as error:
            said = sentence_of(error).removeprefix("the body: ")
            wrong.append(f"[{place}]{'.' if _first(error)['loc'] else ': '}{said}")
    return found, wrong


def _tamed(text: str) -> str:
    """The same JSON, without what a reader stumbles over and no alert needs. :raises ValueError: RecursionError:"""
    return json.dumps(_mended(json.loads(text, parse_int=_short_number)))


def _short_number(digits: str) -> int | str:
    return int(digits) if len(digits) <= _LONGEST_NUMBER else digits


def validate_json(read: Callable[[bytes | str], T], body: bytes) -> T:
    """Read JSON, mending what is JSON but no text that a database takes.

    :raises ValidationError: or ValueError, or RecursionError.
    """
    if b"\\u" not in body:
        return read(body)
    try:
        if b"\\u0000" not in body:
            return read(body)
    except ValidationError as error:
        if _first(error)["type"] != "json_invalid":
            raise
    return read(json.dumps(_mended(json.loads(body))))


def fingerprint_of(labels: Mapping[str, str]) -> str:
    """As Alertmanager computes it: 64-bit FNV-1a over the sorted labels, names and values each ended by 0xff.

    https://github.com/prometheus/common/blob/main/model/signature.go

    Of labels so large that this would take seconds it is another hash, since Alertmanager sends its own with each.
    """
    if sum(len(name) + len(text) for name, text in labels.items()) > _LONGEST_HASHED:
        return hashlib.blake2b(to_json(sorted(labels.items())), digest_size=_FINGERPRINT // 2).hexdigest()
    value = _FNV_OFFSET
    for name in sorted(labels):
        for byte in b"%b\xff%b\xff" % (name.encode(), labels[name].encode()):
            value = (value ^ byte) * _FNV_PRIME & _64_BITS
    return f"{value:016x}"


TEST = "rollbackd_test"
"""A label of alerts that only try the way to us: they are never judged, whoever sends them."""


def inbox_key(alert: Alert) -> str:
    """`alert/<fingerprint>/<startsAt>/<firing|resolved>`: the same news again has the same key."""
    return f"{alert.episode}/{'firing' if alert.firing else 'resolved'}"


def alert_to_json(alert: Alert, *, elsewhere: bool = False) -> bytes:
    """An alert as the inbox keeps it.

    :param elsewhere: no Alertmanager knows of it.
    """
    return to_json(
        {
            "fingerprint": alert.fingerprint,
            "labels": alert.labels,
            "annotations": alert.annotations,
            "starts_at": alert.starts_at.isoformat(),
            "ends_at": None if alert.ends_at is None else alert.ends_at.isoformat(),
            "url": alert.url,
            **({"elsewhere": True} if elsewhere else {}),
        }
    )


def alert_from_json(body: bytes) -> Alert:
    """The alert that `alert_to_json` wrote. :raises ValueError: for anything else."""
    try:
        read = from_json(body)
        ends_at = read["ends_at"]
        return Alert(
            read["fingerprint"],
            read["labels"],
            read["annotations"],
            bounded_time(datetime.fromisoformat(read["starts_at"])),
            None if ends_at is None else bounded_time(datetime.fromisoformat(ends_at)),
            read["url"],
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"not an alert of the inbox: {error}") from error


def is_elsewhere(body: bytes) -> bool:
    """Whether no Alertmanager knows of the alert that `alert_to_json` wrote."""
    return b'"elsewhere"' in body and bool(from_json(body).get("elsewhere"))  # at a start each is asked: most are not


def _message(fault: ErrorDetails) -> str:
    return fault["msg"]


def sentence_of(error: ValidationError, said: Callable[[ErrorDetails], str] = _message) -> str:
    """What is wrong with a body, and where: the first fault of it, as `said` puts it."""
    first = _first(error)
    if first["type"] == "json_invalid":
        return f"the body is no JSON: {first['msg'].removeprefix('Invalid JSON: ')}"
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{place[:200] or 'the body'}: {said(first)}{more}"


def _first(error: ValidationError) -> ErrorDetails:
    return error.errors(include_url=False, include_input=False)[0]


def _sentence(error: ValidationError, body: bytes) -> str:
    if _first(error)["type"] == "json_invalid":
        return sentence_of(error)
    try:
        version = str(_Head.model_validate_json(body).version)
    except ValidationError:
        version = ""
    if version not in VERSIONS:
        said = f"has payload version {version[:20]!r}" if version else "has no payload version"
        return f"this {said}; rollbackd reads Alertmanager's webhook of version 4, and Grafana's of 1"
    return sentence_of(error)


def _mended(value: Any, depth: int = 0) -> Any:
    """The same text, as UTF-8 can write it and databases take it, cut first: each character costs time."""
    if depth > _DEEPEST:
        return None
    if isinstance(value, str):
        text = value[:_LARGEST_KEPT].encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return text.replace("\0", _REPLACEMENT)
    if isinstance(value, list):
        return [_mended(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {_mended(name): _mended(item, depth + 1) for name, item in value.items()}
    return value


def _unquoted(receiver: str) -> str:
    """Undo Go's `regexp.QuoteMeta`."""
    if "\\" not in receiver:
        return receiver
    plain, escaped = "", False
    for character in receiver:
        if character == "\\" and not escaped:
            escaped = True
        else:
            plain, escaped = plain + character, False
    return plain
