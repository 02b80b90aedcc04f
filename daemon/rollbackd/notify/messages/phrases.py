"""Phrases that messages are put together from: evidence, steps, findings, questions, commands. No I/O."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rollbackd.incident.approval import missing
from rollbackd.incident.life import Incident
from rollbackd.model import (
    NO_RELEASE,
    ApprovalRequest,
    Change,
    CheckResult,
    Decision,
    Evidence,
    Finding,
    State,
    Trigger,
    Verdict,
)
from rollbackd.notify.messages import plain_text
from rollbackd.policy.data import NOTHING_LOST
from rollbackd.policy.guards import CHANGE, DATA_LOSS
from rollbackd.syntax.units import roughly

Lines = tuple[tuple[str, str], ...]
TROUBLE = "Trouble"
"""The heading of what is broken."""
_MANY = 5
"""How many of one kind are shown; the rest is counted."""
_OTHERWISE = {
    "escalate": "when nobody answers it ends, and the next people are told",
    "roll_back": "when nobody answers it goes back, unless something new stands against it",
}


def moment(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def several(parts: Sequence[str], many: int = _MANY) -> str:
    """A line each; what is too many is counted."""
    more = [f"and {len(parts) - many} more"] if len(parts) > many else []
    return "\n".join([*parts[:many], *more])


def filled(*lines: tuple[str, str]) -> Lines:
    """The lines that have something to say."""
    return tuple((heading, text) for heading, text in lines if text)


# -- the trouble ----------------------------------------------------------------------------------
def seen(one: Evidence) -> str:
    """`sum by (service) (…) = 34.2% (> 10% for 5m) at 2026-…`."""
    threshold = f" ({plain_text.line(one.threshold, 100)})" if one.threshold else ""
    return f"{plain_text.line(one.source, 500)} = {plain_text.line(one.value, 120)}{threshold} at {moment(one.at)}"


def broken(trigger: Trigger) -> Lines:
    """What is broken and since when, without the query; a person's own order names nothing that is."""
    if trigger.request is not None:
        return ()
    seen_now = "; ".join(
        plain_text.line(one.value, 60) + (f" ({plain_text.line(one.threshold, 60)})" if one.threshold else "")
        for one in trigger.evidence[:2]
    )
    what = f"{plain_text.line(trigger.service, 63)}: {plain_text.line(trigger.rule, 100)}"
    return ((TROUBLE, f"{what} since {moment(trigger.onset)}{f', {seen_now}' if seen_now else ''}"),)


def why(evidence: Sequence[Evidence], onset: datetime | None) -> Lines:
    said = several([seen(one) for one in evidence])
    links = [plain_text.line(one.url) for one in evidence if one.url.startswith(("http://", "https://"))]
    return filled(
        ("Why", said),
        ("Since", moment(onset) if onset is not None else ""),
        ("See", several(list(dict.fromkeys(links)), 2)),
    )


def trouble(about: Incident) -> Lines:
    """The evidence of the trigger and of those that joined; a person's own order has no onset."""
    triggers = (about.decision.trigger, *about.joined)
    onset = None if about.decision.trigger.request is not None else about.decision.trigger.onset
    return why([one for trigger in triggers for one in trigger.evidence], onset)


def change(decision: Decision) -> Lines:
    """The change that the trouble is put down to. A change that is not to blame is shown as the last one."""
    if decision.change is None:
        return ()
    blamed = not any(finding.guard == CHANGE.name and finding.against is not None for finding in decision.findings)
    text = f"{plain_text.line(decision.change.name, 500)}, at {moment(decision.change.end)}"
    return (("Change" if blamed else "Last change", text),)


def data(decision: Decision) -> Lines:
    """What is taken from data, and what returns with it; nothing where no data goes back."""
    said = next((one.reason for one in decision.findings if one.guard == DATA_LOSS.name), NOTHING_LOST)
    return (("Data", plain_text.line(said, 1000)),) if said != NOTHING_LOST else ()


def state(value: State | None) -> str:
    return plain_text.line(value.name, 500) if value is not None else "not known"


def target(decision: Decision) -> Lines:
    return filled(("From", state(decision.present)), ("To", state(decision.target) if decision.target else ""))


def way(decision: Decision) -> str:
    """`: v5 -> v4` of the one layer that differs, `: 3 layers` of more; empty while nothing is known of either end."""
    present, target = decision.present, decision.target
    if present is None or target is None:
        return ""
    layers = [one for one in present.differing(target) if one in present.releases and one in target.releases]
    if len(layers) != 1:
        return f": {len(layers)} layers" if layers else ""
    before, after = (
        plain_text.fit(one.label or one.id, 30) for one in (present.releases[layers[0]], target.releases[layers[0]])
    )
    return f": {before} -> {after}"


def findings(of: Sequence[Finding]) -> str:
    return several([f"{plain_text.line(finding.guard, 63)}: {plain_text.line(finding.reason)}" for finding in of], 10)


def checks(results: Iterable[CheckResult]) -> str:
    """The results of one round, those that are not good first."""
    ordered = sorted(results, key=lambda result: result.verdict is Verdict.GOOD)
    return several(
        [
            f"{plain_text.line(result.name, 100)}: {result.verdict}{' (warns only)' if result.warn else ''}, "
            f"{plain_text.line(result.reason)}"
            for result in ordered
        ],
        10,
    )


