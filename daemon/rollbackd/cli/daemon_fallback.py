"""A rollback in one command whatever the daemon does: answers, is stopped, hangs. The journal's lock decides."""

import sys
from collections.abc import Mapping
from typing import Any

from rollbackd.cli.command_frame import UNREACHABLE, Session, complain
from rollbackd.cli.daemon_client import AnswerError, UnreachableError
from rollbackd.cli.locations import daemon_paths
from rollbackd.cli.terminal_text import safe

PROBE = 10.0
"""Seconds that a daemon has to answer something small before it counts as hanging."""


def answers(session: Session) -> bool:
    """Whether the daemon does; when it does not, that is said, and what is done instead.

    :raises UnreachableError: it is there, and not for this user.
    """
    try:
        session.client.get("holds", patience=PROBE)
    except AnswerError:
        return True
    except UnreachableError as error:
        if error.forbidden:
            raise
        complain(f"the daemon does not answer on {error.path}: {error}; going on without it, on its journal")
        return False
    return True


def without_it(session: Session, service: str, wanted: Mapping[str, Any]) -> int:
    """Roll back in this process. Never beside a daemon that hangs: it holds the journal, and may go on at any moment.

    :raises StopError: it could not be begun.
    """
    from rollbackd.cli.offline_rollback import BusyError, roll_back

    try:
        return roll_back(session, service, wanted, ask=lambda: True)
    except BusyError as error:
        complain(str(error))
    signals = safe(daemon_paths(session.config_path)[1])
    print("  end a daemon that hangs: systemctl kill --signal=KILL rollbackd", file=sys.stderr)
    print("  then:                    the same command again; what it had begun goes on", file=sys.stderr)
    print(f"  stop all rollbacks:      touch {signals}/HOLD", file=sys.stderr)
    return UNREACHABLE
