"""What became of all incidents, as figures: how many rollbacks were right, how many of the right ones came, how soon."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from tests.judge.classes import CLASSES, Class
from tests.judge.incident import Half
from tests.judge.play import Played

HALVES: tuple[Half, ...] = ("plain", "hard")


@dataclass(frozen=True, slots=True)
class Result:
    """One incident with everybody who judges."""

    kind: str
    """The class's name."""
    number: int
    side_by_side: bool
    by: Mapping[str, Played]

    @property
    def half(self) -> Half:
        return class_of(self.kind).half


def class_of(name: str) -> Class:
    return next(one for one in CLASSES if one.name == name)


@dataclass
class Score:
    """Counts of one who judges."""

    right: int = 0
    wrong: int = 0
    """Incidents in which anything was taken back that should not have been, once each."""
    missed: int = 0
    delays: list[float] = field(default_factory=list)
    recovered: int = 0

    def add(self, played: Played) -> None:
        self.missed += len(played.missed)
        self.wrong += any(one.right is None for one in played.rollbacks)
        for one in played.rollbacks:
            if one.right is not None:
                self.right += 1
                self.delays.append(one.delay)
                self.recovered += one.outcome == "recovered"

    @property
    def precision(self) -> float | None:
        return self.right / (self.right + self.wrong) if self.right + self.wrong else None

    @property
    def recall(self) -> float | None:
        return self.right / (self.right + self.missed) if self.right + self.missed else None

    @property
    def typical(self) -> float | None:
        """The median delay, in seconds."""
        return median(self.delays) if self.delays else None

    @property
    def late(self) -> float | None:
        """The delay that one in ten exceeds, in seconds."""
        ordered = sorted(self.delays)
        return ordered[min(len(ordered) - 1, int(len(ordered) * 0.9))] if ordered else None


def score(results: Iterable[Result], who: str) -> Score:
    found = Score()
    for one in results:
        found.add(one.by[who])
    return found


def is_wrong(played: Played) -> bool:
    """Whether a right rollback is missing, or a wrong one came."""
    return bool(played.missed) or any(one.right is None for one in played.rollbacks)


@dataclass(frozen=True, slots=True)
class Failing:
    """A class in which something went wrong."""

    kind: Class
    incidents: int
    wrong: int
    number: int
    """Of the first incident that failed."""
    reason: str


def failing(results: Sequence[Result], who: str) -> list[Failing]:
    """The classes that fail, the worst first."""
    found = []
    for each in CLASSES:
        own = [one for one in results if one.kind == each.name]
        bad = [one for one in own if is_wrong(one.by[who])]
        if bad:
            found.append(Failing(each, len(own), len(bad), bad[0].number, reason(bad[0].by[who])))
    return sorted(found, key=lambda one: -one.wrong / one.incidents)


def reason(played: Played) -> str:
    """Why it failed, in a line."""
    wrong = next((one for one in played.rollbacks if one.right is None), None)
    if wrong is not None:
        said = next(
            (line for line in played.reasons if line.startswith(f"{wrong.at:.0f}s") and "rolls back" in line), ""
        )
        said = said or next((line for line in played.reasons if "rolls back" in line or "rises" in line), "")
        return f"wrong: {wrong.service} {wrong.before} -> {wrong.after} after {wrong.at:.0f}s. {said}"
    return f"missed. {played.reasons[0] if played.reasons else 'nothing was made of it'}"
