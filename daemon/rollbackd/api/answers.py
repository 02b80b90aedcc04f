"""What answers are wrapped in, and how they are written. Values only.

An answer is always an object, so that it can grow without breaking who reads it.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import TypeAdapter

from rollbackd.snapshots.views import DifferenceView, KeptView
from rollbackd.views.shapes import (
    ChangeView,
    DecisionView,
    DrillView,
    EventView,
    HoldView,
    IncidentView,
    MemberView,
    RecordView,
    ServiceView,
    StateView,
)


@cache
def written(answer: Any) -> TypeAdapter[Any]:
    """How answers of a type are written. Made when one is first given: for all of them it takes a tenth of a start."""
    return TypeAdapter(answer)


@dataclass(frozen=True, slots=True)
class Accepted:
    """What became of a delivery; all of it is on disk."""

    accepted: int
    duplicates: int
    unmatched: int
    damaged: int = 0
    """How many alerts cannot be read; not in the answer where there are none."""
    why: tuple[str, ...] = ()
    """What is wrong with them, a sentence each."""


@dataclass(frozen=True, slots=True)
class Reported:
    """What became of events; what was accepted is on disk."""

    accepted: int
    duplicates: int
    unmatched: int
    why: tuple[str, ...] = ()
    """Why nobody asks for what is unmatched, a sentence each."""


@dataclass(frozen=True, slots=True)
class Services:
    services: tuple[ServiceView, ...]


@dataclass(frozen=True, slots=True)
class States:
    states: tuple[StateView, ...]


@dataclass(frozen=True, slots=True)
class Past:
    records: tuple[RecordView, ...]


@dataclass(frozen=True, slots=True)
class Incidents:
    incidents: tuple[IncidentView, ...]


@dataclass(frozen=True, slots=True)
class Events:
    events: tuple[EventView, ...]
    last: int
    """The place of the last fact that was looked at; ask for what is after it. As asked when there was none."""


@dataclass(frozen=True, slots=True)
class Decisions:
    decisions: tuple[DecisionView, ...]


@dataclass(frozen=True, slots=True)
class Holds:
    holds: tuple[HoldView, ...]


@dataclass(frozen=True, slots=True)
class Members:
    members: tuple[MemberView, ...]


@dataclass(frozen=True, slots=True)
class Changes:
    changes: tuple[ChangeView, ...]


@dataclass(frozen=True, slots=True)
class Drills:
    drills: tuple[DrillView, ...]


@dataclass(frozen=True, slots=True)
class Keeping:
    """A layer that keeps snapshots."""

    service: str
    layer: str


@dataclass(frozen=True, slots=True)
class Snapshots:
    layers: tuple[KeptView | Keeping, ...]


@dataclass(frozen=True, slots=True)
class Differences:
    differences: tuple[DifferenceView, ...]


@dataclass(frozen=True, slots=True)
class Dropped:
    dropped: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Begun:
    """A rollback that was begun, or that joined the open incident."""

    incident: str


@dataclass(frozen=True, slots=True)
class Done:
    """An order was carried out."""

    done: str
    """A sentence."""
    actor: str
    """Who it was recorded as."""


@dataclass(frozen=True, slots=True)
class Answered(Done):
    """An answer to what an incident asks was taken."""

    incident: str
    missing: str = ""
    """What is still missing, such as `one of tech`; empty when nothing is, or somebody said no."""


@dataclass(frozen=True, slots=True)
class Alive:
    status: str


@dataclass(frozen=True, slots=True)
class Fault:
    """An RFC 9457 problem. A refusal also has `findings`, a bad body `errors`."""

    type: str
    title: str
    status: int
    detail: str
