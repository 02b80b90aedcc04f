"""A service with layers in memory, the real runner and parts of the judge on a journal in memory, in virtual time."""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, cast

from rollbackd import facts
from rollbackd.adapter import Adapter, AdapterError, MixedError, Needs, Settings
from rollbackd.config.load import dump_service, load
from rollbackd.config.models import Config, Service
from rollbackd.execution.check_runner import CheckRunner
from rollbackd.execution.layers import LayerFactory, Layers
from rollbackd.execution.preflight import Objection
from rollbackd.execution.runner import Judgement, Runner
from rollbackd.facts import Record
from rollbackd.incident.life import Incident
from rollbackd.journal import Entry, Journal
from rollbackd.model import (
    FLEET,
    NO_RELEASE,
    Action,
    Change,
    CheckResult,
    Decision,
    Priority,
    Problem,
    Progress,
    Release,
    State,
    Traits,
    Trigger,
    Verdict,
    incident_stream,
    service_stream,
)
from rollbackd.signals.prometheus import QueryAnswer, RangeAnswer, RangeSeries, RulesAnswer, Series
from rollbackd.state.read_model import ReadModel
from tests.fakes.clock import START, ManualClock
from tests.fakes.journal import MemoryJournal

INCIDENT = "shop-1"
V1, V2 = Release("v1"), Release("v2")
DOWN = "Prometheus at http://127.0.0.1:9090: no answer within 5s"

_LAYER = {"adapter": "command", "current": ["current"], "releases": ["releases"], "apply": ["apply"]}
_GATE = {"adapter": "command", "inside": ["inside"], "enter": ["enter"], "leave_by": ["leave"]}
SERVICE: dict[str, Any] = {
    "name": "shop",
    "match": {"service": "shop"},
    "layers": {"page": _GATE, "config": _LAYER, "code": _LAYER},
    "plans": {"default": {"within": ["page"], "steps": ["config", "code"]}},
    "bake": "10m",
    "checks": {"health": {"command": ["true"]}},
    "verify": {"gate": ["health"], "every": "30s", "passes": 2, "deadline": "5m", "checks": ["health"]},
}


def configured(directory: Path, rules: Sequence[Mapping[str, Any]] = (), **changes: Any) -> Config:
    """The configuration with this one service; `changes` replace keys of it, `prometheus` and `daemon` are the file's."""
    given: dict[str, Any] = {key: changes.pop(key) for key in ("prometheus", "limits") if key in changes}
    path = directory / "config.yaml"
    alert = {"name": "sick", "when": {"alert": 'alertname="Sick"'}}
    daemon = {
        "mode": "act",
        "open_on_loopback": True,
        "signals": str(directory / "signals"),
        **changes.pop("daemon", {}),
    }
    services = [{**SERVICE, **changes}, *changes.pop("others", [])]
    document: dict[str, Any] = {"daemon": daemon, "rules": list(rules) or [alert], **given, "services": services}
    path.write_text(json.dumps(document))
    return load(path).config


