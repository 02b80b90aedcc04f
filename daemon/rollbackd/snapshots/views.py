"""What people and scripts are shown of snapshots: frozen values that become JSON as they are. No I/O."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class SnapshotView:
    """One snapshot."""

    name: str
    release: str
    """The id of the release whose content it is."""
    created: datetime
    why: str
    size: int
    """Bytes of what it holds."""
    files: int
    restorable: bool
    kind: str = ""
    """`schema`: that alone, so that nothing is restored from it; empty: all."""
    present: bool = False
    """It is what is there now."""
    good: bool = False
    """A state that is known to be good has it."""
    verified: datetime | None = None
    """When all of it was read last; None: not as far as it is remembered."""
    rehearsed: bool = False
    """It was restored into a scratch place then."""
    problems: tuple[str, ...] = ()
    """What was found wrong with it then."""


@dataclass(frozen=True, slots=True)
class KeptView:
    """A layer that keeps snapshots."""

    service: str
    layer: str
    adapter: str
    snapshots: tuple[SnapshotView, ...]
    """Newest first."""
    problem: str = ""
    """Why they cannot be listed."""
    ended: datetime | None = None
    """When the calendar's last run ended; None: there was none."""
    problems: tuple[str, ...] = ()
    """Of that run."""
    next: datetime | None = None
    """When the calendar has the next one; None: it has none."""
    at_work: bool = False
    """A run goes on now."""


@dataclass(frozen=True, slots=True)
class TakenView:
    """A snapshot that was taken, fetched or read."""

    service: str
    layer: str
    snapshot: SnapshotView
    problems: tuple[str, ...] = ()
    """What is wrong with it."""
    copies: tuple[str, ...] = ()
    """What its copies elsewhere are called."""


@dataclass(frozen=True, slots=True)
class RestoredView:
    """A restore that was done."""

    service: str
    layer: str
    snapshot: str
    release: str
    saved: str
    """The snapshot of what was there before."""
    passed_over: tuple[str, ...] = ()
    """Sentences: newer ones that could not be used."""
    fetched: str = ""
    """The copy elsewhere that it came from; empty: it was here."""


@dataclass(frozen=True, slots=True)
class DifferenceView:
    """One thing that differs."""

    path: str
    kind: str
    """`added`, `removed` or `changed`, from the older to the newer."""
    lines: tuple[str, ...]
    """What differs, with secrets masked."""
