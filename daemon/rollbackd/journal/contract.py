"""What the journal promises, whatever keeps it. No I/O."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeVar

from rollbackd.facts import Record
from rollbackd.model import DAEMON
from rollbackd.system.clock import Clock

T = TypeVar("T")
ANSWERED = "answer"
"""The source of a row of the inbox whose body is what became of it."""
_ALIVE = timedelta(seconds=5)


class Conflict(Exception):  # noqa: N818  # it is an answer, not an error: fold and decide again
    """Another fact came first in a stream that an intent names."""


class JournalUnavailable(Exception):  # noqa: N818  # a state of the disk
    """It cannot be used now: disk full, I/O error, locked by another. Nothing of the unit was kept.

    The next call tries again by itself. The sentence says what to do.
    """

    def __init__(self, message: str, *, full: bool = False) -> None:
        super().__init__(message)
        self.full = full
        """There is no room on its disk."""


class JournalTaken(JournalUnavailable):
    """Another process drives it from now on: this one writes nothing any more, however long it waits, and is to end."""


class JournalDamaged(JournalUnavailable):
    """What is stored cannot be what was written; trying again does not help, a person must restore it."""


class JournalRefused(Exception):  # noqa: N818  # a sentence for a person
    """It is not opened at all: no such directory, not a journal, written by a newer version, in use by another."""


class JournalInUse(JournalRefused):
    """Another process drives it, whether it answers or hangs."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One fact to append."""

    stream: str
    fact: Any
    actor: str = DAEMON
    follows: int | None = None
    """For an intent: the n it follows, 0 for an empty stream. None: it reports, and takes the next n."""


@dataclass(frozen=True, slots=True)
class Received:
    """Something that came from outside, before it is judged."""

    key: str
    """Unique over all ways in; the same key again is the same thing."""
    source: str
    """`alert`, `event`, `file`."""
    body: bytes
    """JSON."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """A row of the inbox."""

    id: int
    key: str
    source: str
    at: datetime
    """When it came first."""
    seen: datetime
    """When it came last."""
    body: bytes


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a delivery; all of it is on disk."""

    new: tuple[Arrived, ...]
    again: tuple[str, ...]
    """Keys that were there already; their `seen` is now."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A row of the outbox."""

    key: str
    """Unique; stable over retries and restarts."""
    receiver: str
    group: str
    """Rows of one group and receiver that wait together may be sent as one message; empty: always alone."""
    body: bytes
    """JSON, the sender's own business."""
    not_before: datetime
    created: datetime
    attempts: int = 0
    error: str = ""
    id: int = 0


@dataclass(frozen=True, slots=True)
class PageTurn:
    """What a delivery opened and closed at a receiver that keeps troubles open."""

    receiver: str
    opened: tuple[str, ...] = ()
    """Threads."""
    closed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What `rollbackd audit` says."""

    streams: int
    facts: int
    broken: tuple[str, ...] = field(default=())
    """A sentence each: stream, n, and what does not fit."""


@dataclass(frozen=True, slots=True)
class Member:
    """A daemon that shares the journal with others, as it said last."""

    host: str
    process: str
    """Empty for one that said that it ends."""
    version: str
    configuration: str
    """Stands for what should be the same in all configurations."""
    since: datetime
    """When this process said so first, by the database's clock."""
    silent: timedelta
    """How long ago it said so last."""
    ahead: timedelta
    """How far its clock was ahead of the database's."""
    drives: bool
    epoch: int
    """That of who drives."""

    @property
    def alive(self) -> bool:
        """Whether it neither said that it ends nor was silent for longer than one that lives."""
        return self.process != "" and self.silent < _ALIVE


