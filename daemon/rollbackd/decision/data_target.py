"""Which data a rollback goes to. Its target's data is what runs now, but where a plan names a layer of data: then it is
the copy that a person named, or the one that brings back the data of the wanted time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from rollbackd.execution.layers import Layers, LookFailed
from rollbackd.incident.spec import PlanSpec
from rollbackd.model import NO_RELEASE, DataGoal, Release, Request, State, Trigger, Verdict
from rollbackd.policy.data import data_goal, put_down_to, without_data
from rollbackd.policy.guards import CHANGE, Situation
from rollbackd.policy.target import Candidate


@dataclass(frozen=True, slots=True)
class DataTarget:
    """What is wanted of the data of one service, for one look at it."""

    layers: Layers
    trigger: Trigger
    present: State

    def plain(self, found: Sequence[Candidate]) -> list[Candidate]:
        """Candidates with the data as it is now, without those that run by now."""
        if not (data := self.layers.data):
            return list(found)
        kept = [(one, without_data(one.state, self.present, data)) for one in found]
        return [
            replace(one, state=state)
            for one, state in kept
            if state.key != self.present.key or one.state == self.present
        ]

    def by_key(self, states: Sequence[State]) -> dict[str, State]:
        """States by their keys, and by those that they have with the data as it is now, which each has as its value."""
        plain = [without_data(state, self.present, self.layers.data) for state in states]
        return dict(zip((state.key for state in (*states, *plain)), (*plain, *plain), strict=True))

    def goal(self, given: Situation, chosen: Candidate | None, named: DataGoal | None) -> DataGoal | None:
        """The time whose data is wanted; None where the service has no layer of data.

        :param named: the time that a person named.
        """
        if named is not None or not self.layers.data:
            return named
        known = given.ledger.episodes.get(self.trigger.episode)
        earlier = given.earlier[0] if given.earlier is not None else None
        if known is not None and CHANGE.name in known.found:  # it was bad before that change, and stays so
            earlier = Verdict.BAD
        change = put_down_to(self.trigger, given.ledger, given.limits, earlier)
        copies = [chosen.state.releases[layer].created for layer in self._named(chosen)] if chosen is not None else []
        return data_goal(self.trigger, change, (copies[0] or given.now) if copies else None)

    def _named(self, chosen: Candidate) -> tuple[str, ...]:
        """The layers of data for which a person named a copy: else a target has the data that there is now."""
        differing = chosen.state.differing(self.present)
        return tuple(layer for layer in self.layers.data if layer in differing)

    def alone(self, plans: Sequence[PlanSpec]) -> Candidate | None:
        """What runs now, as the target of plans that move nothing but data; None where they move more, or a person
        named where to go.
        """
        if not self.layers.data:
            return None
        steps = [step for plan in plans for step in plan.steps]
        moving = [step for step in steps if not isinstance(step, str) or self.layers.traits[step].releases]
        named = self.trigger.request is not None and bool(self.trigger.request.to)
        only = bool(moving) and all(isinstance(step, str) and step in self.layers.data for step in moving)
        return Candidate(self.present, 0, None) if only and not named else None

    async def of(self, chosen: Candidate, plans: Sequence[PlanSpec], goal: DataGoal | None) -> Candidate:
        """The target with its data. A drill moves none.

        A layer that has no copy for that time gets none: planning its step says why.

        :raises LookFailed: a person named a copy, and no plan would go to it.
        """
        if goal is None or self.trigger.drill:
            return chosen
        steps = [step for plan in plans for step in plan.steps]
        releases = dict(chosen.state.releases)
        named = self._named(chosen)
        if left := next((layer for layer in named if layer not in steps), ""):
            text = "data goes back only where a plan names it; give --plan, one that has a step for it"
            raise LookFailed(f"{left}: {text}")
        for layer in (layer for layer in self.layers.data if layer in steps and layer not in named):
            try:
                releases[layer] = await self.layers.as_of(layer, goal.time)
            except LookFailed:
                releases[layer] = NO_RELEASE
        return replace(chosen, state=State(releases))


async def with_named_time(
    trigger: Trigger, layers: Layers, there: Mapping[str, tuple[Release, ...]]
) -> tuple[Trigger, DataGoal | None, Mapping[str, tuple[Release, ...]]]:
    """The trigger with a copy in place of the time that a person named (`db=2026-11-29T14:03:00+01:00`), that time, and
    what can be gone to, with the copy; None where nobody named one. :raises LookFailed: there is no copy for it.
    """
    request = trigger.request or Request(trigger.service, "")
    layer, _, text = request.to.partition("=")
    time = _time(layer, text) if layer in layers.data else None
    if time is None:
        return trigger, None, there
    found = await layers.as_of(layer, time)  # which need not be among those that are told: any time may be a copy
    there = {**there, layer: (*there.get(layer, ()), found)}
    return replace(trigger, request=replace(request, to=f"{layer}={found.id}")), DataGoal(time), there


def _time(layer: str, text: str) -> datetime | None:
    """The time that a person wrote; None: it is none. :raises LookFailed: it does not say in which zone."""
    try:
        time = datetime.fromisoformat(text) if "T" in text else None
    except ValueError:
        return None
    if time is not None and time.tzinfo is None:
        raise LookFailed(f"{layer}: {text} is another time in each zone; write the zone as well, such as {text}Z")
    return time
