"""What the services of an incident do, as the counters that a Prometheus scrapes from them, drawn from a seed.

Counters are drawn for the releases that run; when others run, what comes is drawn anew and what was stays.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf, pi

import numpy as np

from tests.judge.incident import DAY, Effect, Host, Incident, Outage
from tests.judge.series import PACE, Flags, Floats, Ints, Labels, Metric

REQUESTS, BUCKETS, UP = "http_requests_total", "http_request_duration_seconds_bucket", "up"
_BOUNDS = np.array([0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0])
_LABELS = (*(f"{bound:g}" for bound in _BOUNDS), "+Inf")
_SPREAD = 0.55
"""Of the logarithm of how long a request takes."""
_LIMIT = 30.0
"""Seconds after which callers give up."""
BEFORE = 7200.0
"""How long before 0 the samples of the day begin."""
_STRETCH = 6 * 3600.0
"""Of days before, so much is drawn at once."""


@dataclass(frozen=True, slots=True)
class Turn:
    """From when a layer of a service runs a release."""

    at: float
    release: str
    stagger: float = 5.0
    first: int = 0


Turns = Mapping[tuple[str, str], Sequence[Turn]]
"""By service and layer, oldest first."""


@dataclass
class _Row:
    """One series while it is drawn."""

    labels: Labels
    offset: float
    samples: Floats
    stale: Flags


@dataclass
class Stretch:
    """The samples of one stretch of time."""

    begin: float
    scrapes: int
    rows: dict[str, dict[tuple[tuple[str, str], ...], _Row]] = field(default_factory=dict)
    metrics: dict[str, Metric] = field(default_factory=dict)

    def row(self, name: str, labels: Labels, offset: float) -> _Row:
        rows = self.rows.setdefault(name, {})
        key = tuple(sorted(labels.items()))
        if key not in rows:
            rows[key] = _Row(labels, offset, np.full(self.scrapes, np.nan), np.zeros(self.scrapes, dtype=bool))
        return rows[key]

    def metric(self, name: str) -> Metric | None:
        """All series of a metric; None where there is none."""
        if name not in self.metrics and (rows := list(self.rows.get(name, {}).values())):
            self.metrics[name] = Metric(
                [row.labels for row in rows],
                self.begin,
                np.array([row.offset for row in rows]),
                np.array([row.samples for row in rows]),
                np.array([row.stale for row in rows]),
            )
        return self.metrics.get(name)


class Traffic:
    """The samples of one incident."""

    def __init__(self, incident: Incident, seed: Sequence[int], turns: Turns, until: float) -> None:
        self._incident = incident
        self._seed = list(seed)
        self._today = Stretch(-BEFORE, int((until + BEFORE) / PACE) + 1)
        self._past: dict[int, Stretch] = {}
        self.turns = turns
        self._draw(self._today, -BEFORE, turns)

    def turned(self, now: float, turns: Turns) -> None:
        """Other releases run from now on."""
        self.turns = turns
        self._draw(self._today, now, turns)

    def metric(self, name: str, at: float) -> Metric | None:
        """The series of a metric around a time."""
        if at >= self._today.begin + 1800:
            return self._today.metric(name)
        number = int(at // _STRETCH)
        if number not in self._past:
            begin = number * _STRETCH - 3600
            stretch = self._past[number] = Stretch(begin, int((_STRETCH + 3600) / PACE) + 1)
            self._draw(stretch, begin, self.turns)
        return self._past[number].metric(name)

    def runs(self, service: str, now: float) -> bool:
        """Whether any instance of a service runs."""
        host = next(one for one in self._incident.hosts if one.name == service)
        at = np.array([now])
        return any(not _down(self._incident, host, n, self.turns, at)[0] for n in range(host.instances))

    def _draw(self, stretch: Stretch, begin: float, turns: Turns) -> None:
        first = max(0, int(np.ceil((begin - stretch.begin) / PACE)))
        dice = np.random.default_rng([*self._seed, first, int(abs(stretch.begin))])
        at = np.arange(first, stretch.scrapes, dtype=np.float64) * PACE + stretch.begin
        stretch.metrics = {}
        for rows in stretch.rows.values():
            for row in rows.values():
                row.samples[first:], row.stale[first:] = np.nan, False
        for host in self._incident.hosts:
            _Drawing(self._incident, host, stretch, turns, first, at, dice).draw()
        for outage in self._incident.outages:
            _forget(stretch, outage)


def _forget(stretch: Stretch, outage: Outage) -> None:
    at = stretch.begin + PACE * np.arange(stretch.scrapes)
    for rows in stretch.rows.values():
        for row in rows.values():
            lost = (at + row.offset >= outage.begin) & (at + row.offset < outage.end)
            row.samples[lost], row.stale[lost] = np.nan, False


class _Drawing:
    """The samples of one service."""

    def __init__(
        self,
        incident: Incident,
        host: Host,
        stretch: Stretch,
        turns: Turns,
        first: int,
        at: Floats,
        dice: np.random.Generator,
    ) -> None:
        self._incident, self._host, self._stretch, self._turns = incident, host, stretch, turns
        self._first, self._at, self._dice = first, at, dice

    def draw(self) -> None:
        host, at = self._host, self._at
        down = np.array([_down(self._incident, host, n, self._turns, at) for n in range(host.instances)])
        running = np.maximum((~down).sum(axis=0), 1)
        rate = host.rate * (1 + host.daily * np.cos(2 * pi * (at - self._noon()) / DAY))
        rate = rate * self._product("traffic", at) * np.exp(_wandering(self._dice, len(at), 0.05))
        for n in range(host.instances):
            self._instance(n, down[n], np.where(down[n], 0.0, rate / running))

    def _noon(self) -> float:
        return -self._incident.noon

    def _product(self, what: str, at: Floats) -> Floats:
        found = np.ones(len(at))
        for effect in self._effects(what):
            found *= 1 + (effect.size - 1) * _there(effect, at)
        return found

    def _effects(self, what: str) -> Iterator[Effect]:
        return (one for one in self._incident.effects if one.service == self._host.name and one.what == what)

    def _on(self, what: str, own: "_Own") -> Iterator[tuple[Effect, Floats]]:
        """The effects of one kind on an instance, and how much of each is there."""
        for effect in self._effects(what):
            if effect.instances is None or own.number in effect.instances:
                yield effect, _there(effect, self._at) * _while(effect, self._host, self._turns, self._at, own.releases)

    def _share(self, what: str, usual: Floats, own: "_Own") -> Floats:
        """The share of requests that end so, of the usual cause or any other."""
        left = 1 - usual
        for effect, there in self._on(what, own):
            left = left * (1 - np.clip(effect.size * there, 0, 1))
        return 1 - left

    def _any(self, what: str, own: "_Own") -> Flags:
        found = np.zeros(len(self._at), dtype=bool)
        for _, there in self._on(what, own):
            found |= there > 0
        return found

    def _buckets(self, answered: Ints, own: "_Own") -> Ints:
        """How many requests were answered within each bound."""
        factor, parts = np.ones(len(self._at)), []
        for effect, there in self._on("slow", own):
            if effect.part < 1:
                parts.append((effect.part * there, effect.size))
            else:
                factor = factor * (1 + (effect.size - 1) * there)
        shares = _shares(self._host.latency * factor)
        for part, size in parts:
            slow = _shares(self._host.latency * size * np.ones(len(self._at)))
            shares = shares * (1 - part)[:, None] + slow * part[:, None]
        return np.cumsum(self._dice.multinomial(answered, shares), axis=1)

    def _instance(self, number: int, down: Flags, rate: Floats) -> None:
        host, at, dice = self._host, self._at, self._dice
        own = _Own(number, _releases(host, number, self._turns, at), ((hash_of(host.name) + 37 * number) % 150) / 10)
        answered = dice.poisson(rate * PACE)
        usual = np.clip(host.errors * dice.gamma(4.0, 0.25, len(at)), 0, 0.5)
        failed = dice.binomial(answered, self._share("errors", usual, own))
        refused = dice.binomial(answered - failed, self._share("client", np.full(len(at), host.client), own))
        buckets = self._buckets(answered, own)
        hidden = self._any("unscraped", own)
        labels = {"service": host.name, "instance": f"{host.name}-{number}:8080"}
        self._write(UP, labels, own, np.where(down | hidden, 0.0, 1.0), slice(0, len(at)))
        seen = ~(hidden | self._any("silent", own))
        counts = {
            (REQUESTS, "code", "500"): failed,
            (REQUESTS, "code", "404"): refused,
            (REQUESTS, "code", "200"): answered - failed - refused,
            **{(BUCKETS, "le", bound): buckets[:, place] for place, bound in enumerate(_LABELS)},
        }
        goes_on = self._first > 0 and own.releases[0] == _releases(host, number, self._turns, at[:1] - PACE)[0]
        for begin, end in _lives(down, own.releases):
            span = slice(begin, end)
            version = {"version": own.releases[begin]} if host.versioned else {}
            for (name, label, value), count in counts.items():
                named = {**labels, **version, label: value}
                base = self._base(name, named, own, goes_on=goes_on) if begin == 0 else 0.0
                grown = base + np.cumsum(count[span])
                if grown[-1] or label != "code":  # a code that was never answered has no series
                    self._write(name, named, own, np.where(seen[span], grown, np.nan), span)

    def _base(self, name: str, labels: Labels, own: "_Own", *, goes_on: bool) -> float:
        """What the counter of a process that runs already had before."""
        if self._first == 0:
            return float(self._dice.integers(1_000, 100_000)) if labels.get("code") != "500" else 0.0
        last = self._stretch.row(name, labels, own.offset).samples[: self._first]
        seen = last[~np.isnan(last)]
        return float(seen[-1]) if goes_on and len(seen) else 0.0

    def _write(self, name: str, labels: Labels, own: "_Own", values: Floats, span: slice) -> None:
        row = self._stretch.row(name, labels, own.offset)
        begin, end = self._first + span.start, self._first + span.stop
        row.samples[begin:end] = values
        row.stale[begin:] = np.isnan(row.samples[begin:])


@dataclass(frozen=True, slots=True)
class _Own:
    """One instance."""

    number: int
    releases: Sequence[str]
    """What it runs at each time."""
    offset: float


def hash_of(text: str) -> int:
    """The same number for a text in every process."""
    return sum((place + 1) * ord(letter) for place, letter in enumerate(text))


def _wandering(dice: np.random.Generator, count: int, size: float) -> Floats:
    """Noise that changes slowly."""
    steps = dice.normal(0.0, size, count // 8 + 2)
    return np.interp(np.arange(count) / 8, np.arange(len(steps)), steps)


def _there(effect: Effect, at: Floats) -> Floats:
    """How much of an effect is there at each time, 0 to 1."""
    since = at - effect.begin
    if effect.daily:
        since = since % DAY
    found = ((since >= 0) & (since < effect.end - effect.begin)).astype(float)
    if effect.rise:
        found *= np.clip(since / effect.rise, 0, 1)
    if effect.every:
        found *= (since % effect.every) < effect.on
    return found


def _while(effect: Effect, host: Host, turns: Turns, at: Floats, own: Sequence[str]) -> Floats:
    if not effect.release:
        return np.ones(len(at))
    layer, _, release = effect.release.partition("=")
    runs = own if layer == "code" else _layer(host, layer, turns, at)
    return np.array([one == release for one in runs], dtype=float)


def _layer(host: Host, layer: str, turns: Turns, at: Floats) -> list[str]:
    """What a layer without instances runs at each time."""
    return _stepped([(turn.at, turn.release) for turn in turns[host.name, layer]], at)


def _stepped(steps: Sequence[tuple[float, str]], at: Floats) -> list[str]:
    times = np.array([time for time, _ in steps])
    places = np.searchsorted(times, at, side="right") - 1
    return [steps[max(place, 0)][1] for place in places]


def _switches(host: Host, n: int, turns: Turns) -> list[tuple[float, str]]:
    """When an instance gets which release of `code`."""
    found: list[tuple[float, str]] = []
    for turn in turns[host.name, "code"]:
        reached = n < turn.first if turn.stagger == inf else True
        if not reached:
            continue
        when = turn.at + (0.0 if turn.stagger == inf else turn.stagger * n)
        if found and found[-1][1] == turn.release:
            continue
        found = [one for one in found if one[0] < turn.at]  # who was still to get the one before gets this
        if not found or found[-1][1] != turn.release:
            found.append((when, turn.release))
    return found


def _releases(host: Host, n: int, turns: Turns, at: Floats) -> list[str]:
    return _stepped(_switches(host, n, turns), at)


def _down(incident: Incident, host: Host, n: int, turns: Turns, at: Floats) -> Flags:
    found = np.zeros(len(at), dtype=bool)
    for when, _ in _switches(host, n, turns)[1:]:
        found |= (at >= when) & (at < when + host.restart)
    own = _releases(host, n, turns, at)
    for effect in incident.effects:
        if (
            effect.service == host.name
            and effect.what == "down"
            and (effect.instances is None or n in effect.instances)
        ):
            found |= _there(effect, at) * _while(effect, host, turns, at, own) > 0
    return found


def _lives(down: Flags, releases: Sequence[str]) -> list[tuple[int, int]]:
    """The runs of scrapes in which the same process answers."""
    changes = [
        0,
        *(k for k in range(1, len(down)) if down[k] != down[k - 1] or releases[k] != releases[k - 1]),
        len(down),
    ]
    return [(begin, end) for begin, end in pairwise(changes) if begin < end and not down[begin]]


def _shares(median: Floats) -> Floats:
    """The share of requests in each bucket, `[times, buckets]`."""
    z = (np.log(_BOUNDS)[None, :] - np.log(np.minimum(median, _LIMIT))[:, None]) / _SPREAD
    below = 1 / (1 + np.exp(-1.702 * z))
    shares = np.diff(np.pad(below, ((0, 0), (1, 1)), constant_values=((0, 0), (0, 1))), axis=1)
    found: Floats = shares / shares.sum(axis=1, keepdims=True)
    return found
