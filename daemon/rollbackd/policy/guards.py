"""The guards of a decision, one function each, one reason each, and a table of what follows from each. No I/O."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import Enum, auto
from itertools import takewhile
from typing import Self
from zoneinfo import ZoneInfo

from rollbackd.model import Action, Change, DataGoal, Finding, Outcome, Priority, State, Trigger, Verdict
from rollbackd.policy.changes import to_blame
from rollbackd.policy.data import losses, to_ask
from rollbackd.policy.ledger import FleetLedger, ServiceLedger
from rollbackd.policy.spec import Asking, Budget, Limits, PolicyRow, PolicyWhen, Window, minutes, weekdays
from rollbackd.policy.target import Candidate
from rollbackd.syntax.units import format_duration

_DID_NOT_HELP = frozenset({Outcome.FAILED, Outcome.INEFFECTIVE, Outcome.UNVERIFIED})
Circumstance = tuple[Verdict, str]
"""Whether something else than the release explains the trouble, and the words: bad when it does."""


@dataclass(frozen=True, slots=True)
class Situation:
    """All that a decision rests on, besides the trigger."""

    ledger: ServiceLedger
    fleet: FleetLedger
    limits: Limits
    now: datetime
    present: State | None
    """The state that runs; None while the layers are being changed, or when the look failed."""
    target: Candidate | None = None
    no_target: str = ""
    """Why there is no target."""
    mode: str = "act"
    holds: tuple[str, ...] = ()
    """A sentence for each signal file, hold by API and silence that holds the service."""
    jumped: datetime | None = None
    """When our clock jumped last."""
    astray: str = ""
    """What another clock says against ours; empty for nothing."""
    troubled: tuple[datetime, ...] = ()
    """When the trouble of each service began whose rules are bad or pending, this one among them; sorted."""
    services: int = 1
    """How many services there are."""
    windows: tuple[Window, ...] = ()
    policy: tuple[PolicyRow, ...] = ()
    changes: tuple[Change, ...] = ()
    """The steps as the adapters plan them; empty before the adapters were asked."""
    irreversible: Collection[str] = ()
    """Names of the layers whose step may be irreversible."""
    data: DataGoal | None = None
    """The time whose data a step on data brings back; None where no layer has any."""
    over_hold: bool = False
    problems: tuple[str, ...] = field(default=())
    """What the layers say would stop a rollback."""
    earlier: tuple[Verdict, str] | None = None
    """The verdict of the trigger's own condition right before the change, and its words; None: nobody asked."""
    recent: tuple[Verdict, str] | None = None
    """What the trigger's own query says over a short time up to now, and its words; None: it was not asked."""
    behind: timedelta | None = None
    """How long what the trigger's rule says may still be of an older state; None for trouble that no rule keeps up."""
    circumstances: Mapping[str, Circumstance] = field(default_factory=dict)
    """What else than the release may explain the trouble, by the name of the guard that looks at it."""
    looked: bool = False
    """Whether the layers were looked at for it, and said what runs."""
    users: float | None = None
    """The share of users that is affected, as a query says; None when no query was asked, or it did not answer."""
    asking: Asking = field(default_factory=Asking)
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The people who may approve, by group."""
    persons: Mapping[str, str] = field(default_factory=dict)
    """Whose each actor is, of people with several names."""
    of_hosts: bool = False
    """Whether a user's name has the host behind it."""

    def renewed(self, quick: Self) -> Self:
        """The situation after a long look; all that needs no look is from `quick`, which was made just now."""
        return replace(
            self, now=quick.now, ledger=quick.ledger, fleet=quick.fleet, holds=quick.holds, troubled=quick.troubled
        )

    def without(self, incident: str) -> Self:
        """The situation without this incident's own rollback, which must not count against itself."""
        others = tuple(one for one in self.ledger.rollbacks if one.incident != incident)
        return replace(self, ledger=replace(self.ledger, rollbacks=others))


