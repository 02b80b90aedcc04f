"""Commands about changes that people or CI jobs make: one line of a job each, safe to be run again."""

import shlex
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from rollbackd.cli.command_frame import Session, UsageError
from rollbackd.cli.terminal_text import View, moment, safe


def changed(
    session: Session,
    service: str,
    references: Annotated[
        list[str] | None,
        typer.Argument(metavar="RELEASE|LAYER=RELEASE", help="What it brings; else whatever changes now."),
    ] = None,
    kind: Annotated[str, typer.Option("--kind", help="deployment, hotfix, or a word of your own.")] = "",
    priority: Annotated[str, typer.Option("--priority", metavar="P0..P3", help="Sets how soon to confirm it.")] = "",
    confirm_within: Annotated[
        str, typer.Option("--confirm-within", metavar="TIME", help="20m, instead of the priority's time; 0s: never.")
    ] = "",
    key: Annotated[
        str, typer.Option("--key", help="The same key again is the same change: a job's number, so a retry is safe.")
    ] = "",
    text: Annotated[str, typer.Option("--text", help="What people will read beside it.")] = "",
    by: Annotated[str, typer.Option("--by", help="Who makes it, when a job announces it: unix:ann.")] = "",
) -> None:
    """Announce a change, before it is made or right after.

    One that must be confirmed goes back by itself when nobody does: see `rollbackd confirm`.
    """
    body: dict[str, Any] = {"service": service, "releases": by_layer(references or [])}
    given = {"kind": kind, "priority": priority, "confirm_within": confirm_within, "key": key, "text": text, "by": by}
    change = session.client.send("POST", "changes", body=body | {name: said for name, said in given.items() if said})
    session.show(change, lambda: _announced(change))


def confirm(session: Session, change: Annotated[str, typer.Argument(metavar="CHANGE|SERVICE")]) -> None:
    """Say that an announced change is well: it does not go back.

    A service stands for its newest change that waits for it.
    """
    found = session.client.send("POST", "changes", change, "confirm")
    name = f"{safe(found['id'])} of {safe(found['service'])}"
    session.show(found, lambda: print(f"{name} is confirmed, it does not go back (as {safe(found['confirmed'])})"))


def _announced(change: View) -> None:
    print(f"{safe(change['service'])}: {title(change)} is announced (as {safe(change['by'])})")
    for line in deadline(change):
        print(f"  {line}")


def title(change: View) -> str:
    """`hotfix build-17 (code v41)`."""
    brings = ", ".join(f"{layer} {release}".strip() for layer, release in sorted(change["releases"].items()))
    return safe(f"{change['kind'] or 'change'} {change['id']}" + (f" ({brings})" if brings else ""))


def deadline(change: View) -> list[str]:
    """Until when it must be confirmed, and the command for it; or by whom it was, or that it need not be."""
    if change["confirmed"]:
        return [f"confirmed by {safe(change['confirmed'])}"]
    if change["status"] == "replaced":
        return ["it runs no more"]
    if change["confirm_by"] is None:
        return ["it need not be confirmed"]
    if change["status"] == "unseen":
        return ["nothing came of it"]
    until, how = moment(change["confirm_by"]), f"rollbackd confirm {shlex.quote(safe(change['id']))}"
    if change["status"] == "overdue":
        return [f"should have been confirmed until {until}; if it is well:", how]
    return [f"goes back unless it is confirmed until {until}:", how]


def by_layer(references: Sequence[str]) -> dict[str, str]:
    """`code=v41` by layer; a release alone is of the only layer, whose key is empty. :raises UsageError:"""
    found: dict[str, str] = {}
    for reference in references:
        layer, separator, release = reference.partition("=")
        if not separator:
            layer, release = "", reference
        if not release or layer in found:
            raise UsageError(f'"{reference}": write each layer once, as LAYER=RELEASE')
        found[layer] = release
    return found
