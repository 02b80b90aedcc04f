"""The hard half of the classes: things that come together, or look like what they are not."""

from dataclasses import replace
from math import inf

from tests.judge.classes import BAD, GOOD, OTHERS, hosts, innocent, kind, longer, new, released
from tests.judge.dice import Dice
from tests.judge.incident import DAY, MINUTE, SHOP, Act, Deploy, Effect, Incident, Outage, Right

WEEK = 7 * DAY

# -- a rollback is right ------------------------------------------------------------------------


@kind(
    "hard",
    "a blip before a bad release",
    "The short trouble was over for twenty minutes; what came with the release is its own.",
    right=True,
)
def blip_before(dice: Dice) -> Incident:
    end = -dice.between(18, 24) * MINUTE
    blip = Effect(SHOP, "errors", end - dice.between(2, 5) * MINUTE, end, dice.between(0.3, 0.6))
    return released(dice, Effect(SHOP, "errors", 0, size=dice.between(0.25, 0.8)), effects=(blip,))


@kind(
    "hard",
    "two changes, the first is bad",
    "It began before the second release, which has the fault as well; only the state before both is well.",
    right=True,
)
def first_of_two(dice: Dice) -> Incident:
    deploy, second = new(dice), new(dice, "code=v3", at=dice.between(2, 4) * MINUTE)
    size = dice.between(0.25, 0.7)
    rights = (
        Right(SHOP, "code=v3", second.at, GOOD),
        Right(SHOP, BAD, deploy.at, GOOD, until=second.at, required=False),
    )
    more = Effect(SHOP, "errors", second.at, size=size, release="code=v3")
    return released(
        dice, Effect(SHOP, "errors", 0, size=size), deploy=deploy, deploys=(second,), effects=(more,), rights=rights
    )


@kind(
    "hard",
    "two changes, the second is bad",
    "The first release ran well for a quarter of an hour; trouble came with the second.",
    right=True,
)
def second_of_two(dice: Dice) -> Incident:
    first, deploy = new(dice), new(dice, "code=v3", at=dice.between(10, 25) * MINUTE)
    rights = (Right(SHOP, "code=v3", deploy.at, ("v1", "v2")),)
    effect = Effect(SHOP, "errors", 0, size=dice.between(0.25, 0.8))
    return released(dice, effect, deploy=deploy, deploys=(first,), rights=rights)


@kind(
    "hard",
    "hardly any traffic",
    "A request every ten to twenty seconds, and all of them fail since the release.",
    right=True,
)
def hardly_any_traffic(dice: Dice) -> Incident:
    fleet = hosts(dice, rate=dice.spread(0.05, 0.12), instances=1, daily=0.1)
    return released(dice, Effect(SHOP, "errors", 0, size=dice.between(0.9, 1)), fleet=fleet)


@kind("hard", "Prometheus goes away in the middle", "The release fails before the gap and after it.", right=True)
def gap_in_the_middle(dice: Dice) -> Incident:
    begin = dice.between(60, 180)
    outage = Outage(begin, begin + dice.between(1.5, 4) * MINUTE, down=dice.chance(0.6))
    return released(dice, Effect(SHOP, "errors", 0, size=dice.between(0.3, 0.9)), outages=(outage,))


@kind(
    "hard",
    "small canary",
    "One instance of ten has the new release and fails, while the others do well: its share of all is small.",
    right=True,
)
def small_canary(dice: Dice) -> Incident:
    fleet = hosts(dice, instances=dice.whole(8, 12), versioned=True, rate=dice.spread(40, 200))
    deploy = Deploy(dice.between(0, 30), SHOP, BAD, inf, 1)
    effect = Effect(SHOP, "errors", 0, size=dice.between(0.6, 1))
    return released(dice, effect, fleet=fleet, deploy=deploy, side_by_side=True)


