"""Policy as the configuration writes it. No I/O."""

from collections.abc import Collection, Mapping
from datetime import time, timedelta
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Discriminator, Field, GetJsonSchemaHandler, Tag, field_validator, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from rollbackd.model import Action, Priority
from rollbackd.syntax.units import Duration, OneOrMany, Ratio, Ref, Spec, read_by, show

Otherwise = Literal["escalate", "roll_back"]
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


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


def _on_or_off(value: object) -> str:
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
    before_change: Duration = timedelta(minutes=30)
    """How long before a change it is looked whether the trouble was there already."""
    campaign: float = Field(default=3.0, gt=1)
    """So many times the traffic of before the change asks: the release may not be to blame."""
    same_time: bool = True
    """Whether it is looked how it was at the same time a day ago, and a week ago."""
    first_minutes: Duration = timedelta(minutes=10)
    """How long at most changes of a service may be known to look sick at first; 0 learns nothing."""
    reach: Reach = Reach()
    stale_after: Duration = timedelta(minutes=15)
    breaker: Breaker = Breaker()
    mending: Duration = timedelta(minutes=10)
    """How long a person's estimate may hold a rollback up, all that are given within an hour taken together."""


class Window(Spec):
    """When automatic rollbacks are allowed; P0 always is."""

    days: Annotated[str, read_by(weekdays)] = "mon-sun"
    """`mon-fri`, `sat`, or a list with commas."""
    from_: Annotated[str, read_by(minutes)] = Field(default="00:00", alias="from")
    to: Annotated[str, read_by(minutes)] = "24:00"
    zone: str = "UTC"

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


class Share(Spec):
    """A share of users, with a limit on one side or both."""

    above: Ratio | None = None
    below: Ratio | None = None

    @model_validator(mode="after")
    def _some_limit(self) -> Self:
        if self.above is None and self.below is None:
            raise ValueError("a share needs a limit; give `above`, `below` or both")
        return self

    def holds(self, share: float) -> bool:
        """Whether the share lies inside; one equal to a limit lies outside."""
        return (self.above is None or share > self.above) and (self.below is None or share < self.below)


class Among(Spec):
    """What a set of names must be like; all that are given must hold."""

    any: tuple[str, ...] = ()
    """At least one of these is in it; a plain list in the configuration means this."""
    only: tuple[str, ...] = ()
    """Something is in it, and nothing but these."""
    at_least: int | None = Field(default=None, ge=1)
    """So many are in it."""
    at_most: int | None = Field(default=None, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: object) -> object:
        if isinstance(value, str):
            return {"any": (value,)}
        return {"any": value} if isinstance(value, (list, tuple)) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        written = handler.resolve_ref_schema(handler(schema))
        return {"anyOf": [{"type": "string"}, written["properties"]["any"], written]}

    def holds(self, names: Collection[str]) -> bool:
        """Whether a set of names is like that; an empty set never is, unless nothing is wanted."""
        found = set(names)
        if not (self.any or self.only or self.at_least is not None or self.at_most is not None):
            return True
        return (
            bool(found)
            and (not self.any or bool(found & set(self.any)))
            and (not self.only or found <= set(self.only))
            and (self.at_least is None or len(found) >= self.at_least)
            and (self.at_most is None or len(found) <= self.at_most)
        )


class PolicyWhen(Spec):
    """All that are given must hold; a list is any of them."""

    priority: Annotated[tuple[Priority, ...], OneOrMany()] = ()
    rule: Annotated[tuple[str, ...], OneOrMany(), Ref("rule")] = ()
    service: Annotated[tuple[str, ...], OneOrMany(), Ref("service")] = ()
    labels: dict[str, str] = {}
    impact: Annotated[tuple[str, ...], OneOrMany()] = ()
    """How bad the rule says it is: `low`, `medium`, `high`, `critical`."""
    scope: Annotated[tuple[str, ...], OneOrMany()] = ()
    """How far the rule says it reaches: `some`, `all`."""
    components: Among = Among()
    """What the rule says is affected."""
    layers: Among = Among()
    """The layers in which the present state differs from the target."""
    users: Share | None = None
    """The share of users that is affected; a row that asks never matches while that is not known."""
    windows: Annotated[tuple[Window, ...], OneOrMany()] = ()
    """Times of the week, any of which holds now."""

    @property
    def needs_a_look(self) -> bool:
        """Whether it can only be told after the layers, or a query, were asked."""
        return self.users is not None or self.layers != Among()


class PolicyRow(Spec):
    """One row of the table; the first that matches wins."""

    when: PolicyWhen = PolicyWhen()
    action: Action
    plan: Annotated[tuple[str, ...], OneOrMany(), Ref("plan")] = ()
    approvals: int | None = Field(default=None, ge=1)
    """How many different people must say yes, whenever a trigger of this row asks."""
    by: Annotated[tuple[str, ...], OneOrMany(), Ref("group")] = ()
    """Groups that each give one of them."""
    expires: Duration | None = None
    """How long it waits for them."""
    otherwise: Otherwise | None = None
    """When nobody answered: `escalate`, or `roll_back`."""
    start_within: Duration | None = None
    """Instead of the priority's clock."""


class Asking(Spec):
    """What holds where a policy's row says nothing else."""

    approvals: int = Field(default=1, ge=1)
    """How many different people must say yes; where `by` names more groups, so many."""
    by: Annotated[tuple[str, ...], OneOrMany(), Ref("group")] = ()
    """Groups that each give one of them; none: anybody who may order a rollback."""
    expires: Duration = timedelta(minutes=30)
    """How long a question waits for an answer."""
    otherwise: Otherwise = "escalate"
    """When nobody answered: `escalate` ends the incident and tells the next people, `roll_back` goes back."""
    announcer_approves: bool = True
    """Whether who announced the change may approve going back from it."""


class Clocks(Spec):
    """How long trouble of one priority may take."""

    start_within: Duration
    """From the opening to the first step, waiting for people included."""
    recover_within: Duration
    """From the opening to the end."""
    respond_within: Duration | None = None
    """From the opening until somebody is on it: an acknowledgement, an answer or an order; none: nobody need be."""
    confirm_within: Duration | None = None
    """A change announced with this priority goes back unless it is confirmed in this time; none: it stays."""


PRIORITIES: Mapping[Priority, Clocks] = {
    Priority.P0: Clocks(
        start_within=timedelta(minutes=5), recover_within=timedelta(minutes=30), confirm_within=timedelta(minutes=15)
    ),
    Priority.P1: Clocks(
        start_within=timedelta(minutes=15), recover_within=timedelta(hours=2), confirm_within=timedelta(minutes=30)
    ),
    Priority.P2: Clocks(
        start_within=timedelta(minutes=30), recover_within=timedelta(hours=8), confirm_within=timedelta(hours=1)
    ),
    Priority.P3: Clocks(start_within=timedelta(hours=1), recover_within=timedelta(hours=24)),
}
"""The clocks of a priority that the configuration does not name."""
