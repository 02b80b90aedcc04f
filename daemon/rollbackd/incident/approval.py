"""Whether enough of the right people said yes, and what a question becomes then. No I/O."""

from collections.abc import Iterable, Sequence

from rollbackd import facts
from rollbackd.incident.ending import Addressed
from rollbackd.model import FLEET, ApprovalRequest, Decision, incident_stream, service_stream


def may_answer(question: ApprovalRequest, actor: str) -> str:
    """Why an actor's yes does not count; empty when it does."""
    if actor in question.excluded:
        return f"{actor} announced the change; somebody else must approve going back from it"
    if question.by and not any(actor in question.members.get(group, ()) for group in question.by):
        return f"{actor} is in none of the groups that are asked: {', '.join(question.by)}"
    return ""


def missing(question: ApprovalRequest, actors: Iterable[str]) -> str:
    """The approvals that are still missing, in words; empty when there are enough.

    Each group gives one person of its own: somebody in two groups speaks for one of them.
    """
    people = tuple(dict.fromkeys(actor for actor in actors if not may_answer(question, actor)))
    groups = _unspoken(question, people)
    if groups:
        return f"one of {' and one of '.join(groups)}"
    more = question.approvals - len(people)
    return "" if more <= 0 else f"{more} more {'person' if more == 1 else 'people'}"


def _unspoken(question: ApprovalRequest, people: Sequence[str]) -> list[str]:
    """The groups without a person of their own, when as many groups as possible have one."""
    spokesman: dict[str, str] = {}

    def find(group: str, asked: set[str]) -> bool:
        for person in people:
            if person in question.members.get(group, ()) and person not in asked:
                asked.add(person)
                other = next((name for name, who in spokesman.items() if who == person), None)
                if other is None or find(other, asked):
                    spokesman[group] = person
                    return True
        return False

    return [group for group in question.by if not find(group, set())]


def rising(incident: str, decision: Decision, why: str, *, by_people: bool) -> list[Addressed]:
    """The facts, for one unit, of a question that becomes a rollback: its budget is spent, the state is blamed."""
    trigger = decision.trigger
    found: list[Addressed] = [
        (FLEET, facts.Rising(trigger.service, incident, by_people)),
        (incident_stream(incident), facts.Risen(decision, why, by_people)),
    ]
    if decision.present is not None and trigger.request is None:
        taken = facts.MarkTaken(decision.present, f"{trigger.rule} ({incident})")
        found.append((service_stream(trigger.service), taken))
    return found