@kind(
    "hard",
    "slow roll-out",
    "Minutes lie between the instances that get the bad release, which fails in part.",
    right=True,
)
def slow_roll_out(dice: Dice) -> Incident:
    fleet = hosts(dice, instances=dice.whole(4, 6), versioned=True, rate=dice.spread(20, 150))
    deploy = Deploy(dice.between(0, 30), SHOP, BAD, stagger=dice.between(100, 240))
    effect = Effect(SHOP, "errors", 0, size=dice.between(0.35, 0.7))
    return released(dice, effect, fleet=fleet, deploy=deploy, side_by_side=True)


@kind(
    "hard",
    "a bad release and more traffic",
    "It failed from its first minute; that traffic grows a little later changes nothing of that.",
    right=True,
)
def bad_and_busy(dice: Dice) -> Incident:
    begin = dice.between(90, 240)
    busy = Effect(SHOP, "traffic", begin, size=dice.between(1.5, 2.2), rise=120)
    return released(dice, Effect(SHOP, "errors", 0, size=dice.between(0.25, 0.6)), effects=(busy,))


@kind(
    "hard",
    "fails on and off",
    "The new release fails for most of a minute in every two, and never did before.",
    right=True,
)
def on_and_off(dice: Dice) -> Incident:
    effect = Effect(SHOP, "errors", 0, size=dice.between(0.5, 0.8), on=dice.between(45, 65), every=120)
    return released(dice, effect)


@kind(
    "hard",
    "a warm-up that does not end",
    "Earlier releases failed for a minute and were well; this one goes on.",
    right=True,
)
def endless_warm_up(dice: Dice) -> Incident:
    found = released(dice, Effect(SHOP, "errors", 0, size=dice.between(0.3, 0.7)))
    return _always_so(dice, found, 90, 0.4)


@kind(
    "hard",
    "another service is sick as well",
    "Another service fails since long before for reasons of its own; the shop fails since its release.",
    right=True,
)
def two_troubles(dice: Dice) -> Incident:
    sick = Effect(dice.some(OTHERS, 1)[0], "errors", -dice.between(15, 30) * MINUTE, size=dice.between(0.2, 0.6))
    return released(dice, Effect(SHOP, "errors", 0, size=dice.between(0.25, 0.8)), effects=(sick,))


@kind("hard", "some answers hang", "One answer in five to ten takes its ten seconds since the release.", right=True)
def some_hang(dice: Dice) -> Incident:
    fleet = hosts(dice)
    effect = Effect(SHOP, "slow", 0, size=longer(fleet[0], 20), part=dice.between(0.1, 0.2))
    return released(dice, effect, fleet=fleet)


@kind(
    "hard",
    "a little above the threshold",
    "One request in seven fails since the release, where one in five hundred did.",
    right=True,
)
def little_above(dice: Dice) -> Incident:
    return released(dice, Effect(SHOP, "errors", 0, size=dice.between(0.125, 0.16)))


@kind(
    "hard",
    "the next release is bad as well",
    "While the rollback is verified, somebody deploys another release, and that fails too.",
    right=True,
)
def next_is_bad(dice: Dice) -> Incident:
    found = released(dice, Effect(SHOP, "errors", 0, size=dice.between(0.4, 0.9)))
    after = dice.between(30, 100)
    later = Deploy(after, SHOP, "code=v3", after_rollback=True)
    again = Effect(SHOP, "errors", 0, size=dice.between(0.4, 0.9), release="code=v3")
    right = Right(SHOP, "code=v3", after, GOOD, after_rollback=True)
    return replace(
        found, deploys=(*found.deploys, later), effects=(*found.effects, again), rights=(*found.rights, right)
    )


@kind(
    "hard",
    "the next release is the fix",
    "While the rollback is verified, somebody deploys the fix; only the first release has to go.",
    right=True,
)
def next_is_good(dice: Dice) -> Incident:
    found = released(dice, Effect(SHOP, "errors", 0, size=dice.between(0.4, 0.9)))
    later = Deploy(dice.between(30, 100), SHOP, "code=v3", after_rollback=True)
    return replace(found, deploys=(*found.deploys, later))