@dataclass
class FakeLayer:
    """A layer in memory. What it does next is in its fields; `calls` says what was done to it."""

    name: str
    calls: list[str]
    traits: Traits = field(default_factory=Traits)
    present: Release = V2
    known: tuple[Release, ...] = (V2, V1)
    is_inside: bool = False
    reversible: bool = True
    aside: str = ""
    errors: list[Exception] = field(default_factory=list)
    """Raised by the next effects, one each."""
    problems: tuple[str, ...] = ()
    says: list[Progress] = field(default_factory=list)
    """What `progress` answers first, before it looks."""
    lies: bool = False
    """Effects end well and do nothing."""
    said: str | Exception = ""
    """What it has to tell of a crossing."""
    hold_up: asyncio.Event | None = None
    """Effects wait for it, or that one alone which `hold_at` begins."""
    hold_at: str = ""
    entered: Callable[[], None] = lambda: None
    fences: bool = False
    resource: str = ""
    settings_model: ClassVar[type[Settings]] = Settings
    needs: Needs = field(default_factory=Needs)

    async def current(self) -> Release:
        if self.errors and self.errors[0].args == ("look",):
            raise AdapterError("cannot be seen", permanent=False)
        if self.present.parts:
            raise MixedError(f"the hosts differ: {self.present.label}", self.present)
        return self.present

    async def releases(self) -> Sequence[Release]:
        return self.known

    async def plan(self, target: Release) -> Change:
        before = self.present if self.traits.releases else NO_RELEASE
        return Change(self.name, before, target, reversible=self.reversible, aside=self.aside)

    async def apply(self, change: Change) -> None:
        await self._effect(f"apply {self.name} {change.after.id}")
        if not self.lies:
            self.present = change.after

    async def progress(self, change: Change) -> Progress:
        if self.says:
            return self.says.pop(0)
        if self.present == change.after:
            return Progress.DONE
        return Progress.NOT_STARTED if self.present == change.before else Progress.SUPERSEDED

    async def ready(self) -> Sequence[Problem]:
        return [Problem(self.name, text) for text in self.problems]

    async def inside(self, key: str) -> bool:
        return self.is_inside

    async def enter(self, key: str) -> None:
        await self._effect(f"enter {self.name}")
        self.is_inside = not self.lies

    async def note(self, key: str) -> str:
        if isinstance(self.said, Exception):
            raise self.said
        return self.said

    async def leave(self, key: str) -> None:
        await self._effect(f"leave {self.name}")
        self.is_inside = self.lies

    async def _effect(self, what: str) -> None:
        self.calls.append(what)
        self.entered()
        if self.hold_up is not None and what.startswith(self.hold_at):
            await self.hold_up.wait()
        if self.errors:
            raise self.errors.pop(0)


class FakeCheckRunner:
    """Checks answer what `verdicts` says by name; good when it says nothing."""

    def __init__(self) -> None:
        self.verdicts: dict[str, Verdict] = {}
        self.asked: list[str] = []

    async def run(
        self, service: Service, refs: Sequence[Any], since: datetime | None = None
    ) -> tuple[CheckResult, ...]:
        return tuple([await self.ask(service, ref, since) for ref in refs])

    async def ask(self, service: Service, ref: Any, since: datetime | None = None) -> CheckResult:
        self.asked.append(str(ref))
        return CheckResult(str(ref), self.verdicts.get(str(ref), Verdict.GOOD), "as the test says")


class FakeFactory:
    """Gives the layers in memory, whatever the configuration says of their adapters."""

    def __init__(self, layers: Mapping[str, FakeLayer]) -> None:
        self.layers = layers
        self.clean: Callable[[str], str] = str

    def build(self, service: Service) -> Layers:
        return Layers(service, {name: cast("Adapter", layer) for name, layer in self.layers.items()}, self.clean)


class FakePrometheus:
    """Answers what the test says: series of each query, or a problem; a past of one series."""

    def __init__(self) -> None:
        self.values: dict[str, Sequence[tuple[Mapping[str, str], float]]] = {}
        self.problem: dict[str, str] = {}
        self.past: dict[str, list[tuple[datetime, float]]] = {}
        self.asked: Counter[str] = Counter()
        self.ranges: list[tuple[datetime, datetime, timedelta]] = []
        self.own = RulesAnswer()

    async def rules(self) -> RulesAnswer:
        return self.own

    async def instant(self, query: str, at: datetime | None = None) -> QueryAnswer:
        self.asked[query] += 1
        series = tuple(Series(labels, value, START) for labels, value in self.values.get(query, ()))
        return QueryAnswer(problem=self.problem[query]) if query in self.problem else QueryAnswer(series)

    async def range(self, query: str, start: datetime, end: datetime, step: timedelta) -> RangeAnswer:
        self.ranges.append((start, end, step))
        if query in self.problem:
            return RangeAnswer(problem=self.problem[query])
        points = tuple(point for point in self.past.get(query, ()) if start <= point[0] <= end)
        return RangeAnswer((RangeSeries({"service": "shop"}, points),) if points else ())


class HookedJournal(MemoryJournal):
    """Lets a test do something right before or after something is appended."""

    before: Callable[[Sequence[Any]], Awaitable[None]] | None = None
    after: Callable[[Sequence[Any]], None] | None = None

    async def append(
        self, *entries: Entry, handled: Sequence[int] = (), urgent: bool = False, heeding: int | None = None
    ) -> tuple[Record, ...]:
        written = [entry.fact for entry in entries]
        if self.before is not None:
            await self.before(written)
        found = await super().append(*entries, handled=handled, urgent=urgent, heeding=heeding)
        if self.after is not None:
            self.after(written)
        return found


