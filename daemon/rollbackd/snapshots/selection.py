"""Which snapshots are never dropped, and which one is gone back to when nobody names one. No I/O."""

from collections.abc import Collection, Sequence

from rollbackd.adapter import Snapshot
from rollbackd.incident.life import Incident
from rollbackd.policy.ledger import ServiceLedger

BEFORE = "before"
"""Why a snapshot was taken of what a restore replaced."""


def good_releases(ledger: ServiceLedger, layer: str) -> frozenset[str]:
    """The ids of a layer's releases in states that are good and not quarantined."""
    states = [*(spell.state for spell in ledger.spells), *ledger.marked]
    return frozenset(
        state.releases[layer].id
        for state in states
        if layer in state.releases and state.key in ledger.good and layer not in ledger.blocked(state)
    )


def spared(ledger: ServiceLedger, layer: str, incident: Incident | None) -> frozenset[str]:
    """The ids of a layer's releases that may be needed: what runs, good states, all that the last incident names."""
    states = [ledger.present]
    if incident is not None:
        states += [incident.decision.present, incident.decision.target]
    found = {state.releases[layer].id for state in states if state is not None and layer in state.releases}
    return good_releases(ledger, layer) | found


def to_restore(
    snapshots: Sequence[Snapshot], present: str, good: Collection[str], quarantined: Collection[str]
) -> list[Snapshot]:
    """Snapshots that can be gone back to, the best first: good releases, then those older than what is there now.

    What is there now is left out, and so is what a restore replaced, since it was left for a reason. What came after it
    is left out too, or the next restore would go forward to it again.

    :param snapshots: newest first.
    :param present: the id of the release that is there.
    """
    usable = [
        one
        for one in snapshots
        if one.restorable and one.release not in {present, *quarantined} and (one.why != BEFORE or one.release in good)
    ]
    here = next((one for one in snapshots if one.release == present), None)
    older = [one for one in usable if here is None or one.created < here.created or one.lineage == present]
    best = [one for one in usable if one.release in good]
    return [*best, *(one for one in older if one.release not in good)]
