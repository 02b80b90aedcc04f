"""Rules as the configuration writes them. No I/O."""

from collections.abc import Iterator
from datetime import timedelta
from functools import cached_property
from typing import Annotated, ClassVar, Self

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from rollbackd.model import Action, Priority
from rollbackd.rules.compared import KINDS, Compared, percent
from rollbackd.rules.matchers import parse_matchers
from rollbackd.rules.reach import over, reach, widened
from rollbackd.rules.score import ScoreSpec
from rollbackd.rules.weight import Components, Impact, Scope, Users
from rollbackd.syntax.units import Duration, OneOrMany, Ratio, Ref, Spec, format_duration, read_by

NAME = r"^[a-z0-9][a-z0-9._-]*$"
"""A rule's name."""
EVENT = r"^[a-zA-Z0-9_][a-zA-Z0-9_.:-]{0,99}$"
"""An event's name."""
DEEPEST = 5
"""Groups within groups of conditions."""
_WIDER = 4
"""A window is widened by this much at a time."""
MOST_EVENTS = 100
"""Of one name and service that are remembered, so that no more can be counted."""
LONGEST_WITHIN = timedelta(days=1)
"""How long an event can count: a start reads no more of the past."""


class Samples(Spec):
    """How many observations the value must rest on, else it is inconclusive."""

    query: str
    at_least: Ratio


class WideningSamples(Samples):
    """Samples of a rule, which is asked again and again."""

    widest: Duration = timedelta()
    """With fewer, both queries are asked over longer windows, up to this long; none are by default."""


class Clear(Spec):
    """What must hold for how long until trouble that was met is over."""

    above: Ratio | None = None
    below: Ratio | None = None
    for_: Duration = Field(default=timedelta(), alias="for")

    @model_validator(mode="after")
    def _one_side(self) -> Self:
        if (self.above is None) == (self.below is None):
            raise ValueError("trouble is over above or below a value; give one of `above` and `below`")
        return self

    def holds(self, value: float) -> bool:
        """Whether the value is well beyond the threshold; one equal to it is not."""
        return value < self.below if self.below is not None else self.above is not None and value > self.above

    def __str__(self) -> str:
        side = f"below {self.below:g}" if self.below is not None else f"above {self.above:g}"
        return f"{side} for {format_duration(self.for_)}" if self.for_ else side


class BadOf(Spec):
    """So many bad polls of the last so many."""

    times: int = Field(ge=1)
    of: int = Field(ge=1)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.times > self.of:
            raise ValueError(f"{self.times} of {self.of} can never be; make `times` at most `of`")
        return self


Matchers = Annotated[str, read_by(parse_matchers)]


class AlertWhen(Spec):
    """An alert of Alertmanager fires."""

    alert: Matchers
    """Alertmanager's matcher syntax: `alertname="HighErrorRate", severity=~"critical|page"`."""
    for_: Duration = Field(default=timedelta(), alias="for")
    """How long the alerting rule itself waits before it fires: the trouble began so much earlier."""


