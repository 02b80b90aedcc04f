"""What this package asks of a database, whichever it is. The two are in `sqlite.py` and `postgres.py`.

Statements are plain SQL that both take, with `?` for a value; what one of them says otherwise is a method here.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime
from typing import Any, Literal, Protocol, TypeVar

from rollbackd.journal.contract import JournalDamaged, JournalRefused, JournalUnavailable

T = TypeVar("T")
Row = tuple[Any, ...]
Mode = Literal["write", "read"]

AMONG = "IN (SELECT value FROM json_each(?))"
"""Takes a list as one value, made by `listed`: the statement stays the same, and stays prepared."""
TRIGGERS = ("facts_are_never_changed", "facts_are_never_deleted")


class Rows(Protocol):
    """What a statement gave."""

    @property
    def rowcount(self) -> int: ...

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...

    def __iter__(self) -> Iterator[Any]: ...


class JournalConnection(Protocol):
    """A connection, on which one thread works at a time."""

    def execute(self, statement: str, values: Sequence[object] = (), /) -> Rows: ...

    def close(self) -> None: ...

    def listed(self, values: Iterable[str] | Iterable[int], /) -> Any:
        """A list as `AMONG` takes it."""
        ...

    def insert(self, into: str, rows: Sequence[Row], conflict: str = "") -> None:
        """Put rows into a table, by as few statements as can be."""
        ...

    def insert_new(self, into: str, rows: Sequence[Row]) -> dict[str, int]:
        """Put rows, whose first column is their key, into a table that numbers them: the new ones' numbers by key."""
        ...

    def hold_numbers(self) -> None:
        """Until the transaction ends nobody else gives numbers to facts: what is read by number is never late."""
        ...

    def last_fact(self) -> int:
        """The highest number that a fact ever had.

        Numbers have no gaps: one that is missing was deleted by hand, and `audit` says so.
        """
        ...

    def stored_facts(self) -> Iterator[Row]:
        """All facts by stream and n; each text, and the hash, as the bytes that are stored."""
        ...

    def damages(self) -> Iterator[str]:
        """What is wrong with the storage itself."""
        ...

    def triggers(self) -> set[str]:
        """The names of the triggers that are in force."""
        ...


class Doubt(Exception):  # noqa: N818  # it is neither: whoever writes asks until it is known
    """A connection ended in its COMMIT, or the database took it back half: written or not, nobody can say yet."""

    def __init__(self, answer: Any, why: str) -> None:
        super().__init__(why)
        self.answer = answer
        """What the work gave, if it was written."""


class JournalDatabase:
    """Where a journal is kept: how one reads there on any thread, and writes on the writer's."""

    def __init__(self, name: str) -> None:
        self.name = name
        """What sentences call it; it has no secret."""
        self._idle: list[JournalConnection] = []
        """Connections for reading that nobody uses now."""
        self._writing: JournalConnection | None = None
        self._opened = False

    # -- what each one says in its own way
    def connect(self, mode: Mode) -> JournalConnection:
        """:raises JournalRefused: it must not be used; JournalUnavailable: not now."""
        raise NotImplementedError

    def transaction(self, connection: JournalConnection, mode: Mode) -> AbstractContextManager[None]:
        """All that is written within is kept, or nothing; all that is read within is of one moment."""
        raise NotImplementedError

    def troubles(self) -> AbstractContextManager[None]:
        """Call what the driver raises by the journal's own names; a fault of ours goes through."""
        raise NotImplementedError

    def settle(self, doubt: Doubt) -> bool:
        """Whether what was in doubt is written; from then on that is certain. :raises JournalUnavailable: not yet."""
        raise NotImplementedError

    # -- what is the same
    def read(self, question: Callable[..., T], *arguments: object) -> T:
        """Ask in one transaction that begins now: it sees all that was answered before, and nothing half."""
        with self.troubles():
            connection = self._take()
            try:
                with self.transaction(connection, "read"):
                    answer = question(connection, *arguments)
            except BaseException:
                connection.close()  # after any trouble with a new one: this one may remember a broken file
                self._close_idle()
                raise
            self._idle.append(connection)
        return answer

    def write(self, work: Callable[[JournalConnection], T]) -> T:
        """Do it in one transaction. After any trouble the next try begins with a new connection.

        :raises Doubt: ask `settle`, before anything else is written. JournalUnavailable: nothing was kept.
        """
        with self.troubles():
            try:
                connection = self.writer()
                with self.transaction(connection, "write"):
                    return work(connection)
            except Exception:
                self.disconnect()
                raise

    def opened(self) -> None:
        """From now on nothing is refused for good: what is wrong may pass."""
        self._opened = True

    def writer(self) -> JournalConnection:
        """The connection that writes, made when there is none."""
        if self._writing is None:
            self._writing = self._connected("write")
        return self._writing

    def disconnect(self) -> None:
        connection, self._writing = self._writing, None
        if connection is not None:
            with suppress(Exception):  # it is broken already; what matters is the next one
                connection.close()

    def close(self) -> None:
        """End what reads; the writer ends by itself."""
        self._close_idle()

    def _take(self) -> JournalConnection:
        try:
            return self._idle.pop()
        except IndexError:
            return self._connected("read")

    def _close_idle(self) -> None:
        with suppress(IndexError):  # several threads may do so
            while True:
                self._idle.pop().close()

    def _connected(self, mode: Mode) -> JournalConnection:
        try:
            return self.connect(mode)
        except JournalRefused as error:
            if self._opened:
                raise JournalUnavailable(str(error)) from error
            raise


def scalar(connection: JournalConnection, question: str, *values: object) -> Any:
    """The first column of the first row; None when there is none."""
    row = connection.execute(question, values).fetchone()
    return None if row is None else row[0]


def missing_triggers(connection: JournalConnection) -> list[str]:
    there = connection.triggers()
    return [name for name in TRIGGERS if name not in there]


def stamp(when: datetime) -> str:
    """A time as it is stored: UTC with microseconds, of fixed width, so that the text sorts as the time does.

    :raises ValueError: it has no zone, so that nobody can say which time it is.
    """
    if when.tzinfo is None:
        raise ValueError(f"{when} has no zone")
    return when.astimezone(UTC).isoformat(timespec="microseconds")


def unstamp(text: str) -> datetime:
    return datetime.fromisoformat(text)


def storable(text: str) -> str:
    """A text that every journal can keep.

    :raises ValueError: it has a NUL character, or half of one of two (then it is a UnicodeEncodeError).
    """
    if "\0" in text:
        raise ValueError(f"{text!r} has a NUL character, which no journal keeps")
    text.encode()
    return text


def too_new(name: str, why: str, way_back: str = "") -> JournalRefused:
    return JournalRefused(
        f"{name}: written by a newer version of rollbackd ({why}); "
        f"start that version, or put back the journal that was saved before it{way_back}"
    )


def unreadable(name: str, stream: str, n: int, kind: str) -> JournalDamaged:
    return JournalDamaged(
        f"{name}: {stream} #{n} ({kind}) does not read as what was written; `rollbackd audit` says what else"
    )
