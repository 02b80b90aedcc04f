"""What each route of the API does: one call of the desk, values in and a value out."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, Literal, TypeVar

from rollbackd.api import bodies
from rollbackd.api.long_poll import Waits
from rollbackd.config.models import Role
from rollbackd.model import Request
from rollbackd.operations import Announce, Operations
from rollbackd.syntax.units import Spec
from rollbackd.views.shapes import ChangeView, DrillView, HealthView, IncidentDetail, PlanView, ServiceView, StateView

_Q = TypeVar("_Q", bound=Spec)
_B = TypeVar("_B", bound=Spec)
Method = Literal["GET", "POST", "PUT", "DELETE"]


@dataclass(frozen=True, slots=True)
class ApiCall(Generic[_Q, _B]):
    """One request, understood and allowed."""

    operations: Operations
    waits: Waits
    actor: str
    name: str
    """The path's own part: a service's name, an incident's id, a hold's scope; empty when it has none."""
    query: _Q
    body: _B


Handler = Callable[[ApiCall[Any, Any]], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class ApiRoute:
    """One way in."""

    method: Method
    path: str
    role: Role
    handler: Handler
    answer: Any
    """The type of what the handler returns."""
    query: type[Spec] = bodies.NoQuery
    body: type[Spec] = bodies.NoBody
    status: int = 200

    @property
    def summary(self) -> str:
        """The handler's own sentence."""
        return (self.handler.__doc__ or "").strip()


# -- reading ------------------------------------------------------------------------------------
async def services(call: ApiCall[bodies.NoQuery, bodies.NoBody]) -> bodies.Services:
    """All services at a glance."""
    return bodies.Services(tuple(await call.operations.services()))


async def service(call: ApiCall[bodies.NoQuery, bodies.NoBody]) -> ServiceView:
    """One service at a glance."""
    return await call.operations.service(call.name)


async def states(call: ApiCall[bodies.ServiceQuery, bodies.NoBody]) -> bodies.States:
    """A service's states, newest first."""
    return bodies.States(tuple(await call.operations.states(call.query.service)))


async def incidents(call: ApiCall[bodies.IncidentsQuery, bodies.NoBody]) -> bodies.Incidents:
    """Incidents, newest first."""
    query = call.query
    return bodies.Incidents(tuple(await call.operations.incidents(query.service, query.open, query.limit)))


async def incident(call: ApiCall[bodies.NewsQuery, bodies.NoBody]) -> IncidentDetail:
    """One incident with its decision and its records; waits for news when asked to."""
    after, wait = call.query.after, call.query.wait
    if wait > timedelta():
        return await call.waits.run(call.operations.incident(call.name, after, wait))
    return await call.operations.incident(call.name, after)


async def decisions(call: ApiCall[bodies.DecisionsQuery, bodies.NoBody]) -> bodies.Decisions:
    """What was decided on triggers, with every guard's finding, newest first."""
    return bodies.Decisions(tuple(await call.operations.decisions(call.query.service, call.query.limit)))


async def holds(call: ApiCall[bodies.NoQuery, bodies.NoBody]) -> bodies.Holds:
    """Everything that is held."""
    return bodies.Holds(tuple(await call.operations.holds()))


async def holds_of(call: ApiCall[bodies.NoQuery, bodies.NoBody]) -> bodies.Holds:
    """The holds of one service, or of all with `*`."""
    return bodies.Holds(tuple(hold for hold in await call.operations.holds() if hold.scope == call.name))


async def plan(call: ApiCall[bodies.NoQuery, bodies.PlanBody]) -> PlanView:
    """What a rollback would be and what would be decided now; touches nothing."""
    return await call.operations.plan(Request(call.name, call.actor, to=call.body.to, plan=call.body.plan))


async def checks(call: ApiCall[bodies.NoQuery, bodies.NoBody]) -> HealthView:
    """Ask a service's checks, and say what each says right now."""
    return await call.operations.checks(call.name)


# -- orders -------------------------------------------------------------------------------------
async def rollback(call: ApiCall[bodies.NoQuery, bodies.RollbackBody]) -> bodies.Begun:
    """Roll a service back, or join and start its open incident."""
    body = call.body
    request = Request(
        call.name, call.actor, body.reason, body.to, body.plan, body.irreversible, body.over_hold, body.plan_id
    )
    return bodies.Begun(await call.operations.rollback(request))


