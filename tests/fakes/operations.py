"""A desk in memory: what the two ways in are tested against. It records who ordered what."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from prometheus_client import CollectorRegistry, Counter

from rollbackd.journal import JournalUnavailable
from rollbackd.model import Alert, Event, Request
from rollbackd.operations import IncidentAnswer, InvalidOrder, OrderRefused, UnknownName
from rollbackd.operations.parameters import ChangeBody
from rollbackd.signals.alertmanager_webhook import WebhookPayload
from rollbackd.signals.events import Posted, event_of
from rollbackd.signals.intake import EventReceipt
from rollbackd.views.shapes import (
    AlertTrialView,
    ChangeView,
    CheckView,
    CountView,
    DaemonView,
    DecisionView,
    DrillLayerView,
    DrillView,
    EventView,
    FindingView,
    HealthView,
    HeardView,
    HoldView,
    IncidentDetail,
    IncidentView,
    LiveCheckView,
    MonthView,
    PassageView,
    PlanView,
    PlotMarkView,
    PlotView,
    ProbeView,
    QuestionView,
    Readiness,
    ReceiverTrialView,
    ReceiverView,
    RecordView,
    RuleTrialView,
    RuleView,
    ServiceView,
    StateView,
    StepView,
    TickList,
    TimesView,
    TriggerTrialView,
)
from tests.fakes.snapshots import FakeKeeping

AFTER_CARE = (TickList("Immediate", ("the users of checkout are told",)),)
NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
V41 = StateView("9d1c0a33b7e2", {"code": "v41 (3f2a9c112233)"}, {"code": "3f2a9c112233aabb"}, NOON - timedelta(days=1))
V40 = StateView(
    "44aa55bb66cc",
    {"code": "v40 (77d0e1f2a3b4)"},
    {"code": "77d0e1f2a3b4ccdd"},
    NOON - timedelta(days=3),
    NOON - timedelta(days=1),
    "ran 30m without a trigger",
)
CHECKOUT = ServiceView(
    "checkout", "act", "P1", "bad", V41, V40, "", "", rules=(RuleView("high-error-rate", "bad", "34.2% > 10%", NOON),)
)
SEARCH = ServiceView("search", "shadow", "P2", "good", V40, None, "no good state to go back to", "", baked=0.4)
STEPS = (
    StepView(
        "code", "v41 (3f2a9c112233)", "v40 (77d0e1f2a3b4)", "waiting", True, ("loses 2 uploads",), timedelta(seconds=40)
    ),
)
OPENED = IncidentView(
    "checkout-1", "checkout", "running", "", "bad release", "manual", "P1", "default", NOON, None, V41, V40, STEPS
)
PLOT = PlotView(
    "job:errors:ratio5m",
    tuple(
        (NOON - timedelta(minutes=30) + timedelta(seconds=15 * n), None if n == 20 else 0.02 if n < 100 else 0.342)
        for n in range(125)
    ),
    0.1,
    "> 0.1",
    tuple(PlotMarkView(NOON - timedelta(minutes=age), kind) for age, kind in ((6, "change"), (5, "onset"), (0, "end"))),
)
DECIDED = DecisionView(
    NOON, "checkout", "high-error-rate", "P1", "refuse", True, "", NOON - timedelta(minutes=5),
    ("job:errors:ratio5m = 34.2%, > 10% for 5m",),
    (FindingView("hold", "", "not held"), FindingView("cooldown", "refuse", "rolled back 3m ago, waits 10m", True)),
    "code v41 (3f2a9c112233)", "code v40 (77d0e1f2a3b4)",
)  # fmt: skip
ASKING = IncidentView(
    "checkout-2", "checkout", "asking", "", "", "high-error-rate", "P1", "default", NOON, None, V41, V40,
    change="code v40 (77d0e1f2a3b4) -> v41 (3f2a9c112233), hotfix announced by unix:dave",
    question=QuestionView(
        ("outside the allowed windows", "it ran 2d ago last, longer than 1d"), "one of product", ("unix:ann",),
        NOON + timedelta(minutes=15), "roll_back", "one of tech (unix:ann, unix:bob) and one of product (token:desk)",
        "unix:dave", NOON,
    ),
    checks=(CheckView("health", "bad", "answered 500 in 1.2s, wants 2xx"), CheckView("smoke", "good", "exit 0")),
)  # fmt: skip
HOTFIX = ChangeView(
    "build-17", "checkout", NOON, "unix:dave", "hotfix", "P0", {"code": "v41"}, NOON + timedelta(minutes=15), "",
    "login is broken", V41.key, "waiting",
)  # fmt: skip


class FakeOperations(FakeKeeping):
    """Two services: `checkout` is bad and can go back, `search` cannot."""

    def __init__(self) -> None:
        self.counted = "errors"
        self.registry = CollectorRegistry()
        Counter("rollbackd_fake", "A metric.", registry=self.registry).inc()
        self.orders: list[tuple[Any, ...]] = []
        self.received: list[Alert] = []
        self.reported: list[Event] = []
        self.completed: list[WebhookPayload] = []
        self.told: list[tuple[str, str]] = []
        self.failing = False
        self.ready = True
        self.slow: asyncio.Event | None = None
        """When set, `receive` waits for it."""
        self.waiting = 0
        self.services_ = {view.name: view for view in (CHECKOUT, SEARCH)}
        self.incidents_: dict[str, IncidentView] = {}
        self.records: dict[str, list[RecordView]] = {}
        self.holds_: dict[str, HoldView] = {}
        self.drills_: list[DrillView] = []
        self.changes_: dict[str, ChangeView] = {}
        self.history = [V41, V40]
        self.past_ = [RecordView(3, NOON - timedelta(hours=1), "unix:ann", "Held", "held: release day")]
        self.breaker = ""
        self.decided = DECIDED
        self.plot: PlotView | None = PLOT
        self.missing = "one of product"
        """What is missing after a yes of somebody on this host."""
        self.seq = 1
        """The place of the last fact."""
        self._news = asyncio.Condition()

    def _order(self, *order: Any) -> None:
        if self.failing:
            raise JournalUnavailable("disk full")
        self.orders.append(order)

    def _known(self, name: str) -> ServiceView:
        if name not in self.services_:
            raise UnknownName(f'no service "{name}"; there are checkout and search')
        return self.services_[name]

    async def services(self) -> list[ServiceView]:
        return [await self.service(name) for name in self.services_]

    async def service(self, name: str) -> ServiceView:
        view = self._known(name)
        open_ = [one.id for one in self.incidents_.values() if one.service == name and one.status != "closed"]
        held = tuple(hold for scope, hold in self.holds_.items() if scope in {name, "*"})
        return replace(view, incident=open_[0] if open_ else "", holds=held)

    async def states(self, service: str) -> list[StateView]:
        self._known(service)
        return self.history

    async def incidents(
        self, service: str = "", open_only: bool = False, limit: int = 50, before: int = 0
    ) -> list[IncidentView]:
        found = [one for one in self.incidents_.values() if service in {"", one.service}]
        return [one for one in found if not (open_only and one.status == "closed")][::-1][:limit]

    async def incident(self, id: str, after: int = 0, wait: timedelta = timedelta()) -> IncidentDetail:  # noqa: A002
        if id not in self.incidents_:
            raise UnknownName(f'no incident "{id}"')

        def news() -> tuple[RecordView, ...]:
            return tuple(record for record in self.records[id] if record.n > after)

        if wait and not news():
            try:
                async with asyncio.timeout(wait.total_seconds()), self._news:
                    await self._news.wait_for(news)
            except TimeoutError:
                pass
        return IncidentDetail(self.incidents_[id], self.decided, news(), AFTER_CARE, ("Root cause",), self.plot)

    async def decisions(self, service: str = "", limit: int = 50, before: int = 0) -> list[DecisionView]:
        return [self.decided][:limit] if service in {"", "checkout"} else []

    async def plan(self, request: Request) -> PlanView:
        self._known(request.service)
        if request.to == "nowhere":
            raise InvalidOrder('no release "nowhere"; name one of v40, v41')
        problems = () if request.service == "checkout" else ("no good state to go back to",)
        return PlanView(
            request.service, request.plan or "default", V41, V40, STEPS, ("traffic",), problems, "ask",
            (FindingView("hold", "", "nothing holds it"), FindingView("windows", "ask", "outside the allowed windows")),
            "1a2b3c4d5e6f", timedelta(seconds=75), timedelta(seconds=115),
        )  # fmt: skip

    standing_by = ""

    async def rollback(self, request: Request, episode: str = "", handled: Sequence[int] = ()) -> str:
        self._known(request.service)
        if request.service == "search":
            raise OrderRefused("search is not rolled back", (FindingView("target", "ask", "no good state", True),))
        self._order("rollback", request)
        self.incidents_["checkout-1"] = OPENED
        self.records["checkout-1"] = []
        await self.note("checkout-1", "Opened", "rollback of checkout opened", request.actor)
        return "checkout-1"

    async def note(self, incident: str, kind: str, text: str, actor: str = "daemon") -> None:
        """Add a record, as the runner does."""
        records = self.records[incident]
        at = NOON + timedelta(seconds=len(records))
        fact = {"layer": "code"} if kind.startswith("Appl") else {}
        records.append(RecordView(len(records) + 1, at, actor, kind, text, fact))
        self.seq += 1
        async with self._news:
            self._news.notify_all()

    async def news(self, seq: int, wait: timedelta) -> int:
        with suppress(TimeoutError):
            async with asyncio.timeout(wait.total_seconds()), self._news:
                await self._news.wait_for(lambda: self.seq > seq)
        return self.seq

    async def past(self, service: str, limit: int = 200) -> list[RecordView]:
        self._known(service)
        return self.past_[:limit]

    async def daemon(self) -> DaemonView:
        return DaemonView(
            "ops-1", "1.0", NOON, self.ready, () if self.ready else ("the journal cannot be written",), self.breaker,
            NOON, "", None, (ReceiverView("room", 0), ReceiverView("oncall", 2)),
        )  # fmt: skip

    async def close(self, incident: str, outcome: str) -> None:
        closed = replace(self.incidents_[incident], status="closed", outcome=outcome, closed=NOON)
        self.incidents_[incident] = closed
        await self.note(incident, "Closed", outcome)

    async def abort(self, incident: str, actor: str, reason: str = "") -> None:
        if incident not in self.incidents_ and incident not in self.services_:
            raise UnknownName(f'no incident "{incident}"')
        self._order("abort", incident, actor, reason)

    def ask(self) -> None:
        """Let an incident wait for people."""
        self.incidents_["checkout-2"] = ASKING
        self.records["checkout-2"] = []

    async def approve(
        self, incident: str, actor: str, reason: str = "", seen: datetime | None = None, *, by_file: bool = False
    ) -> IncidentAnswer:
        del by_file
        if incident not in {"checkout", "checkout-2"}:
            raise UnknownName(f'no incident "{incident}"')
        if "checkout-2" not in self.incidents_:
            raise OrderRefused("checkout-1 does not ask, it acts; `rollbackd abort checkout-1` stops it")
        self._order("approve", incident, actor, reason, seen)
        return IncidentAnswer("checkout-2", "" if actor.startswith("token:") else self.missing)

    async def deny(self, incident: str, actor: str, reason: str = "", seen: datetime | None = None) -> IncidentAnswer:
        await self.approve(incident, actor, reason, seen)
        self.orders[-1] = ("deny", *self.orders[-1][1:])
        return IncidentAnswer("checkout-2")

    async def changed(self, change: ChangeBody, actor: str) -> ChangeView:
        self._known(change.service)
        self._order("changed", change, actor)
        key = change.key or "checkout@20260301T120000Z"
        within = timedelta(minutes=15) if change.priority is not None else change.confirm_within
        self.changes_[key] = replace(
            HOTFIX, id=key, by=actor, kind=change.kind, releases=change.releases, text=change.text,
            priority=change.priority.value if change.priority is not None else "",
            confirm_by=NOON + within if within else None, state="", status="waiting" if within else "announced",
        )  # fmt: skip
        return self.changes_[key]

    async def changes(self, service: str) -> list[ChangeView]:
        self._known(service)
        return [one for one in self.changes_.values() if one.service == service]

    async def confirm(self, change: str, actor: str) -> ChangeView:
        found = [one for one in self.changes_.values() if change in {one.service, one.id}]
        if not found:
            raise UnknownName(f'nobody announced a change "{change}"')
        self._order("confirm", change, actor)
        return replace(found[-1], confirmed=actor, status="confirmed")

    async def escalate(self, incident: str, actor: str, reason: str) -> str:
        self._order("escalate", incident, actor, reason)
        return incident

    async def acknowledge(self, incident: str, actor: str, leave: bool = False) -> tuple[str, ...]:
        self._order("acknowledge", incident, actor, leave)
        return ("page",) if leave else ()

    async def holds(self) -> list[HoldView]:
        return list(self.holds_.values())

    async def hold(self, scope: str, actor: str, reason: str, until: datetime | None) -> None:
        if scope != "*":
            self._known(scope)
        self._order("hold", scope, actor, reason, until)
        self.holds_[scope] = HoldView(scope, actor, reason, "api", until)

    async def mending(self, service: str, actor: str, length: timedelta, reason: str) -> datetime | None:
        self._known(service)
        self._order("mending", service, actor, length, reason)
        return NOON + length if length <= timedelta(minutes=10) else None

    async def unhold(self, scope: str, actor: str) -> None:
        if scope not in self.holds_:
            raise OrderRefused(f"{scope} is held by a file; remove /var/lib/rollbackd/signals/HOLD.{scope}")
        self._order("unhold", scope, actor)
        del self.holds_[scope]

    async def resume(self, actor: str, reason: str = "") -> None:
        self._order("resume", actor, reason)

    async def good(self, service: str, releases: Mapping[str, str], actor: str) -> StateView:
        self._known(service)
        self._order("good", service, dict(releases), actor)
        return replace(V41, good=f"marked by {actor}")

    async def quarantine(self, service: str, releases: Mapping[str, str], actor: str, lift: bool = False) -> None:
        self._known(service)
        self._order("quarantine", service, dict(releases), actor, lift)

    async def checks(self, name: str) -> HealthView:
        """Checkout has a bad one, search only a warning."""
        self._known(name)
        health = CheckView("health", "bad" if name == "checkout" else "good", "answered 500, wants 2xx")
        return HealthView(name, name != "checkout", (health,), (CheckView("log", "bad", "3 lines match"),))

    async def drill(self, service: str, plan: str, actor: str, *, execute: bool = False) -> DrillView:
        """Of checkout it is ready; of search not."""
        self._known(service)
        self._order("drill", service, plan, actor, execute)
        layers = (DrillLayerView("code", "step", "v41", "v40", (), "s1 verified", timedelta(seconds=95)),)
        found = DrillView(
            service, NOON, actor, (plan or "default",), "ready", took=timedelta(milliseconds=300),
            expected=timedelta(seconds=155), target=timedelta(minutes=10), layers=layers,
            checks=(CheckView("health", "good", "200"),), present=V41, goes_to=V40,
        )  # fmt: skip
        if service == "search":
            found = replace(found, result="not_ready", problems=("code: no space left",), expected=None)
        self.drills_.insert(0, found)
        return found

    async def drills(self, service: str = "", limit: int = 50) -> list[DrillView]:
        return [one for one in self.drills_ if service in {"", one.service}][:limit]

    async def try_alert(self, labels: Mapping[str, str], at: datetime | None = None) -> AlertTrialView:
        """Of checkout a rule asks for it."""
        if not self.wants(labels):
            return AlertTrialView(labels, at or NOON, "", "no service has these labels")
        rule = RuleTrialView("high-error-rate", asks=True, reason="met")
        heard = (HeardView("room", "refused", "checkout needs a person"),)
        found = TriggerTrialView(DECIDED, "default", ("traffic",), STEPS, (), timedelta(seconds=115), heard)
        return AlertTrialView(labels, at or NOON, "checkout", "", (rule,), (found,))

    async def try_passage(self, labels: Mapping[str, str], wait: timedelta) -> PassageView:
        self._order("try_passage", dict(labels), wait)
        return PassageView(came=labels.get("service") == "checkout", text="it came after 1s, brought by token:am")

    async def try_receiver(self, name: str, actor: str) -> ReceiverTrialView:
        if name not in {"room", "oncall"}:
            raise UnknownName(f'there is no receiver "{name}"; there are: room, oncall')
        self._order("try_receiver", name, actor)
        said = "200 ok" if name == "room" else "pagerduty answered 400: invalid routing key"
        return ReceiverTrialView(name, "slack", name == "room", said, f"TEST: rollbackd reaches {name}", timedelta())

    async def check_live(self, actor: str, *, messages: bool) -> LiveCheckView:
        self._order("check_live", actor, messages)
        found = (
            ProbeView("layer", "checkout/code", "ok", "answers"),
            ProbeView("query", "rule a", "wrong", "no series"),
        )
        return LiveCheckView(False, "the daemon", found)

    async def month(self, month: str) -> MonthView:
        times = (TimesView("recovery", 2, 95.0, 120.0, 600.0, 0),)
        count = (CountView(self.counted, 2),)
        return MonthView(month, 2, 1, 0.5, 1, 3, 1, 1, times, count, count, count, count, ("search: nothing there",))

    async def events(self, after: int = 0, limit: int = 1000, service: str = "") -> tuple[list[EventView], int]:
        found = [
            EventView(seq, NOON, "daemon", "Closed", "checkout", "checkout-1", "recovered", {"n": seq})
            for seq in (1, 2, 3)
            if seq > after and service in {"", "checkout"}
        ][:limit]
        return found, found[-1].seq if found else max(after, 3)

    async def readiness(self) -> Readiness:
        return Readiness(
            self.ready, () if self.ready else ("the journal cannot be written",), ("search: no good state",)
        )

    def wants(self, labels: Mapping[str, str]) -> bool:
        return labels.get("service") == "checkout"

    async def receive(self, alerts: Sequence[Alert], actor: str, *, elsewhere: bool = False) -> tuple[int, int, int]:
        if self.slow is not None:
            self.waiting += 1
            await self.slow.wait()
        self._order("receive", len(alerts), actor)
        known = {(one.fingerprint, one.starts_at) for one in self.received}
        wanted = [alert for alert in alerts if self.wants(alert.labels)]
        new = [alert for alert in wanted if (alert.fingerprint, alert.starts_at) not in known]
        self.received += new
        return len(new), len(wanted) - len(new), len(alerts) - len(wanted)

    async def report(self, posted: Sequence[Posted], actor: str) -> EventReceipt:
        """Rules ask for `e2e_failed` of checkout; a key is known after it came once."""
        events = [event_of(one, NOON) for one in posted]
        self._order("report", len(events), actor)
        asked = [one.name == "e2e_failed" and one.service in {"", "checkout"} for one in events]
        wanted = [one for one, is_asked in zip(events, asked, strict=True) if is_asked]
        known = {one.key for one in self.reported}
        new = {one.key: one for one in wanted if one.key not in known}
        self.reported += new.values()
        others = [one for one, is_asked in zip(events, asked, strict=True) if not is_asked]
        unmatched = tuple(f"no rule asks for the event {one.name}" for one in others)
        return EventReceipt(len(new), len(wanted) - len(new), unmatched)

    async def tell_of_source(self, actor: str, text: str) -> None:
        self.told.append((actor, text))

    async def complete(self, webhook: WebhookPayload) -> None:
        self.completed.append(webhook)