# -- how far it is --------------------------------------------------------------------------------
def steps(about: Incident) -> str:
    """`code: v42 (…) → v41 (…), done`, a line for each step; a layer without releases has its name alone."""
    return several(
        [
            _step(step) + (", done" if step.layer in about.done else "")
            for step in (about.plan.steps if about.plan is not None else ())
        ],
        20,
    )


def _step(step: Change) -> str:
    layer = plain_text.line(step.layer, 63)
    if step.after == NO_RELEASE:
        return layer
    return f"{layer}: {plain_text.line(step.before.name, 100)} → {plain_text.line(step.after.name, 100)}"


def standing(about: Incident) -> str:
    """Where the incident is, in a few words."""
    if about.outcome is not None:
        return f"{about.outcome}: {plain_text.line(about.reason)}"
    if about.parked:
        return f"it waits for a person: {plain_text.line(about.parked)}"
    if about.paused:
        return f"held: {plain_text.line(about.paused)}"
    if about.waits:
        return "it asks people, nothing was touched"
    if about.flight is not None:
        return f"{about.flight.what} {plain_text.line(about.flight.layer, 63)} since {moment(about.flight.since)}"
    if about.begun is None:
        return "nothing was touched yet"
    return "between two steps" if about.stepped is None else "the checks are asked whether it got well"


def failure(about: Incident) -> str:
    """What failed last and was not put right since: `code: npm exited 1`."""
    return plain_text.line(f"{about.failure.layer}: {about.failure.reason}") if about.failure is not None else ""


def took(about: Incident, at: datetime) -> str:
    return roughly(at - about.opened)


def still_entered(about: Incident) -> Lines:
    """What people must know of its brackets: which are still entered, and how to leave them."""
    said = several([plain_text.line(one, 500) for one in about.notes], 10)
    return filled(("Mind", said), *_kept_closed(about))


def _kept_closed(about: Incident) -> Lines:
    failed = about.failure is not None and about.failure.what == "leave"
    if not about.inside or (about.outcome is not None and not about.acted and not failed):
        return ()  # what was entered while it asked is left right after its end
    names = ", ".join(plain_text.line(layer, 63) for layer in about.inside)
    waits = {layer for layer, leave in about.brackets.items() if leave == "acknowledged"}
    if about.outcome == "recovered" and set(about.inside) <= waits:
        return (("Still entered", f"{names}; `rollbackd ack {about.id}` leaves it"),)
    return (("Still entered", f"{names}; when that can go, `rollbackd ack {about.id} --leave` leaves it"),)


# -- what people can do ---------------------------------------------------------------------------
def stop(about: Incident, signals: Path) -> str:
    """How a person stops a rollback that runs; the second way works with everything else down."""
    return f"`rollbackd abort {about.id}`, or `touch {signals}/HOLD.{about.service}`"


def more(about: Incident) -> str:
    return f"`rollbackd incidents {about.id}`"


def answers(about: Incident, signals: Path) -> Lines:
    """How to say yes and no; nothing when the incident does not ask. The files work with everything else down; a yes
    by file is none where it counts whose it is.
    """
    if not about.waits or about.outcome is not None:
        return ()
    asked = about.decision.question
    by_file = f", or `touch {signals}/APPROVE.{about.service}`"
    return (
        ("Say yes", f"`rollbackd approve {about.id}`{'' if asked and asked.counts_persons else by_file}"),
        ("Say no", f"`rollbackd deny {about.id}`, or `touch {signals}/DENY.{about.service}`"),
    )


def question(about: Incident, signals: Path) -> Lines:
    """The question: why it is asked, how to answer, until when and what then, of whom, who said yes, who is missing."""
    asked = about.decision.question
    if asked is None or not about.waits:
        return ()
    people = tuple(dict.fromkeys(yes.actor for yes in about.approvals))
    lacking = missing(asked, people)
    return filled(
        ("Asked because", several([plain_text.line(one) for one in asked.why], 10)),
        *answers(about, signals),
        ("Until", f"{moment(asked.expires)}; {_OTHERWISE[asked.otherwise]}"),
        ("Asked of", whom(asked)),
        ("Said yes", ", ".join(plain_text.line(one, 100) for one in people)),
        ("Missing", plain_text.line(lacking) or "nobody; it goes back as soon as nothing holds it"),
    )


def whom(asked: ApprovalRequest) -> str:
    """`one of tech (unix:ann, unix:bob) and one of product (…)`, or how many of those who may order a rollback."""
    count = f"{asked.approvals} different people" if asked.approvals > 1 else "one person"
    groups = [_group(asked, group) for group in asked.by]
    text = " and ".join(f"one of {group}" for group in groups) or f"{count} who may order a rollback"
    if asked.by and asked.approvals > len(asked.by):
        text = f"{count}, {text}"
    announcer = plain_text.line(", ".join(asked.excluded), 100)
    return f"{text}; not {announcer}, who announced the change" if announcer else text


def _group(asked: ApprovalRequest, group: str) -> str:
    members = [plain_text.line(actor, 100) for actor in asked.members.get(group, ())]
    shown = ", ".join([*members[:_MANY], *([f"{len(members) - _MANY} more"] if len(members) > _MANY else [])])
    return f"{plain_text.line(group, 63)} ({shown or 'nobody'})"
