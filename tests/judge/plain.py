"""The plain half of the classes: one thing happens, and it is what it looks like."""

from math import inf

from tests.judge.classes import BAD, OTHERS, hosts, innocent, kind, longer, new, noon, released
from tests.judge.dice import Dice
from tests.judge.incident import MINUTE, SHOP, Act, Deploy, Effect, Incident, Outage, Right

# -- a rollback is right ------------------------------------------------------------------------


@kind(
    "plain", "fails everything", "Nearly every request fails since the release came, and went well before.", right=True
)
def fails_everything(dice: Dice) -> Incident:
    return released(dice, Effect(SHOP, "errors", 0, size=dice.between(0.85, 1)))


@kind("plain", "fails in part", "A good share of requests fails since the release came, and does not stop.", right=True)
def fails_in_part(dice: Dice) -> Incident:
    return released(dice, Effect(SHOP, "errors", 0, size=dice.between(0.2, 0.6)))


@kind("plain", "fails some minutes later", "A cache of the old release runs out, and then requests fail.", right=True)
def fails_later(dice: Dice) -> Incident:
    begins = dice.between(3 * MINUTE, 11 * MINUTE)
    return released(dice, Effect(SHOP, "errors", begins, size=dice.between(0.25, 0.7)), begins=begins)


@kind("plain", "slow release", "Answers take many times as long since the release came.", right=True)
def slow_release(dice: Dice) -> Incident:
    fleet = hosts(dice)
    return released(dice, Effect(SHOP, "slow", 0, size=longer(fleet[0], dice.between(4, 9))), fleet=fleet)


@kind(
    "plain", "slow leak", "Each minute of the new release is slower than the one before, until people wait.", right=True
)
def slow_leak(dice: Dice) -> Incident:
    fleet = hosts(dice)
    rise, size = dice.between(12, 25) * MINUTE, longer(fleet[0], dice.between(6, 10))
    harm = rise * (longer(fleet[0], 2.0) - 1) / (size - 1)
    return released(dice, Effect(SHOP, "slow", 0, size=size, rise=rise), fleet=fleet, begins=harm)


@kind("plain", "crash loop", "Every instance of the new release dies and starts again, over and over.", right=True)
def crash_loop(dice: Dice) -> Incident:
    every = dice.between(50, 110)
    return released(dice, Effect(SHOP, "down", 0, on=every * dice.between(0.4, 0.7), every=every))


@kind("plain", "does not start", "No instance of the new release comes up, so nobody is served.", right=True)
def does_not_start(dice: Dice) -> Incident:
    return released(dice, Effect(SHOP, "down", 0))


@kind(
    "plain",
    "errors that grow",
    "More and more requests fail in the new release, such as by a pool that leaks.",
    right=True,
)
def errors_that_grow(dice: Dice) -> Incident:
    rise, size = dice.between(6, 15) * MINUTE, dice.between(0.4, 0.8)
    return released(dice, Effect(SHOP, "errors", 0, size=size, rise=rise), begins=rise * 0.05 / size)


@kind(
    "plain",
    "broken configuration",
    "A pushed configuration breaks requests at once; the code is as it was.",
    right=True,
)
def broken_configuration(dice: Dice) -> Incident:
    fleet = hosts(dice, layers=("code", "config"))
    deploy = new(dice, "config=c2")
    effect = Effect(SHOP, "errors", 0, size=dice.between(0.3, 1))
    rights = (Right(SHOP, "config=c2", deploy.at, ("c1",)),)
    return released(dice, effect, fleet=fleet, deploy=deploy, rights=rights)


@kind(
    "plain", "bad canary", "One of three instances has the new release, and it fails; the others do well.", right=True
)
def bad_canary(dice: Dice) -> Incident:
    fleet = hosts(dice, instances=3, versioned=True, rate=dice.spread(20, 150))
    deploy = Deploy(dice.between(0, 30), SHOP, BAD, inf, 1)
    effect = Effect(SHOP, "errors", 0, size=dice.between(0.6, 1))
    return released(dice, effect, fleet=fleet, deploy=deploy, side_by_side=True)