CLOSE_LOOK = timedelta(minutes=5)
"""The longest time between two looks that can still tell whether a change came before the onset or after it."""


class When(Enum):
    """When something holds of a guard."""

    NEVER = auto()
    ALWAYS = auto()
    UNSEEN = auto()
    """While nobody can say what runs."""
    JOINED = auto()
    """Of trouble that only joined an incident: nothing was decided by it yet."""
    BY_ROW = auto()
    """Where a row of the policy rests on it."""


@dataclass(frozen=True, slots=True)
class Guard:
    """A guard, and all that follows from its finding anywhere. No defaults: whoever adds one decides everything."""

    name: str
    """Its name in findings."""
    ask: Callable[[Trigger, Situation], Finding]
    binds_people: When
    """Its finding counts against a person's own rollback, too; else it is only shown and recorded."""
    asked_again: When
    """Its answer can have changed since the decision, so it is asked again right before the first step."""
    needs_a_look: When
    """Only a fresh look at the layers, or a query, tells; so its finding from memory ends nothing."""
    innocent: bool
    """When it stands against going back, the state that runs is not to blame, and stays good."""
    ages: bool
    """Waiting for people turns it against going back, so after that wait it does not count."""
    counts_when_off: bool
    """It counts for trouble that only asks a feature which a rollback switched off."""
    lasts: bool
    """What it found stays found for the episode: it is about the onset, and what passes later changes nothing of it."""
    hint: str
    """The way past it, for a person whose own rollback it stops; `{service}` in it is the service's name."""


def passed(guard: str, reason: str = "") -> Finding:
    return Finding(guard, None, reason)


def against(guard: str, action: Action, reason: str) -> Finding:
    return Finding(guard, action, reason)


def escalate(guard: str, reason: str) -> Finding:
    """A refusal that pages."""
    return Finding(guard, Action.REFUSE, reason, escalate=True)


def ago(length: timedelta) -> str:
    """A length of time as people say it: `35s`, `12m`, `3h20m`, `2d`."""
    seconds = max(0, round(length.total_seconds()))
    if seconds >= 3600:
        seconds -= seconds % 60
    if seconds >= 86400:
        seconds -= seconds % 3600
    return format_duration(timedelta(seconds=seconds))


def hold(trigger: Trigger, given: Situation) -> Finding:
    """A hold of a person stops every rollback that was not ordered over it."""
    if not given.holds:
        mended = given.ledger.mending
        if mended is None or mended.until <= trigger.onset:
            return passed("hold", "nothing holds it")
        length = format_duration(mended.length)
        return passed("hold", f"nothing holds it; {mended.actor} mended it, and estimated {length}")
    if given.over_hold:
        return passed("hold", f"over the hold by request: {'; '.join(given.holds)}")
    return against("hold", Action.REFUSE, "; ".join(given.holds))


def open_incident(trigger: Trigger, given: Situation) -> Finding:
    """One service never has two rollbacks at once."""
    running = given.ledger.open
    if running is None and given.ledger.drill and trigger.drill != "back":
        text = f"{given.ledger.drill}, a drill, has not returned yet; decided again when it has"
        return against("open_incident", Action.OBSERVE, text)
    if running is None:
        return passed("open_incident", "no incident is open")
    if running.waits:
        return passed("open_incident", f"{running.incident} waits for people; decided again")
    return against("open_incident", Action.OBSERVE, f"joined {running.incident}, which is open")


def shadow(_trigger: Trigger, given: Situation) -> Finding:
    if given.mode == "act":
        return passed("shadow", "mode is act")
    return against("shadow", Action.OBSERVE, "mode is shadow: nothing is touched")


def clock(trigger: Trigger, given: Situation) -> Finding:
    """Right after a jump of our clock no age, window or cooldown can be trusted."""
    if given.jumped is not None and abs(given.now - given.jumped) < given.limits.stale_after:
        return against("clock", Action.ASK, f"our clock jumped {ago(abs(given.now - given.jumped))} ago")
    if given.astray:
        return against("clock", Action.ASK, given.astray)
    if trigger.onset - given.now > timedelta(minutes=1):
        return against("clock", Action.ASK, f"the onset lies {ago(trigger.onset - given.now)} in the future")
    return passed("clock", "our clock has not jumped")


