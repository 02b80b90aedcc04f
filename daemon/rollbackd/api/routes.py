"""What people and programs can ask and order: each with its route, its role, its query, its body and its answer.

A handler is one call of the operations; its signature says what comes in and what goes out.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, timedelta
from typing import Any, Generic, Literal, TypeVar, get_args, get_type_hints

from rollbackd.api import answers
from rollbackd.api.long_poll import Waits
from rollbackd.config.models import Role
from rollbackd.model import Request
from rollbackd.operations import Operations, parameters
from rollbackd.snapshots.views import DifferenceView, RestoredView, TakenView
from rollbackd.syntax.units import Spec
from rollbackd.views.shapes import (
    AlertTrialView,
    ChangeView,
    DaemonView,
    DrillView,
    HealthView,
    IncidentDetail,
    LiveCheckView,
    MonthView,
    PassageView,
    PlanView,
    ReceiverTrialView,
    ServiceView,
    StateView,
    UpgradeView,
)

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
    key: str = ""
    """What it is known by, where it was passed on and may come twice."""
    handled: tuple[int, ...] = ()
    """Its row of the inbox then."""


Handler = Callable[[ApiCall[Any, Any]], Awaitable[Any]]
_Handler = TypeVar("_Handler", bound=Handler)


@dataclass(frozen=True, slots=True)
class ApiRoute:
    """One way in."""

    method: Method
    path: str
    role: Role
    handler: Handler
    answer: type
    """The type of what the handler returns."""
    query: type[Spec]
    body: type[Spec]
    status: int
    passes: bool
    """Whether a daemon that stands by passes it on; what is done twice is then the same as once."""

    @property
    def summary(self) -> str:
        """The handler's own sentence."""
        return (self.handler.__doc__ or "").strip()


ROUTES: list[ApiRoute] = []
"""In the order of the API's description. What streams, and the daemon's own health, is in application.py."""


def route(
    method: Method, path: str, role: Role, status: int = 200, *, passes: bool = False
) -> Callable[[_Handler], _Handler]:
    """Declare a way in; its query, its body and its answer are those of the handler's signature."""

    def declare(handler: _Handler) -> _Handler:
        hints = get_type_hints(handler)
        query, body = get_args(hints["call"])
        ROUTES.append(ApiRoute(method, path, role, handler, hints["return"], query, body, status, passes))
        return handler

    return declare


# -- services -----------------------------------------------------------------------------------
@route("GET", "/api/v1/services", "viewer")
async def services(call: ApiCall[parameters.NoQuery, parameters.NoBody]) -> answers.Services:
    """All services at a glance."""
    return answers.Services(tuple(await call.operations.services()))


@route("GET", "/api/v1/services/{name}", "viewer")
async def service(call: ApiCall[parameters.NoQuery, parameters.NoBody]) -> ServiceView:
    """One service at a glance."""
    return await call.operations.service(call.name)


@route("POST", "/api/v1/services/{name}/plan", "viewer", passes=True)
async def plan(call: ApiCall[parameters.NoQuery, parameters.PlanBody]) -> PlanView:
    """What a rollback would be and what would be decided now; touches nothing."""
    return await call.operations.plan(Request(call.name, call.actor, to=call.body.to, plan=call.body.plan))


@route("POST", "/api/v1/services/{name}/rollback", "operator", status=202, passes=True)
async def rollback(call: ApiCall[parameters.NoQuery, parameters.RollbackBody]) -> answers.Begun:
    """Roll a service back, or join and start its open incident."""
    body = call.body
    request = Request(
        call.name, call.actor, body.reason, body.to, body.plan, body.irreversible, body.over_hold, body.plan_id
    )
    return answers.Begun(await call.operations.rollback(request, call.key, call.handled))


@route("POST", "/api/v1/services/{name}/mending", "operator", passes=True)
async def mending(call: ApiCall[parameters.NoQuery, parameters.MendingBody]) -> answers.Done:
    """Say that somebody mends a service and how long that takes: nothing goes back meanwhile."""
    until = await call.operations.mending(call.name, call.actor, call.body.length, call.body.reason)
    if until is None:
        done = f"{call.name}: the estimate is told, and longer than limits.mending allows, so nothing is held up"
        return answers.Done(done, call.actor)
    at = f"{until.astimezone(UTC):%H:%M:%S} UTC"
    return answers.Done(f"{call.name} is being mended until {at}: nothing goes back meanwhile", call.actor)


