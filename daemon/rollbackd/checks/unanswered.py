"""What a connection that failed says about the service. No I/O.

A refusal is the service's own answer. A name that does not resolve, a network that is down or a descriptor that is
missing is our side's trouble: it says nothing, and must not roll anything back.
"""

import errno
import os
import re
import socket

from rollbackd.model import Verdict

_THEIRS = frozenset({errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE, errno.ETIMEDOUT})
_NUMBERS = re.compile(r"\[Errno (\d+)\]")


def unanswered(error: OSError) -> tuple[Verdict, str]:
    """The verdict on a connection's failure, and what happened in words."""
    if isinstance(error, socket.gaierror):
        return Verdict.INCONCLUSIVE, f"the name does not resolve: {(error.strerror or str(error)).lower()}"
    numbers = _numbers(error)
    words = " and ".join(dict.fromkeys(os.strerror(number).lower() for number in numbers)) or str(error).lower()
    if isinstance(error, ConnectionError) or (numbers and _THEIRS.issuperset(numbers)):
        return Verdict.BAD, words
    return Verdict.INCONCLUSIVE, f"could not ask: {words}"


def _numbers(error: OSError) -> list[int]:
    """The event loop makes one error without a number of those for several addresses; their numbers are in its text."""
    if error.errno is not None:
        return [error.errno]
    return [int(number) for number in _NUMBERS.findall(str(error))]
