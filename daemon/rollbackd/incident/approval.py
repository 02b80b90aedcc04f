"""Whether enough of the right people said yes, and what a question becomes then. No I/O."""

from collections.abc import Iterable, Sequence

from rollbackd import facts
from rollbackd.incident.ending import Addressed
from rollbackd.model import FLEET, ApprovalRequest, Decision, incident_stream, service_stream


def person(question: ApprovalRequest, actor: str) -> str:
    """Who an actor is, whichever way and on whichever host they came: two of one person's names are one person."""
    name = actor.rpartition("@")[0] if question.of_hosts and actor.startswith("unix:") and "@" in actor else actor
    return question.persons.get(name, name)


def may_answer(question: ApprovalRequest, actor: str) -> str:
    """Why an actor's yes does not count; empty when it does."""
    own = person(question, actor)
    if own in {whose for one in question.excluded for whose in (person(question, one), _named(question, one))}:
        return f"{actor} announced the change; somebody else must approve going back from it"
    if question.by and not any(own in _members(question, group) for group in question.by):
        return f"{actor} is in none of the groups that are asked: {', '.join(question.by)}"
    return ""


def _named(question: ApprovalRequest, name: str) -> str:
    """Who somebody is whom a configuration or a job names, without a host."""
    return question.persons.get(name, name)


def _members(question: ApprovalRequest, group: str) -> frozenset[str]:
    """The persons of a group."""
    return frozenset(_named(question, actor) for actor in question.members.get(group, ()))


def missing(question: ApprovalRequest, actors: Iterable[str]) -> str:
    """The approvals that are still missing, in words; empty when there are enough.

    Each group gives one person of its own: somebody in two groups speaks for one of them.
    """
    people = tuple(dict.fromkeys(person(question, actor) for actor in actors if not may_answer(question, actor)))
    groups = _unspoken(question, people)
    if groups:
        return f"one of {' and one of '.join(groups)}"
    more = question.approvals - len(people)
    return "" if more <= 0 else f"{more} more {'person' if more == 1 else 'people'}"


def _unspoken(question: ApprovalRequest, people: Sequence[str]) -> list[str]:
    """The groups without a person of their own, when as many groups as possible have one."""
    spokesman: dict[str, str] = {}

    def find(group: str, asked: set[str]) -> bool:
        for one in people:
            if one in _members(question, group) and one not in asked:
                asked.add(one)
                other = next((name for name, who in spokesman.items() if who == one), None)
                if other is None or find(other, asked):
                    spokesman[group] = one
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