@route("POST", "/api/v1/services/{name}/good", "operator", passes=True)
async def good(call: ApiCall[parameters.NoQuery, parameters.GoodBody]) -> StateView:
    """Mark a state as known to be good."""
    return await call.operations.good(call.name, call.body.releases, call.actor)


@route("POST", "/api/v1/services/{name}/quarantine", "operator", passes=True)
async def quarantine(call: ApiCall[parameters.NoQuery, parameters.QuarantineBody]) -> answers.Done:
    """Never go to these releases, or `lift` that."""
    releases, lift = call.body.releases, call.body.lift
    await call.operations.quarantine(call.name, releases, call.actor, lift)
    named = ", ".join(f"{layer} {release}".strip() for layer, release in sorted(releases.items()))
    return answers.Done(f"{call.name}: {named} {'may be gone to again' if lift else 'is never gone to'}", call.actor)


@route("POST", "/api/v1/services/{name}/checks", "operator")
async def checks(call: ApiCall[parameters.NoQuery, parameters.NoBody]) -> HealthView:
    """Ask a service's checks, and say what each says right now."""
    return await call.operations.checks(call.name)


@route("POST", "/api/v1/services/{name}/drill", "operator")
async def drill(call: ApiCall[parameters.NoQuery, parameters.DrillBody]) -> DrillView:
    """Ask all that a rollback rests on, touching nothing; with `execute` go back for real and return."""
    return await call.operations.drill(call.name, call.body.plan, call.actor, execute=call.body.execute)


@route("POST", "/api/v1/test-alert", "viewer")
async def try_alert(call: ApiCall[parameters.NoQuery, parameters.AlertTrialBody]) -> AlertTrialView:
    """Whose an alert would be, which rules ask for it, what would be decided, done and told; writes nothing."""
    return await call.operations.try_alert(call.body.labels, call.body.at)


@route("POST", "/api/v1/test-alert/through", "operator")
async def try_passage(call: ApiCall[parameters.NoQuery, parameters.PassageBody]) -> PassageView:
    """Have Alertmanager bring an alert that is marked as a test, and wait until it comes; no rule judges it."""
    return await call.waits.run(call.operations.try_passage(call.body.labels, call.body.wait))


@route("POST", "/api/v1/receivers/{name}/test", "operator")
async def try_receiver(call: ApiCall[parameters.NoQuery, parameters.NoBody]) -> ReceiverTrialView:
    """Send a receiver a message that is marked as a test, and say what it answered."""
    return await call.operations.try_receiver(call.name, call.actor)


@route("POST", "/api/v1/check", "operator")
async def check_live(call: ApiCall[parameters.NoQuery, parameters.LiveCheckBody]) -> LiveCheckView:
    """Ask every query, Alertmanager, each layer and each receiver that the configuration names."""
    return await call.operations.check_live(call.actor, messages=call.body.messages)


@route("GET", "/api/v1/drills", "viewer")
async def drills(call: ApiCall[parameters.DrillsQuery, parameters.NoBody]) -> answers.Drills:
    """Drills and what they found, newest first; one that is under way before them."""
    return answers.Drills(tuple(await call.operations.drills(call.query.service, call.query.limit)))


@route("GET", "/api/v1/states", "viewer")
async def states(call: ApiCall[parameters.ServiceQuery, parameters.NoBody]) -> answers.States:
    """A service's states, newest first."""
    return answers.States(tuple(await call.operations.states(call.query.service)))


@route("GET", "/api/v1/services/{name}/past", "viewer")
async def past(call: ApiCall[parameters.PastQuery, parameters.NoBody]) -> answers.Past:
    """What happened to a service: states, marks, changes, decisions, holds; newest first."""
    return answers.Past(tuple(await call.operations.past(call.name, call.query.limit)))


