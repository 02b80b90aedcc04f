"""Makes a story of a test: `@told` above a function of a directory. See `begun` in conftest.py."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol


class Begun(Protocol):
    def end(self, test: str) -> None: ...


def told(story: Callable[[Path], None]) -> Callable[[Begun], None]:
    """The test that waits for the story's end; the stories of a module are told side by side."""

    def test(begun: Begun) -> None:
        begun.end(story.__name__)

    test.__name__ = story.__name__
    test.__doc__ = story.__doc__
    setattr(test, "story", story)  # noqa: B010  # a function has no such attribute for mypy
    return test
