"""What becomes of the incidents of a play: nobody answers a question, and a rollback is taken to help.

What was recorded after a play's rollback is of the release that the play has left. Until people change the service, or
its trouble has been over for long, nothing is concluded from it.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from rollbackd import facts
from rollbackd.config.models import Config
from rollbackd.decision.approvals import Approvals
from rollbackd.execution.layers import Layers, PlanRequest
from rollbackd.execution.preflight import Objection
from rollbackd.incident.ending import ending
from rollbackd.incident.life import Incident
from rollbackd.incident.spec import VerifySpec
from rollbackd.journal.contract import Entry
from rollbackd.model import Outcome, State, incident_stream
from rollbackd.rules.tracks import CALM
from rollbackd.state.read_model import ReadModel
from rollbackd.syntax.units import format_duration, whole_seconds
from rollbackd.system.clock import Clock

SUPPOSED = "taken as recovered: nobody knows what would have been measured"


@dataclass
class RolledBack:
    """A service that the play has rolled back, while the recording goes on with what was left."""

    incident: str
    ends: datetime
    """When the verification is over."""
    trouble: datetime
    """When the recording had trouble last."""
    ended: bool = False


class PlayedIncidents:
    """Drives what the decision engine opens, one service at a time."""

    def __init__(
        self, config: Config, read_model: ReadModel, clock: Clock, approvals: Approvals, layers: dict[str, Layers]
    ) -> None:
        self._config = config
        self._read_model = read_model
        self._clock = clock
        self._approvals = approvals
        self._layers = layers
        self._calm: dict[str, datetime] = {}
        """Since when the trouble of a question is over, by incident."""
        self.left: dict[str, RolledBack] = {}

    def acts(self, service: str) -> bool:
        """Whether an incident of the service is open that acts."""
        found = self._read_model.of(service).open
        return found is not None and not found.waits

    def asks(self, service: str) -> bool:
        found = self._read_model.of(service).open
        return found is not None and found.waits

    async def roll_back(self, service: str) -> State:
        """Take every step of the open incident's plan at once; returns where that leads."""
        incident = await self._open(service)
        target = incident.decision.target
        assert target is not None
        way = PlanRequest(incident.present, target)
        for name in incident.plans:
            plan = await self._layers[service].plan(name, way)
            if plan.steps:
                break
        taken = [fact for step in plan.steps for fact in (facts.ApplyStarted(step.layer), facts.Applied(step.layer))]
        stream = incident_stream(incident.id)
        await self._read_model.append(
            *(Entry(stream, fact) for fact in (facts.Planned(plan, incident.present), *taken))
        )
        now, verify = self._clock.now(), self._verify(incident)
        self.left[service] = RolledBack(incident.id, now + verify.shortest, now)
        return (await self._open(service)).present

    async def end(self, service: str) -> None:
        """End the rollback, unless it has ended already."""
        left = self.left[service]
        if not left.ended:
            left.ended = True
            await self._close(await self._open(service), Outcome.RECOVERED, SUPPOSED)

    async def answer(self, service: str) -> None:
        """What time makes of the question: its trouble is over, or nobody answered."""
        incident = await self._open(service)
        question = incident.decision.question
        assert question is not None
        now, over = self._clock.now(), self._approvals.over(incident)
        if over:
            if now - self._calm.setdefault(incident.id, now) >= CALM:
                await self._close(incident, Outcome.PASSED, over)
                return
        else:
            self._calm.pop(incident.id, None)
        if now < question.expires:
            return
        length = format_duration(whole_seconds(question.expires - (incident.asked or incident.opened)))
        found = await self._approvals.rise(incident, f"nobody answered in {length}", by_people=False)
        if isinstance(found, facts.Risen):
            await self._read_model.rise(incident, found, fleet=self._read_model.fleet.n)
        elif isinstance(found, Objection):
            await self._close(incident, found.outcome, found.reason)

    async def _open(self, service: str) -> Incident:
        found = self._read_model.of(service).open
        assert found is not None
        incident = await self._read_model.incident(found.incident)
        assert incident is not None
        return incident

    async def _close(self, incident: Incident, outcome: Outcome, reason: str) -> None:
        parts = ending(incident, outcome, reason, self._verify(incident), self._clock.now())
        await self._read_model.append(*(Entry(stream, fact) for stream, fact in parts))

    def _verify(self, incident: Incident) -> VerifySpec:
        service = self._config.service(incident.service)
        assert service is not None
        return service.verified_by(incident.running)


def forgotten_after(config: Config) -> timedelta:
    """How long trouble must be over in the recording until the play goes on with what was recorded."""
    return config.limits.change_window