@route("GET", "/api/v1/daemon", "viewer")
async def itself(call: ApiCall[parameters.NoQuery, parameters.NoBody]) -> DaemonView:
    """The daemon itself: whether it could do its work, whom it hears, and whom it tells."""
    return await call.operations.daemon()


# -- incidents ----------------------------------------------------------------------------------
@route("GET", "/api/v1/incidents", "viewer")
async def incidents(call: ApiCall[parameters.IncidentsQuery, parameters.NoBody]) -> answers.Incidents:
    """Incidents, newest first."""
    query = call.query
    found = await call.operations.incidents(query.service, query.open, query.limit, query.before)
    return answers.Incidents(tuple(found))


@route("GET", "/api/v1/incidents/{name}", "viewer")
async def incident(call: ApiCall[parameters.NewsQuery, parameters.NoBody]) -> IncidentDetail:
    """One incident with its decision and its records; waits for news when asked to."""
    after, wait = call.query.after, call.query.wait
    if wait > timedelta():
        return await call.waits.run(call.operations.incident(call.name, after, wait))
    return await call.operations.incident(call.name, after)


@route("POST", "/api/v1/incidents/{name}/approve", "operator", passes=True)
async def approve(call: ApiCall[parameters.NoQuery, parameters.ReasonBody]) -> answers.Answered:
    """Say yes to what an incident, or a service's open one, asks."""
    taken = await call.operations.approve(call.name, call.actor, call.body.reason)
    then = f"still missing: {taken.missing}" if taken.missing else "it is looked at once more, then goes back"
    return answers.Answered(f"{taken.incident} is approved; {then}", call.actor, taken.incident, taken.missing)


@route("POST", "/api/v1/incidents/{name}/deny", "operator", passes=True)
async def deny(call: ApiCall[parameters.NoQuery, parameters.ReasonBody]) -> answers.Answered:
    """Say no to what an incident, or a service's open one, asks."""
    taken = await call.operations.deny(call.name, call.actor, call.body.reason)
    done = f"{taken.incident} is denied: nothing goes back, and the same trouble is not asked about again"
    return answers.Answered(done, call.actor, taken.incident)


@route("POST", "/api/v1/incidents/{name}/abort", "operator", passes=True)
async def abort(call: ApiCall[parameters.NoQuery, parameters.ReasonBody]) -> answers.Done:
    """Stop an incident, or a service's open one, at its next boundary."""
    await call.operations.abort(call.name, call.actor, call.body.reason)
    return answers.Done(f"{call.name} stops before its next step; what is entered is left", call.actor)


@route("POST", "/api/v1/incidents/{name}/acknowledge", "operator", passes=True)
async def acknowledge(call: ApiCall[parameters.NoQuery, parameters.AcknowledgeBody]) -> answers.Done:
    """Say that a person has seen it: an incident, or a service's last one and what was refused for it."""
    left = await call.operations.acknowledge(call.name, call.actor, call.body.leave)
    leaves = f", and {' and '.join(left)} {'are' if len(left) > 1 else 'is'} left" if left else ""
    return answers.Done(f"{call.name} is acknowledged: its reminders stop{leaves}", call.actor)


@route("POST", "/api/v1/incidents/{name}/escalate", "operator", passes=True)
async def escalate(call: ApiCall[parameters.NoQuery, parameters.EscalateBody]) -> answers.Done:
    """Call the next people to an incident, or to a service's last one."""
    incident = await call.operations.escalate(call.name, call.actor, call.body.reason)
    return answers.Done(f"{incident} is escalated: the next people are told", call.actor)


# -- reports ------------------------------------------------------------------------------------
@route("GET", "/api/v1/reports/month", "viewer")
async def month(call: ApiCall[parameters.MonthQuery, parameters.NoBody]) -> MonthView:
    """What was done in a month: how often, how well, how long it took, and why."""
    return await call.operations.month(call.query.month)


@route("GET", "/api/v1/events", "viewer")
async def events(call: ApiCall[parameters.EventsQuery, parameters.NoBody]) -> answers.Events:
    """The journal's facts after a place, oldest first."""
    query = call.query
    found, last = await call.operations.events(query.after, query.limit, query.service)
    return answers.Events(tuple(found), last)


