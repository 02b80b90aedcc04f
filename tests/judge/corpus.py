"""The corpus: so many incidents of all classes from a seed, played on some processes."""

import asyncio
import gc
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from rollbackd.system import log
from tests.judge import hard, plain  # noqa: F401  # they register their classes
from tests.judge.classes import CLASSES
from tests.judge.configurations import CONFIGURATIONS
from tests.judge.dice import Dice
from tests.judge.figures import Result, class_of
from tests.judge.incident import Incident
from tests.judge.peers import PEERS, Watched
from tests.judge.play import Played, Player
from tests.judge.traffic import hash_of

HELD_OUT = 1_000_000
"""What is added to a seed for incidents that nobody looked at while anything was built."""


@dataclass(frozen=True, slots=True)
class Case:
    """One incident before it is made."""

    kind: str
    number: int
    seed: int

    @property
    def seeds(self) -> tuple[int, int, int]:
        return (self.seed, hash_of(self.kind), self.number)

    def made(self) -> Incident:
        return class_of(self.kind).make(Dice(self.seeds))


def cases(count: int, seed: int, kinds: Sequence[str] = ()) -> list[Case]:
    """So many, the classes in turn."""
    names = [one.name for one in CLASSES if not kinds or one.name in kinds]
    return [Case(names[n % len(names)], n // len(names), seed) for n in range(count)]


def play(case: Case, directory: Path, judges: Sequence[str]) -> Result:
    """One incident, with everybody who judges."""
    incident = case.made()
    by: dict[str, Played] = {}
    for one in CONFIGURATIONS:
        if one.name in judges:
            by[one.name] = asyncio.run(Player(directory, incident, case.seeds, one).play())
    peers = [one for one in PEERS if one.name in judges]
    if peers:
        watched = Watched(incident, case.seeds)
        by |= {one.name: one.play(watched) for one in peers}
    return Result(case.kind, case.number, incident.side_by_side, by)


def _some(given: Sequence[Case], judges: Sequence[str]) -> list[Result]:
    with tempfile.TemporaryDirectory(prefix="rollbackd-judge-") as directory:
        found = [play(case, Path(directory), judges) for case in given]
    gc.enable()
    gc.collect()
    return found


def _some_of_many(given: Sequence[Case], judges: Sequence[str]) -> list[Result]:
    """In a process of its own. An incident leaves little behind, so garbage is looked for between some of them only."""
    log.configure("critical")
    gc.disable()
    found = _some(given, judges)
    gc.collect()
    return found


def play_all(
    given: Sequence[Case], judges: Sequence[str], processes: int = 1, told: Callable[[int], None] = lambda _: None
) -> list[Result]:
    """All of them, in order; `told` hears how many are done."""
    if processes == 1:
        return list(_counted((_some([case], judges) for case in given), told))
    parts = [given[n : n + 5] for n in range(0, len(given), 5)]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        return list(_counted(pool.map(_some_of_many, parts, [judges] * len(parts)), told))


def _counted(parts: Iterable[list[Result]], told: Callable[[int], None]) -> Iterator[Result]:
    done = 0
    for part in parts:
        done += len(part)
        told(done)
        yield from part
