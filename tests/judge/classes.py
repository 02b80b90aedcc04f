"""The register of classes: what kinds of incidents there are, and what is right in each."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from tests.judge.dice import Dice
from tests.judge.incident import DAY, SHOP, Half, Host, Incident

OTHERS = ("bank", "mail", "auth", "search", "stock")
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


def hosts(dice: Dice, **shop: object) -> tuple[Host, ...]:
    """A fleet of six services, of which the shop is as the arguments say."""
    found = []
    for name in (SHOP, *OTHERS):
        found.append(
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
        )
    found[0] = replace(found[0], **shop)  # type: ignore[arg-type]
    return tuple(found)


def noon(dice: Dice) -> float:
    """Where in the day it happens."""
    return dice.between(-DAY / 2, DAY / 2)