@kind(
    "hard",
    "the daemon is restarted in the middle",
    "That the daemon did not run for some minutes changes nothing of the release.",
    right=True,
)
def daemon_restarted(dice: Dice) -> Incident:
    down = dice.between(40, 240)
    acts = (Act(down, "daemon down"), Act(down + dice.between(20, 240), "daemon up"))
    return released(dice, Effect(SHOP, "errors", 0, size=dice.between(0.3, 0.9)), acts=acts)


@kind(
    "hard",
    "the neighbour's release",
    "The bank's new release fails, and the shop fails with it since it asks the bank: the bank's has to go.",
    right=True,
)
def neighbours_release(dice: Dice) -> Incident:
    deploy, other = new(dice, at=-dice.between(30, 60) * MINUTE), new(dice, service="bank")
    size = dice.between(0.4, 0.9)
    effects = (
        Effect("bank", "errors", other.at, size=size, release=BAD),
        Effect(SHOP, "errors", other.at + 3, size=size * dice.between(0.3, 0.7)),
    )
    return innocent(dice, *effects, deploy=deploy, deploys=(other,), rights=(Right("bank", BAD, other.at, GOOD),))


@kind(
    "hard",
    "fails an hour later",
    "Something in the release runs first after half an hour or more, and fails from then on.",
    right=True,
)
def fails_an_hour_later(dice: Dice) -> Incident:
    begins = dice.between(25, 85) * MINUTE
    return released(dice, Effect(SHOP, "errors", begins, size=dice.between(0.25, 0.6)), begins=begins)


@kind(
    "hard",
    "two services are deployed",
    "Two services get a release at the same time, and one of the two fails.",
    right=True,
)
def two_deployed(dice: Dice) -> Incident:
    other = new(dice, service=dice.some(OTHERS, 1)[0])
    return released(dice, Effect(SHOP, "errors", 0, size=dice.between(0.25, 0.8)), deploys=(other,))


# -- a rollback is wrong ------------------------------------------------------------------------


@kind(
    "hard",
    "an outage of some",
    "Three services fail from the same half minute on, long after the only release: what they share is away.",
    right=False,
)
def outage_of_some(dice: Dice) -> Incident:
    begin = dice.between(30, 75) * MINUTE
    end = begin + dice.between(10, 18) * MINUTE
    others = [
        Effect(one, "errors", begin + dice.between(0, 30), end, dice.between(0.15, 0.4)) for one in dice.some(OTHERS, 2)
    ]
    return innocent(dice, *others, Effect(SHOP, "errors", begin + dice.between(0, 30), end, dice.between(0.3, 0.6)))


@kind(
    "hard",
    "an outage that others hardly feel",
    "All services fail many times more than usual from one moment on, most of them too little to count.",
    right=False,
)
def outage_hardly_felt(dice: Dice) -> Incident:
    begin = dice.between(20, 60) * MINUTE
    end = begin + dice.between(10, 18) * MINUTE
    others = [Effect(one, "errors", begin + dice.between(0, 20), end, dice.between(0.03, 0.08)) for one in OTHERS]
    return innocent(dice, *others, Effect(SHOP, "errors", begin + dice.between(0, 20), end, dice.between(0.25, 0.5)))


@kind(
    "hard",
    "a dependency is down",
    "Another service fails first and most, with no release of its own, and the shop since it asks it.",
    right=False,
)
def dependency_down(dice: Dice) -> Incident:
    begin = dice.between(20, 75) * MINUTE
    end = begin + dice.between(10, 18) * MINUTE
    auth = Effect("auth", "errors", begin, end, dice.between(0.6, 0.95))
    return innocent(dice, auth, Effect(SHOP, "errors", begin + dice.between(5, 20), end, dice.between(0.2, 0.5)))


