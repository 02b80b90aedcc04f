"""What each end of an incident means and what to do next, for messages, routes, the command line and docs. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from rollbackd.model import Outcome

SEE_WHY = "`rollbackd incidents {id}` says why"
"""What the command line says to do where there is nothing better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeMeaning:
    """One way to end, in words."""

    event: str
    """What happened, beside the name of the event."""
    severity: Literal["info", "warning", "critical"]
    said: str
    """What a message says of the service."""
    advice: str = ""
    """What a message says to do."""
    next: str = SEE_WHY
    """What the command line says to do."""
    amiss: str = ""
    """Why people must look at it; empty: they need not."""


MEANINGS: Mapping[str, OutcomeMeaning] = {
    Outcome.RECOVERED: OutcomeMeaning(
        event="it ended, and the service is well",
        severity="info",
        said="recovered",
        next="nothing: it is watched on; trouble of the same state is told",
    ),
    Outcome.INEFFECTIVE: OutcomeMeaning(
        event="it ended, and the service is still sick",
        severity="critical",
        said="was rolled back and is still sick",
        advice="Look for another cause",
        next="look for another cause; `rollbackd plan {service}` says what else it could go back to",
        amiss="it did not help",
    ),
    Outcome.UNVERIFIED: OutcomeMeaning(
        event="it ended, and nothing says whether the service is well",
        severity="critical",
        said="was rolled back, but nothing says whether it is well",
        advice="Look at it yourself",
        next="look at it yourself: no check said whether it is well",
        amiss="nothing says whether it helped",
    ),
    Outcome.FAILED: OutcomeMeaning(
        event="it could not be done",
        severity="critical",
        said="could not be rolled back",
        advice="Finish it by hand, or roll back again",
        next="mend what the step says, then the same order again; `rollbackd incidents {id}` has its output",
        amiss="it failed",
    ),
    Outcome.ABORTED: OutcomeMeaning(
        event="a person stopped it",
        severity="warning",
        said="rollback was aborted",
        advice="It is as the last step left it",
        next="it stays as the last step left it; the same order again does what is left",
    ),
    Outcome.DECLINED: OutcomeMeaning(
        event="a person said no",
        severity="info",
        said="rollback was declined",
    ),
    Outcome.EXPIRED: OutcomeMeaning(
        event="nobody answered in time",
        severity="critical",
        said="is in trouble, and nobody said in time whether it goes back",
        advice="Look at it yourself",
        amiss="nobody answered in time",
    ),
    Outcome.PASSED: OutcomeMeaning(
        event="the trouble went away before the first step",
        severity="info",
        said="trouble went away before the first step",
    ),
    Outcome.SUPERSEDED: OutcomeMeaning(
        event="somebody else changed the layers meanwhile",
        severity="warning",
        said="was changed by somebody else meanwhile",
        advice="Nothing more is done: it is theirs now",
        next="nothing more is done: what runs now is somebody else's",
    ),
}
DEGRADED = (
    "recovered, with something switched off",
    "Mend the cause, then switch it on again; until then what asks it is only written down",
)
"""What a message says, and advises, where recovered is not all well."""
BAD_ENDS = frozenset(outcome for outcome, meaning in MEANINGS.items() if meaning.amiss)
"""Outcomes that people must look at."""
