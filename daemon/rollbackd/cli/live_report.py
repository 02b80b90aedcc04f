"""What `rollbackd check --live` asks and says, and `rollbackd notify test`."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from rollbackd.cli.command_frame import NO, Session, command, complain
from rollbackd.cli.daemon_client import UnreachableError
from rollbackd.cli.terminal_text import View, fields, length, safe, table

if TYPE_CHECKING:  # a heavy import
    from rollbackd.config.load import Loaded

PATIENCE = 600.0
"""Seconds; each layer and each receiver takes as long as its own limit lets it."""

app = typer.Typer(name="notify", help="Try the receivers.", no_args_is_help=True, rich_markup_mode=None)


def by_daemon(session: Session, *, messages: bool) -> int | None:
    """Have the daemon ask, with its rights and secrets; None where none answers."""
    try:
        found = session.client.send("POST", "check", body={"messages": messages}, patience=PATIENCE)
    except UnreachableError as error:
        if error.sent or error.forbidden:
            raise
        complain(f"the daemon does not answer on {error.path}: {error}; this command asks by itself")
        return None
    return _told(session, found)


def here(session: Session, loaded: "Loaded", *, messages: bool) -> int:
    """Ask in this process, with the rights of whoever runs it."""
    import asyncio
    import getpass

    from pydantic_core import to_jsonable_python

    from rollbackd.core import live_check
    from rollbackd.system.clock import SystemClock
    from rollbackd.system.name_lookup import EventLoop

    actor = f"unix:{getpass.getuser()}"

    async def asked() -> Any:
        async with live_check(loaded.config, SystemClock(), actor) as asking:
            return await asking.run(messages=messages, actor=actor)

    with asyncio.Runner(loop_factory=EventLoop) as runner:
        return _told(session, to_jsonable_python(runner.run(asked())))


def _told(session: Session, found: View) -> int:
    session.show(found, lambda: _show(found))
    return 0 if found["fine"] else NO


def _show(found: View) -> None:
    order = {"wrong": 0, "note": 1, "ok": 2}
    probes = sorted(found["probes"], key=lambda one: order[one["result"]])
    table(
        ("PART", "WHAT", "RESULT", "SAYS"), ((one["part"], one["name"], one["result"], one["text"]) for one in probes)
    )
    wrong = sum(one["result"] == "wrong" for one in probes)
    print(f"\nasked by {safe(found['asked_by'])}: {f'{wrong} of {len(probes)} are wrong' if wrong else 'all is well'}")


def send_test(
    session: Session, receiver: Annotated[str, typer.Argument(help="One of `notify.receivers`, by its name.")]
) -> int | None:
    """Send a receiver a message that is marked as a test, and say what it answered.

    Exit code 1 when it did not take it. Routes and its own words are passed over; PagerDuty opens and resolves.
    """
    one = session.client.send("POST", "receivers", receiver, "test", body={})
    session.show(one, lambda: _show_test(one))
    return None if one["taken"] else NO


def _show_test(one: View) -> None:
    print(f"{safe(one['receiver'])} ({safe(one['kind'])}): {'taken' if one['taken'] else 'NOT taken'}")
    fields((("said", one["text"]), ("message", one["title"]), ("took", length(one["took"]))))


command(app, "test")(send_test)
