"""What people say of an incident: yes, no, stop, seen."""

from dataclasses import dataclass, replace
from datetime import datetime

from rollbackd import facts
from rollbackd.decision.refusals import InvalidOrder, OrderRefused
from rollbackd.incident.approval import may_answer, missing, person
from rollbackd.incident.life import Incident
from rollbackd.incident.next import leaving
from rollbackd.incident.outcomes import BAD_ENDS
from rollbackd.journal import Entry
from rollbackd.model import FLEET, ApprovalRequest, incident_stream, service_stream
from rollbackd.operations.base import OperationsBase


@dataclass(frozen=True, slots=True)
class IncidentAnswer:
    """An answer that was taken."""

    incident: str
    missing: str = ""
    """What is still missing, such as `one of tech`; empty when nothing is, or it was a no."""


class IncidentAnswers(OperationsBase):
    """Each is a fact with its actor; the runner is poked and goes on by it."""

    async def approve(
        self, incident: str, actor: str, reason: str = "", seen: datetime | None = None, *, by_file: bool = False
    ) -> IncidentAnswer:
        """A yes to what an incident, or a service's open one, asks. Said twice by one person it is one.

        `seen`: when it was given, where that can be earlier than now; what is asked since then is another question.
        `by_file`: the actor is a file's owner, who need not be who put it there.

        :raises UnknownName: OrderRefused: it does not ask, its time is over, or this actor is not asked.
        """
        given = seen or self._parts.clock.now()

        def word(found: Incident) -> facts.Approved | None:
            asked = found.decision.question
            said = asked is not None and person(asked, actor) in {person(asked, yes.actor) for yes in found.approvals}
            if said and found.risen and found.outcome is None:
                return None
            question = self._asks(found, given)
            if problem := may_answer(question, actor):
                raise OrderRefused(f"{found.id}: {problem}")
            if by_file and question.counts_persons:
                says = f"say it yourself: `rollbackd approve {found.id}`"
                raise OrderRefused(
                    f"{found.id} counts persons, and a file's owner need not be who put it there; {says}"
                )
            return None if said else facts.Approved(reason)

        found = await self._say(self._by_service(incident), actor, word)
        question = found.decision.question
        asks = question if found.waits else None
        return IncidentAnswer(
            found.id, missing(asks, (yes.actor for yes in found.approvals)) if asks is not None else ""
        )

    async def deny(self, incident: str, actor: str, reason: str = "", seen: datetime | None = None) -> IncidentAnswer:
        """A no: the incident ends, and the same trouble is not asked about again. Anybody may say it who may abort.

        :raises UnknownName: OrderRefused: as `approve` does.
        """
        given = seen or self._parts.clock.now()

        def word(found: Incident) -> facts.Denied | None:
            if found.denied == actor:
                return None
            self._asks(found, given)
            return facts.Denied(reason)

        return IncidentAnswer((await self._say(self._by_service(incident), actor, word)).id)

    def _asks(self, found: Incident, given: datetime) -> ApprovalRequest:
        """What stands to be answered. :raises OrderRefused: nothing does, with what is instead."""
        question = found.decision.question
        if found.outcome is not None:
            raise OrderRefused(f"{found.id} asks nothing any more, it has ended: {found.outcome.value}")
        if not found.waits or question is None:
            risen = f" ({found.risen})" if found.risen else ""
            raise OrderRefused(f"{found.id} does not ask, it acts{risen}; `rollbackd abort {found.id}` stops it")
        if found.denied:
            raise OrderRefused(f"{found.id} was denied by {found.denied}")
        if found.aborted:
            raise OrderRefused(f"{found.id} was aborted by {found.aborted}")
        if self._parts.clock.now() >= question.expires:
            when = f"{question.expires:%H:%M:%S}"
            order = f"`rollbackd rollback {found.service}` goes back all the same"
            raise OrderRefused(f"{found.id}: nobody answered until {when}, the question is over; {order}")
        if found.asked is not None and found.asked > given:
            raise OrderRefused(
                f"{found.id} asks something else since {found.asked:%H:%M:%S}, after this answer was given"
            )
        return question

    async def abort(self, incident: str, actor: str, reason: str = "") -> None:
        """Stop it at the next boundary. :raises UnknownName: OrderRefused: when it is closed."""
        found = await self._incident(self._by_service(incident))
        if found.outcome is not None:
            raise OrderRefused(f"{found.id} has ended: {found.outcome.value}")
        await self._read_model.append(Entry(incident_stream(found.id), facts.AbortRequested(reason), actor))
        self._parts.runner.poke(found.id)

    async def escalate(self, incident: str, actor: str, reason: str) -> str:
        """A person calls the next people, or all there are once more; the incident's id.

        :raises UnknownName: InvalidOrder: no reason is given. OrderRefused: it has ended well.
        """
        if not reason.strip():
            raise InvalidOrder("say why: those who are called read it")

        def word(found: Incident) -> facts.Escalated:
            if found.outcome is not None and found.outcome not in BAD_ENDS:
                raise OrderRefused(f"{found.id} has ended: {found.outcome.value}; nobody need come")
            last = max(0, len(self._config.notify.escalation) - 1)
            return facts.Escalated(min(found.tier + 1, last), f"{actor} escalated it: {reason}")

        return (await self._say(self._by_service(incident), actor, word)).id

    async def acknowledge(self, incident: str, actor: str, leave: bool = False) -> tuple[str, ...]:
        """Somebody has seen it: an incident, what was refused for a service, or `*`, notices of rollbackd's own.

        `leave`: every bracket that is still entered is left. The brackets that are left now. :raises UnknownName:
        """
        if incident == "*":
            await self._read_model.append(Entry(FLEET, facts.NoticeAcknowledged(), actor))
            return ()
        if self._config.service(incident) is not None:
            await self._read_model.append(Entry(service_stream(incident), facts.NoticeAcknowledged(), actor))
            rollbacks = self._read_model.of(incident).rollbacks
            if not rollbacks:
                return ()
            incident = rollbacks[-1].incident
        found = await self._incident(incident)
        await self._read_model.append(Entry(incident_stream(found.id), facts.Acknowledged(leave), actor))
        self._parts.runner.poke(found.id)
        return leaving(replace(found, acknowledged=actor, leave_all=leave or found.leave_all))
