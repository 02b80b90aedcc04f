"""The command that plays the past: what would have been done, and with other settings."""

import os
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rollbackd.cli.command_frame import Session, StopError, UsageError, complain
from rollbackd.cli.terminal_text import below, moment, safe, section, table

if TYPE_CHECKING:
    from rollbackd.backtest.run import Backtest

_SHOWN = 200
"""Decisions in the table; --json and --html have all."""


def backtest(
    session: Session,
    service: Annotated[str | None, typer.Argument(help="Only what is about this one; all are played.")] = None,
    begin: Annotated[
        str, typer.Option("--from", metavar="TIME", help="2026-03-01, 2026-03-01T10:00Z, or 30d for so long ago.")
    ] = "30d",
    end: Annotated[str, typer.Option("--to", metavar="TIME", help="Likewise; else now.")] = "",
    changes: Annotated[
        Path | None,
        typer.Option("--changes", metavar="FILE", readable=False, help="Lines TIME SERVICE RELEASE [rollback]."),
    ] = None,
    changes_query: Annotated[
        str, typer.Option("--changes-query", metavar="PROMQL", help="A metric that is another after each change.")
    ] = "",
    release_label: Annotated[
        str, typer.Option("--release-label", metavar="LABEL", help="Of that metric: the label that names the release.")
    ] = "",
    sweep: Annotated[
        list[str] | None,
        typer.Option("--sweep", metavar="NAME=RANGE", help="Also with other settings: error_rate=1%..20%."),
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a page with plots there.")] = None,
    cache: Annotated[
        Path | None, typer.Option("--cache", metavar="DIR", help="Where what is fetched is kept; else ~/.cache.")
    ] = None,
) -> None:
    """Play the past: what would have been done, and when.

    The rules, guards and ledger are played on Prometheus's history. Nothing is touched and nobody is told. Changes are
    the journal's, unless --changes or --changes-query give them.
    """
    from rollbackd.backtest.run import BacktestQuestion
    from rollbackd.backtest.sweep import Sweep
    from rollbackd.system.clock import SystemClock

    clock = SystemClock()
    if changes is not None and changes_query:
        raise UsageError("--changes and --changes-query both say what was changed; give one of them")
    if release_label and not changes_query:
        raise UsageError("--release-label is about the series of --changes-query; give that, too")
    try:
        question = BacktestQuestion(
            config=session.config_path,
            start=_time("--from", begin, clock.now()),
            end=_time("--to", end, clock.now()) if end else clock.now(),
            cache=cache or _cache(),
            service=service or "",
            changes=changes,
            changes_query=changes_query,
            release_label=release_label,
            sweeps=tuple(map(Sweep.parse, sweep or ())),
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    if html is not None and not html.absolute().parent.is_dir():
        raise UsageError(f"--html {html}: there is no directory {html.absolute().parent}")
    found = _played(question, clock)
    if html is not None:
        _write(html, found)
    from rollbackd.backtest.answers import backtest_json

    session.show(backtest_json(found), lambda: _show(found))


def _played(question: Any, clock: Any) -> "Backtest":
    import asyncio

    from rollbackd.backtest.cache import CacheUnusable
    from rollbackd.backtest.history import HistoryUnavailable
    from rollbackd.backtest.recorded import ChangesUnreadable
    from rollbackd.backtest.run import BacktestRefused
    from rollbackd.backtest.run import backtest as play
    from rollbackd.config.load import ConfigErrors
    from rollbackd.system import log
    from rollbackd.system.name_lookup import EventLoop

    log.configure("error")
    told = _Progress()
    try:
        with asyncio.Runner(loop_factory=EventLoop) as runner:
            return runner.run(play(question, clock, told))
    except (BacktestRefused, ChangesUnreadable, HistoryUnavailable, CacheUnusable, ConfigErrors) as error:
        told.end()
        raise StopError(str(error)) from error
    finally:
        told.end()


def _time(option: str, text: str, now: datetime) -> datetime:
    """A time, or how long ago. :raises ValueError: it is neither."""
    from rollbackd.backtest.recorded import parse_time
    from rollbackd.syntax.units import parse_duration

    try:
        return now - parse_duration(text)
    except (ValueError, OverflowError):
        pass
    try:
        return parse_time(text)
    except ValueError as error:
        raise ValueError(f"{option}: {error}, or 30d for so long ago") from error


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or os.environ.get("CACHE_DIRECTORY")
    return (Path(home) if home else Path.home() / ".cache") / "rollbackd" / "backtest"


class _Progress:
    """How far it is, on stderr: one line that is written over on a terminal, else a line now and then."""

    def __init__(self) -> None:
        self._told: tuple[str, int] = ("", -1)
        self._open = False

    def __call__(self, what: str, done: int, of: int) -> None:
        part = done * 10 // max(of, 1)
        if sys.stderr.isatty():
            print(f"\r{what}: {done} of {of}\x1b[K", end="", file=sys.stderr, flush=True)
            self._open = True
        elif (what, part) != self._told:
            print(f"{what}: {done} of {of}", file=sys.stderr, flush=True)
        self._told = (what, part)

    def end(self) -> None:
        if self._open:
            print(file=sys.stderr)
            self._open = False


def _write(path: Path, found: "Backtest") -> None:
    from rollbackd.backtest.page import page

    try:
        path.write_text(page(found), encoding="utf-8")
    except OSError as error:
        raise StopError(f"{path}: {error.strerror}") from error
    complain(f"the page is written: {path}")


def _show(found: "Backtest") -> None:
    from rollbackd.backtest.answers import head, sweep_rows, words

    for line in head(found):
        print(below(line, 2))
    rows = [
        (moment(one.at), one.service, one.rule, one.action.value, one.blamed, one.target, one.people)
        for one in found.account.decisions[:_SHOWN]
    ]
    section(("when", "service", "rule", "it would", "from", "to", "people"), rows)
    if len(found.account.decisions) > _SHOWN:
        print(f"… and {len(found.account.decisions) - _SHOWN} more: --json or --html have all of them")
    for one in found.account.decisions[:_SHOWN]:
        print(f"\n{moment(one.at)} {safe(one.service)}, {safe(one.rule)}: {one.action.value}")
        for line in words(one):
            print(f"  {below(line, 4)}")
    section(
        ("people went back", "service", "from", "to", "the play"),
        [(moment(one.at), one.service, one.left, one.reached, one.played) for one in found.account.rollbacks],
    )
    if found.variants:
        print()
        table(
            ("setting", "rollbacks", "as people", "missed", "asked", "refused", "earlier by", "other"),
            sweep_rows(found),
        )