def stale(trigger: Trigger, given: Situation) -> Finding:
    if trigger.missed:
        return against("stale", Action.ASK, trigger.missed)
    known = trigger.met or trigger.onset
    mending = given.ledger.mending
    mended = mending.within(known, given.now) if mending is not None else timedelta()
    age = given.now - known - mended
    text = f"the trouble began {ago(given.now - trigger.onset)} ago"
    if mended:
        text += f", {ago(mended)} of it mending"
    if age > given.limits.stale_after:
        limit = format_duration(given.limits.stale_after)
        seen = f", and was known {ago(age)} ago" if trigger.met is not None and trigger.met != trigger.onset else ""
        return against("stale", Action.ASK, f"{text}{seen}, longer than {limit}")
    return passed("stale", text)


def over_by_now(recent: tuple[Verdict, str] | None) -> str:
    """What the trigger's own query said when it is over by that; empty while it goes on, or when nobody knows."""
    verdict, seen = recent or (Verdict.INCONCLUSIVE, "")
    return seen if verdict is Verdict.GOOD else ""


def over(trigger: Trigger, given: Situation) -> Finding:
    """A long window goes on for minutes after a spike is over; going back would mend nothing then."""
    if trigger.request is None and (seen := over_by_now(given.recent)):
        return against("over", Action.OBSERVE, f"it is over by now: {seen}")
    seen = given.recent[1] if given.recent is not None else ""
    return passed("over", f"it goes on: {seen}" if seen else "not asked of the last minute")


def change(trigger: Trigger, given: Situation) -> Finding:
    """Going back is not likely to help when nothing changed shortly before the trouble."""
    found = to_blame(given.ledger, trigger.onset)
    if found is None:
        return _without_change(trigger, "no change is known")
    window = (found.start, found.end)
    text = f"{found.name}, {_when(window, trigger.onset)}"
    limit = given.limits.change_window
    if not (found.start <= trigger.onset and trigger.onset - found.end <= limit):
        return _without_change(trigger, f"the last change was {text}, not within {format_duration(limit)} before")
    verdict, seen = given.earlier or (Verdict.INCONCLUSIVE, "not asked")
    if verdict is Verdict.BAD:
        return _without_change(trigger, f"already bad before the change: {seen}; the change was {text}")
    before = f"well before it: {seen}" if verdict is Verdict.GOOD else f"what was before it is not known: {seen}"
    return passed("change", f"changed: {text}; {before}")


def _without_change(trigger: Trigger, seen: str) -> Finding:
    if trigger.without_change is Action.ROLL_BACK:
        return passed("change", f"{seen}; the rule goes back without one")
    return against("change", trigger.without_change, seen)


def _when(window: tuple[datetime, datetime], onset: datetime) -> str:
    if window[0] > onset:
        return f"{ago(window[0] - onset)} after the onset"
    return f"{ago(onset - window[1])} before the onset" if window[1] <= onset else "right at the onset"


def same_state(trigger: Trigger, given: Situation) -> Finding:
    """The trouble must have begun in the state that runs now; otherwise somebody may be mending it."""
    if given.present is None:
        return against("same_state", Action.ASK, "the layers are in transition: two looks differ, or a look failed")
    if mixed := given.present.mixed:
        text = f"the parts of {' and of '.join(mixed)} differ: only a person's own order brings them together"
        return against("same_state", Action.REFUSE, text)
    spells = given.ledger.spells
    if not spells or spells[-1].state.key != given.present.key:
        return against("same_state", Action.ASK, "the present state was not seen before the onset")
    now = spells[-1]
    if now.after > trigger.onset:
        text = f"changed {ago(now.after - trigger.onset)} after the onset"
        if outlived(trigger, given):
            return passed("same_state", f"{text}, and that mended nothing in {ago(given.now - now.by)}")
        return against("same_state", Action.ASK, f"{text}: a fix?")
    if now.by > trigger.onset and len(spells) > 1 and spells[-2].state.key not in given.ledger.good:
        return against("same_state", Action.ASK, "changed right at the onset, from a state that was not good: a fix?")
    if now.by > trigger.onset and len(spells) > 1 and now.by - now.after > CLOSE_LOOK:
        unseen = ago(now.by - now.after)
        return against("same_state", Action.ASK, f"changed some time in {unseen} around the onset, unseen: a fix?")
    return passed("same_state", "the trouble began in the state that runs now")


