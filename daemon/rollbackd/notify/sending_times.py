"""When messages go that are made together: at once, or with others of their group, so that a storm is few messages."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from rollbackd.notify.messages.envelope import Envelope
from rollbackd.system.clock import Clock

TOGETHER = timedelta(seconds=60)
"""How long messages of one group wait after its first one, to go as one."""
GATHER = timedelta(seconds=5)
"""How long the first one waits while more are being decided on, so that a storm is one message."""
DECIDED_IN = timedelta(milliseconds=20)
"""How much longer it waits for each of those."""
MANY = 5
"""From so many services on that are decided on, or are at work, at once it is a storm."""


@dataclass(frozen=True, slots=True)
class _Window:
    """When messages of one group go: the first ones, and with its end all that came since."""

    first: datetime
    end: datetime

    def due(self, now: datetime) -> datetime:
        """When a message of the group goes that is made now."""
        return self.first if now <= self.first else self.end


class SendingTimes:
    """The windows of all groups, by receiver.

    `deciding()` says how many triggers are being decided on, and `services_deciding()` of how many services.
    """

    def __init__(self, clock: Clock, deciding: Callable[[], int], services_deciding: Callable[[], int]) -> None:
        self._clock = clock
        self._deciding = deciding
        self._services_deciding = services_deciding
        self._open: dict[tuple[str, str], _Window] = {}

    def begin(self, at_work: int) -> "MessagesMadeNow":
        """Messages that are made together now, while so many services are at work."""
        now = self._clock.now()
        # An end farther ahead than any window is long is from before the clock was set back.
        self._open = {key: one for key, one in self._open.items() if now < one.end <= now + TOGETHER}
        storm = max(self._services_deciding(), at_work) >= MANY
        return MessagesMadeNow(now, storm, self._deciding(), self._open)


class MessagesMadeNow:
    """Messages of one moment: those of one group go together, and do not wait for each other."""

    def __init__(self, now: datetime, storm: bool, deciding: int, opened: dict[tuple[str, str], _Window]) -> None:
        self.now = now
        self._storm = storm
        self._deciding = deciding
        self._open = opened
        self._running = dict(opened)

    def is_left_out(self, one: Envelope) -> bool:
        """In a storm the first step of each service is not told: that it goes back was, and its end will be."""
        return self._storm and one.message.event == "started"

    def of(self, receiver: str, one: Envelope) -> tuple[str, datetime]:
        """The group with which a message goes to a receiver, empty where it goes alone, and not before when."""
        running = self._running.get((receiver, one.group))
        if not one.group or not (running or self._storm or not one.hurried):
            return "", self.now
        new = self._window(one)
        self._open.setdefault((receiver, one.group), new)
        return one.group, (running or new).due(self.now)

    def _window(self, one: Envelope) -> _Window:
        first, end = self.now, self.now + TOGETHER
        if self._storm and one.hurried and one.message.resolves:
            return _Window(end, end)  # nobody need come for it
        if self._deciding > 1 or (self._storm and one.hurried):
            first += GATHER + DECIDED_IN * self._deciding
        return _Window(first, end)
