"""As process 1 of a container somebody has to take leave of orphans: what steps left behind, and then ended.

The daemon itself waits for its own children by their numbers, so it goes on in a child, and process 1 does the rest.
"""

import os
import signal
from contextlib import suppress
from types import FrameType

_OURS = "ROLLBACKD_UNDER_PROCESS_1"
_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def leave_process_one() -> bool:
    """Return in a child when we are process 1, else at once. Process 1 ends as the child does.

    :returns: whether process 1 is ours, also when a reload executed us anew.
    """
    if os.getpid() == 1:
        _go_on_in_a_child()
        os.environ[_OURS] = str(os.getpid())
    return os.environ.get(_OURS) == str(os.getpid())


def _go_on_in_a_child() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)  # none is lost between the two
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return

    def pass_on(number: int, _frame: FrameType | None) -> None:
        with suppress(ProcessLookupError):
            os.kill(child, number)

    for number in _PASSED_ON:
        signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    while True:
        ended, status = os.waitpid(-1, 0)
        if ended == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)