def outlived(trigger: Trigger, given: Situation) -> bool:
    """Whether trouble that began between two changes goes on after the second: all that is seen is of that one now."""
    now = given.ledger.spells[-1] if given.ledger.spells else None
    first = to_blame(given.ledger, trigger.onset)
    if now is None or first is None or given.behind is None or now.incident:
        return False
    return first.start <= trigger.onset < now.after and given.now - now.by > given.behind


def target(_trigger: Trigger, given: Situation) -> Finding:
    if given.target is None:
        return escalate("target", given.no_target or "no good state to go back to")
    return passed("target", f"back to {given.target.state.name}")


def within_reach(_trigger: Trigger, given: Situation) -> Finding:
    if given.target is None:
        return passed("reach", "no target")
    limits = given.limits.reach
    if given.target.changes > limits.changes:
        return against("reach", Action.ASK, f"{given.target.changes} changes back, more than {limits.changes}")
    left = given.target.left
    if left is not None and given.now - left > limits.age:
        limit = format_duration(limits.age)
        return against("reach", Action.ASK, f"it ran {ago(given.now - left)} ago last, longer than {limit}")
    return passed("reach", f"{given.target.changes} changes back")


def not_a_rollback(_trigger: Trigger, given: Situation) -> Finding:
    """A state that a rollback led to is never rolled back."""
    spells = given.ledger.spells
    here = spells[-1] if spells else None
    if here is None or not here.incident or given.present is None or here.state.key != given.present.key:
        return passed("ineffective", "the present state was not reached by a rollback")
    return escalate("ineffective", f"the present state was reached by {here.incident}: going back did not help")


def switched_off(trigger: Trigger, given: Situation) -> Finding:
    """A rule about a feature that a rollback switched off tells people nothing new."""
    spells = given.ledger.spells
    here = spells[-1] if spells else None
    other = here is None or (given.present is not None and here.state.key != given.present.key)
    if here is None or other or trigger.request is not None or trigger.rule not in here.unasked:
        return passed("switched_off", "it asks nothing that a rollback switched off")
    off = ", ".join(f"{layer} at {here.state.releases[layer].name}" for layer in here.fixed)
    return against("switched_off", Action.OBSERVE, f"it asks what {here.incident} switched off: {off}")


def cooldown(_trigger: Trigger, given: Situation) -> Finding:
    """A service that was just rolled back is left alone, so that two causes cannot chase each other."""
    real = (rollback for rollback in given.ledger.rollbacks if rollback.acted and not rollback.drill)
    ends = [rollback.ended for rollback in real if rollback.ended is not None]
    waits = given.limits.cooldown
    if not ends or given.now - ends[-1] >= waits:
        return passed("cooldown", "not rolled back lately")
    return escalate("cooldown", f"rolled back {ago(given.now - ends[-1])} ago, waits {format_duration(waits)}")


def service_budget(_trigger: Trigger, given: Situation) -> Finding:
    spent = [one for one in given.ledger.rollbacks if one.acted or (one.ended is None and not one.waits)]
    times = [rollback.opened for rollback in spent if not rollback.manual]
    return _budget("service_budget", "this service", times, given.limits.per_service, given.now)


