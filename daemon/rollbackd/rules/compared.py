"""What a query's value is judged by, as rules and checks write it: a threshold, or a comparison. No I/O."""

from datetime import timedelta
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from rollbackd.rules.weight import LABEL
from rollbackd.syntax.units import Duration, Ratio, Spec, format_duration, show

KINDS = ("above", "below", "drops_by", "rises_by", "differs")
"""Exactly one of them judges a query."""
COMPARING = KINDS[2:]
"""These need something to compare with."""
_FEWEST = 5
"""Below so many samples a side, no test of ranks reaches 99 %."""


def _positive(length: timedelta) -> timedelta:
    if length < timedelta(seconds=1):
        raise ValueError("this is at least 1s; write it like 30m or 1d")
    return length


def _share(share: float) -> float:
    if not 0 < share <= 1:
        raise ValueError(f"{show(share)} is no share that something can drop by; write it like 50%")
    return share


def _growth(share: float) -> float:
    if share <= 0:
        raise ValueError(f"{show(share)} is no rise; write it like 50%")
    return share


def _confidence(share: float) -> float:
    if not 0.5 <= share < 1:
        raise ValueError(f"{show(share)} is no confidence; write it like 99%, at least 50% and less than 100%")
    return share


Length = Annotated[Duration, AfterValidator(_positive)]


class ByLabel(Spec):
    """Instances of the service, told apart by a label of its series."""

    label: str = Field(pattern=LABEL)
    """What differs between old and new instances, like `version`; values that were there before the change are old."""


class Against(Spec):
    """What a value is compared with; one of them."""

    offset: Length | None = None
    """The same query so long ago: `1d`."""
    before_change: Length | None = None
    """The median of so long before the service's last change."""
    peers: str | ByLabel | None = None
    """The other services of a named group, or `{label: NAME}`: the service's own unchanged instances."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(one is not None for one in (self.offset, self.before_change, self.peers)) != 1:
            raise ValueError("there is one thing to compare with; give offset, before_change or peers")
        return self


class Differs(Spec):
    """The samples of the last while are of another size than those they are compared with (Mann-Whitney's test)."""

    confidence: Annotated[Ratio, AfterValidator(_confidence)] = 0.99
    """How sure the test must be that chance alone did not do it."""
    effect: Annotated[Ratio, AfterValidator(_growth)] = 0.25
    """How far the medians must be apart, as a share of the other side's."""
    direction: Literal["up", "down", "either"] = "either"
    """Which way is bad."""
    samples: int = Field(default=10, ge=_FEWEST)
    """So many on each side at least."""
    window: Length = timedelta(minutes=15)
    """How far back samples are taken, since the change at most; one a poll."""


class Compared(Spec):
    """How a query's value is judged."""

    above: Ratio | None = None
    """A threshold."""
    below: Ratio | None = None
    """A threshold."""
    drops_by: Annotated[Ratio, AfterValidator(_share)] | None = None
    """Bad when it is this share, or more, below what it is compared with."""
    rises_by: Annotated[Ratio, AfterValidator(_growth)] | None = None
    """Bad when it is this share, or more, above what it is compared with."""
    differs: Differs | None = None
    """Bad when its samples differ from those that they are compared with."""
    against: Against | None = None
    """What `drops_by`, `rises_by` and `differs` compare with."""
    aggregate: Literal["any", "all", "max", "min", "sum"] | None = None
    """When one service has several series; without it they are ambiguous."""

    kinds: ClassVar[tuple[str, ...]] = KINDS
    """Exactly one of them judges it."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = [kind for kind in self.kinds if getattr(self, kind) is not None]
        if len(given) != 1:
            known = f"{', '.join(self.kinds[:-1])} or {self.kinds[-1]}"
            raise ValueError(f"a query needs one threshold; give {known}")
        if given[0] not in KINDS:
            return self
        if (self.against is None) == (given[0] in COMPARING):
            if self.against is None:
                raise ValueError(f"`{given[0]}` needs something to compare with; add against: {{offset: 1d}}")
            raise ValueError(f"`{given[0]}` compares with nothing; take `against` away, or write drops_by or rises_by")
        if self.against is not None and self.aggregate in {"any", "all"}:
            raise ValueError(f'"{self.aggregate}" makes no number to compare; write max, min or sum')
        if self.by_label and self.aggregate is not None:
            raise ValueError("old and new instances are compared by their medians; take `aggregate` away")
        return self

    @property
    def by_label(self) -> str:
        """The label that tells its instances apart; empty when it compares with something else."""
        return self.against.peers.label if self.against and isinstance(self.against.peers, ByLabel) else ""

    @property
    def group(self) -> str:
        """The group of services that it compares with; empty when it compares with something else."""
        return self.against.peers if self.against and isinstance(self.against.peers, str) else ""

    @property
    def of_change(self) -> bool:
        """Whether it compares what came after a change with what was before: without a change it says nothing."""
        return self.against is not None and (self.against.before_change is not None or bool(self.by_label))

    @property
    def limit(self) -> str:
        """`> 0.1`, `drops by 50% against 1d ago`."""
        if self.above is not None:
            return f"> {self.above:g}"
        if self.below is not None:
            return f"< {self.below:g}"
        if self.drops_by is not None:
            return f"drops by {percent(self.drops_by)} against {self.other}"
        if self.rises_by is not None:
            return f"rises by {percent(self.rises_by)} against {self.other}"
        assert self.differs is not None
        effect, confidence = percent(self.differs.effect), f"{self.differs.confidence * 100:g}%"
        way = {"up": "up ", "down": "down ", "either": ""}[self.differs.direction]
        return f"differs by {effect} {way}against {self.other}, confidence {confidence}"

    @property
    def other(self) -> str:
        """What it compares with, in words: `1d ago`, `30m before the change`, `peers frontends`."""
        against = self.against
        assert against is not None
        if against.offset is not None:
            return f"{format_duration(against.offset)} ago"
        if against.before_change is not None:
            return f"{format_duration(against.before_change)} before the change"
        return f"unchanged instances by {self.by_label}" if self.by_label else f"peers {self.group}"


def percent(share: float) -> str:
    """`54%`, `3.2%`, `1200%`."""
    return f"{share:.0%}" if abs(share) >= 0.0995 else f"{share * 100:.2g}%"
