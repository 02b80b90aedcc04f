"""The interface of everything that stops deployments. No I/O."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

from rollbackd.system.spawner import Lock
from rollbackd_adapters.traces import Trace


class Whose(StrEnum):
    """Who has frozen."""

    NOBODY = "nobody"
    OURS = "ours"
    """This incident has; others may have too."""
    THEIRS = "theirs"
    UNSURE = "unsure"
    """Ours was being lifted when we were killed, and nothing can be asked."""


class Barrier(Protocol):
    """One way to stop deployments. `trace` is what was written about it for the incident that `key` names."""

    async def whose(self, key: str, trace: Trace) -> Whose:
        """Who has frozen. Read only."""
        ...

    async def close(self, key: str, trace: Trace, lock: Lock) -> bool:
        """Freeze, where nobody has or nobody knows; False when somebody was faster."""
        ...

    async def lift(self, key: str, trace: Trace, lock: Lock) -> None:
        """Lift what is ours; nothing else, whatever happened meanwhile."""
        ...

    async def problems(self) -> Sequence[str]:
        """What would stop it right now. Read only."""
        ...
