"""The audit: every chain computed again from the bytes that are stored, and every number accounted for. Read only."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, LargeBinary, cast, func, select

from rollbackd.journal.batch import last_number
from rollbackd.journal.chain import link
from rollbackd.journal.contract import AuditReport
from rollbackd.journal.schema import TRIGGERS, facts, heads

_AT_ONCE = 1000
"""Rows fetched together."""


@dataclass(slots=True)
class _End:
    """How far a stream's facts reach, as they are stored."""

    n: int = 0
    hash: bytes = b""


def audit(connection: Connection) -> AuditReport:
    """All that is wrong, a sentence each. Takes about a second for 100,000 facts."""
    ends: dict[str, _End] = {}
    broken = [*_pages(connection), *_chains(connection, ends), *_tails(connection, ends), *_numbers(connection)]
    broken += _triggers(connection)
    count = connection.execute(select(func.count()).select_from(facts)).scalar_one()
    return AuditReport(len(ends), count, tuple(broken))


def _pages(connection: Connection) -> Iterator[str]:
    for (found,) in connection.exec_driver_sql("PRAGMA quick_check(20)"):
        if found != "ok":
            yield f"the file itself: {found}"


def _chains(connection: Connection, ends: dict[str, _End]) -> Iterator[str]:
    # As bytes: a text that was made invalid must become a sentence, not an error of the driver.
    texts = [cast(column, LargeBinary) for column in (facts.c.stream, facts.c.at, facts.c.actor, facts.c.kind)]
    body, digest = cast(facts.c.body, LargeBinary), cast(facts.c.hash, LargeBinary)
    asked = select(facts.c.seq, facts.c.n, *texts, body, digest).order_by(facts.c.stream, facts.c.n)
    for row in connection.execution_options(yield_per=_AT_ONCE).execute(asked):
        name = bytes(row[2]).decode(errors="replace")
        end = ends.setdefault(name, _End())
        yield from _misfit(name, row, end)
        end.n, end.hash = row[1], row[7]


def _misfit(name: str, row: Sequence[Any], end: _End) -> Iterator[str]:
    seq, n, stream, at, actor, kind, body, digest = row
    if n != end.n + 1:
        # What follows a gap cannot be computed again without what was there; its own successors can.
        yield f"{name}: {_missing(end.n + 1, n - 1)}"
    elif digest != link(end.hash, seq, stream, n, at, actor, kind, body):
        what = f"{kind.decode(errors='replace')} of {at.decode(errors='replace')}"
        yield f"{name}: #{n} ({what}) is not what was written, or it was written in another place"


def _tails(connection: Connection, ends: dict[str, _End]) -> Iterator[str]:
    """What the heads remember is compared with what is there."""
    remembered = {row.stream: row for row in connection.execute(select(heads))}
    for name in sorted({*remembered, *ends}):
        end, head = ends.get(name, _End()), remembered.get(name)
        if head is None:
            yield f"{name}: has facts, but its head is missing"
        elif head.n > end.n:
            yield f"{name}: {_missing(end.n + 1, head.n, ' at its end')}"
        elif head.n < end.n or head.hash != end.hash:
            yield f"{name}: its last fact #{end.n} is not the one that was written last (#{head.n})"


def _numbers(connection: Connection) -> Iterator[str]:
    """Numbers are given without gaps over all streams, also when a stream and its head were deleted together."""
    next_seq = func.lead(facts.c.seq, 1, last_number(connection, "facts") + 1).over(order_by=facts.c.seq)
    pairs = select(facts.c.seq, next_seq.label("follower")).subquery()
    first = connection.execute(select(func.min(facts.c.seq))).scalar()
    last = last_number(connection, "facts")
    if first is None and last:
        yield f"of all streams, {_missing(1, last)}"
    elif first is not None and first != 1:
        yield f"of all streams, {_missing(1, first - 1)}"
    for seq, follower in connection.execute(select(pairs).where(pairs.c.follower != pairs.c.seq + 1)):
        yield f"of all streams, {_missing(seq + 1, follower - 1)}"


def _triggers(connection: Connection) -> Iterator[str]:
    there = set(connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'").scalars())
    for name in TRIGGERS:
        if name not in there:
            yield f"the trigger {name} is missing: somebody has opened the journal to edit it"


def _missing(first: int, last: int, where: str = "") -> str:
    return f"#{first}{where} is missing" if first == last else f"#{first} to #{last}{where} are missing"
