"""What an incident is: services, what happens to them, what people and deployments do, and which rollbacks are right.

Times are seconds; 0 is about when the release comes that the incident is about.
"""

from dataclasses import dataclass
from math import inf
from typing import Literal

DAY = 86400.0
MINUTE = 60.0
SHOP = "shop"
"""The service that most incidents are about."""
Half = Literal["plain", "hard"]
What = Literal["errors", "client", "slow", "traffic", "down", "unscraped", "silent"]


@dataclass(frozen=True, slots=True)
class Effect:
    """Something that is so for a service for a while."""

    service: str
    what: What
    """`errors`, `client`: the share of requests that fail or are refused. `slow`: how many times longer all, or with
    `part` some, take. `traffic`: how many times as many requests. `down`: instances do not run. `unscraped`: they run,
    and Prometheus does not reach them. `silent`: they are scraped, and have no series of requests."""
    begin: float
    end: float = inf
    size: float = 1.0
    rise: float = 0.0
    """So long until it has its whole size."""
    on: float = 0.0
    every: float = 0.0
    """It is there for the first `on` of each `every`."""
    daily: bool = False
    release: str = ""
    """`LAYER=RELEASE`: only while, and on instances where, this runs."""
    instances: tuple[int, ...] | None = None
    """The numbers of the instances that it is on; None: on all."""
    part: float = 1.0
    """Of requests, the share that is slow."""


@dataclass(frozen=True, slots=True)
class Deploy:
    """A release comes, by somebody else than the daemon."""

    at: float
    service: str
    release: str
    """`LAYER=RELEASE`."""
    stagger: float = 5.0
    """Between two instances; `inf`: it comes to the first ones only, and stays there."""
    first: int = 0
    """With an endless stagger: to so many instances."""
    after_rollback: bool = False
    """`at` counts from the end of the first rollback's last step."""


@dataclass(frozen=True, slots=True)
class Act:
    """What else somebody does."""

    at: float
    what: Literal["silence", "unsilence", "hold", "daemon down", "daemon up"]
    service: str = SHOP


@dataclass(frozen=True, slots=True)
class Outage:
    """Prometheus does not scrape, and with `down` answers nothing either."""

    begin: float
    end: float
    down: bool = True


@dataclass(frozen=True, slots=True)
class Right:
    """A rollback that is right."""

    service: str
    release: str
    """`LAYER=RELEASE` that must go."""
    harm: float
    """Since when people are hurt by it; a rollback before that is luck, and counts as wrong."""
    to: tuple[str, ...] = ()
    """The releases of that layer that may come instead; empty: any that is not the bad one."""
    until: float = inf
    """Until when somebody else has done it."""
    required: bool = True
    """Else it may come, and does not have to."""
    after_rollback: bool = False
    """`harm` counts from the end of the first rollback's last step."""


@dataclass(frozen=True, slots=True)
class Host:
    """A service as it usually is."""

    name: str
    rate: float
    """Requests a second, at noon."""
    instances: int = 2
    errors: float = 0.002
    client: float = 0.03
    latency: float = 0.12
    """Seconds that half of the requests take."""
    versioned: bool = True
    """Series have a `version` label; a release is then a new series, else a counter that starts again."""
    layers: tuple[str, ...] = ("code",)
    restart: float = 6.0
    """Seconds that an instance does not answer when it gets another release."""
    daily: float = 0.4
    """How much traffic goes up and down with the day."""


@dataclass(frozen=True, slots=True)
class Incident:
    """One that is played."""

    hosts: tuple[Host, ...]
    noon: float
    """How long before 0 the noon of that day is; says what time of day it is."""
    deploys: tuple[Deploy, ...] = ()
    effects: tuple[Effect, ...] = ()
    acts: tuple[Act, ...] = ()
    outages: tuple[Outage, ...] = ()
    rights: tuple[Right, ...] = ()
    lasts: float = 0.0
    """Until when it is played at least."""
    side_by_side: bool = False
    """Old and new instances run beside each other when it begins."""
    past_deploys: tuple[float, ...] = (-6 * DAY, -4 * DAY, -2 * DAY)
    """When earlier releases came, v0 and on; the last of them is v1, or what `before` runs."""