def fleet_budget(_trigger: Trigger, given: Situation) -> Finding:
    times = [at for at, _, manual in given.fleet.openings if not manual]
    return _budget("fleet_budget", "the fleet", times, given.limits.fleet, given.now)


def _budget(guard: str, whose: str, times: list[datetime], limit: Budget, now: datetime) -> Finding:
    used = sum(1 for at in times if now - at < limit.per)
    text = f"{used} of {limit.rollbacks} rollbacks of {whose} in {format_duration(limit.per)}"
    return escalate(guard, f"{text} are used") if used >= limit.rollbacks else passed(guard, text)


def failures_in_a_row(fleet: FleetLedger) -> int:
    """How many automatic rollbacks did not help, one after the other, up to the last."""
    outcomes = (outcome for _, _, outcome in reversed(fleet.ends))
    return sum(1 for _ in takewhile(_DID_NOT_HELP.__contains__, outcomes))


def breaker(_trigger: Trigger, given: Situation) -> Finding:
    """Rollbacks that fail one after the other mean that something else is wrong."""
    row = failures_in_a_row(given.fleet)
    if row >= given.limits.breaker.failures:
        return escalate("breaker", f"{row} rollbacks in a row did not help; `rollbackd resume --breaker` goes on")
    return passed("breaker", f"{row} failures in a row")


def common_cause(trigger: Trigger, given: Situation) -> Finding:
    """Trouble of many services at once is not the fault of a release of one of them."""
    limits = given.limits.common_cause
    if limits is False:
        return passed("common_cause", "switched off")
    first = bisect_left(given.troubled, trigger.onset - limits.within)
    count = bisect_right(given.troubled, trigger.onset + limits.within) - first
    text = f"{count} of {given.services} services in trouble within {format_duration(limits.within)}"
    if count > limits.services and count > limits.share * given.services:
        return against("common_cause", Action.ASK, f"{text}: no release's fault")
    return passed("common_cause", text)


def others_worsened(_trigger: Trigger, given: Situation) -> Finding:
    """Others that got worse in the same minutes point at what they share, or at the one that is worse."""
    return _explained("others_worsened", given, "is it theirs, or what they share?")


def traffic_level(_trigger: Trigger, given: Situation) -> Finding:
    """A service that many more ask than before its change may be sick of them."""
    return _explained("traffic_level", given, "a campaign?")


def same_time_before(_trigger: Trigger, given: Situation) -> Finding:
    """What comes each day, or each week, at that time is not of today's release."""
    return _explained("same_time_before", given, "does it come at this time?")


def first_minutes(_trigger: Trigger, given: Situation) -> Finding:
    """Where changes usually look so at first and then get well, this one may, too."""
    return _explained("first_minutes", given, "is it only starting?")


def _explained(guard: str, given: Situation, doubt: str) -> Finding:
    verdict, seen = given.circumstances.get(guard, (Verdict.INCONCLUSIVE, "not asked"))
    return against(guard, Action.ASK, f"{seen}: {doubt}") if verdict is Verdict.BAD else passed(guard, seen)


def window(trigger: Trigger, given: Situation) -> Finding:
    if not given.windows:
        return passed("window", "always allowed")
    if any(_inside(one, given.now) for one in given.windows):
        return passed("window", "inside an allowed window")
    if trigger.priority is Priority.P0:
        return passed("window", "outside the allowed windows, but P0 always acts")
    return against("window", Action.ASK, "outside the allowed windows")


def _inside(one: Window, now: datetime) -> bool:
    there = now.astimezone(ZoneInfo(one.zone))
    at = there.hour * 60 + there.minute
    start, end = minutes(one.from_), minutes(one.to)
    days = weekdays(one.days)
    if start < end:
        return there.weekday() in days and start <= at < end
    return (there.weekday() in days and at >= start) or ((there.weekday() - 1) % 7 in days and at < end)


