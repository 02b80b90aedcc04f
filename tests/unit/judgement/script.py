"""What can happen in a situation: one line each, `TIME [SERVICE:] WHAT`. A line that no pattern fits is an error."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from rollbackd import facts
from rollbackd.model import Outcome, Priority, Request, Verdict, service_stream
from rollbackd.operations import OrderRefused
from rollbackd.operations.parameters import ChangeBody
from rollbackd.policy.ledger import KEPT
from rollbackd.signals.events import Posted
from rollbackd.syntax.units import parse_duration, parse_ratio
from tests.unit.judgement.clock import idle
from tests.unit.judgement.stage import BEGIN, Stage, releases_of
from tests.unit.judgement.world import moving

SHOP = "shop"
"""Whose it is when a line names no service."""
ALL = "all"
"""All the others."""
_DAYS = ("Sun", "Mon", "Tue", "Wed")
_LINE = re.compile(r"(?:(Sun|Mon|Tue|Wed) )?(\d\d):(\d\d)(?::(\d\d))?\s+(?:([a-z][a-z0-9-]*):\s+)?(.+)")
_WHILE = r"(?: while (?P<sick>\S+))?"
_BY = r"(?P<by>(?:unix|token):\S+)"

Happening = Callable[..., Awaitable[None]]
_VERBS: list[tuple[re.Pattern[str], Happening]] = []


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that happens."""

    at: datetime
    service: str
    what: str
    text: str


def parse_time(day: str | None, hours: str, minutes: str, seconds: str | None = None) -> datetime:
    """Monday's when no day is named."""
    days = _DAYS.index(day or "Mon")
    return BEGIN + timedelta(days=days, hours=int(hours), minutes=int(minutes), seconds=int(seconds or 0))


def parse(text: str) -> tuple[Line, ...]:
    """A script. :raises ValueError: with the line that is none, or that comes too late."""
    lines: list[Line] = []
    for written in filter(None, map(str.strip, text.splitlines())):
        found = _LINE.fullmatch(written)
        if found is None or not any(pattern.fullmatch(found[6]) for pattern, _ in _VERBS):
            raise ValueError(f"nothing happens like this: {written}")
        line = Line(parse_time(*found.group(1, 2, 3, 4)), found[5] or SHOP, found[6], written)
        if lines and line.at < lines[-1].at:
            raise ValueError(f"{written}: is before the line above it")
        lines.append(line)
    return tuple(lines)


async def perform(stage: Stage, line: Line) -> None:
    """Let it happen now; what a person is refused is noted."""
    for pattern, happen in _VERBS:
        found = pattern.fullmatch(line.what)
        if found is not None:
            for service in stage.world.layers if line.service == ALL else [line.service]:
                try:
                    await happen(stage, service, **found.groupdict())
                except OrderRefused as refused:
                    stage.answers.append((len(stage.journal.records), stage.clock.true, service, str(refused)))
            await idle()
            return
    raise AssertionError(line)


def verb(pattern: str) -> Callable[[Happening], Happening]:
    def add(happen: Happening) -> Happening:
        _VERBS.append((re.compile(pattern), happen))
        return happen

    return add


def _sick(text: str | None) -> tuple[str, str] | None:
    return next(iter(releases_of(text).items())) if text else None


# -- before the daemon's first life -------------------------------------------------------------
@verb(r"ran (?P<release>\S+?)(?P<good>, good)?(?P<back>, by rollback (?P<number>\d+))?")
async def ran(stage: Stage, service: str, release: str, good: str | None, back: str | None, number: str | None) -> None:
    incident = f"{service}-{number}" if back else ""
    await stage.ran(service, release, good=good is not None, incident=incident)


@verb(r"was rolled back \((?P<number>\d+)\), (?P<outcome>\w+)")
async def was_rolled_back(stage: Stage, service: str, number: str, outcome: str) -> None:
    await stage.rolled_back(service, int(number), Outcome(outcome))


# -- releases -----------------------------------------------------------------------------------
@verb(r"deploys (?P<release>\S+)(?: beside (?P<other>\S+))?")
async def deploys(stage: Stage, service: str, release: str, other: str | None) -> None:
    if other:
        stage.world.beside[service] = other
    for layer, name in releases_of(release).items():
        stage.world.run(service, layer, name)


@verb(r"(?P<layer>\S+) is gone as (?P<release>\S+)")
async def is_gone(stage: Stage, service: str, layer: str, release: str) -> None:
    one = stage.world.layers[service][layer]
    one.known = tuple(known for known in one.known if known.id != release)


@verb(r"(?P<layer>\S+) changes at each look")
async def changes_at_each_look(stage: Stage, service: str, layer: str) -> None:
    stage.world.layers[service][layer].moving = moving("v5", "v6")


@verb(r"(?P<layer>\S+) (?P<how>cannot be seen|can be seen again)")
async def cannot_be_seen(stage: Stage, service: str, layer: str, how: str) -> None:
    stage.world.layers[service][layer].stuck = how == "cannot be seen"


