"""The plain half of the classes: one thing happens, and it is what it looks like."""

from tests.judge.classes import OTHERS, hosts, kind, noon
from tests.judge.dice import Dice
from tests.judge.incident import MINUTE, SHOP, Deploy, Effect, Incident, Right

BAD = "code=v2"
NEW = Deploy(0.0, SHOP, BAD)


def _bad(dice: Dice, *effects: Effect, harm: float, **shop: object) -> Incident:
    return Incident(hosts(dice, **shop), noon(dice), (NEW,), effects, rights=(Right(SHOP, BAD, harm),))


@kind(
    "plain", "fails everything", "Nearly every request fails since the release came, and went well before.", right=True
)
def fails_everything(dice: Dice) -> Incident:
    return _bad(dice, Effect(SHOP, "errors", 0, size=dice.between(0.85, 1), release=BAD), harm=0)


@kind("plain", "fails in part", "A good share of requests fails since the release came, and does not stop.", right=True)
def fails_in_part(dice: Dice) -> Incident:
    return _bad(dice, Effect(SHOP, "errors", 0, size=dice.between(0.2, 0.6), release=BAD), harm=0)


@kind("plain", "slow release", "Answers take many times as long since the release came.", right=True)
def slow_release(dice: Dice) -> Incident:
    return _bad(dice, Effect(SHOP, "slow", 0, size=dice.between(60, 120), release=BAD), harm=0)


@kind("plain", "healthy release", "Nothing is wrong.", right=False)
def healthy_release(dice: Dice) -> Incident:
    return Incident(hosts(dice), noon(dice), (NEW,))


@kind(
    "plain", "shared outage", "Everybody is in trouble at once, the database is away: no release's fault.", right=False
)
def shared_outage(dice: Dice) -> Incident:
    begin = dice.between(4 * MINUTE, 60 * MINUTE)
    end = begin + dice.between(8 * MINUTE, 20 * MINUTE)
    hit = (SHOP, *dice.some(OTHERS, dice.whole(4, 5)))
    effects = [
        Effect(one, "errors", begin + dice.between(0, 20), end + dice.between(0, 20), dice.between(0.3, 0.8))
        for one in hit
    ]
    return Incident(hosts(dice), noon(dice), (NEW,), tuple(effects))
