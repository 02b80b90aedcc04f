"""The register of classes: what kinds of incidents there are, and what is right in each."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tests.judge.dice import Dice
from tests.judge.incident import DAY, SHOP, Deploy, Effect, Half, Host, Incident, Right

OTHERS = ("bank", "mail", "auth", "search", "stock")
BAD = "code=v2"
"""What comes in most incidents, after v1."""
GOOD = ("v1",)
P95 = 2.6
"""How many times longer than the median one answer in twenty takes."""
Make = Callable[[Dice], Incident]


@dataclass(frozen=True, slots=True)
class Class:
    """One kind of incident."""

    name: str
    half: Half
    right: bool
    """Whether a rollback is right in it."""
    why: str
    """The label, argued."""
    make: Make


CLASSES: list[Class] = []


def kind(half: Half, name: str, why: str, *, right: bool) -> Callable[[Make], Make]:
    """Register a class."""

    def add(make: Make) -> Make:
        CLASSES.append(Class(name, half, right, why, make))
        return make

    return add


def hosts(dice: Dice, **shop: Any) -> tuple[Host, ...]:
    """A fleet of six services, of which the shop, the first, is as the arguments say."""
    found = [
        Host(
            name,
            rate=dice.spread(6, 150),
            instances=dice.whole(2, 4) if name == SHOP else dice.whole(1, 2),
            errors=dice.spread(0.0005, 0.005),
            client=dice.between(0.01, 0.06),
            latency=dice.between(0.03, 0.12),
            versioned=dice.chance(0.6),
            restart=dice.between(3, 14),
            daily=dice.between(0.1, 0.5),
        )
        for name in (SHOP, *OTHERS)
    ]
    return (replace(found[0], **shop), *found[1:])


def noon(dice: Dice) -> float:
    """Where in the day it happens."""
    return dice.between(-DAY / 2, DAY / 2)


def longer(host: Host, p95: float) -> float:
    """How many times longer answers must take so that one in twenty takes so many seconds."""
    return p95 / (host.latency * P95)


def new(dice: Dice, release: str = BAD, service: str = SHOP, at: float = 0.0) -> Deploy:
    """A release comes to all instances, one soon after the other."""
    return Deploy(at + dice.between(0, 30), service, release, stagger=dice.between(1, 15))


def released(dice: Dice, *effects: Effect, fleet: tuple[Host, ...] = (), begins: float = 0.0, **more: Any) -> Incident:
    """A release of the shop comes, and effects of it begin so long after it. Rolling it back is right from then on.

    People meet a release of the code when its first instance has restarted, and one of another layer at once.

    :param effects: counted from the release; they last while it runs.
    """
    deploy = more.pop("deploy", None) or new(dice)
    own = tuple(replace(one, begin=deploy.at + one.begin, release=deploy.release) for one in effects)
    fleet = fleet or hosts(dice)
    harm = deploy.at + max(begins, fleet[0].restart if deploy.release.startswith("code=") else 0.0)
    more.setdefault("rights", (Right(SHOP, deploy.release, harm, GOOD),))
    extra = more.pop("effects", ())
    return Incident(fleet, noon(dice), (deploy, *more.pop("deploys", ())), (*own, *extra), **more)


def innocent(dice: Dice, *effects: Effect, fleet: tuple[Host, ...] = (), **more: Any) -> Incident:
    """A release of the shop comes, and what happens then is not of it."""
    deploy = more.pop("deploy", None) or new(dice)
    return Incident(fleet or hosts(dice), noon(dice), (deploy, *more.pop("deploys", ())), effects, **more)