async def approve(call: ApiCall[bodies.NoQuery, bodies.ReasonBody]) -> bodies.Answered:
    """Say yes to what an incident, or a service's open one, asks."""
    taken = await call.operations.approve(call.name, call.actor, call.body.reason)
    then = f"still missing: {taken.missing}" if taken.missing else "it is looked at once more, then goes back"
    return bodies.Answered(f"{taken.incident} is approved; {then}", call.actor, taken.incident, taken.missing)


async def deny(call: ApiCall[bodies.NoQuery, bodies.ReasonBody]) -> bodies.Answered:
    """Say no to what an incident, or a service's open one, asks."""
    taken = await call.operations.deny(call.name, call.actor, call.body.reason)
    done = f"{taken.incident} is denied: nothing goes back, and the same trouble is not asked about again"
    return bodies.Answered(done, call.actor, taken.incident)


async def abort(call: ApiCall[bodies.NoQuery, bodies.ReasonBody]) -> bodies.Done:
    """Stop an incident, or a service's open one, at its next boundary."""
    await call.operations.abort(call.name, call.actor, call.body.reason)
    return bodies.Done(f"{call.name} stops before its next step; what is entered is left", call.actor)


async def acknowledge(call: ApiCall[bodies.NoQuery, bodies.AcknowledgeBody]) -> bodies.Done:
    """Say that a person has seen it: an incident, or a service's last one and what was refused for it."""
    left = await call.operations.acknowledge(call.name, call.actor, call.body.leave)
    leaves = f", and {' and '.join(left)} {'are' if len(left) > 1 else 'is'} left" if left else ""
    return bodies.Done(f"{call.name} is acknowledged: its reminders stop{leaves}", call.actor)


async def hold(call: ApiCall[bodies.NoQuery, bodies.HoldBody]) -> bodies.Done:
    """Start no step of a service, or of any with `*`, until this is lifted."""
    await call.operations.hold(call.name, call.actor, call.body.reason, call.body.until)
    until = f" until {call.body.until.isoformat()}" if call.body.until else ""
    return bodies.Done(f"{_scope(call.name)} held{until}: no step is started", call.actor)


async def unhold(call: ApiCall[bodies.NoQuery, bodies.NoBody]) -> bodies.Done:
    """Lift a hold that was made by API or command line."""
    await call.operations.unhold(call.name, call.actor)
    return bodies.Done(f"{_scope(call.name)} no longer held", call.actor)


async def resume(call: ApiCall[bodies.NoQuery, bodies.ReasonBody]) -> bodies.Done:
    """Let automatic rollbacks go on after the breaker stopped them."""
    await call.operations.resume(call.actor, call.body.reason)
    return bodies.Done("automatic rollbacks go on; the breaker is closed", call.actor)


async def good(call: ApiCall[bodies.NoQuery, bodies.GoodBody]) -> StateView:
    """Mark a state as known to be good."""
    return await call.operations.good(call.name, call.body.releases, call.actor)


async def quarantine(call: ApiCall[bodies.NoQuery, bodies.QuarantineBody]) -> bodies.Done:
    """Never go to these releases, or `lift` that."""
    releases, lift = call.body.releases, call.body.lift
    await call.operations.quarantine(call.name, releases, call.actor, lift)
    named = ", ".join(f"{layer} {release}".strip() for layer, release in sorted(releases.items()))
    return bodies.Done(f"{call.name}: {named} {'may be gone to again' if lift else 'is never gone to'}", call.actor)


async def changed(call: ApiCall[bodies.NoQuery, bodies.ChangeBody]) -> ChangeView:
    """Announce a change, before it is made or right after; the same key again is the same change."""
    body = call.body
    announced = Announce(
        body.service, body.releases, body.kind, body.priority, body.confirm_within, body.key, body.text, body.by
    )
    return await call.operations.changed(announced, call.actor)


async def changes(call: ApiCall[bodies.ServiceQuery, bodies.NoBody]) -> bodies.Changes:
    """What was announced of a service, newest first."""
    return bodies.Changes(tuple(await call.operations.changes(call.query.service)))