@verb(r"(?P<layer>\S+) takes (?P<length>\d+\w)")
async def takes(stage: Stage, service: str, layer: str, length: str) -> None:
    stage.world.layers[service][layer].takes = parse_duration(length)


@verb(r"(?P<layer>\S+) takes (?P<other>\S+) along to (?P<release>\S+)")
async def takes_along(stage: Stage, service: str, layer: str, other: str, release: str) -> None:
    stage.world.layers[service][layer].along = (other, release)


@verb(r"(?P<layer>\S+) cannot be taken back")
async def cannot_be_taken_back(stage: Stage, service: str, layer: str) -> None:
    stage.world.layers[service][layer].reversible = False


@verb(r"(?P<layer>\S+) is not ready: (?P<why>.+)")
async def is_not_ready(stage: Stage, service: str, layer: str, why: str) -> None:
    stage.world.layers[service][layer].problems = (why,)


@verb(r"runs (?P<count>\d+) releases more")
async def runs_more(stage: Stage, service: str, count: str) -> None:
    """A minute each, none of them good."""
    assert int(count) < KEPT
    for n in range(int(count)):
        await stage.ran(service, f"w{n}", good=False)
        await stage.clock.go(stage.clock.true + timedelta(minutes=1))


# -- what is seen -------------------------------------------------------------------------------
@verb(r"(?P<query>errors|requests|orders|latency|down) (?P<value>\S+)" + _WHILE)
async def measures(stage: Stage, service: str, query: str, value: str, sick: str | None) -> None:
    stage.world.measure(query, service, _number(value), _sick(sick))


@verb(r"(?P<count>\d+) of the others have (?P<query>errors|requests|orders|latency|down) (?P<value>\S+)")
async def others_measure(stage: Stage, service: str, count: str, query: str, value: str) -> None:
    for name in stage.crowd[: int(count)]:
        stage.world.measure(query, name, _number(value))


def _number(text: str) -> float | None:
    """`none` is no series at all."""
    if text == "none":
        return None
    return float(text) if text == "NaN" or text.replace(".", "").isdigit() else parse_ratio(text)


@verb(r"Prometheus is (?P<how>down|up)")
async def prometheus_is(stage: Stage, service: str, how: str) -> None:
    stage.world.prometheus.down = how == "down"


@verb(r"Alertmanager is (?P<how>down|up)")
async def alertmanager_is(stage: Stage, service: str, how: str) -> None:
    stage.world.alertmanager.down = how == "down"


@verb(r"alert (?P<name>\w+) fires(?: since (?P<since>\d\d:\d\d))?(?: at (?P<level>\w+))?(?P<lost>, unheard)?" + _WHILE)
async def alert_fires(
    stage: Stage, service: str, name: str, since: str | None, level: str | None, lost: str | None, sick: str | None
) -> None:
    begun = parse_time(None, since[:2], since[3:]) if since else stage.clock.true
    labels = {"service": service, **({"severity": level} if level else {})}
    alert = stage.world.fire(name, labels, begun, _sick(sick))
    if stage.core is not None and not lost:
        await stage.core.operations.receive([alert], "token:alertmanager")


@verb(r"alert (?P<name>\w+) comes again from another Alertmanager")
async def alert_comes_again(stage: Stage, service: str, name: str) -> None:
    alert = stage.world.alerts[stage.world.firing(name, service)]
    await stage.daemon.operations.receive([alert], "token:other-alertmanager")


@verb(r"alert (?P<name>\w+) ends unheard")
async def alert_ends_unheard(stage: Stage, service: str, name: str) -> None:
    stage.world.resolve(stage.world.firing(name, service))


@verb(r"alert (?P<name>\w+) is inhibited")
async def alert_is_inhibited(stage: Stage, service: str, name: str) -> None:
    stage.world.alertmanager.inhibited.add(stage.world.firing(name, service))


@verb(r"alert (?P<name>\w+) is renamed by its value")
async def alert_is_renamed(stage: Stage, service: str, name: str) -> None:
    """It has a label with its value: each evaluation is another alert, and ends the one before."""
    await alert_resolves(stage, service, name)
    alert = stage.world.fire(name, {"service": service, "value": str(stage.clock.true)}, stage.clock.true, None)
    if stage.core is not None:
        await stage.core.operations.receive([alert], "token:alertmanager")


@verb(r"Alertmanager begins anew")
async def alertmanager_begins_anew(stage: Stage, service: str) -> None:
    stage.world.alertmanager.restarted = stage.clock.true


@verb(r"alert (?P<name>\w+) resolves")
async def alert_resolves(stage: Stage, service: str, name: str) -> None:
    alert = stage.world.resolve(stage.world.firing(name, service))
    if stage.core is not None:
        await stage.core.operations.receive([alert], "token:alertmanager")


@verb(r"event (?P<event>\w+)(?: with key (?P<key>\S+))?(?P<over>, resolved)?")
async def event_comes(stage: Stage, service: str, event: str, key: str | None, over: str | None) -> None:
    posted = Posted(event=event, service=service, key=key or "", state="resolved" if over else "firing")
    await stage.daemon.operations.report([posted], "token:ci")