# -- announced changes --------------------------------------------------------------------------
@route("POST", "/api/v1/changes", "source", passes=True)
async def changed(call: ApiCall[parameters.NoQuery, parameters.ChangeBody]) -> ChangeView:
    """Announce a change, before it is made or right after; the same key again is the same change."""
    return await call.operations.changed(call.body, call.actor)


@route("GET", "/api/v1/changes", "viewer")
async def changes(call: ApiCall[parameters.ServiceQuery, parameters.NoBody]) -> answers.Changes:
    """What was announced of a service, newest first."""
    return answers.Changes(tuple(await call.operations.changes(call.query.service)))


@route("POST", "/api/v1/changes/{name}/confirm", "operator", passes=True)
async def confirm(call: ApiCall[parameters.NoQuery, parameters.NoBody]) -> ChangeView:
    """Say that an announced change, or a service's newest that waits for it, is well: it does not go back."""
    return await call.operations.confirm(call.name, call.actor)


# -- decisions, holds and the breaker -----------------------------------------------------------
@route("GET", "/api/v1/decisions", "viewer")
async def decisions(call: ApiCall[parameters.DecisionsQuery, parameters.NoBody]) -> answers.Decisions:
    """What was decided on triggers, with every guard's finding, newest first."""
    query = call.query
    return answers.Decisions(tuple(await call.operations.decisions(query.service, query.limit, query.before)))


@route("GET", "/api/v1/holds", "viewer")
async def holds(call: ApiCall[parameters.NoQuery, parameters.NoBody]) -> answers.Holds:
    """Everything that is held."""
    return answers.Holds(tuple(await call.operations.holds()))


@route("GET", "/api/v1/holds/{name}", "viewer")
async def holds_of(call: ApiCall[parameters.NoQuery, parameters.NoBody]) -> answers.Holds:
    """The holds of one service, or of all with `*`."""
    return answers.Holds(tuple(hold for hold in await call.operations.holds() if hold.scope == call.name))


@route("PUT", "/api/v1/holds/{name}", "operator", passes=True)
async def hold(call: ApiCall[parameters.NoQuery, parameters.HoldBody]) -> answers.Done:
    """Start no step of a service, or of any with `*`, until this is lifted."""
    await call.operations.hold(call.name, call.actor, call.body.reason, call.body.until)
    until = f" until {call.body.until.isoformat()}" if call.body.until else ""
    return answers.Done(f"{_scope(call.name)} held{until}: no step is started", call.actor)


@route("DELETE", "/api/v1/holds/{name}", "operator", passes=True)
async def unhold(call: ApiCall[parameters.NoQuery, parameters.NoBody]) -> answers.Done:
    """Lift a hold that was made by API or command line."""
    await call.operations.unhold(call.name, call.actor)
    return answers.Done(f"{_scope(call.name)} no longer held", call.actor)


@route("GET", "/api/v1/members", "viewer")
async def members(call: ApiCall[parameters.NoQuery, parameters.NoBody]) -> answers.Members:
    """The daemons that share the journal, and which of them drives; none where this one is alone."""
    return answers.Members(tuple(await call.operations.members()))


@route("POST", "/api/v1/members/{name}/drain", "operator", passes=True)
async def drain(call: ApiCall[parameters.NoQuery, parameters.NoBody]) -> answers.Done:
    """Have the host that drives give the journal to one that stands by, between two steps."""
    await call.operations.drain(call.name, call.actor)
    return answers.Done(f"{call.name} gives the journal away once the step in hand is done", call.actor)


@route("DELETE", "/api/v1/members/{name}/holds", "operator", passes=True)
async def resume_from(call: ApiCall[parameters.NoQuery, parameters.NoBody]) -> answers.Done:
    """Lift what the signal files of a host hold that is gone; one that lives says it again within a second."""
    await call.operations.resume_from(call.name, call.actor)
    return answers.Done(f"what signal files held on {call.name} is lifted", call.actor)