async def confirm(call: ApiCall[bodies.NoQuery, bodies.NoBody]) -> ChangeView:
    """Say that an announced change, or a service's newest that waits for it, is well: it does not go back."""
    return await call.operations.confirm(call.name, call.actor)


async def drill(call: ApiCall[bodies.NoQuery, bodies.DrillBody]) -> DrillView:
    """Ask all that a rollback rests on, touching nothing; with `execute` go back for real and return."""
    return await call.operations.drill(call.name, call.body.plan, call.actor, execute=call.body.execute)


async def drills(call: ApiCall[bodies.DrillsQuery, bodies.NoBody]) -> bodies.Drills:
    """Drills and what they found, newest first; one that is under way before them."""
    return bodies.Drills(tuple(await call.operations.drills(call.query.service, call.query.limit)))


def _scope(name: str) -> str:
    return "all services are" if name == "*" else f"{name} is"


ROUTES = (
    ApiRoute("GET", "/api/v1/services", "viewer", services, bodies.Services),
    ApiRoute("GET", "/api/v1/services/{name}", "viewer", service, ServiceView),
    ApiRoute("POST", "/api/v1/services/{name}/plan", "viewer", plan, PlanView, body=bodies.PlanBody),
    ApiRoute(
        "POST", "/api/v1/services/{name}/rollback", "operator", rollback, bodies.Begun,
        body=bodies.RollbackBody, status=202,
    ),
    ApiRoute("POST", "/api/v1/services/{name}/good", "operator", good, StateView, body=bodies.GoodBody),
    ApiRoute(
        "POST", "/api/v1/services/{name}/quarantine", "operator", quarantine, bodies.Done, body=bodies.QuarantineBody
    ),
    ApiRoute("POST", "/api/v1/services/{name}/checks", "operator", checks, HealthView),
    ApiRoute("POST", "/api/v1/services/{name}/drill", "operator", drill, DrillView, body=bodies.DrillBody),
    ApiRoute("GET", "/api/v1/drills", "viewer", drills, bodies.Drills, bodies.DrillsQuery),
    ApiRoute("GET", "/api/v1/states", "viewer", states, bodies.States, bodies.ServiceQuery),
    ApiRoute("GET", "/api/v1/incidents", "viewer", incidents, bodies.Incidents, bodies.IncidentsQuery),
    ApiRoute("GET", "/api/v1/incidents/{name}", "viewer", incident, IncidentDetail, bodies.NewsQuery),
    ApiRoute("POST", "/api/v1/incidents/{name}/approve", "operator", approve, bodies.Answered, body=bodies.ReasonBody),
    ApiRoute("POST", "/api/v1/incidents/{name}/deny", "operator", deny, bodies.Answered, body=bodies.ReasonBody),
    ApiRoute("POST", "/api/v1/incidents/{name}/abort", "operator", abort, bodies.Done, body=bodies.ReasonBody),
    ApiRoute(
        "POST", "/api/v1/incidents/{name}/acknowledge", "operator", acknowledge, bodies.Done,
        body=bodies.AcknowledgeBody,
    ),
    ApiRoute("POST", "/api/v1/changes", "source", changed, ChangeView, body=bodies.ChangeBody),
    ApiRoute("GET", "/api/v1/changes", "viewer", changes, bodies.Changes, bodies.ServiceQuery),
    ApiRoute("POST", "/api/v1/changes/{name}/confirm", "operator", confirm, ChangeView),
    ApiRoute("GET", "/api/v1/decisions", "viewer", decisions, bodies.Decisions, bodies.DecisionsQuery),
    ApiRoute("GET", "/api/v1/holds", "viewer", holds, bodies.Holds),
    ApiRoute("GET", "/api/v1/holds/{name}", "viewer", holds_of, bodies.Holds),
    ApiRoute("PUT", "/api/v1/holds/{name}", "operator", hold, bodies.Done, body=bodies.HoldBody),
    ApiRoute("DELETE", "/api/v1/holds/{name}", "operator", unhold, bodies.Done),
    ApiRoute("POST", "/api/v1/resume", "operator", resume, bodies.Done, body=bodies.ReasonBody),
)  # fmt: skip
"""All routes that take and give values; alerts and the daemon's own health are in `app.py`."""