@kind(
    "plain", "bad release rolls out", "Instances get the bad release one after the other, and each fails.", right=True
)
def bad_release_rolls_out(dice: Dice) -> Incident:
    fleet = hosts(dice, instances=dice.whole(3, 5), versioned=True, rate=dice.spread(20, 150))
    deploy = Deploy(dice.between(0, 30), SHOP, BAD, stagger=dice.between(45, 90))
    effect = Effect(SHOP, "errors", 0, size=dice.between(0.6, 1))
    return released(dice, effect, fleet=fleet, deploy=deploy, side_by_side=True)


@kind(
    "plain",
    "one endpoint",
    "One endpoint of the new release fails; it is a seventh to a third of the traffic.",
    right=True,
)
def one_endpoint(dice: Dice) -> Incident:
    return released(dice, Effect(SHOP, "errors", 0, size=dice.between(0.14, 0.33)))


@kind("plain", "little traffic", "Few requests come, and most of them fail since the release.", right=True)
def little_traffic(dice: Dice) -> Incident:
    fleet = hosts(dice, rate=dice.spread(0.3, 1.0), instances=dice.whole(1, 2))
    return released(dice, Effect(SHOP, "errors", 0, size=dice.between(0.5, 1)), fleet=fleet)


# -- a rollback is wrong ------------------------------------------------------------------------


@kind("plain", "healthy release", "Nothing is wrong.", right=False)
def healthy_release(dice: Dice) -> Incident:
    return innocent(dice)


@kind(
    "plain",
    "shared outage",
    "Nearly everybody is in trouble at the same moment: no release of one service does that.",
    right=False,
)
def shared_outage(dice: Dice) -> Incident:
    begin = dice.between(4 * MINUTE, 60 * MINUTE)
    end = begin + dice.between(8 * MINUTE, 18 * MINUTE)
    hit = (SHOP, *dice.some(OTHERS, dice.whole(4, 5)))
    return innocent(
        dice,
        *(
            Effect(one, "errors", begin + dice.between(0, 20), end + dice.between(0, 20), dice.between(0.3, 0.8))
            for one in hit
        ),
    )


@kind(
    "plain",
    "shared outage ends for the others first",
    "It began for all at once; who is well again later is not guilty.",
    right=False,
)
def shared_outage_ends_first(dice: Dice) -> Incident:
    begin = dice.between(4 * MINUTE, 60 * MINUTE)
    end = begin + dice.between(7 * MINUTE, 12 * MINUTE)
    hit = dice.some(OTHERS, dice.whole(4, 5))
    others = [Effect(one, "errors", begin + dice.between(0, 20), end, dice.between(0.3, 0.8)) for one in hit]
    late = end + dice.between(3 * MINUTE, 8 * MINUTE)
    return innocent(dice, *others, Effect(SHOP, "errors", begin + dice.between(0, 20), late, dice.between(0.3, 0.8)))


@kind(
    "plain",
    "campaign",
    "Many times the usual traffic comes, and it is that which the service cannot take.",
    right=False,
)
def campaign(dice: Dice) -> Incident:
    begin = dice.between(15 * MINUTE, 70 * MINUTE)
    end, rise = begin + dice.between(12 * MINUTE, 25 * MINUTE), dice.between(60, 180)
    return innocent(
        dice,
        Effect(SHOP, "traffic", begin, end, dice.between(4, 8), rise),
        Effect(SHOP, "errors", begin + rise / 2, end, dice.between(0.15, 0.4), rise),
        Effect(dice.some(OTHERS, 1)[0], "traffic", begin, end, dice.between(2, 3), rise),
    )


@kind(
    "plain",
    "a spike that is over",
    "A minute of errors, long after the release, and then all is as before.",
    right=False,
)
def spike(dice: Dice) -> Incident:
    begin = dice.between(10 * MINUTE, 90 * MINUTE)
    return innocent(dice, Effect(SHOP, "errors", begin, begin + dice.between(45, 100), dice.between(0.5, 0.95)))


@kind(
    "plain",
    "already bad before the change",
    "It failed for a quarter of an hour when the release came, which may be the fix.",
    right=False,
)
def already_bad(dice: Dice) -> Incident:
    begin = -dice.between(12 * MINUTE, 28 * MINUTE)
    return innocent(dice, Effect(SHOP, "errors", begin, 25 * MINUTE, dice.between(0.2, 0.6)))