class QueryWhen(Compared):
    """A query's value is beyond a threshold, or far from what it is compared with, for a time."""

    query: str
    for_: Duration = Field(default=timedelta(), alias="for")
    bad: BadOf | None = None
    """Instead of `for`."""
    samples: WideningSamples | None = None
    clear: Clear | None = None
    """When trouble that was met is over, where that is not as soon as it is not bad: `{below: 5%, for: 2m}`."""
    score: ScoreSpec | None = None
    """Instead of a threshold: the query counts errors, and each counts as it comes."""

    kinds: ClassVar[tuple[str, ...]] = (*KINDS, "score")

    @property
    def counting(self) -> str:
        """The query of how many samples, or requests, its value rests on; empty when nothing is asked of that."""
        if self.score is not None:
            return self.score.of
        return self.samples.query if self.samples is not None else ""

    @property
    def limit(self) -> str:
        """As of any comparison; of a score, `score 10 (5% or 20% of requests, in 2m30s at the soonest)`."""
        if self.score is None:
            return super().limit
        good, bad = map(percent, self.score.shares)
        soonest = format_duration(self.score.lasting)
        words = f"score {self.score.threshold:g} ({good} or {bad} of requests, in {soonest} at the soonest)"
        return f"{words} against {self.other}" if self.by_label else words

    @model_validator(mode="after")
    def _counts(self) -> Self:
        """A score counts in windows that are the same for errors and for requests, and has a length of its own."""
        if self.score is None:
            return self
        others = self.against if not self.by_label else None
        for key, given in (("for", self.for_), ("bad", self.bad), ("samples", self.samples), ("against", others)):
            if given:
                raise ValueError(f"a score needs no `{key}`: each request counts as it comes; take `{key}` away")
        if self.aggregate not in {None, "sum"}:
            raise ValueError(f'"{self.aggregate}" makes no count of several series; write sum')
        if not timedelta() < reach(self.query) == reach(self.score.of):
            raise ValueError("a score counts errors and requests in one window; write increase(…[1m]) in both queries")
        return self

    @model_validator(mode="after")
    def _can_be_widened(self) -> Self:
        if self.samples is not None and self.samples.widest > reach(self.query) and not self.wider:
            text = "`widest` is for a query of rates or averages over one shorter range, and its count of samples"
            raise ValueError(f"{text}; take it away, or write rate(…[1m]) and increase(…[1m])")
        return self

    @cached_property
    def wider(self) -> tuple["QueryWhen", ...]:
        """The condition over longer windows, each four times as long as the one before, up to the widest."""
        found: list[QueryWhen] = []
        length, plain = reach(self.query), self.against is None and self.score is None
        while plain and self.samples is not None and length < self.samples.widest:
            length = min(length * _WIDER, self.samples.widest) if length else self.samples.widest
            query, counting = widened(self.query, length), over(self.samples.query, length)
            if query is None or counting is None:
                break
            samples = self.samples.model_copy(update={"query": counting})
            found.append(self.model_copy(update={"query": query, "samples": samples}))
        return tuple(found)

    @model_validator(mode="after")
    def _clears(self) -> Self:
        """Trouble is over on the good side of the threshold, and at the threshold at the worst."""
        if self.clear is None:
            return self
        if self.above is None and self.below is None:
            raise ValueError("`clear` ends what a threshold began; take it away, or give above or below")
        if self.above is not None and (self.clear.below is None or self.clear.below > self.above):
            raise ValueError(
                f"what is bad above {self.above:g} is over below that, or lower; write clear: {{below: …}}"
            )
        if self.below is not None and (self.clear.above is None or self.clear.above < self.below):
            raise ValueError(
                f"what is bad below {self.below:g} is over above that, or higher; write clear: {{above: …}}"
            )
        return self

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.bad is not None and self.for_:
            raise ValueError("`for` and `bad` are two ways to say how long; give one of them")
        offset = self.against.offset if self.against is not None else None
        if offset is not None and self.for_ >= offset:
            raise ValueError("`for` is not shorter than `offset`: trouble is compared with itself; make it shorter")
        return self


class CheckWhen(Spec):
    """A check of the service fails so many times in a row."""

    check: Annotated[str, Ref("check")]
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


class EventWhen(Spec):
    """Events of one name are reported so often: by CI, a scanner, a business system."""

    event: str = Field(pattern=EVENT)
    """The event's name, as `POST /api/v1/signals` brings it."""
    times: int = Field(default=1, ge=1, le=MOST_EVENTS)
    """So many of them."""
    within: Duration = timedelta(minutes=30)
    """In so long a time, and for so long each of them counts."""
    where: Annotated[str, read_by(lambda text: text and parse_matchers(text))] = ""
    """Only those with such labels, in Alertmanager's matcher syntax."""

    @field_validator("within")
    @classmethod
    def _some_time(cls, within: timedelta) -> timedelta:
        if not timedelta(seconds=1) <= within <= LONGEST_WITHIN:
            raise ValueError("`within` is between 1s and 1d; write it like 30m")
        return within


