"""Messages about questions: asked, asked again, answered, become a rollback. No I/O."""

from collections.abc import Sequence

from rollbackd import facts
from rollbackd.incident.approval import missing
from rollbackd.notify.messages import phrases, plain_text
from rollbackd.notify.messages.context import MessageContext, loud, of_incident, urgent
from rollbackd.notify.messages.envelope import Envelope
from rollbackd.notify.messages.troubles import guards


def asks(told: MessageContext, event: str = "asks", changed: str = "") -> Envelope:
    """The question that stands. Questions that are alike for several services may go as one message."""
    about = told.about
    decision = about.decision
    rule = plain_text.line(decision.trigger.rule, 100)
    lines = phrases.filled(
        ("What", f"{about.service} is in trouble (rule {rule}); nothing is touched until people say yes"),
        ("Changed", plain_text.line(changed, 1000)),
        ("Meanwhile", ", ".join(f"{layer} is entered" for layer in about.enters_asked)),
        *phrases.change(decision),
        *phrases.question(about, told.signals),
        *phrases.trouble(about),
        *phrases.target(decision),
        *phrases.data(decision),
        ("Plan", ", then ".join(about.plans)),
        ("Checks", phrases.checks(about.examined)),
        ("More", phrases.more(about)),
    )
    title = f"approval pending{phrases.way(decision)}"
    group = f"asks/{','.join(guards(decision))}" if event == "asks" else ""
    return of_incident(told.record, about, event, title, urgent(about.priority), lines, group)


def asked_again(told: MessageContext, fact: facts.AskedAgain) -> Sequence[Envelope]:
    return [asks(told, "asked_again", fact.changed)]


def examined(told: MessageContext, fact: facts.Examined) -> Sequence[Envelope]:
    """What the checks say. Beside a question people must see it at once; a rollback's next message has it."""
    about = told.about
    if not about.waits or about.outcome is not None or not fact.results:
        return []
    lines = phrases.filled(
        ("What", f"what the checks of {about.service} say, beside the question that stands"),
        ("Checks", phrases.checks(fact.results)),
        *phrases.answers(about, told.signals),
    )
    title = "approval pending, checked"
    return [of_incident(told.record, about, "checked", title, urgent(about.priority), lines, "checked")]


def approved(told: MessageContext, fact: facts.Approved) -> Sequence[Envelope]:
    """A yes that is not enough yet. What the last yes leads to is told as that."""
    about = told.about
    question = about.decision.question
    people = [yes.actor for yes in about.approvals]
    if question is None or not about.waits or not missing(question, people):
        return []
    actor = plain_text.line(told.record.actor, 100)
    lines = phrases.filled(
        ("What", f"{actor} says yes, and more people must"),
        ("Reason", plain_text.line(fact.reason)),
        *phrases.change(about.decision),
        *phrases.question(about, told.signals),
        ("More", phrases.more(about)),
    )
    return [
        of_incident(
            told.record,
            about,
            "approved",
            f"approved by {actor}, more approvals pending",
            urgent(about.priority),
            lines,
        )
    ]


def risen(told: MessageContext, fact: facts.Risen) -> Sequence[Envelope]:
    about = told.about
    lines = phrases.filled(
        ("What", f"{about.service} is being taken back: {plain_text.line(fact.why)}"),
        *phrases.change(about.decision),
        *phrases.trouble(about),
        *phrases.target(about.decision),
        *phrases.data(about.decision),
        ("Checks", phrases.checks(about.examined)),
        ("Next", f"every layer is looked at once more, then plan {', then '.join(about.plans)}"),
        ("Stop it", phrases.stop(about, told.signals)),
        ("More", phrases.more(about)),
    )
    title = f"rolling back{phrases.way(about.decision)}"
    return [of_incident(told.record, about, "risen", title, loud(about.priority), lines)]
