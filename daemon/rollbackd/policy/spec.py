"""Policy as the configuration writes it. No I/O."""

from datetime import time, timedelta
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from rollbackd.model import Action, Priority
from rollbackd.units import Duration, OneOrMany, Ratio, Spec, show

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class Budget(Spec):
    """So many rollbacks in so long a time."""

    rollbacks: int = Field(ge=1)
    per: Duration


class CommonCause(Spec):
    """When more services than this are in trouble at once, no release of one of them is to blame."""

    services: int = Field(default=3, ge=1)
    share: Ratio = 0.05
    within: Duration = timedelta(minutes=2)

    @field_validator("share")
    @classmethod
    def _a_part(cls, share: float) -> float:
        if not 0 <= share <= 1:
            raise ValueError("`share` is a part of all services; write it like 5%")
        return share


def _on_or_off(value: Any) -> str:
    return "<off>" if value is False else "<on>"


CommonCauseOrOff = Annotated[
    Annotated[CommonCause, Tag("<on>")] | Annotated[Literal[False], Tag("<off>")], Discriminator(_on_or_off)
]


class Reach(Spec):
    """How far back a target may lie without a person being asked."""

    changes: int = Field(default=5, ge=1)
    age: Duration = timedelta(days=7)


class Breaker(Spec):
    """So many rollbacks in a row that did not help, fleet-wide, and nothing more happens by itself."""

    failures: int = Field(default=3, ge=1)


class Limits(Spec):
    """What keeps an automatic rollback from doing harm."""

    cooldown: Duration = timedelta(minutes=10)
    per_service: Budget = Budget(rollbacks=2, per=timedelta(hours=1))
    fleet: Budget = Budget(rollbacks=5, per=timedelta(hours=1))
    concurrent: int = Field(default=2, ge=1)
    common_cause: CommonCauseOrOff = CommonCause()
    """`off` switches the guard off."""
    change_window: Duration = timedelta(hours=2)
    reach: Reach = Reach()
    stale_after: Duration = timedelta(minutes=15)
    breaker: Breaker = Breaker()


class PolicyWhen(Spec):
    """All that are given must hold; a list is any of them."""

    priority: Annotated[tuple[Priority, ...], OneOrMany()] = ()
    rule: Annotated[tuple[str, ...], OneOrMany()] = ()
    service: Annotated[tuple[str, ...], OneOrMany()] = ()
    labels: dict[str, str] = {}


class PolicyRow(Spec):
    """One row of the table; the first that matches wins."""

    when: PolicyWhen = PolicyWhen()
    action: Action
    plan: Annotated[tuple[str, ...], OneOrMany()] = ()

    @field_validator("action")
    @classmethod
    def _known(cls, value: Action) -> Action:
        if value is Action.ASK:
            raise ValueError("asking people is not there yet; write roll_back, observe or refuse")
        return value


class Window(Spec):
    """When automatic rollbacks are allowed; P0 always is."""

    days: str = "mon-sun"
    """`mon-fri`, `sat`, or a list with commas."""
    from_: str = Field(default="00:00", alias="from")
    to: str = "24:00"
    zone: str = "UTC"

    @field_validator("days")
    @classmethod
    def _days(cls, text: str) -> str:
        weekdays(text)
        return text

    @field_validator("from_", "to")
    @classmethod
    def _time(cls, text: str) -> str:
        minutes(text)
        return text

    @field_validator("zone")
    @classmethod
    def _zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(f'unknown time zone "{name}"; write it like Europe/Berlin') from error
        return name

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if minutes(self.from_) == minutes(self.to):
            raise ValueError("a window from and to the same time is empty; for the whole day write 00:00 to 24:00")
        return self


def weekdays(text: str) -> frozenset[int]:
    """`mon-fri,sun` as numbers from Monday, 0. :raises ValueError: for anything else."""
    days: set[int] = set()
    for part in text.replace(" ", "").lower().split(","):
        first, dash, last = part.partition("-")
        if first not in DAYS or (dash and last not in DAYS):
            raise ValueError(f"{show(text)} names no days; write them like mon-fri or sat,sun")
        start, end = DAYS.index(first), DAYS.index(last or first)
        days |= {day % 7 for day in range(start, end + 1 if end >= start else end + 8)}
    return frozenset(days)


def minutes(text: str) -> int:
    """`08:30` as minutes of the day; `24:00` is its end. :raises ValueError: for anything else."""
    if text == "24:00":
        return 24 * 60
    try:
        at = time.fromisoformat(text) if len(text) == len("08:30") else None
    except ValueError:
        at = None
    if at is None:
        raise ValueError(f'{show(text)} is not a time of day; write it like "08:00"')
    return at.hour * 60 + at.minute
