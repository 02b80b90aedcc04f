"""Commands that order something, or answer what an incident asks.

Who orders is who the kernel says is at the other end of the socket.
"""

from datetime import datetime
from typing import Annotated, Any

import typer

from rollbackd.cli import daemon_fallback, incident_text, plan_text
from rollbackd.cli.change_commands import by_layer
from rollbackd.cli.command_frame import NO, Session, UsageError, is_asked, is_sure
from rollbackd.cli.daemon_client import QUICK
from rollbackd.cli.terminal_text import safe

_Reason = Annotated[str, typer.Option("--reason", help="Why; people will read it.")]
_Target = Annotated[str, typer.Argument(metavar="INCIDENT|SERVICE")]
_All = Annotated[bool, typer.Option("--all", help="All services.")]
_Scope = Annotated[str | None, typer.Argument(metavar="SERVICE")]


def rollback(
    session: Session,
    service: str,
    to: Annotated[
        str, typer.Option("--to", help="A release (id or label) or a state's key; else the newest good state.")
    ] = "",
    plan: Annotated[str, typer.Option("--plan", help="One of the service's plans.")] = "",
    plan_id: Annotated[
        str,
        typer.Option("--plan-id", metavar="ID", help="The plan that `rollbackd plan` printed, as shown or not at all."),
    ] = "",
    reason: _Reason = "",
    irreversible: Annotated[
        list[str] | None, typer.Option("--irreversible", metavar="LAYER", help="This layer's step may be irreversible.")
    ] = None,
    over_hold: Annotated[bool, typer.Option("--over-hold", help="Also while the service is held.")] = False,
    watch: Annotated[
        bool | None,
        typer.Option(
            "--watch/--no-watch", help="Follow it to its end; exit code 0 only when it recovered. So does --yes."
        ),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask; when the daemon does not answer, go on without it.")
    ] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Here and now, without the daemon, which must be stopped.")
    ] = False,
) -> int | None:
    """Roll a service back. On a terminal the plan is shown and you are asked."""
    if plan_id and (to or plan):
        raise UsageError("--plan-id says where to and by which plan; leave --to and --plan out")
    wanted: dict[str, Any] = {
        "to": to, "plan": plan, "plan_id": plan_id, "reason": reason, "irreversible": irreversible or [],
        "over_hold": over_hold,
    }  # fmt: skip
    question = f"\nRoll {safe(service)} back?"
    if offline:
        from rollbackd.cli.offline_rollback import roll_back

        return roll_back(session, service, wanted, ask=lambda: is_sure(question, yes=yes))
    if yes and not daemon_fallback.answers(session):
        return daemon_fallback.without_it(session, service, wanted)
    if not plan_id:
        shown = session.client.send("POST", "services", service, "plan", body={"to": to, "plan": plan})
        if not session.json:
            plan_text.show(shown, how=False)
    if not is_sure(question, yes=yes):
        return NO
    if is_asked(yes=yes) and not plan_id and shown["id"]:  # as it was shown, also when another release came meanwhile
        wanted.update(to="", plan="", plan_id=shown["id"])
    begun = session.client.send("POST", "services", service, "rollback", body=wanted)
    incident = begun["incident"]
    if watch or (watch is None and yes):
        from rollbackd.cli.incident_watch import watch as follow

        if not session.json:
            print()
        return follow(session, incident, reported=True)
    if not (plan_id or session.json):
        print()
    session.show(begun, lambda: print(_begun(safe(incident))))
    return None


def _begun(incident: str) -> str:
    return "\n".join(
        (
            f"{incident} has begun",
            f"  follow: rollbackd incidents {incident} --watch",
            f"  stop:   rollbackd abort {incident}",
        )
    )


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

    def told() -> None:
        _say_done(answer)
        if word == "approve" and not answer["missing"]:
            print(f"  follow: rollbackd incidents {safe(answer['incident'])} --watch")

    session.show(answer, told)


def abort(session: Session, target: _Target, reason: _Reason = "") -> None:
    """Stop a rollback before its next step. What is entered (a maintenance page) is left."""
    _done(session, session.client.send("POST", "incidents", target, "abort", body={"reason": reason}, patience=QUICK))


def ack(
    session: Session,
    target: _Target,
    leave: Annotated[
        bool, typer.Option("--leave", help="Leave what is still entered, such as a maintenance page.")
    ] = False,
) -> None:
    """Say that you have seen it: its reminders stop.

    A service stands for its last incident and for what was refused for it.
    """
    _done(
        session, session.client.send("POST", "incidents", target, "acknowledge", body={"leave": leave}, patience=QUICK)
    )


def escalate(
    session: Session,
    target: _Target,
    reason: Annotated[str, typer.Option("--reason", help="Who is needed and why; those who are called read it.")],
) -> None:
    """Call the next people, and say why.

    It may be an architect, a decision of the business, or help from outside that is needed.
    """
    _done(session, session.client.send("POST", "incidents", target, "escalate", body={"reason": reason}))


