"""The command that reports an event, in one line of a job on this host; elsewhere `POST /api/v1/signals` does it."""

from typing import Annotated, Any

import typer

from rollbackd.cli.command_frame import NO, Session, UsageError, complain
from rollbackd.cli.terminal_text import safe


def event(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The event, as rules ask for it: e2e_failed.")],
    service: Annotated[str, typer.Option("--service", help="Whose it is; else its labels say it.")] = "",
    label: Annotated[list[str] | None, typer.Option("--label", metavar="K=V", help="One of its labels.")] = None,
    key: Annotated[
        str,
        typer.Option("--key", help="The same key again is the same event: a job's number, so that a retry is safe."),
    ] = "",
    text: Annotated[str, typer.Option("--text", help="What happened; people will read it.")] = "",
    url: Annotated[str, typer.Option("--url", help="Where people see more.")] = "",
    at: Annotated[str, typer.Option("--at", help="When, such as 2026-03-02T08:00:00+01:00; else now.")] = "",
    resolved: Annotated[bool, typer.Option("--resolved", help="What was reported of it is over.")] = False,
) -> int | None:
    """Report that something happened, for rules that count it. Exit code 1 when no rule asks for it."""
    body: dict[str, Any] = {
        "event": name,
        "state": "resolved" if resolved else "firing",
        "labels": _labels(label or []),
    }
    given = {"service": service, "key": key, "text": text, "url": url, "at": at}
    body |= {field: said for field, said in given.items() if said}
    answer = session.client.send("POST", "signals", body=body)
    session.show(answer, lambda: print(_told(safe(name), answer)) if not answer["unmatched"] else None)
    if answer["unmatched"]:
        complain("; ".join(answer["why"]))
        return NO
    return None


def _told(name: str, answer: dict[str, Any]) -> str:
    return f"{name} was reported before under this key" if answer["duplicates"] else f"{name} is reported"


def _labels(written: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for one in written:
        name, separator, value = one.partition("=")
        if not separator or name in found:
            raise UsageError(f'--label "{one}": write each label once, as NAME=VALUE')
        found[name] = value
    return found
