"""The projection written aside, so that a start reads the facts that came after it, and no others.

It stands for one fact, by its place and hash, and for one way of folding. One that is not of this journal, not of this
version or not whole is passed over, and all is folded from the first fact on: the journal stays the only truth.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from itertools import islice
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from rollbackd.facts import Record
from rollbackd.incident.life import Incident
from rollbackd.journal import Access
from rollbackd.journal.offline import records_until
from rollbackd.journal.place import DEFAULT_ACCESS, checkpoint_of
from rollbackd.policy.ledger import FleetLedger, ServiceLedger
from rollbackd.state.incidents import KnownIncidents
from rollbackd.state.projection import Counts, Projection
from rollbackd.system import log
from rollbackd.system.supervisor import write_durably

_LARGEST = 2**28
"""Bytes; a larger file is not ours."""
_PORTION = 1000
"""Facts that are folded together."""
_FOLDING = ("facts.py", "incident", "model.py", "policy", "state")
"""The code that a projection is the work of, below the package."""

HashOf = Callable[[int], Awaitable[bytes | None]]
"""The hash of the fact at a place in the journal; None when there is no such fact."""


@dataclass(frozen=True, slots=True)
class _Head:
    """What the file stands for, as its first line."""

    folding: str
    seq: int
    hash: str
    body: str
    """The SHA-256 of the lines that follow, so that half a file is seen."""


@dataclass(frozen=True, slots=True)
class _Fleet:
    """What is of no single service, as the second line."""

    fleet: FleetLedger
    counts: Counts
    incidents: tuple[Incident, ...]


@dataclass(frozen=True, slots=True)
class _Service:
    """A service's ledger, a line each. JSON has no keys of several parts, so what has such keys stands beside it."""

    name: str
    ledger: ServiceLedger
    quarantined: tuple[tuple[tuple[str, str], str], ...]
    drilled: tuple[tuple[tuple[tuple[str, ...], bool], datetime], ...]


@cache
def _head() -> TypeAdapter[_Head]:
    return TypeAdapter(_Head)


@cache
def _fleet() -> TypeAdapter[_Fleet]:
    return TypeAdapter(_Fleet)


@cache
def _service() -> TypeAdapter[_Service]:
    return TypeAdapter(_Service)


@cache
def _folding() -> str:
    """A name for this version's way of folding: other code may make another projection of the same facts."""
    package = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for place in _FOLDING:
        for file in sorted((package / place).rglob("*.py")) if (package / place).is_dir() else [package / place]:
            digest.update(file.read_bytes())
    return digest.hexdigest()


class Checkpoint:
    """The file beside the journal at a URL. :raises JournalRefused: that is no journal's URL."""

    def __init__(self, journal: str, access: Access = DEFAULT_ACCESS) -> None:
        self._journal = journal
        self._access = access
        self._path = checkpoint_of(journal, access)
        self._log = log.get("checkpoint")

    async def read(self, hash_of: HashOf) -> Projection | None:
        """The projection that was written last; None where there is none, or none that is surely right."""
        try:
            head, projection = await asyncio.to_thread(self._load)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:  # a ValidationError is a ValueError
            why = f"invalid at {error.errors()[0]['loc']}" if isinstance(error, ValidationError) else str(error)
            self._log.warning("the checkpoint is passed over; all facts are read", path=str(self._path), why=why)
            return None
        if await hash_of(head.seq) != bytes.fromhex(head.hash):
            self._log.warning("the checkpoint is of another journal; all facts are read", path=str(self._path))
            return None
        return projection

    async def write(self, projection: Projection, hash_of: HashOf) -> bool:
        """Write down a copy that nobody folds on; whether it was written."""
        digest = await hash_of(projection.seq)
        if digest is None:
            return False
        try:
            await asyncio.to_thread(self._store, projection, digest)
        except (OSError, ValueError) as error:
            self._log.warning("the checkpoint cannot be written; the next start reads more", error=str(error))
            return False
        return True

    def misfits(self) -> list[str]:
        """What it says otherwise than the facts up to its place, a sentence each; for the audit, on a thread.

        What a start would pass over is no misfit. Raises as `records_until` does.
        """
        try:
            head, projection = self._load()
        except (OSError, ValueError, RecursionError):
            return []
        remedy = f"stop rollbackd and remove {self._path}; the next start reads all facts"
        return [f"{found}; {remedy}" for found in _misfits(projection, self._records(head.seq))]

    def _records(self, seq: int) -> Iterator[Record]:
        return records_until(self._journal, seq, access=self._access)

    def _load(self) -> tuple[_Head, Projection]:
        if self._path.stat().st_size > _LARGEST:
            raise ValueError(f"it is larger than {_LARGEST >> 20} MiB")
        first, _, body = self._path.read_bytes().partition(b"\n")
        head = _head().validate_json(first)
        if head.folding != _folding():
            raise ValueError("another version wrote it")
        if head.body != hashlib.sha256(body).hexdigest():
            raise ValueError("it is not whole")
        return head, _read(body.splitlines(), head.seq)

    def _store(self, projection: Projection, digest: bytes) -> None:
        body = b"\n".join(_written(projection))
        head = _Head(_folding(), projection.seq, digest.hex(), hashlib.sha256(body).hexdigest())
        write_durably(self._path, _head().dump_json(head) + b"\n" + body)


def _written(projection: Projection) -> Iterator[bytes]:
    """Line by line, so that other threads have their turn in between."""
    incidents = (*projection.incidents.open.values(), *projection.incidents.ended.values())
    yield _fleet().dump_json(_Fleet(projection.fleet, projection.counts, incidents))
    for name, ledger in projection.services.items():
        quarantined, drilled = tuple(ledger.quarantined.items()), tuple(ledger.drilled.items())
        yield _service().dump_json(_Service(name, replace(ledger, quarantined={}, drilled={}), quarantined, drilled))


def _read(lines: list[bytes], seq: int) -> Projection:
    fleet = _fleet().validate_json(lines[0])
    incidents = KnownIncidents()
    for incident in fleet.incidents:
        incidents.keep(incident)
    services = {}
    for one in map(_service().validate_json, lines[1:]):
        services[one.name] = replace(one.ledger, quarantined=dict(one.quarantined), drilled=dict(one.drilled))
    return Projection(seq, fleet.fleet, services, incidents, fleet.counts)


def _misfits(checkpoint: Projection, records: Iterator[Record]) -> Iterator[str]:
    folded = Projection()
    while portion := list(islice(records, _PORTION)):
        folded.apply(portion)
    compared = (
        ("the fleet", checkpoint.fleet, folded.fleet),
        ("what is counted", checkpoint.counts, folded.counts),
        ("the open incidents", checkpoint.incidents.open, folded.incidents.open),
        *((name, ledger, _as_known(folded.of(name), ledger)) for name, ledger in checkpoint.services.items()),
        ("which services there are", checkpoint.services.keys(), folded.services.keys()),
    )
    for what, said, is_so in compared:
        if said != is_so:
            yield f"the checkpoint and the facts disagree on {what}"


def _as_known(folded: ServiceLedger, known: ServiceLedger) -> ServiceLedger:
    """The ledger with the episodes that are known: a start without a checkpoint reads the newest of them only."""
    return replace(folded, episodes={key: one for key, one in folded.episodes.items() if key in known.episodes})
