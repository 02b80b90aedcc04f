"""What was done on this host and is not in the journal yet: a file each, beside a journal that is on another host.

It is on disk before it is tried to write it into the journal, and removed once it is there. What another driver has not
waited for is written as `ReportedLate`, which changes nothing.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from rollbackd import facts
from rollbackd.facts import Record
from rollbackd.journal.contract import Conflict, Entry, Journal
from rollbackd.journal.place import Access, is_postgres, local_path
from rollbackd.model import name_in
from rollbackd.system import log
from rollbackd.system.supervisor import write_durably

_BEGUN = (facts.Entering, facts.ApplyStarted, facts.Leaving)
_OVER = (
    facts.Entered, facts.EnterFailed, facts.Applied, facts.ApplyFailed, facts.Left, facts.LeaveFailed,
    facts.StepSuperseded, facts.Parked, facts.Closed,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Result:
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


_RESULT = TypeAdapter(Result)


class Unwritten:
    """The files of this host; an incident has one at most, since it has one effect at a time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._log = log.get("journal")

    @classmethod
    def beside(cls, url: str, access: Access) -> "Unwritten | None":
        """None for a journal on this host, which is no further away than such a file."""
        if not is_postgres(url):
            return None
        path = local_path(url, access)
        return cls(path.with_name(f"{path.name}.unwritten"))

    def keep(self, result: Result) -> bool:
        """Whether it is on disk; where it cannot be, the journal is all that there is."""
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_durably(self._path(result), _RESULT.dump_json(result))
        except OSError as error:
            self._log.error("what was done cannot be kept on this host", stream=result.stream, error=str(error))
            return False
        return True

    def forget(self, result: Result) -> None:
        """It is in the journal. One that stays is found to be there."""
        with suppress(OSError):
            self._path(result).unlink(missing_ok=True)

    def results(self) -> list[Result]:
        """All of them; what cannot be read stays, and is logged."""
        found = []
        for path in sorted(self._directory.glob("*.json")):
            try:
                found.append(_RESULT.validate_json(path.read_bytes()))
            except (OSError, ValidationError) as error:
                self._log.error("what was done here cannot be read", path=str(path), error=str(error))
        return found

    def _path(self, result: Result) -> Path:
        return self._directory / f"{name_in(result.stream)}.json"


async def write_results(journal: Journal, unwritten: Unwritten) -> None:
    """Write all of them. :raises JournalUnavailable: not now; those that are not written yet stay."""
    for result in unwritten.results():
        while (fact := missing(records := await journal.read(result.stream), result)) is not None:
            with suppress(Conflict):
                await journal.append(Entry(result.stream, fact, follows=records[-1].n), urgent=True)
        unwritten.forget(result)


def missing(records: Sequence[Record], result: Result) -> Any | None:
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