@verb(r"check (?P<name>\w+) (?P<how>fails|passes|says nothing)" + _WHILE)
async def check_says(stage: Stage, service: str, name: str, how: str, sick: str | None) -> None:
    verdicts = {"fails": Verdict.BAD, "passes": Verdict.GOOD, "says nothing": Verdict.INCONCLUSIVE}
    held = _sick(sick)
    stage.world.checks[service, name] = (verdicts[how], f"{held[0]}={held[1]}" if held else "")


# -- what people do -----------------------------------------------------------------------------
@verb(
    rf"{_BY} announces (?P<release>\S+)(?: as (?P<kind>\w+))?(?: with (?P<priority>P\d))?"
    r"(?:, to be confirmed within (?P<within>\w+))?"
)
async def announces(
    stage: Stage, service: str, by: str, release: str, kind: str | None, priority: str | None, within: str | None
) -> None:
    change = ChangeBody(
        service=service,
        releases=releases_of(release),
        kind=kind or "",
        priority=Priority(priority) if priority else None,
        confirm_within=parse_duration(within) if within else None,
    )
    await stage.daemon.operations.changed(change, by)


@verb(rf"{_BY} confirms")
async def confirms(stage: Stage, service: str, by: str) -> None:
    await stage.daemon.operations.confirm(service, by)


@verb(rf"{_BY} (?P<how>holds|resumes)(?P<everything> all services)?(?: until (?P<until>\d\d:\d\d))?(?:, (?P<why>.+))?")
async def holds(
    stage: Stage,
    service: str,
    by: str,
    how: str,
    everything: str | None,
    until: str | None,
    why: str | None,
) -> None:
    scope = "*" if everything else service
    if how == "resumes":
        await stage.daemon.operations.unhold(scope, by)
    else:
        end = parse_time(None, until[:2], until[3:]) if until else None
        await stage.daemon.operations.hold(scope, by, why or "", end)


@verb(r"(?P<name>\w+) silences (?P<matchers>.+)")
async def silences(stage: Stage, service: str, name: str, matchers: str) -> None:
    stage.world.silence(matchers, name)
    await stage.daemon.intake.ask()


@verb(r"the silence of (?P<name>\w+) ends")
async def silence_ends(stage: Stage, service: str, name: str) -> None:
    del stage.world.silences[name]
    await stage.daemon.intake.ask()


@verb(rf"{_BY} approves")
async def approves(stage: Stage, service: str, by: str) -> None:
    await stage.daemon.operations.approve(service, by)


@verb(rf"{_BY} denies(?:, (?P<why>.+))?")
async def denies(stage: Stage, service: str, by: str, why: str | None) -> None:
    await stage.daemon.operations.deny(service, by, why or "")


@verb(rf"{_BY} aborts")
async def aborts(stage: Stage, service: str, by: str) -> None:
    await stage.daemon.operations.abort(service, by)


@verb(rf"{_BY} orders a rollback(?: to (?P<to>\S+))?(?P<over> over the hold)?")
async def orders(stage: Stage, service: str, by: str, to: str | None, over: str | None) -> None:
    await stage.daemon.operations.rollback(Request(service, by, to=to or "", over_hold=over is not None))


@verb(rf"{_BY} (?P<how>quarantines|lifts the quarantine of) (?P<release>\S+)")
async def quarantines(stage: Stage, service: str, by: str, how: str, release: str) -> None:
    lift = how != "quarantines"
    if stage.core is None:
        fact: Any = facts.QuarantineLifted if lift else facts.Quarantined
        await stage.write(service_stream(service), fact(releases_of(release), f"by {by}"))
        return
    await stage.core.operations.quarantine(service, releases_of(release), by, lift)


@verb(rf"{_BY} marks (?P<release>\S+) good")
async def marks_good(stage: Stage, service: str, by: str, release: str) -> None:
    await stage.daemon.operations.good(service, releases_of(release), by)


@verb(rf"{_BY} drills it for real")
async def drills(stage: Stage, service: str, by: str) -> None:
    await stage.daemon.operations.drill(service, "", by, execute=True)


@verb(rf"{_BY} resets the breaker")
async def resets_the_breaker(stage: Stage, service: str, by: str) -> None:
    await stage.daemon.operations.resume(by)


# -- the daemon itself --------------------------------------------------------------------------
@verb(r"the daemon goes down")
async def goes_down(stage: Stage, service: str) -> None:
    await stage.down()


@verb(r"the daemon comes up")
async def comes_up(stage: Stage, service: str) -> None:
    await stage.up()


@verb(r"our clock is set (?P<how>forward|back) by (?P<length>\w+)")
async def clock_is_set(stage: Stage, service: str, how: str, length: str) -> None:
    stage.clock.set(parse_duration(length) * (1 if how == "forward" else -1))


@verb(r"nothing more happens")
async def nothing_more(stage: Stage, service: str) -> None:
    """So that a situation goes on until then."""
