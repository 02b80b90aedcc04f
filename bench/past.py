"""What a journal holds before the daemon starts: written with the journal's own code, so that it is real."""

import asyncio
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

from bench.alerts import ALERT, service_name
from bench.fixed import BAD, GOOD
from rollbackd import facts
from rollbackd.config.load import dump_service, load_service
from rollbackd.journal import Entry, open_journal
from rollbackd.model import (
    FLEET,
    Action,
    Change,
    CheckResult,
    Decision,
    Evidence,
    Finding,
    Outcome,
    Plan,
    Priority,
    Release,
    State,
    Trigger,
    Verdict,
    incident_stream,
    service_stream,
)
from rollbackd.policy.guards import GUARDS
from rollbackd.system.clock import SystemClock

_UNIT = 2000
"""Facts in one unit."""


def released(services: Sequence[str], now: datetime, good: Release = GOOD, bad: Release = BAD) -> Iterator[Entry]:
    """Each service ran a good release, and since ten minutes ago a bad one."""
    before, after = State({"code": good}), State({"code": bad})
    long_ago, lately = now - timedelta(hours=3), now - timedelta(minutes=10)
    for name in services:
        stream = service_stream(name)
        yield Entry(stream, facts.Changed(before, long_ago, long_ago))
        yield Entry(stream, facts.MarkedGood(before, "ran 30m without a trigger and passed its checks"))
        yield Entry(stream, facts.Changed(after, lately, lately))


def years(services: int, config: dict[str, Any], now: datetime) -> Iterator[Entry]:
    """Without end: of eight releases of a service one was bad and rolled back; its trouble was refused twice before."""
    number = 0
    while True:
        for index in range(services):
            name = service_name(index)
            at = now - timedelta(minutes=30)
            for release in range(8):
                good = State({"code": _release(number * 8 + release)})
                yield Entry(service_stream(name), facts.Changed(good, at, at))
                if release < 7:
                    yield Entry(service_stream(name), facts.MarkedGood(good, "ran 30m without a trigger"))
            yield from _episode(name, number, config, at)
        number += 1


def as_opened(service: dict[str, object]) -> dict[str, Any]:
    """As an `Opened` fact carries it; the bench's own adapter is not installed here, and a name makes no difference."""
    layer = {"code": {"adapter": "command", **{name: ["/bin/true"] for name in ("current", "releases", "apply")}}}
    return dump_service(load_service({**service, "layers": layer}))


def _release(number: int) -> Release:
    return Release(f"{number:040x}", f"v{number}", datetime.fromisoformat("2026-01-01T00:00:00+00:00"))


def _episode(service: str, number: int, config: dict[str, Any], at: datetime) -> Iterator[Entry]:
    stream, name = service_stream(service), f"{service}-{number + 1}"
    bad, good = _release(number * 8 + 7), _release(number * 8 + 6)
    refused = _decision(service, number, at, Action.REFUSE, State({"code": bad}), State({"code": good}))
    decision = _decision(service, number, at, Action.ROLL_BACK, State({"code": bad}), State({"code": good}), name)
    change = Change("code", bad, good, key=f"{name}/code")
    health = CheckResult("health", Verdict.GOOD, "answered 200 in 12ms, wants 2xx", timedelta(milliseconds=12))
    yield Entry(stream, facts.Decided(refused))
    yield Entry(stream, facts.Decided(refused))
    yield Entry(FLEET, facts.Opening(service, name))
    own: list[Any] = [
        facts.Opened(service, decision, config, ("default",)),
        facts.Adopted("0f4e7c5a-3b0d-4c7e-9a55-6d1f2b8e9c10/812"),
        facts.Planned(Plan("default", (change,)), State({"code": bad})),
        facts.ApplyStarted("code"),
        facts.Applied("code"),
        *(facts.Round(Verdict.GOOD, (health, health)) for _ in range(3)),
        *(facts.Told("room", event, f"{name}/{event}/room") for event in ("opened", "recovered")),
        facts.Closed(Outcome.RECOVERED, "3 good rounds in a row"),
    ]
    yield Entry(stream, facts.Decided(decision))
    yield Entry(stream, facts.MarkTaken(State({"code": bad}), f"errors ({name})"))
    for fact in own:
        yield Entry(incident_stream(name), fact)
    yield Entry(FLEET, facts.Ended(service, name, Outcome.RECOVERED, acted=True, watch_until=at))
    yield Entry(stream, facts.Changed(State({"code": good}), at, at, name))
    yield Entry(stream, facts.MarkedGood(State({"code": good}), f"verified after {name}"))
    yield Entry(stream, facts.Quarantined({"code": bad.id}, f"left behind by {name}"))


def _decision(
    service: str, number: int, at: datetime, action: Action, present: State, target: State, joins: str = ""
) -> Decision:
    source = f'alert {ALERT} {{alertname="{ALERT}", env="prod", service="{service}", severity="critical"}}'
    trigger = Trigger(
        service=service,
        rule="errors",
        priority=Priority.P1,
        episode=f"errors/alert/{number:016x}/{at.isoformat()}",
        onset=at,
        reached=at,
        evidence=(Evidence(source, f"34.2% of the answers of {service} are errors", "", at),),
        labels={"alertname": ALERT, "service": service, "env": "prod", "severity": "critical"},
    )
    against = Action.REFUSE if action is Action.REFUSE else None
    findings = tuple(
        Finding(guard.name, against if guard.name == "hold" else None, "0 of 2 rollbacks of this service in 1h")
        for guard in GUARDS
    )
    return Decision(trigger, action, findings, present, target, ("default",), joins)


def release_all(journal: str, names: Sequence[str], good: Release = GOOD, bad: Release = BAD) -> None:
    """Make a journal in which each service has a good release to go back to."""
    asyncio.run(write(journal, released(names, datetime.now(UTC), good, bad)))


async def write(journal: str, entries: Iterator[Entry], count: int | None = None) -> int:
    """Put them into a journal, the teller having read them all; how many facts."""
    opened = await open_journal(journal, SystemClock())
    total = 0
    try:
        wanted = islice(entries, count)
        while unit := tuple(islice(wanted, _UNIT)):
            records = await opened.append(*unit)
            total = records[-1].seq
        await opened.enqueue([], "teller", total)
        await opened.enqueue([], "teller.troubles", total)
    finally:
        await opened.close()
    return total
