"""A journal moved from one database into another, either way: all that it has, byte for byte, numbers and hashes too.

What is copied is copied in one transaction of the new one: cut off, nothing of it is there, and it is done again.
"""

from collections.abc import Iterator
from functools import partial

from rollbackd.journal.audit import audit
from rollbackd.journal.contract import JournalRefused
from rollbackd.journal.database import JournalConnection, JournalDatabase, Row, scalar

_PORTION = 1000
"""Rows that are read together."""
_FACTS = "SELECT seq, stream, n, at, actor, kind, body, hash FROM facts WHERE seq > ? ORDER BY seq LIMIT ?"
_HEADS = "SELECT stream, n, hash FROM heads"
_HASH = "SELECT hash FROM facts WHERE seq = ?"
_NUMBERED = {
    "inbox": "key, source, at, seen, body, handled",
    "outbox": "key, receiver, grouped, body, not_before, created, attempts, error, ended",
}
"""Tables whose rows have numbers of their own, which nothing outside remembers; their order stays."""
_OTHERS = {"pages": "receiver, thread", "cursors": "name, seq"}


def copy(source: JournalDatabase, target: JournalDatabase) -> int:
    """Copy all into a journal that is empty, or has the beginning of the same one; how many facts there are.

    Blocks as long as that takes, with both audited.

    :raises JournalRefused: the target has facts of its own, or one of them does not fit together.
    """
    try:
        return target.write(partial(_into, source, target))
    finally:
        target.disconnect()
        source.close()


def _into(source: JournalDatabase, target: JournalDatabase, there: JournalConnection) -> int:
    _refuse_broken(source.name, source.read(audit).broken)
    source.read(partial(_copy, target.name), there)
    found = audit(there)
    _refuse_broken(target.name, found.broken)
    return found.facts


def _refuse_broken(name: str, broken: tuple[str, ...]) -> None:
    if broken:
        raise JournalRefused(f"{name}: does not fit together: {'; '.join(broken[:5])}")


def _copy(target: str, here: JournalConnection, there: JournalConnection) -> None:
    last = there.last_fact()
    if last and scalar(here, _HASH, last) != scalar(there, _HASH, last):
        raise JournalRefused(f"{target}: has facts of its own; name a journal that is empty")
    for rows in _portions(here, last):
        there.insert("facts", rows)
    heads = here.execute(_HEADS).fetchall()
    there.insert("heads", heads, "ON CONFLICT (stream) DO UPDATE SET n = excluded.n, hash = excluded.hash")
    if set(heads) != set(there.execute(_HEADS).fetchall()):
        raise JournalRefused(f"{target}: has streams of its own; name a journal that is empty")
    for table, columns in (*_NUMBERED.items(), *_OTHERS.items()):
        there.execute(f"DELETE FROM {table}")
        order = "ORDER BY id" if table in _NUMBERED else ""
        there.insert(f"{table} ({columns})", here.execute(f"SELECT {columns} FROM {table} {order}").fetchall())


def _portions(here: JournalConnection, last: int) -> Iterator[list[Row]]:
    while rows := here.execute(_FACTS, (last, _PORTION)).fetchall():
        yield rows
        last = rows[-1][0]
