"""What all commands share: `--json`, `--config`, `--socket`, and errors that are sentences with an exit code."""

import functools
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import typer

from rollbackd.cli.daemon_client import AnswerError, Client, UnreachableError
from rollbackd.cli.locations import config_path, daemon_paths
from rollbackd.cli.terminal_text import as_json, safe

DONE, NO, USAGE, UNREACHABLE = 0, 1, 2, 3
"""Exit codes."""
INTERRUPTED = 130
"""By Ctrl-C, as shells have it."""
_TITLES = {NO: "Not done", USAGE: "Wrong usage", UNREACHABLE: "Unreachable"}
"""What scripts get in the place of an answer's own problem."""

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, as the API answers.")]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", readable=False, help="$ROLLBACKD_CONFIG, else /etc/rollbackd/config.yaml."
    ),
]
SocketFile = Annotated[
    Path | None,
    typer.Option("--socket", metavar="FILE", readable=False, help="Else daemon.socket of the configuration."),
]
"""`readable`: an operator need not be able to read either; what cannot be used is told by who uses it."""


class UsageError(Exception):
    """Wrong arguments; the sentence says what to write instead."""


class StopError(Exception):
    """It cannot go on; the sentence says why."""


@dataclass
class Session:
    """One run of one command."""

    json: bool = False
    config: Path | None = None
    socket: Path | None = None

    @cached_property
    def config_path(self) -> Path:
        return config_path(self.config)

    @cached_property
    def client(self) -> Client:
        return Client(self.socket or daemon_paths(self.config_path)[0])

    def show(self, value: object, people: Callable[[], None]) -> None:
        """Print a value as JSON, or in the way for people.

        :raises StopError: a daemon that was not started again after an update answers without what is newer.
        """
        if self.json:
            print(as_json(value))
            return
        try:
            people()
        except KeyError as error:
            sentence = f"the daemon is of another version, its answer has no {error}; restart it, or ask with --json"
            raise StopError(sentence) from error


Command = Callable[..., int | None]


def command(app: typer.Typer, name: str) -> Callable[[Command], Command]:
    """Register `run(session, …)` as a command with the shared options; it returns its exit code, None for 0."""

    def register(run: Command) -> Command:
        app.command(name)(_framed(run))
        return run

    return register


def alone(app: typer.Typer, run: Command) -> None:
    """Register what a group does when none of its commands is given; what is said before one counts for that."""
    app.callback(invoke_without_command=True)(_framed(run))


def _framed(run: Command) -> Callable[..., None]:
    @functools.wraps(run)
    def called(ctx: typer.Context, as_json: bool, config: Path | None, socket: Path | None, **given: Any) -> None:
        general = ctx.find_root().obj or Session()
        session = Session(as_json or general.json, config or general.config, socket or general.socket)
        if ctx.invoked_subcommand is None:
            raise typer.Exit(_guarded(session, functools.partial(run, session, **given)))
        if any(given.values()):
            raise typer.Exit(_stopped(session, f"{ctx.invoked_subcommand} takes nothing before it but --json", USAGE))
        ctx.find_root().obj = session

    own = list(inspect.signature(run).parameters.values())[1:]
    kind = inspect.Parameter.KEYWORD_ONLY
    shared = [
        inspect.Parameter("ctx", kind, annotation=typer.Context),
        inspect.Parameter("as_json", kind, default=False, annotation=AsJson),
        inspect.Parameter("config", kind, default=None, annotation=ConfigFile),
        inspect.Parameter("socket", kind, default=None, annotation=SocketFile),
    ]
    parameters = [parameter.replace(kind=kind) for parameter in own] + shared
    setattr(called, "__signature__", inspect.Signature(parameters))  # noqa: B010  # typer reads it
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return called


def _guarded(session: Session, run: Callable[[], int | None]) -> int:
    try:
        return run() or DONE
    except UsageError as error:
        return _stopped(session, str(error), USAGE)
    except StopError as error:
        return _stopped(session, str(error), NO)
    except AnswerError as error:
        return _refused(session, error)
    except UnreachableError as error:
        return _unreachable(session, error)
    except KeyboardInterrupt:
        ordered = "client" in vars(session) and session.client.unanswered
        complain("interrupted" + ("; the order may have been taken: rollbackd incidents; rollbackd status" * ordered))
        return INTERRUPTED


def _stopped(session: Session, sentence: str, code: int) -> int:
    complain(sentence)
    if session.json:
        print(as_json({"title": _TITLES[code], "detail": sentence}))
    return code


def complain(sentence: str) -> None:
    """A sentence on stderr."""
    print("\n".join(f"rollbackd: {safe(line)}" for line in sentence.splitlines()), file=sys.stderr)


def is_asked(*, yes: bool) -> bool:
    """Whether somebody sits at a terminal who did not say yes before."""
    return not yes and sys.stdin.isatty()


def is_sure(question: str, *, yes: bool) -> bool:
    """Whether a person agrees; True where nobody is asked."""
    if not is_asked(yes=yes):
        return True
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() in {"y", "yes"}:
        return True
    complain("nothing was done")
    return False


def _refused(session: Session, error: AnswerError) -> int:
    if session.json:
        print(as_json(error.problem))
    complain(str(error))
    for finding in error.problem.get("findings") or ():
        if finding.get("against") and finding.get("reason", "") not in str(error):
            print(f"  {safe(finding.get('guard', ''))}: {safe(finding.get('reason', ''))}", file=sys.stderr)
    return USAGE if error.status == 400 else NO


def _unreachable(session: Session, error: UnreachableError) -> int:
    path = error.path
    if error.forbidden:
        sentence = f"you may not use {path}: {error}; become a member of rollbackd-operators, or use sudo"
        return _stopped(session, sentence, UNREACHABLE)
    if error.sent:
        _stopped(session, f"the answer on {path} was lost: {error}; the order may have been taken", UNREACHABLE)
        print("  what happened since:     rollbackd incidents; rollbackd status", file=sys.stderr)
    else:
        _stopped(session, f"the daemon does not answer on {path}: {error}", UNREACHABLE)
    signals = safe(daemon_paths(session.config_path)[1])
    print("  is it running?           systemctl status rollbackd", file=sys.stderr)
    print(f"  stop all rollbacks:      touch {signals}/HOLD", file=sys.stderr)
    print("  roll back without it:    rollbackd rollback SERVICE --offline", file=sys.stderr)
    return UNREACHABLE
