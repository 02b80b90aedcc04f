"""A rollback without the daemon, on the same journal and by the same runner; a lock refuses two at once."""

import asyncio
import dataclasses
import os
import pwd
from collections.abc import Callable, Mapping
from typing import Any

from rollbackd.app import StartFailed, offline_rollback
from rollbackd.cli import journal_owner
from rollbackd.cli.command_frame import INTERRUPTED, NO, Session, StopError, complain
from rollbackd.cli.incident_watch import RecordPrinter, conclude, print_line
from rollbackd.cli.outcome_report import report
from rollbackd.cli.terminal_text import safe
from rollbackd.journal import JournalInUse
from rollbackd.model import Request
from rollbackd.operations import InvalidOrder, OrderRefused, UnknownName
from rollbackd.system.name_lookup import EventLoop
from rollbackd.views.shapes import RecordView


class BusyError(StopError):
    """Another process drives the journal."""


def roll_back(session: Session, service: str, wanted: Mapping[str, Any], ask: Callable[[], bool]) -> int:
    """Do it in this process and show it; 0 when it recovered.

    :raises StopError: it could not be begun.
    """
    if not ask():
        return NO
    request = Request(
        service, actor(), wanted["reason"], wanted["to"], wanted["plan"], tuple(wanted["irreversible"]),
        wanted["over_hold"], wanted["plan_id"],
    )  # fmt: skip
    for sentence in journal_owner.become(session.config_path):
        complain(sentence)
    records = RecordPrinter(as_json=session.json)

    def on_record(record: RecordView) -> None:
        records.show(dataclasses.asdict(record))

    try:
        with asyncio.Runner(loop_factory=EventLoop) as runner:
            ended = runner.run(offline_rollback(session.config_path, request, on_record))
    except OrderRefused as error:
        against = [f"  {finding.guard}: {finding.reason}" for finding in error.findings if finding.against]
        raise StopError("\n".join([str(error), *against])) from error
    except JournalInUse as error:
        raise BusyError(str(error)) from error
    except (*StartFailed, UnknownName, InvalidOrder) as error:
        raise StopError(str(error)) from error
    except KeyboardInterrupt:
        complain(f"interrupted; what was begun of {service} goes on by the same command, or when the daemon starts")
        return INTERRUPTED
    if session.json:
        print_line({"service": service, "outcome": ended.outcome or ended.status})
    else:
        report(dataclasses.asdict(ended), records.shown)
    return conclude(safe(service), ended.outcome, ended.status, quiet=session.json)


def actor() -> str:
    """Who runs this command."""
    try:
        return f"unix:{pwd.getpwuid(os.getuid()).pw_name}"
    except KeyError:
        return f"unix:{os.getuid()}"
