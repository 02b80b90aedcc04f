"""Deadlines of announced changes: one that nobody confirmed in time is a trigger while it runs. All are facts."""

from collections.abc import Sequence

from rollbackd.config.models import Config, Service
from rollbackd.model import Action, Evidence, Trigger
from rollbackd.policy.changes import UNCONFIRMED, unconfirmed
from rollbackd.policy.ledger import Announcement
from rollbackd.state.read_model import ReadModel
from rollbackd.syntax.units import format_duration, whole_seconds
from rollbackd.system.clock import Clock


class ConfirmationDeadlines:
    """Knows which deadlines are over. One that passed before this process began only asks people: nobody watched."""

    def __init__(self, config: Config, read_model: ReadModel, clock: Clock) -> None:
        self._config = config
        self._read_model = read_model
        self._clock = clock
        self._awake = clock.now()
        """Since when this process watches."""

    def due(self, service: str) -> Sequence[Trigger]:
        """The trigger of a service whose present change should have been confirmed by now."""
        found = self._config.service(service)
        announced = unconfirmed(self._read_model.of(service), self._clock.now()) if found is not None else None
        return [] if found is None or announced is None else [self._trigger(found, announced)]

    def over(self, service: str, episode: str) -> str:
        """Why an episode of an unconfirmed change has ended; empty while it goes on."""
        goes_on = any(trigger.episode == episode for trigger in self.due(service))
        return "" if goes_on else "it was confirmed, or runs no more"

    def _trigger(self, service: Service, announced: Announcement) -> Trigger:
        deadline = announced.confirm_by
        assert deadline is not None
        waited = format_duration(whole_seconds(deadline - announced.at))
        missed = f"nobody confirmed it until {deadline:%H:%M:%S}, and rollbackd was down then"
        said = f": {announced.text}" if announced.text else ""
        source = f"{announced.kind or 'change'} announced by {announced.by}{said}"
        return Trigger(
            service=service.name,
            rule=UNCONFIRMED,
            priority=announced.priority or service.priority,
            episode=f"{UNCONFIRMED}/{service.name}/{announced.id}",
            onset=deadline,
            reached=self._clock.now(),
            evidence=(Evidence(source, f"not confirmed in {waited}", "", deadline),),
            without_change=Action.ROLL_BACK,  # the change itself is the trouble, however long ago it was made
            missed=missed if deadline < self._awake else "",
        )