def irreversible(_trigger: Trigger, given: Situation) -> Finding:
    steps = [step.layer for step in given.changes if not step.reversible and step.layer not in given.irreversible]
    if not steps:
        return passed("irreversible", "every step can be taken back, or is allowed by name")
    return against("irreversible", Action.ASK, f"cannot be taken back: {', '.join(steps)}")


def data_loss(trigger: Trigger, given: Situation) -> Finding:
    """Writes that nobody blames are lost only by people who saw how many. What is blamed is meant to go."""
    texts = to_ask(given.changes)
    said = "; ".join((*texts, losses(given.changes)))
    if not texts:
        return passed("data_loss", said)
    if trigger.request is not None and trigger.request.plan_id:
        return passed("data_loss", f"as shown in plan {trigger.request.plan_id}: {said}")
    return against("data_loss", Action.ASK, said)


def ready(_trigger: Trigger, given: Situation) -> Finding:
    """The layers must be ready; nothing is touched when one of them could not finish its step."""
    if given.problems:
        return escalate("ready", "; ".join(given.problems))
    return passed("ready", "the layers are ready")


def row_for(trigger: Trigger, given: Situation) -> PolicyRow | None:
    """The first row of the policy that matches; None when none does."""
    return next((row for row in given.policy if _matches(row.when, trigger, given)), None)


def _matches(when: PolicyWhen, trigger: Trigger, given: Situation) -> bool:
    named = (
        (when.priority, trigger.priority),
        (when.rule, trigger.rule),
        (when.service, trigger.service),
        (when.impact, trigger.impact),
        (when.scope, trigger.scope),
    )
    return (
        all(not wanted or has in wanted for wanted, has in named)
        and all(trigger.labels.get(name) == value for name, value in when.labels.items())
        and when.components.holds(trigger.components)
        and when.layers.holds(_differing(given))
        and _share_fits(when, trigger, given)
        and (not when.windows or any(_inside(one, given.now) for one in when.windows))
    )


def _differing(given: Situation) -> tuple[str, ...]:
    """The layers that a rollback would move."""
    if given.present is None or given.target is None:
        return ()
    return given.present.differing(given.target.state)


def _share_fits(when: PolicyWhen, trigger: Trigger, given: Situation) -> bool:
    if when.users is None:
        return True
    share = given.users if given.users is not None else trigger.users
    return share is not None and when.users.holds(share)


def policy(trigger: Trigger, given: Situation) -> Finding:
    row = row_for(trigger, given)
    if row is None:
        return passed("policy", "no row matches: roll_back")
    place = given.policy.index(row) + 1
    if row.action is Action.ROLL_BACK:
        return passed("policy", f"row {place} of the policy says roll_back")
    return against("policy", row.action, f"row {place} of the policy says {row.action}")


