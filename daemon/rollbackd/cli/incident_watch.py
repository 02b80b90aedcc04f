"""Follows an incident to its end, also over restarts of the daemon. It only looks: ending it stops nothing."""

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from rollbackd.cli.command_frame import DONE, INTERRUPTED, NO, Session, complain
from rollbackd.cli.daemon_client import AnswerError, UnreachableError
from rollbackd.cli.incident_text import Timeline
from rollbackd.cli.outcome_report import report
from rollbackd.cli.terminal_text import View, safe
from rollbackd.system.clock import SystemClock

_NEWS = 25
"""Seconds that one request waits for news."""
_AGAIN = timedelta(seconds=1)
_PATIENCE = timedelta(minutes=10)
"""How long a daemon may be away before it is given up."""


class RecordPrinter:
    """Shows the records of an incident as they come, and keeps them."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._timeline = Timeline()
        self.shown: list[dict[str, Any]] = []

    def show(self, record: dict[str, Any]) -> None:
        self.shown.append(record)
        if self._as_json:
            print_line(record)
        else:
            self._timeline.add([record])


def print_line(value: object) -> None:
    """A value as one line of JSON."""
    print(json.dumps(value, default=str), flush=True)


def watch(session: Session, incident: str, *, reported: bool = False) -> int:
    """Show records as they come; 0 when it recovered. `reported`: with a report at the end.

    :raises UnreachableError: the daemon is away for too long, or was never there.
    """
    records = RecordPrinter(as_json=session.json)
    try:
        with _drawn(as_json=session.json) as draw:
            ended = _follow(session, incident, records.show, draw)
    except KeyboardInterrupt:
        print(f"\n{safe(incident)} goes on; stop it with: rollbackd abort {safe(incident)}", file=sys.stderr)
        return INTERRUPTED
    if session.json:
        print_line(ended)
    elif reported:
        report(ended, records.shown)
    return conclude(ended["id"], ended["outcome"], ended["status"], quiet=session.json)


@contextmanager
def _drawn(*, as_json: bool) -> Iterator[Callable[[View], None]]:
    """Keeps the tree of what is followed below what is printed, on a terminal; elsewhere there are lines alone."""
    if as_json or not sys.stdout.isatty():
        yield lambda _detail: None
        return
    from rich.live import Live

    from rollbackd.cli.incident_tree import tree

    last: list[View] = []
    clock = SystemClock()
    with Live(get_renderable=lambda: tree(last[0], clock.now()) if last else "", refresh_per_second=1) as live:

        def draw(detail: View) -> None:
            last[:] = [detail]
            live.refresh()

        yield draw


def conclude(incident: str, outcome: str, status: str, *, quiet: bool = False) -> int:
    """The last line, and the exit code."""
    if not quiet:
        print(f"{safe(incident)}: {safe(outcome or status)}", flush=True)
    if outcome == "recovered":
        return DONE
    if status == "parked":
        complain(f"{incident} is parked: it needs a person; see rollbackd incidents {incident}")
    return NO


def _follow(
    session: Session, incident: str, show: Callable[[dict[str, Any]], None], draw: Callable[[View], None]
) -> dict[str, Any]:
    """The incident when it ended, or is parked for a person."""
    after, seen = 0, False
    away = timedelta()
    while True:
        try:
            detail = session.client.get("incidents", incident, patience=_NEWS + 15, after=after, wait=f"{_NEWS}s")
        except (UnreachableError, AnswerError) as error:
            if not (seen and _passes(error)) or away >= _PATIENCE:
                raise
            if not away:
                complain(f"{error}; trying again")
            away += _AGAIN
            asyncio.run(SystemClock().sleep(_AGAIN))
            continue
        seen, away = True, timedelta()
        draw(detail)
        for record in detail["records"]:
            show(record)
            after = record["n"]
        found: dict[str, Any] = detail["incident"]
        if found["status"] in {"closed", "parked"} and not _more(session, incident, after):
            return found


def _more(session: Session, incident: str, after: int) -> bool:
    """The view and the records are two looks: nothing that came between them may be missed."""
    return bool(session.client.get("incidents", incident, after=after)["records"])


def _passes(error: UnreachableError | AnswerError) -> bool:
    if isinstance(error, AnswerError):
        return error.status in {429, 500, 502, 503, 504}
    return not error.forbidden
