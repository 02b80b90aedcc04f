"""The parts that messages are put together from: evidence, steps, findings, commands. No I/O."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rollbackd.model import CheckResult, Decision, Evidence, Finding, State, Verdict
from rollbackd.notify import clean
from rollbackd.notify.story import Story
from rollbackd.units import format_duration

Lines = tuple[tuple[str, str], ...]
_MANY = 5
"""Of one kind are shown; the rest is counted."""


def moment(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def several(parts: Sequence[str], many: int = _MANY) -> str:
    """A line each; what is too many is counted."""
    more = [f"and {len(parts) - many} more"] if len(parts) > many else []
    return "\n".join([*parts[:many], *more])


def seen(one: Evidence) -> str:
    """`sum by (service) (…) = 34.2% (> 10% for 5m) at 2026-…`."""
    threshold = f" ({clean.line(one.threshold, 100)})" if one.threshold else ""
    return f"{clean.line(one.source, 500)} = {clean.line(one.value, 120)}{threshold} at {moment(one.at)}"


def why(evidence: Sequence[Evidence], onset: datetime | None) -> Lines:
    said = several([seen(one) for one in evidence])
    links = [clean.line(one.url) for one in evidence if one.url.startswith(("http://", "https://"))]
    return filled(
        ("Why", said),
        ("Since", moment(onset) if onset is not None else ""),
        ("See", several(list(dict.fromkeys(links)), 2)),
    )


def state(value: State | None) -> str:
    return clean.line(value.name, 500) if value is not None else "not known"


def steps(told: Story) -> str:
    """`code: v42 (…) → v41 (…), done` a line each."""
    return several(
        [
            f"{clean.line(step.layer, 63)}: {clean.line(step.before.name, 100)} → {clean.line(step.after.name, 100)}"
            + (", done" if step.layer in told.applied else "")
            for step in told.steps
        ],
        20,
    )


def checks(results: Iterable[CheckResult]) -> str:
    """The last round; what is not good first."""
    ordered = sorted(results, key=lambda result: result.verdict is Verdict.GOOD)
    return several(
        [
            f"{clean.line(result.name, 100)}: {result.verdict}{' (warns only)' if result.warn else ''}, "
            f"{clean.line(result.reason)}"
            for result in ordered
        ],
        10,
    )


def findings(of: Sequence[Finding]) -> str:
    return several([f"{clean.line(finding.guard, 63)}: {clean.line(finding.reason)}" for finding in of], 10)


def target(decision: Decision) -> Lines:
    return filled(("From", state(decision.present)), ("To", state(decision.target) if decision.target else ""))


def took(told: Story, at: datetime) -> str:
    return format_duration(at - told.opened) if told.opened is not None else ""


def stop(told: Story, signals: Path) -> str:
    """How a person stops a rollback that runs; the second works with everything else down."""
    return f"`rollbackd abort {told.incident}`, or `touch {signals}/HOLD.{told.service}`"


def more(told: Story) -> str:
    return f"`rollbackd incidents {told.incident}`"


def still_entered(told: Story) -> Lines:
    """What is kept closed, and how to open it."""
    if not told.entered:
        return ()
    names = ", ".join(clean.line(layer, 63) for layer in told.entered)
    waits = {bracket.layer for bracket in told.brackets if bracket.leave == "acknowledged"}
    if told.outcome == "recovered" and set(told.entered) <= waits:
        return (("Still entered", f"{names}; `rollbackd ack {told.incident}` leaves it"),)
    return (("Still entered", f"{names}; when that can go, `rollbackd ack {told.incident} --leave` leaves it"),)


def filled(*lines: tuple[str, str]) -> Lines:
    """Without those that have nothing to say."""
    return tuple((heading, text) for heading, text in lines if text)