@kind("plain", "nothing changed", "The last release is two days old and ran well.", right=False)
def nothing_changed(dice: Dice) -> Incident:
    effect = Effect(SHOP, "errors", 0, dice.between(12 * MINUTE, 25 * MINUTE), dice.between(0.2, 0.8))
    return Incident(hosts(dice), noon(dice), (), (effect,))


@kind("plain", "nightly job", "The same trouble comes each day at this time, with every release.", right=False)
def nightly_job(dice: Dice) -> Incident:
    begin = dice.between(20 * MINUTE, 70 * MINUTE)
    size, end = dice.between(0.15, 0.35), begin + dice.between(12 * MINUTE, 25 * MINUTE)
    return innocent(dice, Effect(SHOP, "errors", begin, end, size, daily=True))


@kind(
    "plain",
    "warm-up",
    "For a minute after the start some requests fail, until caches are filled; then all is well.",
    right=False,
)
def warm_up(dice: Dice) -> Incident:
    deploy = new(dice)
    end = deploy.at + dice.between(40, 90)
    return innocent(dice, Effect(SHOP, "errors", deploy.at, end, dice.between(0.2, 0.5)), deploy=deploy)


@kind(
    "plain",
    "Prometheus is away",
    "Prometheus is restarted around the release; nothing is known for minutes, and all is well.",
    right=False,
)
def prometheus_is_away(dice: Dice) -> Incident:
    begin = dice.between(-2 * MINUTE, 6 * MINUTE)
    outage = Outage(begin, begin + dice.between(1 * MINUTE, 7 * MINUTE), down=dice.chance(0.6))
    return innocent(dice, outages=(outage,))


@kind(
    "plain",
    "routine restarts",
    "Instances are restarted one after the other, for a certificate; counters begin anew.",
    right=False,
)
def routine_restarts(dice: Dice) -> Incident:
    fleet = hosts(dice, versioned=False, instances=3)
    begin, apart = dice.between(8 * MINUTE, 30 * MINUTE), dice.between(40, 90)
    effects = [
        Effect(SHOP, "down", begin + n * apart, begin + n * apart + dice.between(4, 13), instances=(n,))
        for n in range(3)
    ]
    return innocent(dice, *effects, fleet=fleet)


@kind(
    "plain",
    "clients err",
    "Half of the requests ask for what is not there: a crawler, and answers are right.",
    right=False,
)
def clients_err(dice: Dice) -> Incident:
    begin = dice.between(0, 20 * MINUTE)
    return innocent(dice, Effect(SHOP, "client", begin, begin + 25 * MINUTE, dice.between(0.3, 0.7)))


@kind(
    "plain",
    "noise below the threshold",
    "So many requests failed in every release, just below what counts as trouble.",
    right=False,
)
def noise(dice: Dice) -> Incident:
    return innocent(dice, fleet=hosts(dice, errors=dice.between(0.07, 0.088)), lasts=45 * MINUTE)


@kind("plain", "a change long before", "The release ran well for hours before the trouble came.", right=False)
def change_long_before(dice: Dice) -> Incident:
    deploy = Deploy(-dice.between(2.5, 5) * 60 * MINUTE, SHOP, BAD)
    effect = Effect(SHOP, "errors", 0, dice.between(12 * MINUTE, 25 * MINUTE), dice.between(0.2, 0.8))
    return innocent(dice, effect, deploy=deploy)


@kind("plain", "no traffic", "Nobody asks anything of the service at night.", right=False)
def no_traffic(dice: Dice) -> Incident:
    return innocent(dice, fleet=hosts(dice, rate=1e-6), lasts=30 * MINUTE)


@kind("plain", "silenced", "The people who deploy have silenced it: they know, and are at it.", right=False)
def silenced(dice: Dice) -> Incident:
    end = dice.between(8 * MINUTE, 16 * MINUTE)
    effect = Effect(SHOP, "errors", 60, end, dice.between(0.2, 0.9))
    acts = (Act(-60, "silence"), Act(end + 12 * MINUTE, "unsilence"))
    return innocent(dice, effect, acts=acts, lasts=end + 20 * MINUTE)


@kind("plain", "held", "A person holds the service, and looks at it.", right=False)
def held(dice: Dice) -> Incident:
    effect = Effect(SHOP, "errors", 0, size=dice.between(0.3, 0.9), end=dice.between(10 * MINUTE, 20 * MINUTE))
    return innocent(dice, effect, acts=(Act(dice.between(20, 45), "hold"),))