def hold(
    session: Session,
    service: _Scope = None,
    everything: _All = False,
    reason: _Reason = "",
    until: Annotated[str, typer.Option("--until", help="2h, or a time such as 2026-03-02T08:00:00+01:00.")] = "",
    lift: Annotated[bool, typer.Option("--lift", help="The same as `resume`.")] = False,
) -> None:
    """Start no step of a service until that is lifted.

    A running rollback stops at its next boundary.

    With the daemon down or unreachable, the file does the same: touch /var/lib/rollbackd/signals/HOLD. Where several
    hosts share a journal it stops all of them, unless its own host is cut off from the journal.
    """
    scope = _scope(service, everything, "hold")
    if lift:
        _done(session, session.client.send("DELETE", "holds", scope, patience=QUICK))
        return
    body = {"reason": reason, "until": _until(until)}
    _done(session, session.client.send("PUT", "holds", scope, body=body, patience=QUICK))


def mending(
    session: Session,
    service: str,
    length: Annotated[str, typer.Argument(metavar="LENGTH", help="How long it takes: 8m.")],
    reason: _Reason = "",
) -> None:
    """Say that you mend it, and how long that takes.

    Nothing goes back meanwhile. When the time is over and the trouble goes on, it goes back by itself. A longer
    estimate than `limits.mending` is told, and holds nothing up. `rollbackd resume SERVICE` ends it.
    """
    body = {"length": length, "reason": reason}
    _done(session, session.client.send("POST", "services", service, "mending", body=body, patience=QUICK))


def resume(
    session: Session,
    service: _Scope = None,
    everything: Annotated[bool, typer.Option("--all", help="Lift the hold of all services.")] = False,
    breaker: Annotated[
        bool, typer.Option("--breaker", help="Let automatic rollbacks go on after too many in a row did not help.")
    ] = False,
    host: Annotated[
        str, typer.Option("--from", metavar="HOST", help="Lift what signal files held on a host that is gone.")
    ] = "",
    reason: _Reason = "",
) -> None:
    """Lift the hold of a service, or of all. A hold that is a file is lifted by removing the file, on its host.

    `resume --breaker` is something else: it lets automatic rollbacks go on after the breaker stopped them.
    """
    if breaker:
        if service is not None or everything:
            raise UsageError("--breaker is for all services and lifts no hold; give it alone")
        _done(session, session.client.send("POST", "resume", body={"reason": reason}, patience=QUICK))
        return
    if host:
        if service is not None or everything:
            raise UsageError("--from is for all that one host's files hold; give it alone")
        _done(session, session.client.send("DELETE", "members", host, "holds", patience=QUICK))
        return
    _done(session, session.client.send("DELETE", "holds", _scope(service, everything, "resume"), patience=QUICK))


def drain(session: Session, host: Annotated[str, typer.Argument(metavar="HOST")]) -> None:
    """Have the host that drives let another one drive.

    It does once the step in hand is done, and stands by afterwards: it may be stopped, updated or rebooted. `rollbackd
    members` says who drives.
    """
    _done(session, session.client.send("POST", "members", host, "drain"))


def _scope(service: str | None, everything: bool, command: str) -> str:
    if (service is None) != everything:
        breaker = "\nrollbackd resume --breaker lets automatic rollbacks go on" if command == "resume" else ""
        raise UsageError(f"name a service, or --all: rollbackd {command} SERVICE{breaker}")
    return service or "*"


def _until(text: str) -> str | None:
    from rollbackd.syntax.units import parse_duration
    from rollbackd.system.clock import SystemClock

    if not text:
        return None
    try:
        return (SystemClock().now() + parse_duration(text)).isoformat()
    except (ValueError, OverflowError):
        pass
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        when = None
    if when is None or when.tzinfo is None:
        raise UsageError(f'--until: "{text}" is no time; write 2h, or 2026-03-02T08:00:00+01:00')
    return when.isoformat()


def good(
    session: Session,
    service: str,
    references: Annotated[
        list[str] | None, typer.Argument(metavar="RELEASE|LAYER=RELEASE", help="Else what runs now.")
    ] = None,
) -> None:
    """Mark a state as known to be good."""
    releases = by_layer(references or [])
    state = session.client.send("POST", "services", service, "good", body={"releases": releases})
    session.show(
        state, lambda: print(f"{safe(service)}: {safe(incident_text.releases(state))} is good: {safe(state['good'])}")
    )


def quarantine(
    session: Session,
    service: str,
    references: Annotated[list[str], typer.Argument(metavar="RELEASE|LAYER=RELEASE")],
    lift: Annotated[bool, typer.Option("--lift", help="They may be gone to again.")] = False,
) -> None:
    """Never go to these releases.

    It is announced when one is deployed again.
    """
    body = {"releases": by_layer(references), "lift": lift}
    _done(session, session.client.send("POST", "services", service, "quarantine", body=body))


def _done(session: Session, answer: dict[str, Any]) -> None:
    session.show(answer, lambda: _say_done(answer))


def _say_done(answer: dict[str, Any]) -> None:
    print(f"{safe(answer['done'])} (as {safe(answer['actor'])})")
