"""The command that practises: could a rollback work, and, where it is allowed, one for real and back again."""

import asyncio
from datetime import timedelta
from typing import Annotated

import typer

from rollbackd.cli.command_frame import NO, Session, UsageError
from rollbackd.cli.outcome_report import checks, releases
from rollbackd.cli.terminal_text import View, fields, moment, safe, section, table

PATIENCE = 3600.0
"""Seconds; reading and restoring a large snapshot takes its time."""
_AGAIN = timedelta(seconds=1)


def drill(
    session: Session,
    service: Annotated[str | None, typer.Argument(help="Whose rollback is practised.")] = None,
    plan: Annotated[str, typer.Option("--plan", help="One of the service's plans; else its own list.")] = "",
    execute: Annotated[
        bool, typer.Option("--execute", help="Go back for real, and return; where the service says `drill: true`.")
    ] = False,
    listed: Annotated[bool, typer.Option("--list", help="What drills found, newest first.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="With --list: at most so many.")] = 20,
) -> int | None:
    """Ask all that a rollback rests on. Layers, plan, snapshots, checks, time; touches nothing without --execute.

    Exit code 0 only when a rollback would work, or the one that was executed did.
    """
    if listed:
        found = session.client.get("drills", service=service or "", limit=limit)
        session.show(found, lambda: _list(found["drills"]))
        return None
    if service is None:
        raise UsageError("name a service: rollbackd drill SERVICE; or --list what drills found")
    body = {"plan": plan, "execute": execute}
    one = session.client.send("POST", "services", service, "drill", body=body, patience=PATIENCE)
    if one["result"] == "running":
        one = _followed(session, one)
    session.show(one, lambda: _show(one))
    return None if one["result"] == "ready" else NO


def _followed(session: Session, begun: View) -> View:
    """Show what is done, there and back, until the drill has ended; what it found."""
    from rollbackd.cli.incident_watch import watch
    from rollbackd.system.clock import SystemClock

    if not session.json:
        _show(begun)
        print()
    watch(session, begun["incident"])
    returning = ""
    while True:
        found = session.client.get("drills", service=begun["service"], limit=10)["drills"]
        ended = [one for one in found if one["incident"] == begun["incident"] and one["result"] != "running"]
        if ended:
            return {**ended[0], "layers": [], "checks": []}
        running = session.client.get("services", begun["service"])["incident"]
        if running not in {"", begun["incident"], returning}:
            returning = running
            watch(session, running)
        asyncio.run(SystemClock().sleep(_AGAIN))


def _show(one: View) -> None:
    words = {"ready": "ready", "not_ready": "not ready", "interrupted": "interrupted", "running": "begins"}
    how = f"drill {words[one['result']]}"
    print(f"{safe(one['service'])}: {how}, plan {safe(', then '.join(one['plans']))}")
    fields(
        (
            ("runs", releases(one["present"])),
            ("goes to", releases(one["goes_to"])),
            ("went there", one["incident"]),
            ("came back", one["returned"]),
            ("problems", "\n".join(one["problems"])),
            ("slow", "\n".join(one["slow"])),
            ("expected", _expected(one)),
            ("took", _length(one["took"]) if one["result"] != "running" else ""),
        )
    )
    head = ("LAYER", "AS", "FROM", "TO", "SNAPSHOT", "EXPECTED", "TARGET", "READY")
    section(head, (_layer(each) for each in one["layers"]))
    checks(one["checks"])


def _layer(one: View) -> tuple[str, ...]:
    named = tuple(one[key] for key in ("layer", "part", "before", "after", "snapshot"))
    return (*named, _length(one["expected"]), _length(one["target"]), "; ".join(one["problems"]) or "yes")


def _expected(one: View) -> str:
    target = f", may take {_length(one['target'])}" if one["target"] else ""
    if one["expected"]:
        return f"{_length(one['expected'])} from the past{target}"
    return f"not known: no rollback ran every step yet{target}" if one["layers"] and target else ""


def _length(text: str | None) -> str:
    """A duration of the API, in whole seconds; less than one as it is."""
    if not text:
        return ""
    from pydantic import TypeAdapter

    from rollbackd.syntax.units import format_duration

    length = TypeAdapter(timedelta).validate_python(text)
    return format_duration(timedelta(milliseconds=round(length.total_seconds(), 0 if length >= _AGAIN else 3) * 1000))


def _list(found: list[View]) -> None:
    if not found:
        print("no drills")
        return
    rows = (
        (
            moment(one["at"]),
            one["service"],
            ", ".join(one["plans"]),
            one["incident"] or "asked only",
            _length(one["took"]),
            one["result"],
            "; ".join(one["problems"]),
        )
        for one in found
    )
    table(("WHEN", "SERVICE", "PLAN", "EXECUTED", "TOOK", "RESULT", "PROBLEMS"), rows)
