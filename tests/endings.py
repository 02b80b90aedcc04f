"""What a process of tests has for as long as it lives, and how it is ended: when it exits, or before what is left is
looked at. Imported by programs that start often, so it imports nothing.
"""

import atexit
from collections.abc import Callable

_ends: list[Callable[[], None]] = []


def at_the_end(end: Callable[[], None]) -> None:
    """End something then; what came last is ended first."""
    _ends.append(end)


@atexit.register
def run() -> None:
    """End all of it now."""
    while _ends:
        _ends.pop()()