class House:
    """All of it; `run` drives the incident until nothing is left to do."""

    def __init__(self, directory: Path, **changes: Any) -> None:
        self.clock = ManualClock()
        self.config = configured(directory, **changes)
        self.service = self.config.services[0]
        self.journal = HookedJournal(self.clock)
        self.calls: list[str] = []
        self.layers = {
            "page": FakeLayer("page", self.calls, Traits(releases=False, step=False, bracket=True)),
            "config": FakeLayer("config", self.calls),
            "code": FakeLayer("code", self.calls),
        }
        self.check_runner = FakeCheckRunner()
        self.held = ""
        self.objection: Objection | None = None
        self.rise: facts.AskedAgain | Objection | None = None
        self.conditions: tuple[CheckResult, ...] = ()
        self.read_model = ReadModel(cast("Journal", self.journal))
        self.factory = cast("LayerFactory", FakeFactory(self.layers))
        self.runner = self.new_runner()

    def new_runner(self, concurrent: int = 2) -> Runner:
        """A runner that knows nothing but the journal: what a new life begins with."""
        judgement = Judgement(self._held, self._confirm, self._condition, self._rise)
        return Runner(
            self.read_model, self.clock, self.factory, cast("CheckRunner", self.check_runner), judgement, concurrent
        )

    async def _held(self, _incident: Incident) -> str:
        return self.held

    async def _confirm(self, _incident: Incident) -> Objection | None:
        return self.objection

    async def _rise(self, incident: Incident, why: str, by_people: bool) -> facts.Risen | facts.AskedAgain | Objection:
        """As the test says; else the decision that was asked about acts."""
        return self.rise or facts.Risen(replace(incident.decision, action=Action.ROLL_BACK), why, by_people)

    async def _condition(self, _incident: Incident, _since: datetime | None) -> tuple[CheckResult, ...]:
        return self.conditions

    @staticmethod
    def config_layers() -> dict[str, dict[str, Any]]:
        """Its layers, as the configuration has them."""
        return {name: dict(layer) for name, layer in SERVICE["layers"].items()}

    @property
    def state(self) -> State:
        """What the layers run."""
        return State({name: layer.present for name, layer in self.layers.items() if layer.traits.releases})

    async def open(self, name: str = INCIDENT, **more: Any) -> None:
        """Journal the opening: the service goes back to v1."""
        target = State(dict.fromkeys(("config", "code"), V1))
        decision = Decision(trigger(), Action.ROLL_BACK, (), self.state, target, ("default",), name)
        opened = facts.Opened("shop", replace(decision, **more), dump_service(self.service), ("default",))
        await self.read_model.append(
            Entry(FLEET, facts.Opening("shop", name)),
            Entry(incident_stream(name), opened),
            Entry(service_stream("shop"), facts.Decided(decision)),
        )

    async def run(self, name: str = INCIDENT) -> Incident:
        """Drive it to its end, as fast as virtual time allows."""
        self.runner.start(name)
        await self.until(lambda: name not in self.runner.driving)
        return await self.incident(name)

    async def incident(self, name: str = INCIDENT) -> Incident:
        found = await self.read_model.incident(name)
        assert found is not None
        return found

    def kinds(self, name: str = INCIDENT) -> list[str]:
        """The kinds of its facts, in order."""
        return [type(one.fact).__name__ for one in self.journal.records if one.stream == incident_stream(name)]

    async def settle(self) -> None:
        """Let everything run that needs no time."""
        for _ in range(50):
            await asyncio.sleep(0)

    async def until(self, condition: Callable[[], bool], limit: timedelta = timedelta(hours=3)) -> None:
        """Move time on, half a second at once, until it holds."""
        end = self.clock.now() + limit
        await self.settle()
        while not condition():
            assert self.clock.now() < end, "it never came to that"
            self.clock.advance(timedelta(milliseconds=500))
            await self.settle()


def trigger(onset: datetime = START, **more: Any) -> Trigger:
    """Trouble of the shop."""
    given: dict[str, Any] = {
        "service": "shop",
        "rule": "sick",
        "priority": Priority.P1,
        "episode": f"sick/shop/{onset.isoformat()}",
        "onset": onset,
        "reached": onset,
    }
    return Trigger(**{**given, **more})
