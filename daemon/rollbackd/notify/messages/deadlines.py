"""Messages about time that is over: a clock, a target, the next people. No I/O."""

from collections.abc import Sequence
from dataclasses import replace

from rollbackd import facts
from rollbackd.incident import clocks
from rollbackd.notify.messages import phrases, plain_text
from rollbackd.notify.messages.context import MessageContext, of_incident, urgent
from rollbackd.notify.messages.envelope import Envelope
from rollbackd.notify.messages.incidents import opening


def clock_passed(told: MessageContext, fact: facts.ClockPassed) -> Sequence[Envelope]:
    about = told.about
    limit = fact.clock in {clocks.START, clocks.RECOVER, clocks.RESPOND}
    lines = phrases.filled(
        ("What", plain_text.line(fact.text)),
        ("Priority", f"{about.priority}" if limit else ""),
        ("Now", phrases.standing(about)),
        *phrases.change(about.decision),
        *phrases.answers(about, told.signals),
        ("Steps", phrases.steps(about)),
        ("Failed last", phrases.failure(about)),
        ("More", phrases.more(about)),
    )
    if not limit:
        title = "rolling back slowly"
        return [of_incident(told.record, about, "over_target", title, "warning", lines)]
    event = "unanswered" if fact.clock == clocks.RESPOND else "clock_passed"
    title, group = f"out of time: {plain_text.line(fact.text)}", f"clock_passed/{fact.clock}"
    return [of_incident(told.record, about, event, title, urgent(about.priority), lines, group)]


def escalated(told: MessageContext, fact: facts.Escalated) -> Sequence[Envelope]:
    """The incident for the next people. They know nothing of it yet, so all that matters is said once more."""
    about = told.about
    if fact.why == clocks.AT_ONCE:
        return [replace(opening(told), only_tier=True)]
    runs = about.outcome is None and not about.waits
    lines = phrases.filled(
        ("What", f"{about.service} needs people: {plain_text.line(fact.why)}"),
        ("Now", phrases.standing(about)),
        *phrases.change(about.decision),
        *phrases.question(about, told.signals),
        *phrases.trouble(about),
        *phrases.target(about.decision),
        ("Steps", phrases.steps(about)),
        ("Failed last", phrases.failure(about)),
        ("Checks", phrases.checks(about.results or about.examined)),
        *phrases.still_entered(about),
        ("Stop it", phrases.stop(about, told.signals) if runs else ""),
        ("Seen it", f"`rollbackd ack {about.id}`"),
        ("More", phrases.more(about)),
    )
    title = f"needs people: {plain_text.line(fact.why, 100)}"
    return [of_incident(told.record, about, "escalated", title, "critical", lines, f"escalated/{fact.tier}")]
