"""Silences of Alertmanager's: what each holds, and how long it may take to find that out. No I/O.

Their expressions are other people's, and the event loop waits while they are compared.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from rollbackd.rules.matchers import Matcher

_LONGEST_VALUE = 1024
"""Characters of a label that a silence's expression is asked about."""


class Patience:
    """The processor time that the expressions of silences may take in one go, since the event loop waits for them."""

    def __init__(self, known: dict[tuple[Matcher, str], bool] | None = None, seconds: float = 0.05) -> None:
        """:param known: what was compared before; that takes no time any more, and what is compared is added."""
        self._left = seconds
        self._known = {} if known is None else known

    @property
    def over(self) -> bool:
        """Whether it is used up: what was not compared yet counts as fitting."""
        return self._left <= 0

    def fits(self, matcher: Matcher, labels: Mapping[str, str]) -> bool:
        """Whether the labels fit a matcher's expression."""
        compared = matcher, labels.get(matcher.name, "")
        if (found := self._known.get(compared)) is not None:
            return found
        if self.over:
            return True
        begun = time.thread_time()
        found = self._known[compared] = matcher.matches(labels)
        self._left -= time.thread_time() - begun
        return found


@dataclass(frozen=True, slots=True)
class Silence:
    """A silence in force."""

    id: str
    matchers: tuple[Matcher, ...]
    ends_at: datetime | None
    """None when that cannot be read."""
    created_by: str
    comment: str
    unread: str = ""
    """Why some of it cannot be read, and so counts as matching whatever there is: a silence too wide holds, one too
    narrow acts. Empty when all is."""

    def matches(self, labels: Mapping[str, str], patience: Patience) -> bool:
        """Whether it silences an alert with these labels.

        A value too long for an expression of others counts so, and so does what patience does not suffice for.
        """
        written = (one for one in self.matchers if one.expression is not None)
        return all(one.matches(labels) for one in self.matchers if one.expression is None) and all(
            len(labels.get(one.name, "")) > _LONGEST_VALUE or patience.fits(one, labels) for one in written
        )

    def __str__(self) -> str:
        """What people are told of it."""
        wide = f" (counts as matching more than it may mean: {self.unread})" if self.unread else ""
        return f"{self.comment}{wide}"
