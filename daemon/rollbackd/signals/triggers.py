"""Where triggers go: whoever sees one hands it on, and does not wait for the decision."""

from collections.abc import Coroutine, Sequence
from typing import Any, Protocol

from rollbackd.model import Trigger


class TriggerSink(Protocol):
    """Takes triggers, and short work that need not be waited for."""

    behind: bool
    """Alerts on disk wait to be brought here. One of them may be of an episode that nobody decided on."""

    def consider_soon(self, trigger: Trigger, handled: Sequence[int] = (), *, again: bool = False) -> None:
        """Decide on it beside; `handled` are the rows of the inbox that the decision settles."""

    def run_soon(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something short beside."""