@kind(
    "hard",
    "an outage right after a release",
    "Five services fail within the minute in which one of them was deployed.",
    right=False,
)
def outage_after_release(dice: Dice) -> Incident:
    begin = dice.between(20, 120)
    end = begin + dice.between(8, 15) * MINUTE
    hit = (SHOP, *dice.some(OTHERS, 4))
    return innocent(
        dice, *(Effect(one, "errors", begin + dice.between(0, 40), end, dice.between(0.2, 0.8)) for one in hit)
    )


@kind(
    "hard",
    "a shared database slows down",
    "Five services become slow one after the other within five minutes, the shop most.",
    right=False,
)
def database_slow(dice: Dice) -> Incident:
    fleet = hosts(dice)
    begin = dice.between(15, 60) * MINUTE
    end = begin + dice.between(14, 20) * MINUTE
    others = [
        Effect(host.name, "slow", begin + dice.between(0, 270), end, longer(host, dice.between(2.5, 4)))
        for host in fleet[1:5]
    ]
    own = Effect(SHOP, "slow", begin + dice.between(60, 240), end, longer(fleet[0], dice.between(5, 9)))
    return innocent(dice, *others, own, fleet=fleet)


@kind(
    "hard",
    "a campaign soon after a release",
    "Traffic is many times the usual a few minutes after the release, and errors come with the traffic.",
    right=False,
)
def campaign_soon(dice: Dice) -> Incident:
    begin = dice.between(3, 9) * MINUTE
    end, rise = begin + dice.between(12, 20) * MINUTE, dice.between(30, 120)
    return innocent(
        dice,
        Effect(SHOP, "traffic", begin, end, dice.between(4, 8), rise),
        Effect(SHOP, "errors", begin + rise / 2, end, dice.between(0.15, 0.4), rise),
    )


@kind(
    "hard",
    "spikes that are each over",
    "Under a minute of errors, three times ten minutes apart, an hour after the release: a caller's batch.",
    right=False,
)
def spikes(dice: Dice) -> Incident:
    begin, apart = dice.between(30, 70) * MINUTE, dice.between(8, 12) * MINUTE
    return innocent(
        dice,
        *(
            Effect(SHOP, "errors", begin + n * apart, begin + n * apart + dice.between(35, 60), dice.between(0.5, 0.9))
            for n in range(3)
        ),
    )


@kind(
    "hard",
    "a nightly job right after a release",
    "Each day at this time it is like this; the release came minutes before.",
    right=False,
)
def nightly_after_release(dice: Dice) -> Incident:
    begin = dice.between(2, 8) * MINUTE
    end = begin + dice.between(12, 20) * MINUTE
    return innocent(dice, Effect(SHOP, "errors", begin, end, dice.between(0.15, 0.35), daily=True))


@kind("hard", "a weekly job", "A week ago at this time it was like this, and yesterday it was not.", right=False)
def weekly_job(dice: Dice) -> Incident:
    begin = dice.between(15, 60) * MINUTE
    length, size = dice.between(12, 20) * MINUTE, dice.between(0.15, 0.35)
    weeks = [
        Effect(SHOP, "errors", begin - n * WEEK, begin - n * WEEK + length, size * dice.between(0.9, 1.1))
        for n in range(2)
    ]
    return innocent(dice, *weeks)


@kind(
    "hard",
    "a long warm-up as always",
    "The last releases failed for two to three minutes and were well then, and so is this one.",
    right=False,
)
def long_warm_up(dice: Dice) -> Incident:
    deploy = new(dice)
    length, size = dice.between(110, 170), dice.between(0.3, 0.6)
    found = innocent(dice, Effect(SHOP, "errors", deploy.at, deploy.at + length, size), deploy=deploy)
    return _always_so(dice, found, length, size)


