"""From a trigger to a decision: every guard is asked, every finding is kept. No I/O."""

from collections.abc import Sequence
from dataclasses import replace

from rollbackd.model import Action, Decision, Finding, Question, Replaced, Trigger
from rollbackd.policy import guards
from rollbackd.policy.changes import newest
from rollbackd.policy.guards import Situation

GUARDS: tuple[guards.Guard, ...] = (
    guards.hold,
    guards.open_incident,
    guards.shadow,
    guards.clock,
    guards.stale,
    guards.change,
    guards.same_state,
    guards.target,
    guards.within_reach,
    guards.not_a_rollback,
    guards.switched_off,
    guards.cooldown,
    guards.service_budget,
    guards.fleet_budget,
    guards.breaker,
    guards.common_cause,
    guards.window,
    guards.irreversible,
    guards.ready,
    guards.policy,
)
"""In the order of design section 7."""

BINDING = frozenset({"hold", "open_incident", "target", "irreversible", "ready"})
"""What binds a person's own rollback, too; the other findings are shown and recorded."""

_OFF = frozenset({"switched_off", "open_incident"})
"""What counts of the findings on trouble with a feature that is switched off."""

_STRENGTH = (Action.ROLL_BACK, Action.ASK, Action.OBSERVE, Action.REFUSE)


def decide(trigger: Trigger, given: Situation, default_plans: tuple[str, ...] = ("default",)) -> Decision:
    """What is made of a trigger. `refuse` beats `observe` beats `ask` beats `roll_back`."""
    found = _of_what_is_on([guard(trigger, given) for guard in GUARDS])
    findings = tuple(_bind(finding, trigger, given) for finding in found)
    counted = [finding for finding in findings if finding.counted and finding.against is not None]
    action = max(
        (finding.against or Action.ROLL_BACK for finding in counted), key=_STRENGTH.index, default=_STRENGTH[0]
    )
    running = given.ledger.open
    row = guards.row_for(trigger, given)
    change = newest(given.ledger)
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
    )


def _of_what_is_on(findings: Sequence[Finding]) -> Sequence[Finding]:
    """Of what asks a feature that is off nothing comes, so no limit stands against that."""
    if not any(one.guard == "switched_off" and one.against is not None for one in findings):
        return findings
    return [one if one.guard in _OFF else replace(one, counted=False) for one in findings]


def question_of(trigger: Trigger, given: Situation, counted: Sequence[Finding], change: Replaced | None) -> Question:
    """What the policy's row says of asking, and the configuration's own words where it says nothing."""
    row, asking = guards.row_for(trigger, given), given.asking
    by = row.by if row is not None and row.by else asking.by
    approvals = row.approvals if row is not None and row.approvals is not None else asking.approvals
    expires = row.expires if row is not None and row.expires is not None else asking.expires
    announcers = change.announcers if change is not None else ()
    return Question(
        why=tuple(finding.reason for finding in counted),
        expires=given.now + expires,
        approvals=max(approvals, len(by)),
        by=by,
        members={group: tuple(given.groups.get(group, ())) for group in by},
        excluded=() if asking.announcer_approves else announcers,
        otherwise=row.otherwise if row is not None and row.otherwise is not None else asking.otherwise,
    )


def _bind(finding: Finding, trigger: Trigger, given: Situation) -> Finding:
    """What of a finding counts against a person's own rollback; nobody can go back from a state that is not known."""
    if trigger.request is None or finding.against is None:
        return finding
    if finding.guard == "open_incident":
        return replace(finding, against=Action.REFUSE)
    unknown = finding.guard == "same_state" and given.present is None
    return finding if unknown or finding.guard in BINDING else replace(finding, counted=False)


def plans_for(trigger: Trigger, given: Situation, default: tuple[str, ...]) -> tuple[str, ...]:
    """The plans to try, least impact first: a person's, the policy row's, the rule's, the service's."""
    if trigger.request is not None and trigger.request.plan:
        return (trigger.request.plan,)
    row = guards.row_for(trigger, given)
    if row is not None and row.plan:
        return row.plan
    return trigger.plan or default


def asks_again(old: frozenset[str], decision: Decision) -> bool:
    """Whether an episode that was refused is worth a new record: something of what stood against it does no longer.

    What comes on top, such as that it has meanwhile become stale, frees nothing and is no reason to page again.
    """
    now = frozenset(finding.guard for finding in decision.against)
    return bool(old - now) if old else bool(now)