class Journal(Protocol):
    """All of it may be called from many tasks at once; what is written at the same time shares one commit."""

    @property
    def trouble(self) -> str:
        """Why nothing may be begun now, though nothing was written: another process may drive it by now. Else empty."""
        ...

    @property
    def taken(self) -> str:
        """Who drives it instead of us from now on, as a sentence; else empty."""
        ...

    @property
    def epoch(self) -> int:
        """Goes up with each process that drives it, where that may be one of several; else 0."""
        ...

    @property
    def host(self) -> str:
        """The host of who drives it, where that may be another one tomorrow; else empty."""
        ...

    async def append(
        self, *entries: Entry, handled: Sequence[int] = (), urgent: bool = False, heeding: int | None = None
    ) -> tuple[Record, ...]:
        """Write a unit: all of its facts, and the inbox rows that they handle, or nothing. On disk when it returns.

        `urgent` is for what a running incident needs in order to finish: when the disk is full, the reserve beside
        the journal is freed for it, and whatever is not urgent is refused until there is room for the reserve again.

        `heeding` is for what starts a step: the place up to which its writer knows what signal files hold. What another
        host wrote of its own since then came first.

        A caller that is cancelled meanwhile does not know whether the unit was written; it was, whole, or it was not.

        :raises Conflict: an intent's stream has moved on, or another hold came first; nothing was written.
        :raises JournalUnavailable: nothing was written.
        """
        ...

    async def read(self, stream: str, after: int = 0) -> list[Record]:
        """A stream's facts with n greater than `after`, in order."""
        ...

    async def since(self, seq: int, kinds: Sequence[str] = (), limit: int = 0) -> list[Record]:
        """Facts of all streams after a place, in order; only of these kinds when given, no limit when 0."""
        ...

    async def latest(self, kinds: Sequence[str], stream: str = "", limit: int = 50, before: int = 0) -> list[Record]:
        """The newest facts of some kinds, newest first; of one stream, or before a place, when given."""
        ...

    async def hash_of(self, seq: int) -> bytes | None:
        """The hash of the fact at a place, which stands for all that its stream had; None when there is none."""
        ...

    async def changed(self, seq: int, timeout: timedelta) -> int:
        """Wait until there are facts after `seq`, or the time (of the clock) is over; the newest seq.

        Woken by what this journal object commits; facts of other processes are noticed with the next own commit.
        """
        ...

    async def look(self) -> int:
        """The newest seq, with what other processes wrote, where any may; `changed` knows of it from then on."""
        ...

    def subscribe(self, heard: Callable[[Sequence[Record]], None]) -> None:
        """Hand `heard` all that this journal object commits, in the order of `seq`, before its writer goes on.

        It is called on the event loop's thread, and must not raise. Facts of other processes may be handed to it, too.
        """
        ...

    async def receive(self, items: Sequence[Received]) -> Receipt:
        """Put a delivery into the inbox, all or nothing; a key twice in it is new once and then again.

        Never urgent. :raises JournalUnavailable: nothing was kept.
        """
        ...

    async def unhandled(self, source: str = "") -> list[Arrived]:
        """What no fact names yet, oldest first; of one source when given."""
        ...

    async def arrived(self, source: str, since: datetime) -> list[Arrived]:
        """All rows of a source seen since then, handled or not, oldest first."""
        ...

    async def handled(self, ids: Sequence[int]) -> None:
        """These led to nothing."""
        ...

    async def answer(self, row: int, body: bytes) -> None:
        """Keep what became of a row of the inbox, for whoever put it there; it is handled."""
        ...

    async def answer_to(self, key: str) -> bytes | None:
        """What became of the row with this key; None while nobody said."""
        ...

    async def attend(self, host: str, process: str, version: str, configuration: str) -> timedelta:
        """Say that a member lives, and which configuration it has.

        How far its clock is ahead of the database's at least. Nothing where one is alone.

        :raises JournalTaken: another process has that name. JournalUnavailable: nobody heard.
        """
        ...

    async def leave(self, host: str, process: str) -> None:
        """Say that a member ends, so that whoever has its name next need not wait."""
        ...

    async def members(self) -> list[Member]:
        """All that ever said so, by host; none where one is alone."""
        ...

    async def prune(self, before: datetime) -> int:
        """Forget handled inbox rows and ended outbox rows last seen before; how many."""
        ...

    async def cursor(self, name: str) -> int:
        """How far a reader of the facts has come, or another number that is kept by name; 0 at first."""
        ...

    async def enqueue(self, rows: Sequence[Outgoing], name: str, cursor: int) -> None:
        """Put messages into the outbox (a key that is there already is left as it is) and move the cursor, in one."""
        ...

    async def waiting(self) -> list[Outgoing]:
        """Messages neither delivered nor given up, oldest first."""
        ...

    async def pages(self, receiver: str) -> frozenset[str]:
        """The threads that a receiver which keeps troubles open was told of, and not yet that they are over."""
        ...

    async def delivered(self, ids: Sequence[int], at: datetime, *facts: Entry, turned: PageTurn | None = None) -> None:
        """They were delivered; the facts and the pages that say so are written with it. Never urgent."""
        ...

    async def postponed(self, ids: Sequence[int], error: str, not_before: datetime | None) -> None:
        """They failed; tried again at `not_before`, or never when it is None."""
        ...

    async def audit(self) -> AuditReport:
        """Recompute every chain."""
        ...

    def pulses(self) -> Mapping[str, Callable[[], Awaitable[object]]]:
        """A question to each kind of thread that works for it, by the part's name; answered at once unless it hangs."""
        ...

    async def close(self) -> None:
        """Write what waits, and close. Whoever calls anything afterwards gets `JournalUnavailable`."""
        ...


async def until_written(
    work: Callable[[], Awaitable[T]],
    clock: Clock,
    pause: timedelta,
    say: Callable[..., object],
    enough: Callable[[], bool] = bool,
) -> T:
    """What `work` returns once the journal takes what it writes: what happened is not forgotten for a full disk.

    Each time that it cannot be used, `say` gets the sentence as `error`, and after the pause `work` begins anew, unless
    it may be given up, as `enough` says.

    :raises JournalTaken: it never will. JournalUnavailable: it was given up.
    """
    while True:
        try:
            return await work()
        except JournalUnavailable as error:
            say(error=str(error))
            if isinstance(error, JournalTaken) or enough():
                raise
            await clock.sleep(pause)
