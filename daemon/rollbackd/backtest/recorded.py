"""The changes that were made in the past, as somebody wrote them down: a file, the journal, or a metric. No I/O."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isfinite

from rollbackd.backtest.grid import Grid
from rollbackd.facts import Changed, Record
from rollbackd.model import Release, State
from rollbackd.signals.query_answers import MISSING, Row

BEFORE = Release("as-before", "the release before the first known change")
"""Of a layer of which nobody wrote down what it ran."""
ROLLBACK = "rollback"


class ChangesUnreadable(Exception):  # noqa: N818  # a sentence for a person
    """The changes cannot be used; each line says where and why."""


@dataclass(frozen=True, slots=True)
class RecordedChange:
    """Somebody changed what a service runs."""

    service: str
    at: datetime
    state: State
    """What ran from then on, all layers."""
    rollback: bool
    """Whether they went back: to a state that ran before, or as they say themselves."""


@dataclass(frozen=True, slots=True)
class _Told:
    service: str
    at: datetime
    releases: Mapping[str, Release]
    rollback: bool = False


def from_text(text: str, name: str, layers: Mapping[str, Sequence[str]]) -> list[RecordedChange]:
    """The changes of a file: a line each, `TIME SERVICE RELEASE [rollback]`; `#` begins a comment.

    A release is `v42`, or `code=v42,config=7` where a service has more layers than one.

    :param layers: the layers with releases of each service.
    :raises ChangesUnreadable: with every line that is wrong.
    """
    found, faults = [], []
    for number, written in enumerate(text.splitlines(), 1):
        words = written.partition("#")[0].split()
        if not words:
            continue
        try:
            found.append(_told(words, layers))
        except ValueError as error:
            faults.append(f"{name}:{number}: {error}")
    if faults:
        raise ChangesUnreadable("\n".join(faults))
    return _states(found, layers)


def _told(words: list[str], layers: Mapping[str, Sequence[str]]) -> _Told:
    if len(words) not in {3, 4} or (len(words) == 4 and words[3] != ROLLBACK):
        raise ValueError("a line is `TIME SERVICE RELEASE`, with the word rollback behind it where people went back")
    at = parse_time(words[0])
    if words[1] not in layers:
        raise ValueError(f"there is no service {words[1]} in the configuration")
    return _Told(words[1], at, _releases(words[2], layers[words[1]]), len(words) == 4)


def _releases(text: str, layers: Sequence[str]) -> dict[str, Release]:
    found = {}
    for part in text.split(","):
        layer, equals, release = part.rpartition("=")
        if not equals and len(layers) != 1:
            raise ValueError(f"which layer has {part}? write LAYER={part}; layers: {', '.join(layers) or 'none'}")
        layer = layer if equals else layers[0]
        if layer not in layers:
            raise ValueError(f"no layer {layer} with releases; there is: {', '.join(layers) or 'none'}")
        if not release:
            raise ValueError(f"{part} names no release")
        found[layer] = Release(release)
    return found


def parse_time(text: str) -> datetime:
    """A date, or a date and time; UTC where it does not say another zone. :raises ValueError: it is none."""
    try:
        at = datetime.fromisoformat(text)
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{text} is no time; write it like 2026-03-01T10:00:00Z") from error


def from_records(records: Iterable[Record], layers: Mapping[str, Sequence[str]]) -> list[RecordedChange]:
    """The changes that the journal has, those of our own rollbacks among them."""
    found = []
    for record in records:
        service = record.stream.partition(":")[2]
        if isinstance(record.fact, Changed) and service in layers:
            fact = record.fact
            releases = {name: one for name, one in fact.state.releases.items() if name in layers[service]}
            found.append(_Told(service, fact.by, releases, bool(fact.incident)))
    return _states(found, layers)


class MetricChanges:
    """The changes that a metric shows: its value is another, or with a label that label's value is.

    While several values of the label are there, as in a rollout, the newest one counts from its first point on.
    """

    def __init__(self, label: str, grid: Grid, layers: Mapping[str, Sequence[str]]) -> None:
        self._label = label
        self._grid = grid
        self._layers = layers
        self._shown: dict[str, tuple[str, ...]] = {}
        self._running: dict[str, str] = {}
        self._found: list[_Told] = []

    def take(self, service: str, rows: Sequence[Row], polls: range) -> None:
        """The next chunk of a service's series. :raises ChangesUnreadable: nobody can say which layer changed."""
        if len(self._layers[service]) != 1:
            raise ChangesUnreadable(f"{service} has several layers with releases: a metric cannot tell which changed")
        still = all(isfinite(sum(row.values)) and min(row.values) == max(row.values) for row in rows)
        for place, poll in enumerate(polls[:1] if still else polls):
            shown = self._shown.get(service, ())
            now = tuple(dict.fromkeys(self._name(row, place) for row in rows if row.values[place] != MISSING))
            if now == shown or not now:
                continue
            self._shown[service] = now
            running = self._running.get(service, "")
            fresh = [name for name in now if name and name not in shown]
            known = fresh[-1] if fresh else running if running in now else now[0]
            if known and known != running:
                self._running[service] = known
                layer = self._layers[service][0]
                self._found.append(_Told(service, self._grid.at(poll), {layer: Release(known)}))

    def _name(self, row: Row, place: int) -> str:
        return row.labels.get(self._label, "") if self._label else f"{row.values[place]:.15g}"

    def changes(self) -> list[RecordedChange]:
        return _states(self._found, self._layers)


def _states(told: list[_Told], layers: Mapping[str, Sequence[str]]) -> list[RecordedChange]:
    """The changes in their order, each with all layers; what changes nothing is left out."""
    found = []
    present: dict[str, State] = {}
    known: dict[str, set[str]] = {}
    for one in sorted(told, key=lambda each: each.at):
        before = present.get(one.service) or State(dict.fromkeys(layers[one.service], BEFORE))
        state = State({**before.releases, **one.releases})
        if one.service in present and state.key == before.key:
            continue
        again = state.key in known.setdefault(one.service, set())
        known[one.service].add(state.key)
        present[one.service] = state
        found.append(RecordedChange(one.service, one.at, state, one.rollback or again))
    return found