def _kind(value: object) -> str | None:
    if isinstance(value, Spec):
        return next((tag for tag, kind in _KINDS.items() if isinstance(value, kind)), None)
    if isinstance(value, dict):
        return next((tag for tag in _KINDS if tag.strip("<>") in value), None)
    return None


class _Group(Spec):
    @model_validator(mode="after")
    def _not_too_deep(self) -> Self:
        if _depth(self) > DEEPEST:
            raise ValueError(f"`all` and `any` are nested deeper than {DEEPEST} levels; make it flatter, or two rules")
        return self


class AllWhen(_Group):
    """All of them are bad at once."""

    all: tuple["When", ...] = Field(min_length=1)


class AnyWhen(_Group):
    """At least one of them is bad."""

    any: tuple["When", ...] = Field(min_length=1)


When = Annotated[
    Annotated[AllWhen, Tag("<all>")]
    | Annotated[AnyWhen, Tag("<any>")]
    | Annotated[AlertWhen, Tag("<alert>")]
    | Annotated[QueryWhen, Tag("<query>")]
    | Annotated[CheckWhen, Tag("<check>")]
    | Annotated[EventWhen, Tag("<event>")],
    Discriminator(
        _kind,
        custom_error_type="kind",
        custom_error_message="no kind of condition here; write one of alert, query, check, event, all or any",
    ),
]
AllWhen.model_rebuild()
AnyWhen.model_rebuild()
Leaf = AlertWhen | QueryWhen | CheckWhen | EventWhen
_KINDS: dict[str, type[Spec]] = {
    "<all>": AllWhen,
    "<any>": AnyWhen,
    "<alert>": AlertWhen,
    "<query>": QueryWhen,
    "<check>": CheckWhen,
    "<event>": EventWhen,
}
"""By tag; of what has several of the keys the first is taken, and the others are told as unknown."""


def parts_of(when: Spec) -> tuple[When, ...]:
    """The conditions in a group; none in what is no group."""
    if isinstance(when, AllWhen):
        return when.all
    return when.any if isinstance(when, AnyWhen) else ()


def _depth(when: Spec) -> int:
    return 1 + max(map(_depth, parts), default=0) if (parts := parts_of(when)) else 0


def _leaves(when: When) -> Iterator[Leaf]:
    if not isinstance(when, AllWhen | AnyWhen):
        yield when
        return
    for part in parts_of(when):
        yield from _leaves(part)


class Rule(Spec):
    """What makes a trigger of signals."""

    name: str = Field(pattern=NAME)
    when: When
    priority: Priority | None = None
    """The service's, when not given."""
    plan: Annotated[tuple[str, ...], OneOrMany(), Ref("plan")] = ()
    """Instead of the service's: a plan's name, or a list, least impact first."""
    services: Annotated[tuple[str, ...], OneOrMany(), Ref("service")] = ()
    """Only for these; also places signals without labels."""
    without_change: Action = Action.ASK
    """What to do when no change is to blame: `roll_back`, `ask` or `observe`."""
    impact: Impact | None = None
    """How bad it is, for policy: `low`, `medium`, `high` or `critical`, or a label that says so."""
    scope: Scope | None = None
    """How far it reaches, for policy: `some`, `all`, a word of your own, or a label that says so."""
    components: Components = ()
    """What is affected, for policy: words of your own, or a label that lists them with commas."""
    users: Users | None = None
    """The share of users that is affected, for policy: `25%`, or a label or a query that says so."""

    @field_validator("without_change")
    @classmethod
    def _sensible(cls, value: Action) -> Action:
        if value is Action.REFUSE:
            raise ValueError("nothing is refused for want of a change; write roll_back, ask or observe")
        return value

    @cached_property
    def leaves(self) -> tuple[Leaf, ...]:
        """Its conditions, flat, in the order in which they are written."""
        return tuple(_leaves(self.when))
