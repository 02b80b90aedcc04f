"""From a trigger to a decision: every guard is asked, every finding is kept. No I/O."""

from collections.abc import Sequence
from dataclasses import replace

from rollbackd.model import Action, ApprovalRequest, Decision, Finding, Replaced, Trigger
from rollbackd.policy.changes import to_blame
from rollbackd.policy.guards import CLOCK, GUARDS, SAME_STATE, SWITCHED_OFF, Guard, Situation, When, outlived, row_for

_STRENGTH = (Action.ROLL_BACK, Action.ASK, Action.OBSERVE, Action.REFUSE)


def decide(trigger: Trigger, given: Situation, default_plans: tuple[str, ...] = ("default",)) -> Decision:
    """The decision on a trigger. `refuse` beats `observe` beats `ask` beats `roll_back`."""
    known = given.ledger.episodes.get(trigger.episode) if trigger.request is None else None
    kept = dict(known.found) if known is not None else {}
    if outlived(trigger, given):
        kept.pop(SAME_STATE.name, None)
    found = [(guard, kept.get(guard.name) or guard.ask(trigger, given)) for guard in GUARDS]
    standing = {guard.name for guard, finding in found if finding.against is not None}
    steady = CLOCK.name not in standing  # what is found of the onset while our own clock was set may not be so
    off = SWITCHED_OFF.name in standing
    findings = tuple(_counted(guard, finding, trigger, given, off=off) for guard, finding in found)
    counted = [finding for finding in findings if finding.counted and finding.against is not None]
    action = max(
        (finding.against or Action.ROLL_BACK for finding in counted), key=_STRENGTH.index, default=_STRENGTH[0]
    )
    running = given.ledger.open
    row = row_for(trigger, given)
    change = to_blame(given.ledger, trigger.onset)
    question = None
    if action is Action.ASK:
        if given.present is None or given.target is None or trigger.drill:
            # There is nothing yet that people could say yes to, or nobody is asked whether a drill may do it.
            action = Action.REFUSE
        else:
            question = question_of(trigger, given, counted, change)
    return Decision(
        trigger=trigger,
        action=action,
        findings=findings,
        present=given.present,
        target=given.target.state if given.target is not None else None,
        plans=plans_for(trigger, given, default_plans),
        joins=running.incident if running is not None else "",
        escalate=any(finding.escalate for finding in counted) and (running is None or running.waits),
        change=change,
        question=question,
        start_within=row.start_within if row is not None else None,
        unfinished=given.ledger.unfinished.layers if given.ledger.unfinished is not None else (),
        lasting=tuple(finding.guard for guard, finding in found if _lasts(guard, finding, given)) if steady else (),
        data=given.data,
    )


def _lasts(guard: Guard, finding: Finding, given: Situation) -> bool:
    """Whether a finding stays found. What was found without a look, or of layers in transition, does not."""
    known = given.looked or guard.needs_a_look is When.NEVER
    return guard.lasts and known and finding.against is not None and finding.against is not Action.REFUSE


def _counted(guard: Guard, finding: Finding, trigger: Trigger, given: Situation, *, off: bool) -> Finding:
    """The finding, marked where it does not count: for trouble with a feature that is off, or for a person's order."""
    if off and not guard.counts_when_off:
        return replace(finding, counted=False)
    if trigger.request is None or finding.against is None:
        return finding
    unseen = guard.binds_people is When.UNSEEN and given.present is None
    if not unseen and guard.binds_people is not When.ALWAYS:
        return replace(finding, counted=False)
    return replace(finding, against=Action.REFUSE) if finding.against is Action.OBSERVE else finding


def question_of(
    trigger: Trigger, given: Situation, counted: Sequence[Finding], change: Replaced | None
) -> ApprovalRequest:
    """The question to people, as the policy's row says; what it leaves open, the configuration's `asking` says."""
    row, asking = row_for(trigger, given), given.asking
    by = row.by if row is not None and row.by else asking.by
    approvals = row.approvals if row is not None and row.approvals is not None else asking.approvals
    expires = row.expires if row is not None and row.expires is not None else asking.expires
    announcers = change.announcers if change is not None else ()
    question = ApprovalRequest(
        why=tuple(finding.reason for finding in counted),
        expires=given.now + expires,
        approvals=max(approvals, len(by)),
        by=by,
        members={group: tuple(given.groups.get(group, ())) for group in by},
        excluded=() if asking.announcer_approves else announcers,
        otherwise=row.otherwise if row is not None and row.otherwise is not None else asking.otherwise,
    )
    if not question.counts_persons:
        return question
    return replace(question, persons=given.persons, of_hosts=given.of_hosts)


def plans_for(trigger: Trigger, given: Situation, default: tuple[str, ...]) -> tuple[str, ...]:
    """The plans to try, least impact first: of the person's order, else the policy's row, the rule, the service."""
    if trigger.request is not None and trigger.request.plan:
        return (trigger.request.plan,)
    row = row_for(trigger, given)
    if row is not None and row.plan:
        return row.plan
    return trigger.plan or default


def asks_again(old: frozenset[str], decision: Decision) -> bool:
    """Whether an episode that was refused is worth a new record: a guard that stood against it does so no longer.

    A guard that stands against it in addition, such as `stale`, frees nothing and is no reason to page again.
    """
    now = frozenset(finding.guard for finding in decision.against)
    return bool(old - now) if old else bool(now)
