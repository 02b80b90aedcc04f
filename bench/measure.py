"""What a row of the table is, how much is measured, and how rounds become one figure. No I/O."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything."""

    rounds: int = 5
    services: int = 1000
    posts: int = 4000
    """Alerts a round, one a request."""
    connections: int = 32
    burst: int = 10_000
    """Alerts in one request."""
    tries: int = 100
    """Rollbacks a round, one after the other."""
    series: int = 10_000
    """Series of a query's answer, and services that they belong to."""
    command: float = 1.0
    """Seconds that each of a rollback's two commands takes."""
    facts: int = 100_000
    many_facts: int = 1_000_000
    files: int = 50_000
    """Files of a tree that is kept."""
    database: int = 2 * 2**30
    """Bytes of a database; one of SQLite has half of it."""
    settle: float = 5.0
    """Seconds in which an idle daemon's memory must not grow, to count as settled."""
    workloads: int = 500
    """Deployments of a cluster, each with ten ReplicaSets."""
    events: int = 5000
    clusters: int = 50
    """A tenth of them hangs."""
    rollout: float = 3.0
    """Seconds that a rollout takes in a cluster."""


TINY = Sizes(
    rounds=1,
    services=20,
    posts=200,
    connections=4,
    burst=200,
    tries=3,
    series=200,
    command=0.1,
    facts=2000,
    many_facts=4000,
    files=500,
    database=2**22,
    settle=0.5,
    workloads=20,
    events=100,
    clusters=10,
    rollout=0.5,
)
"""Says nothing about speed; says that the bench works."""


@dataclass(frozen=True, slots=True)
class Row:
    """One promise, measured."""

    what: str
    measured: str
    """Its first number is the figure that two commits are compared by."""
    floor: str
    """What the figure could be at best on this machine, measured in the same run."""
    rest: str
    """What lies between the floor and the figure, how far the rounds are apart, what was lost."""
    must: str
    ok: bool


def middle(values: Sequence[float]) -> float:
    """The median of the rounds."""
    return float(median(values))


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of all is at or below; the nearest rank."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def span(values: Sequence[float], form: str) -> str:
    """The lowest and the highest round, such as `1.2 to 1.4`."""
    return f"{min(values):{form}} to {max(values):{form}}"
