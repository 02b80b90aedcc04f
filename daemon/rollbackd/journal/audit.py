"""The audit: every chain computed again from the bytes that are stored, and every number accounted for. Read only."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rollbackd.journal.chain import link
from rollbackd.journal.contract import AuditReport
from rollbackd.journal.database import JournalConnection, missing_triggers, scalar

_HEADS = "SELECT stream, n, hash FROM heads"
_GAPS = """
    SELECT seq, follower FROM (SELECT seq, lead(seq, 1, ?) OVER (ORDER BY seq) AS follower FROM facts) AS pairs
    WHERE follower != seq + 1
"""


@dataclass(slots=True)
class _End:
    """How far a stream's facts reach, as they are stored."""

    n: int = 0
    hash: bytes = b""


def audit(connection: JournalConnection) -> AuditReport:
    """All that is wrong, a sentence each. Takes about a second for 100,000 facts."""
    ends: dict[str, _End] = {}
    broken = [*connection.damages(), *_chains(connection, ends), *_tails(connection, ends), *_numbers(connection)]
    for name in missing_triggers(connection):
        broken.append(f"the trigger {name} is missing: somebody has opened the journal to edit it")
    return AuditReport(len(ends), scalar(connection, "SELECT count(*) FROM facts"), tuple(broken))


def _chains(connection: JournalConnection, ends: dict[str, _End]) -> Iterator[str]:
    for row in connection.stored_facts():
        name = row[2].decode(errors="replace")
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


def _tails(connection: JournalConnection, ends: dict[str, _End]) -> Iterator[str]:
    """What the heads remember is compared with what is there."""
    remembered = {stream: _End(n, digest) for stream, n, digest in connection.execute(_HEADS)}
    for name in sorted({*remembered, *ends}):
        end, head = ends.get(name, _End()), remembered.get(name)
        if head is None:
            yield f"{name}: has facts, but its head is missing"
        elif head.n > end.n:
            yield f"{name}: {_missing(end.n + 1, head.n, ' at its end')}"
        elif head.n < end.n or head.hash != end.hash:
            yield f"{name}: its last fact #{end.n} is not the one that was written last (#{head.n})"


def _numbers(connection: JournalConnection) -> Iterator[str]:
    """Numbers are given without gaps over all streams, also when a stream and its head were deleted together."""
    first, last = scalar(connection, "SELECT min(seq) FROM facts"), connection.last_fact()
    if first is None and last:
        yield f"of all streams, {_missing(1, last)}"
    elif first is not None and first != 1:
        yield f"of all streams, {_missing(1, first - 1)}"
    for seq, follower in connection.execute(_GAPS, (last + 1,)):
        yield f"of all streams, {_missing(seq + 1, follower - 1)}"


def _missing(first: int, last: int, where: str = "") -> str:
    return f"#{first}{where} is missing" if first == last else f"#{first} to #{last}{where} are missing"