@kind(
    "hard",
    "on and off since before the release",
    "It came and went for half an hour before the release, and goes on so.",
    right=False,
)
def flapped_before(dice: Dice) -> Incident:
    begin = -dice.between(25, 35) * MINUTE
    effect = Effect(SHOP, "errors", begin, 25 * MINUTE, dice.between(0.3, 0.6), on=90, every=dice.between(200, 260))
    return innocent(dice, effect)


@kind(
    "hard",
    "fixed forward",
    "People see it and deploy the fix within minutes; what is left is in the window only.",
    right=False,
)
def fixed_forward(dice: Dice) -> Incident:
    deploy, fix = new(dice), new(dice, "code=v3", at=dice.between(100, 200))
    effect = Effect(SHOP, "errors", deploy.at, size=dice.between(0.4, 1), release=BAD)
    rights = (Right(SHOP, BAD, deploy.at, GOOD, until=fix.at, required=False),)
    return innocent(dice, effect, deploy=deploy, deploys=(fix,), rights=rights)


@kind(
    "hard",
    "a person was quicker",
    "Somebody goes back by hand within minutes; there is nothing left to do.",
    right=False,
)
def person_quicker(dice: Dice) -> Incident:
    deploy, back = new(dice), new(dice, "code=v1", at=dice.between(100, 240))
    effect = Effect(SHOP, "errors", deploy.at, size=dice.between(0.4, 1), release=BAD)
    rights = (Right(SHOP, BAD, deploy.at, GOOD, until=back.at, required=False),)
    return innocent(dice, effect, deploy=deploy, deploys=(back,), rights=rights)


@kind(
    "hard",
    "a rack is not scraped",
    "Prometheus does not reach one instance each of three services; they answer, and nobody else has more to do.",
    right=False,
)
def rack_unscraped(dice: Dice) -> Incident:
    begin = dice.between(5, 40) * MINUTE
    end = begin + dice.between(8, 15) * MINUTE
    hit = (SHOP, *dice.some(OTHERS, 2))
    return innocent(dice, *(Effect(one, "unscraped", begin, end, instances=(0,)) for one in hit))


@kind(
    "hard",
    "a host dies",
    "One machine of four is gone long after the release; the other instances run the same release well.",
    right=False,
)
def host_dies(dice: Dice) -> Incident:
    begin = dice.between(20, 60) * MINUTE
    fleet = hosts(dice, instances=dice.whole(3, 4))
    burst = Effect(SHOP, "errors", begin, begin + dice.between(15, 40), dice.between(0.1, 0.3))
    return innocent(dice, Effect(SHOP, "down", begin, begin + 25 * MINUTE, instances=(0,)), burst, fleet=fleet)


@kind(
    "hard",
    "a bot on a quiet service",
    "A third of the few requests failed in every release: somebody's broken script.",
    right=False,
)
def bot_on_quiet(dice: Dice) -> Incident:
    fleet = hosts(dice, rate=dice.spread(0.02, 0.2), instances=1, errors=dice.between(0.25, 0.4), daily=0.1)
    return innocent(dice, fleet=fleet, lasts=40 * MINUTE)


@kind(
    "hard",
    "an exporter hangs",
    "The metrics of requests end with the release and nothing else does: a label was renamed.",
    right=False,
)
def exporter_hangs(dice: Dice) -> Incident:
    deploy = new(dice)
    effect = Effect(SHOP, "silent", deploy.at, size=1, release=BAD)
    return innocent(dice, effect, deploy=deploy)


def _always_so(dice: Dice, found: Incident, length: float, size: float) -> Incident:
    """With four earlier releases that failed as well when they came, and were well then."""
    past = (-8 * DAY, -6.5 * DAY, -5 * DAY, -3.5 * DAY, -2 * DAY)
    blips = [
        Effect(SHOP, "errors", at, at + length * dice.between(0.85, 1.15), size * dice.between(0.85, 1.15))
        for at in past
    ]
    return replace(found, past_deploys=past, effects=(*found.effects, *blips))
