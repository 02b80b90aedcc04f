"""What people can be told, by the name that routes know it by. No I/O."""

from collections.abc import Mapping
from typing import Literal

from rollbackd.incident.outcomes import MEANINGS

Audience = Literal["team", "users"]
"""Who reads a message: those who run the services, or those who use them."""
EVENTS: Mapping[str, str] = {
    # of an incident
    "asks": "people are asked whether a service goes back",
    "asked_again": "the world moved after it was asked: the question is another now",
    "checked": "what the service's checks say, beside a question that stands",
    "approved": "somebody said yes, and more people must",
    "risen": "a question became a rollback",
    "opened": "a rollback begins",
    "started": "its first step",
    "plan_ended": "a plan did not help, the next one runs; the priority rises",
    "paused": "a hold stopped it",
    "parked": "it needs a person to go on",
    "joined": "more trouble came while a hold stopped it, or while it needs a person",
    "abort_requested": "a person wants it stopped",
    "not_left": "a bracket was to be left after the end, and that failed",
    "acknowledged": "a person has seen it",
    "clock_passed": "it did not start, or recover, in the time that its priority has",
    "unanswered": "nobody was on it in the time that its priority has",
    "over_target": "a step, or all of it, took far longer than it should",
    "escalated": "more people are told: a tier of `notify.escalation`",
    **{str(outcome): meaning.event for outcome, meaning in MEANINGS.items()},
    # of a decision without one
    "refused": "a service is in trouble and needs a person",
    "mending": "a person mends a service, and says how long that takes",
    "observed": "what would have been done, in shadow mode or by a row that observes",
    "changed": "a service runs another state: for receivers that keep changes, which PagerDuty does",
    # again
    "reported_late": "a step of a host that drove before has ended, after another one took over",
    "reminder": "what nobody has acknowledged yet",
    # of rollbackd itself
    "audit": "the journal does not fit together",
    "backup_failed": "a snapshot could not be taken, read, sent elsewhere or restored",
    "backend_unreachable": "Prometheus or Alertmanager does not answer",
    "cannot_roll_back": "a service has nothing to go back to yet",
    "clock": "our clock jumped",
    "configuration": "a new configuration was not taken over",
    "configurations_differ": "hosts that share the journal have different configurations",
    "drill_stuck": "a drill cannot bring a service back",
    "drilled": "a drill that was executed has ended",
    "facts_lost": "a failover lost facts that were said to be written",
    "internal": "a part of rollbackd failed",
    "journal": "the journal cannot be written",
    "messages_waiting": "too many messages wait",
    "monthly_report": "the report of the month before",
    "not_ready": "rollbackd is not ready",
    "override": "a signal file needs a look",
    "quarantined_release": "a release that was left behind is back",
    "readiness": "a drill found that a rollback would not work, or that it would again",
    "receiver_unreachable": "a receiver takes no messages",
    "report_unwritten": "a report of a rollback cannot be written",
    "rule_fault": "a rule cannot be judged",
    "services_followed": "services that follow a cluster came, went or were refused",
    "silence_unread": "a silence of Alertmanager's cannot be read, so it counts as matching",
    "slack_silent": "the socket over which clicks in Slack come is not open",
    "source_refused": "what somebody sends cannot be read, or some of it",
    "taken_over": "another host drives the journal, since the one that did is gone",
    "template_failed": "a template of messages fails, and our own words are sent",
    "undeliverable": "a receiver will never get a message",
    "unreadable": "a fact that could not be put into words",
    "upgrade_cut_off": "rollbackd ended while it upgraded a schema, which stands midway",
}
"""Event to what it means."""

_LOOKING = "We are looking into trouble with $services."
_GOING_BACK = "We are looking into trouble with $services, and bring back the last version that worked well."
_OVER = "The trouble with $services is over."
_GOES_ON = "The trouble with $services goes on, and we are working on it."
USERS: Mapping[str, str] = {
    **dict.fromkeys(("asks", "refused"), _LOOKING),
    **dict.fromkeys(("opened", "risen"), _GOING_BACK),
    **dict.fromkeys(("recovered", "passed"), _OVER),
    **dict.fromkeys(("failed", "ineffective", "unverified", "expired", "aborted"), _GOES_ON),
}
"""What users of a service are told, by event; of all others they hear nothing."""

CHANGED = "changed"
PLACEHOLDERS: Mapping[str, str] = {
    "service": "the service",
    "incident": "the incident's name; empty when there is none",
    "priority": "P0 to P3; empty when there is none",
    "event": "the event",
    "title": "what the team is told, in a line",
    "time": "when it happened",
}
"""What a receiver's own words may have in them, each as `$name`."""
