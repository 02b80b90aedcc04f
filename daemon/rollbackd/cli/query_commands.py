"""Commands that look: they change nothing."""

from typing import Annotated, Any

import typer

from rollbackd.cli import incident_text, plan_text, service_text
from rollbackd.cli.command_frame import NO, Session, UsageError
from rollbackd.cli.daemon_client import QUICK
from rollbackd.cli.terminal_text import safe

PATIENCE = 600.0
"""Seconds; checks take as long as their own limits let them."""
_Limit = Annotated[int, typer.Option("--limit", min=1, help="At most so many, newest first.")]
_PORTION = 1000
"""As many as one answer has at most."""
_LOOKED_AT = 20
"""Incidents that `status` looks through for what is still entered; reminders name older ones."""


def status(
    session: Session,
    service: Annotated[str | None, typer.Argument(help="All about this one: rules, states, holds.")] = None,
    checks: Annotated[bool, typer.Option("--checks", help="Ask the checks of this service now.")] = False,
) -> int | None:
    """How services are, what runs, what they would go back to.

    With --checks the exit code is 0 only when every check that verification counts is good.
    """
    if checks:
        if service is None:
            raise UsageError("--checks asks those of one service: rollbackd status SERVICE --checks")
        health = session.client.send("POST", "services", service, "checks", patience=PATIENCE)
        session.show(health, lambda: service_text.health(health))
        return None if health["healthy"] else NO
    if service is None:
        found = session.client.get("services")
        driver = session.client.get("daemon").get("driver", "")
        session.show(found, lambda: service_text.services(found["services"], _ended(session), driver))
        return None
    one = session.client.get("services", service)
    states = session.client.get("states", service=service)["states"]
    session.show({**one, "states": states}, lambda: service_text.service(one, states, _ended(session, service)))
    return None


def _ended(session: Session, service: str = "") -> list[dict[str, Any]]:
    """The newest incidents that have ended: what one of them left closed, such as a maintenance page, is not over."""
    found = session.client.get("incidents", service=service, limit=_LOOKED_AT)["incidents"]
    return [one for one in found if one["outcome"]]


def _listed(session: Session, what: str, limit: int, **query: Any) -> dict[str, Any]:
    """The newest, as the API answers it, in as many portions as it takes."""
    found = session.client.get(what, limit=min(limit, _PORTION), **query)
    portion = found[what]
    while len(portion) == _PORTION and len(found[what]) < limit and portion[-1]["seq"]:
        rest = min(limit - len(found[what]), _PORTION)
        portion = session.client.get(what, limit=rest, before=portion[-1]["seq"], **query)[what]
        found[what] += portion
    return dict(found)


def incidents(
    session: Session,
    incident: Annotated[str | None, typer.Argument(help="All about this one: decision, steps, timeline.")] = None,
    only_open: Annotated[bool, typer.Option("--open", help="Only those that are not closed.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the incident to its end.")] = False,
    limit: _Limit = 50,
) -> int | None:
    """What was done, by whom and why. With --watch the exit code is 0 only when it recovered."""
    if incident is None:
        if watch:
            raise UsageError("--watch follows one incident: rollbackd incidents INCIDENT --watch")
        found = _listed(session, "incidents", limit, open=only_open)
        session.show(found, lambda: incident_text.incidents(found["incidents"]))
        return None
    if watch:
        from rollbackd.cli.incident_watch import watch as follow

        return follow(session, incident)
    detail = session.client.get("incidents", incident)
    session.show(detail, lambda: incident_text.incident(detail))
    return None


def decisions(
    session: Session,
    service: Annotated[str | None, typer.Argument(help="Only of this service.")] = None,
    limit: _Limit = 20,
) -> None:
    """What was decided on each trigger, and why."""
    found = _listed(session, "decisions", limit, service=service or "")
    session.show(found, lambda: incident_text.decisions(found["decisions"]))


def members(session: Session) -> None:
    """The hosts that share the journal, and which drives."""
    found = session.client.get("members")
    session.show(found, lambda: service_text.members(found["members"]))


def login(session: Session) -> None:
    """Print a link to the page that is good once, for a minute. Whoever opens it gives orders there as you."""
    made = session.client.send("POST", "login", patience=QUICK)
    session.show(
        made, lambda: print(f"{safe(made['url'])}\n  as {safe(made['actor'])}, once, for {safe(made['lasts'])}")
    )


def plan(
    session: Session,
    service: str,
    to: Annotated[str, typer.Option("--to", help="A release (id or label) or a state's key.")] = "",
    plan: Annotated[str, typer.Option("--plan", help="One of the service's plans.")] = "",
) -> int | None:
    """What a rollback would do now. How long it would take, and what would be decided. Touches nothing.

    Exit code 1 when something would stop it. `rollbackd rollback SERVICE --plan-id ID` runs it as shown.
    """
    found = session.client.send("POST", "services", service, "plan", body={"to": to, "plan": plan})
    session.show(found, lambda: plan_text.show(found))
    return 1 if found["problems"] else None
