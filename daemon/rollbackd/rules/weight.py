"""How much a trigger weighs, for policy: fixed in its rule, or said by a label of the alert or the event. No I/O."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Discriminator, Field, Tag

from rollbackd.syntax.units import OneOrMany, Ratio, Spec, parse_ratio

LABEL = r"^[^\x00-\x1f\x7f]+$"
"""What Prometheus 3 and Alertmanager allow as a label's name, as `service.name`; without what nobody sees."""


class FromLabel(Spec):
    """What a label of the alert or the event says; nothing when there is no such label, or it makes no sense."""

    label: str = Field(pattern=LABEL)
    """The label's name."""


class FromQuery(Spec):
    """What a query answers at the decision."""

    query: str = Field(min_length=1)
    """PromQL; one number for the service, 0 to 1."""


def _share(share: float) -> float:
    if not 0 <= share <= 1:
        raise ValueError("`users` is a part of all users; write it like 25%")
    return share


def _written(value: object) -> str:
    if isinstance(value, FromQuery) or (isinstance(value, dict) and "query" in value):
        return "<query>"
    return "<label>" if isinstance(value, dict | FromLabel) else "<value>"


Degree = Literal["low", "medium", "high", "critical"]
_BY_LABEL = Annotated[FromLabel, Tag("<label>")]
_WRITTEN = Discriminator(
    _written,
    custom_error_type="kind",
    custom_error_message="no way to say this; write a value, or {label: NAME}",
)

Impact = Annotated[Annotated[Degree, Tag("<value>")] | _BY_LABEL, _WRITTEN]
Scope = Annotated[Annotated[str, Field(min_length=1), Tag("<value>")] | _BY_LABEL, _WRITTEN]
Components = Annotated[Annotated[tuple[str, ...], OneOrMany(), Tag("<value>")] | _BY_LABEL, _WRITTEN]
Users = Annotated[
    Annotated[Ratio, AfterValidator(_share), Tag("<value>")] | _BY_LABEL | Annotated[FromQuery, Tag("<query>")],
    _WRITTEN,
]


def impact_of(written: Degree | FromLabel | None, labels: Iterable[Mapping[str, str]]) -> str:
    """How bad it is: one of the four words, or empty when nobody says it."""
    if not isinstance(written, FromLabel):
        return written or ""
    said = _said(written, labels).lower()
    return said if said in get_args(Degree) else ""


def scope_of(written: str | FromLabel | None, labels: Iterable[Mapping[str, str]]) -> str:
    """How far it reaches: a word, or empty when nobody says it."""
    return _said(written, labels) if isinstance(written, FromLabel) else written or ""


def components_of(written: tuple[str, ...] | FromLabel, labels: Iterable[Mapping[str, str]]) -> tuple[str, ...]:
    """What is affected: words; a label lists them with commas."""
    if not isinstance(written, FromLabel):
        return written
    return tuple(word for part in _said(written, labels).split(",") if (word := part.strip()))


def users_of(written: float | FromLabel | FromQuery | None, labels: Iterable[Mapping[str, str]]) -> float | None:
    """The share of users, 0 to 1; None where nobody says it, or where a query says it at the decision."""
    if not isinstance(written, FromLabel):
        return written if isinstance(written, float) else None
    try:
        return _share(parse_ratio(_said(written, labels)))
    except ValueError:
        return None


def _said(written: FromLabel, labels: Iterable[Mapping[str, str]]) -> str:
    """The label's value, from the first signal that has it."""
    return next((one[written.label].strip() for one in labels if one.get(written.label)), "")