@route("POST", "/api/v1/resume", "operator", passes=True)
async def resume(call: ApiCall[parameters.NoQuery, parameters.ReasonBody]) -> answers.Done:
    """Let automatic rollbacks go on after the breaker stopped them."""
    await call.operations.resume(call.actor, call.body.reason)
    return answers.Done("automatic rollbacks go on; the breaker is closed", call.actor)


# -- snapshots ----------------------------------------------------------------------------------
@route("GET", "/api/v1/snapshots", "viewer")
async def snapshots(call: ApiCall[parameters.KeptQuery, parameters.NoBody]) -> answers.Snapshots:
    """Layers that keep snapshots, each with them, newest first."""
    if call.query.brief:
        found = await call.operations.kept(call.query.service)
        return answers.Snapshots(tuple(answers.Keeping(*each) for each in found if call.query.layer in {"", each[1]}))
    return answers.Snapshots(tuple(await call.operations.snapshots(call.query.service, call.query.layer)))


@route("POST", "/api/v1/services/{name}/snapshots", "operator")
async def take(call: ApiCall[parameters.NoQuery, parameters.TakeBody]) -> TakenView:
    """Take a snapshot of a layer, read it, and send it to where the calendar sends them."""
    layer = call.operations.snapshot_layer(call.name, call.body.layer)
    return await call.operations.snapshot_manager.take(call.name, layer, call.body.name, call.actor)


@route("POST", "/api/v1/services/{name}/snapshots/verify", "operator")
async def verify(call: ApiCall[parameters.NoQuery, parameters.VerifyBody]) -> TakenView:
    """Read all of a snapshot and compare every hash."""
    layer, body = call.operations.snapshot_layer(call.name, call.body.layer), call.body
    manager = call.operations.snapshot_manager
    return await manager.verify(call.name, layer, body.snapshot, call.actor, rehearse=body.rehearse)


@route("POST", "/api/v1/services/{name}/snapshots/diff", "operator")
async def diff(call: ApiCall[parameters.NoQuery, parameters.DiffBody]) -> answers.Differences:
    """What differs between two snapshots, or between one and what is there now; secrets are masked."""
    layer = call.operations.snapshot_layer(call.name, call.body.layer)
    found = await call.operations.snapshot_manager.diff(call.name, layer, call.body.older, call.body.newer)
    return answers.Differences(tuple(DifferenceView(one.path, one.kind, one.lines) for one in found))


@route("POST", "/api/v1/services/{name}/snapshots/lost", "operator")
async def lost(call: ApiCall[parameters.NoQuery, parameters.LostBody]) -> answers.Differences:
    """What was written after the copy that the last restore put in place, and is in what was replaced."""
    layer = call.operations.snapshot_layer(call.name, call.body.layer)
    found = await call.operations.snapshot_manager.lost(call.name, layer, export=call.body.export)
    return answers.Differences(tuple(DifferenceView(one.path, one.kind, one.lines) for one in found))


@route("POST", "/api/v1/services/{name}/snapshots/restore", "operator")
async def restore(call: ApiCall[parameters.NoQuery, parameters.RestoreBody]) -> RestoredView:
    """Take a layer to a snapshot; what is there is saved first."""
    body = call.body
    return await call.operations.restore_snapshot(
        call.name, body.layer, body.snapshot, body.only, call.actor, body.over_hold
    )


@route("POST", "/api/v1/services/{name}/snapshots/prune", "operator")
async def prune(call: ApiCall[parameters.NoQuery, parameters.LayerBody]) -> answers.Dropped:
    """Drop the snapshots that nothing keeps."""
    layer = call.operations.snapshot_layer(call.name, call.body.layer)
    return answers.Dropped(await call.operations.snapshot_manager.prune(call.name, layer, call.actor))


@route("POST", "/api/v1/services/{name}/upgrade", "operator")
async def upgrade(call: ApiCall[parameters.NoQuery, parameters.UpgradeBody]) -> UpgradeView:
    """Take a layer forward, such as the schema of a database; a verified copy is taken first."""
    body = call.body
    return await call.operations.upgrade(call.name, body.layer, body.to, call.actor, over_hold=body.over_hold)


def _scope(name: str) -> str:
    return "all services are" if name == "*" else f"{name} is"
