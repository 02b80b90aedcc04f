"""The times of a play: polls at whole multiples of their pace, as Prometheus has them in a range. No I/O."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY = timedelta(days=1)
_FEWEST, _MOST = 500, 10_000
"""Polls of one chunk; Prometheus refuses more than 11,000 points of one series."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Polls from `first` up to, and not with, `end`; each is a number of paces since 1970."""

    pace: timedelta
    """At least a second, in whole seconds."""
    first: int
    end: int

    @classmethod
    def over(cls, start: datetime, end: datetime, pace: timedelta) -> "Grid":
        """The polls from the first at or after `start` to the last at or before `end`."""
        whole = max(timedelta(seconds=1), timedelta(seconds=round(pace.total_seconds())))
        return cls(whole, -((_EPOCH - start) // whole), (end - _EPOCH) // whole + 1)

    def at(self, poll: int) -> datetime:
        return _EPOCH + self.pace * poll

    def poll(self, at: datetime) -> int:
        """The first poll at or after a time."""
        return -((_EPOCH - at) // self.pace)

    def exactly(self, at: datetime) -> int | None:
        """The poll at that very time; None where there is none."""
        poll, rest = divmod(at - _EPOCH, self.pace)
        return None if rest else poll

    def before(self, length: timedelta) -> "Grid":
        """The grid with so much time more before it."""
        return Grid(self.pace, self.first - -(-length // self.pace), self.end)

    @property
    def chunk(self) -> int:
        """How many polls are kept together: those of a day, where that is no odd number of them."""
        return min(_MOST, max(_FEWEST, _DAY // self.pace))

    def chunks(self) -> range:
        """The numbers of the chunks that have any of its polls."""
        return range(self.first // self.chunk, (self.end - 1) // self.chunk + 1) if self.end > self.first else range(0)

    def polls_of(self, chunk: int) -> range:
        """Those of its polls that lie in a chunk."""
        return range(max(self.first, chunk * self.chunk), min(self.end, (chunk + 1) * self.chunk))
