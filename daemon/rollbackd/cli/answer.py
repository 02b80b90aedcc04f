"""Commands that answer what an incident asks. Who answers is who the kernel says is at the other end of the socket."""

from typing import Annotated, Any

import typer

from rollbackd.cli.frame import Session
from rollbackd.cli.text import safe

_Target = Annotated[str, typer.Argument(metavar="INCIDENT|SERVICE")]
_Reason = Annotated[str, typer.Option("--reason", help="Why; people will read it.")]


def approve(session: Session, target: _Target, reason: _Reason = "") -> None:
    """Say yes: what an incident asks about goes back.

    `rollbackd incidents INCIDENT` shows what is asked, and whose yes is missing.
    """
    _answer(session, target, "approve", reason)


def deny(session: Session, target: _Target, reason: _Reason = "") -> None:
    """Say no: nothing goes back. The same trouble is not asked about again."""
    _answer(session, target, "deny", reason)


def _answer(session: Session, target: str, word: str, reason: str) -> None:
    answer = session.client.send("POST", "incidents", target, word, body={"reason": reason})
    session.show(answer, lambda: _tell(answer, goes_on=word == "approve" and not answer["missing"]))


def _tell(answer: dict[str, Any], *, goes_on: bool) -> None:
    print(f"{safe(answer['done'])} (as {safe(answer['actor'])})")
    if goes_on:
        print(f"  follow: rollbackd incidents {safe(answer['incident'])} --watch")
