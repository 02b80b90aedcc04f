"""Rules as the configuration writes them. No I/O."""

from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from rollbackd.model import Action, Priority
from rollbackd.rules.matchers import parse_matchers
from rollbackd.units import Duration, OneOrMany, Ratio, Spec

NAME = r"^[a-z0-9][a-z0-9._-]*$"
"""A rule's name."""


class Samples(Spec):
    """How many observations the value must rest on, else it is inconclusive."""

    query: str
    at_least: Ratio


class BadOf(Spec):
    """So many bad polls of the last so many."""

    times: int = Field(ge=1)
    of: int = Field(ge=1)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.times > self.of:
            raise ValueError(f"{self.times} of {self.of} can never be; make `times` at most `of`")
        return self


class AlertWhen(Spec):
    """An alert of Alertmanager fires."""

    alert: str
    """Alertmanager's matcher syntax: `alertname="HighErrorRate", severity=~"critical|page"`."""

    @field_validator("alert")
    @classmethod
    def _parses(cls, text: str) -> str:
        parse_matchers(text)
        return text


class QueryWhen(Spec):
    """A query's value is beyond a threshold for a time."""

    query: str
    above: Ratio | None = None
    below: Ratio | None = None
    for_: Duration = Field(default=timedelta(), alias="for")
    bad: BadOf | None = None
    """Instead of `for`."""
    samples: Samples | None = None
    aggregate: Literal["any", "all", "max", "min", "sum"] | None = None
    """When one service has several series; without it they are ambiguous."""

    @model_validator(mode="after")
    def _one_threshold(self) -> Self:
        if (self.above is None) == (self.below is None):
            raise ValueError("a query needs one threshold; give either `above` or `below`")
        if self.bad is not None and self.for_:
            raise ValueError("`for` and `bad` are two ways to say how long; give one of them")
        return self


class CheckWhen(Spec):
    """A check of the service fails so many times in a row."""

    check: str
    failures: int = Field(default=3, ge=1)
    every: Duration = timedelta(seconds=15)
    after_change: Duration | None = None
    """Only so long after a change of the service; without it always."""

    @field_validator("every")
    @classmethod
    def _not_constantly(cls, every: timedelta) -> timedelta:
        if every < timedelta(milliseconds=100):
            raise ValueError("`every` is at least 100ms; write it like 15s")
        return every


def _leaf_kind(value: Any) -> str | None:
    if isinstance(value, Spec):
        return {AlertWhen: "<alert>", QueryWhen: "<query>", CheckWhen: "<check>"}.get(type(value), "<group>")
    if isinstance(value, dict):
        for kind in ("alert", "query", "check"):
            if kind in value:
                return f"<{kind}>"
    return None


def _kind(value: Any) -> str | None:
    if isinstance(value, dict):
        for kind in ("all", "any"):
            if kind in value:
                return f"<{kind}>"
    if isinstance(value, AllWhen | AnyWhen):
        return "<all>" if isinstance(value, AllWhen) else "<any>"
    return _leaf_kind(value)


Leaf = Annotated[
    Annotated[AlertWhen, Tag("<alert>")] | Annotated[QueryWhen, Tag("<query>")] | Annotated[CheckWhen, Tag("<check>")],
    Discriminator(
        _leaf_kind,
        custom_error_type="kind",
        custom_error_message="no kind of condition here; write one of alert, query or check",
    ),
]


class AllWhen(Spec):
    """All of them are bad at once."""

    all: tuple[Leaf, ...] = Field(min_length=1)


class AnyWhen(Spec):
    """At least one of them is bad."""

    any: tuple[Leaf, ...] = Field(min_length=1)


When = Annotated[
    Annotated[AlertWhen, Tag("<alert>")]
    | Annotated[QueryWhen, Tag("<query>")]
    | Annotated[CheckWhen, Tag("<check>")]
    | Annotated[AllWhen, Tag("<all>")]
    | Annotated[AnyWhen, Tag("<any>")],
    Discriminator(
        _kind,
        custom_error_type="kind",
        custom_error_message="no kind of condition here; write one of alert, query, check, all or any",
    ),
]


class Rule(Spec):
    """What makes a trigger of signals."""

    name: str = Field(pattern=NAME)
    when: When
    priority: Priority | None = None
    """The service's, when not given."""
    plan: Annotated[tuple[str, ...], OneOrMany()] = ()
    """Instead of the service's: a plan's name, or a list, least impact first."""
    services: Annotated[tuple[str, ...], OneOrMany()] = ()
    """Only for these; also places signals without labels."""
    without_change: Action = Action.ASK
    """What to do when no change is to blame: `roll_back`, `ask` or `observe`."""

    @field_validator("without_change")
    @classmethod
    def _sensible(cls, value: Action) -> Action:
        if value is Action.REFUSE:
            raise ValueError("nothing is refused for want of a change; write roll_back, ask or observe")
        return value

    @property
    def leaves(self) -> tuple[AlertWhen | QueryWhen | CheckWhen, ...]:
        """Its conditions, flat."""
        if isinstance(self.when, AllWhen):
            return self.when.all
        if isinstance(self.when, AnyWhen):
            return self.when.any
        return (self.when,)
