"""The bake time of the states of a play. No I/O.

It is counted like the daemon's, poll by poll, and for many polls at once where nothing changes between them.
"""

from dataclasses import dataclass
from datetime import timedelta

from rollbackd.model import State
from rollbackd.policy.ledger import ServiceLedger
from rollbackd.rules.tracks import Standing

_TROUBLE = {Standing.BAD, Standing.PENDING}


@dataclass
class PlayedBake:
    """How long the present state of one service has baked."""

    key: str
    poll: int
    """The last poll that was counted."""
    standing: Standing
    """What its rules said then, and up to the next poll that is told."""
    baked: timedelta = timedelta()

    def count(self, poll: int, standing: Standing, pace: timedelta) -> None:
        """Count up to a poll, at which the rules say that."""
        between = poll - 1 - self.poll
        if self.standing in _TROUBLE or standing in _TROUBLE:
            self.baked = timedelta()
        elif self.standing is Standing.GOOD:
            self.baked += pace * between
        if standing is Standing.GOOD and poll > self.poll:
            self.baked += pace
        self.poll, self.standing = poll, standing

    def done(self, wants: timedelta, pace: timedelta) -> int | None:
        """The poll at which it has baked for long enough if nothing changes; None if it never has."""
        if self.standing is not Standing.GOOD:
            return None
        return self.poll + max(0, -((self.baked - wants) // pace))


def bakes(ledger: ServiceLedger) -> State | None:
    """The state that bakes; None where it makes no difference."""
    state = ledger.present
    if state is None or ledger.open is not None or state.key in ledger.good:
        return None
    return None if ledger.switched(state) or ledger.blocked(state) else state