_OVER = "`rollbackd rollback {service} --over-hold` goes over that"
_GO_ON = "`rollbackd rollback {service}` alone goes on with it, `rollbackd abort {service}` stops it"
_SHOWN = "`rollbackd plan {service}` shows what would be lost, and its --plan-id goes there"
_NEVER, _ALWAYS = When.NEVER, When.ALWAYS
_UNSEEN, _JOINED, _BY_ROW = When.UNSEEN, When.JOINED, When.BY_ROW
# fmt: off
#                                                        binds    asked    needs                  counts
#                                                        people   again    a look   innocent ages when off lasts hint
HOLD           = Guard("hold",           hold,           _ALWAYS, _NEVER,  _NEVER,  False, False, False, False, _OVER)
OPEN_INCIDENT  = Guard("open_incident",  open_incident,  _ALWAYS, _NEVER,  _NEVER,  False, False, True, False,  _GO_ON)
SHADOW         = Guard("shadow",         shadow,         _NEVER,  _ALWAYS, _NEVER,  False, False, False, False, "")
CLOCK          = Guard("clock",          clock,          _NEVER,  _ALWAYS, _NEVER,  True,  False, False, False, "")
STALE          = Guard("stale",          stale,          _NEVER,  _ALWAYS, _NEVER,  True,  True,  False, True,  "")
OVER           = Guard("over",           over,           _NEVER,  _NEVER,  _ALWAYS, True,  False, False, False, "")
CHANGE         = Guard("change",         change,         _NEVER,  _JOINED, _ALWAYS, True,  False, False, True,  "")
SAME_STATE     = Guard("same_state",     same_state,     _UNSEEN, _ALWAYS, _ALWAYS, False, False, False, True,  "")
TARGET         = Guard("target",         target,         _ALWAYS, _NEVER,  _ALWAYS, False, False, False, False, "")
REACH          = Guard("reach",          within_reach,   _NEVER,  _ALWAYS, _ALWAYS, False, False, False, False, "")
INEFFECTIVE    = Guard("ineffective",    not_a_rollback, _NEVER,  _NEVER,  _ALWAYS, False, False, False, False, "")
SWITCHED_OFF   = Guard("switched_off",   switched_off,   _NEVER,  _JOINED, _NEVER,  True,  False, True, False,  "")
COOLDOWN       = Guard("cooldown",       cooldown,       _NEVER,  _NEVER,  _NEVER,  False, False, False, False, "")
SERVICE_BUDGET = Guard("service_budget", service_budget, _NEVER,  _NEVER,  _NEVER,  False, False, False, False, "")
FLEET_BUDGET   = Guard("fleet_budget",   fleet_budget,   _NEVER,  _NEVER,  _NEVER,  False, False, False, False, "")
BREAKER        = Guard("breaker",        breaker,        _NEVER,  _ALWAYS, _NEVER,  False, False, False, False, "")
COMMON_CAUSE   = Guard("common_cause",   common_cause,   _NEVER,  _ALWAYS, _NEVER,  True,  False, False, True,  "")
OTHERS_WORSENED = Guard("others_worsened", others_worsened, _NEVER, _NEVER, _ALWAYS, True, False, False, True, "")
TRAFFIC_LEVEL  = Guard("traffic_level",  traffic_level,  _NEVER,  _NEVER,  _ALWAYS, True,  False, False, True,  "")
SAME_TIME      = Guard("same_time_before", same_time_before, _NEVER, _NEVER, _ALWAYS, True, False, False, True, "")
FIRST_MINUTES  = Guard("first_minutes",  first_minutes,  _NEVER,  _NEVER,  _ALWAYS, True,  False, False, False, "")
WINDOW         = Guard("window",         window,         _NEVER,  _ALWAYS, _NEVER,  False, False, False, False, "")
IRREVERSIBLE   = Guard("irreversible",   irreversible,   _ALWAYS, _ALWAYS, _NEVER,  False, False, False, False, "")
DATA_LOSS      = Guard("data_loss",      data_loss,      _ALWAYS, _ALWAYS, _NEVER,  False, False, False, False, _SHOWN)
READY          = Guard("ready",          ready,          _ALWAYS, _NEVER,  _NEVER,  False, False, False, False, "")
POLICY         = Guard("policy",         policy,         _NEVER,  _ALWAYS, _BY_ROW, False, False, False, False, "")
# fmt: on
# Budgets and cooldown are not asked again: they would count the incident itself.

GUARDS = (
    HOLD, OPEN_INCIDENT, SHADOW, CLOCK, STALE, OVER, CHANGE, SAME_STATE, TARGET, REACH, INEFFECTIVE, SWITCHED_OFF,
    COOLDOWN, SERVICE_BUDGET, FLEET_BUDGET, BREAKER, COMMON_CAUSE, OTHERS_WORSENED, TRAFFIC_LEVEL, SAME_TIME,
    FIRST_MINUTES, WINDOW, IRREVERSIBLE, DATA_LOSS, READY, POLICY,
)  # fmt: skip
"""All guards, in the order of design section 7."""


def names(chosen: Callable[[Guard], bool]) -> frozenset[str]:
    """The names of the guards that are chosen."""
    return frozenset(guard.name for guard in GUARDS if chosen(guard))
