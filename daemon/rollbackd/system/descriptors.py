"""File descriptors: as many as the system lets us have, and how many of them connections from outside may take."""

import resource
from dataclasses import dataclass

_WANTED = 8192
_OURS = 192
"""What the daemon needs itself: the journal, signal files, programs of steps, requests to others."""
_FEWEST = 32


@dataclass(frozen=True, slots=True)
class Places:
    """How many connections there may be at once."""

    network: int
    socket: int


def raise_limit() -> int:
    """Raise our limit as far as we may; returns what it is now. The one of systemd is 1024 by default."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED if hard == resource.RLIM_INFINITY else min(_WANTED, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def places() -> Places:
    """What may be open beside our own files, the socket's part apart from the network's: one never fills the other."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    spare = max(_FEWEST, (_WANTED if soft == resource.RLIM_INFINITY else soft) - _OURS)
    return Places(network=min(512, spare * 3 // 4), socket=min(128, spare // 4))
