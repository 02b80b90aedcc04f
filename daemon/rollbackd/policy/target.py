"""Where to go back to: the newest good state. No I/O."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from rollbackd.model import State
from rollbackd.policy.ledger import ServiceLedger


@dataclass(frozen=True, slots=True)
class Candidate:
    """A good state that could be the target."""

    state: State
    changes: int
    """How many changes that no rollback made lie between this state and the present one."""
    left: datetime | None
    """When the state ran here last; None: it never did."""


def candidates(ledger: ServiceLedger, present: State | None, onset: datetime | None = None) -> tuple[Candidate, ...]:
    """Good states other than the present one, newest first, without any quarantined release.

    The present state is among them where a rollback to it broke off in the middle.
    With an onset, no state is among them that still ran then: the trouble was in it already.
    """
    unfinished = ledger.unfinished.target if ledger.unfinished is not None else ""
    found: dict[str, Candidate] = {}
    troubled: set[str] = set()
    changes = 0
    seen: datetime | None = None  # the last look at the state before the one that came next
    for spell in reversed(ledger.spells):
        found.setdefault(spell.state.key, Candidate(spell.state, changes, spell.ended))
        if onset is not None and seen is not None and seen > onset:
            troubled.add(spell.state.key)
        seen = spell.after
        changes += not spell.incident
    for state in reversed(ledger.marked):
        found.setdefault(state.key, Candidate(state, 0, None))
    return tuple(
        candidate
        for key, candidate in found.items()
        if key in ledger.good
        and key not in troubled
        and (present is None or key != present.key or key == unfinished)
        and not ledger.blocked(candidate.state)
    )


def still_there(state: State, present: State | None, there: Mapping[str, Collection[str]]) -> tuple[str, ...]:
    """The layers whose release of this state cannot be gone back to any more; `there` maps layers to release ids.

    A layer that need not move, and one that nobody asked, count as there.
    """
    gone = []
    for layer, release in state.releases.items():
        stays = present is not None and present.releases.get(layer) == release
        if not stays and layer in there and release.id not in there[layer]:
            gone.append(layer)
    return tuple(gone)
