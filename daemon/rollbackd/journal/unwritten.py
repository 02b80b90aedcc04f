"""What was done on this host and is not in the journal yet: a file each, beside a journal that is on another host.

It is on disk before it is tried to write it into the journal, and removed once it is there. What another driver has not
waited for is written as `ReportedLate`, which changes nothing.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from pydantic import TypeAdapter, ValidationError

from rollbackd import facts
from rollbackd.facts import Record
from rollbackd.journal.contract import Conflict, Entry, Journal
from rollbackd.journal.place import Access, local_path
from rollbackd.model import FLEET, incident_service, name_in, service_stream
from rollbackd.system import log
from rollbackd.system.supervisor import write_durably

_BEGUN = (facts.Entering, facts.ApplyStarted, facts.Leaving)
_OVER = (
    facts.Entered, facts.EnterFailed, facts.Applied, facts.ApplyFailed, facts.Left, facts.LeaveFailed,
    facts.StepSuperseded, facts.Parked, facts.Closed,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class UnwrittenResult:
    """What an effect came to."""

    stream: str
    what: str
    """`enter`, `apply` or `leave`."""
    layer: str
    since: datetime
    """When its intent was written."""
    host: str
    """Who did it."""
    ended: datetime
    kind: str
    body: str
    """The fact, as the journal keeps it."""

    @property
    def fact(self) -> Any:
        """:raises KeyError: ValidationError: another version of rollbackd wrote it."""
        return facts.decode(self.kind, self.body)


@dataclass(frozen=True, slots=True)
class LostFacts:
    """Facts that were said to be written, and that a failover lost."""

    streams: tuple[str, ...]
    """Those whose end is missing."""
    text: str


_RESULT = TypeAdapter(UnwrittenResult)
_LOSS = TypeAdapter(LostFacts)
_LOST = "lost"
"""The file of a loss; those of results have a number in their names."""


class Unwritten:
    """The files of this host; an incident has one at most, since it has one effect at a time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._log = log.get("journal")

    @classmethod
    def beside(cls, url: str, access: Access) -> Self:
        path = local_path(url, access)
        return cls(path.with_name(f"{path.name}.unwritten"))

    def keep(self, result: UnwrittenResult) -> bool:
        """Whether it is on disk; where it cannot be, the journal is all that there is."""
        return self._keep(name_in(result.stream), _RESULT.dump_json(result))

    def keep_loss(self, loss: LostFacts) -> None:
        """Until it is in the journal."""
        self._log.critical("facts were lost", streams=loss.streams, reason=loss.text)
        self._keep(_LOST, _LOSS.dump_json(loss))

    def _keep(self, name: str, data: bytes) -> bool:
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_durably(self._path(name), data)
        except OSError as error:
            self._log.error("what the journal lacks cannot be kept on this host", name=name, error=str(error))
            return False
        return True

    def forget(self, result: UnwrittenResult) -> None:
        """It is in the journal. One that stays is found to be there."""
        with suppress(OSError):
            self._path(name_in(result.stream)).unlink(missing_ok=True)

    def forget_loss(self) -> None:
        """It is in the journal."""
        with suppress(OSError):
            self._path(_LOST).unlink(missing_ok=True)

    @property
    def empty(self) -> bool:
        return not any(self._directory.glob("*.json"))

    def loss(self) -> LostFacts | None:
        """What was lost and is not in the journal yet."""
        try:
            return _LOSS.validate_json(self._path(_LOST).read_bytes())
        except (OSError, ValidationError):
            return None

    def results(self) -> list[UnwrittenResult]:
        """All of them; what cannot be read stays, and is logged."""
        found = []
        for path in sorted(self._directory.glob("*-*.json")):
            try:
                found.append(_RESULT.validate_json(path.read_bytes()))
            except (OSError, ValidationError) as error:
                self._log.error("what was done here cannot be read", path=str(path), error=str(error))
        return found

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}.json"


async def write_unwritten(journal: Journal, unwritten: Unwritten) -> None:
    """Write all of it. :raises JournalUnavailable: not now; what is not written yet stays."""
    if (loss := unwritten.loss()) is not None:
        await _write_loss(journal, loss)
        unwritten.forget_loss()
    for result in unwritten.results():
        while (fact := missing(records := await journal.read(result.stream), result)) is not None:
            with suppress(Conflict):
                await journal.append(Entry(result.stream, fact, follows=records[-1].n), urgent=True)
        unwritten.forget(result)


async def _write_loss(journal: Journal, loss: LostFacts) -> None:
    """People are told, incidents whose facts are lost wait for them, and their services are held: once."""
    notice = facts.Notice("facts_lost", f"{loss.text}; look at what runs, then `rollbackd resume` each service")
    if any(record.fact == notice for record in await journal.latest(facts.kinds(facts.Notice), FLEET)):
        return
    entries = [Entry(FLEET, notice)]
    why = "facts of it were lost in a failover; look at what runs"
    services = {incident_service(stream) or name_in(stream) for stream in loss.streams} - {""}
    entries += [Entry(service_stream(service), facts.Held(why)) for service in sorted(services)]
    for stream in filter(incident_service, loss.streams):
        there = [record.fact for record in await journal.read(stream)]
        if there and not any(isinstance(fact, facts.Closed) for fact in there):
            entries.append(Entry(stream, facts.Parked(why)))
    await journal.append(*entries, urgent=True)


def missing(records: Sequence[Record], result: UnwrittenResult) -> Any | None:
    """What a stream lacks of a result: the fact itself while that is waited for, else that it came late."""
    fact = result.fact
    begun = [
        place
        for place, record in enumerate(records, 1)
        if isinstance(record.fact, _BEGUN) and (record.fact.layer, record.at) == (result.layer, result.since)
    ]
    after = [record.fact for record in records[begun[0] if begun else 0 :]]
    ended = next((other for other in after if _is_over(other, result.host)), None)
    if begun and ended is None:
        return fact
    failed = "somebody else moved it" if isinstance(fact, facts.StepSuperseded) else getattr(fact, "reason", "")
    late = facts.ReportedLate(result.what, result.layer, result.host, result.ended, failed)
    return late if records and ended != fact and late not in after else None


def _is_over(fact: Any, host: str) -> bool:
    """Whether nobody waits any more for what was done on a host."""
    return isinstance(fact, _OVER) or (isinstance(fact, facts.Adopted) and fact.host != host)
