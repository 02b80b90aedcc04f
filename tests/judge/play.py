"""Plays one incident with the daemon, in virtual time, and says which of its rollbacks were right."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import floor
from pathlib import Path

from rollbackd import facts
from rollbackd.model import Decision, incident_service
from tests.judge.alerting import Alerting
from tests.judge.configurations import Configuration
from tests.judge.incident import MINUTE, Act, Deploy, Incident, Right
from tests.judge.series import PACE
from tests.judge.stage import JudgeStage, moment, seconds
from tests.unit.judgement import told

_WARM = 5 * MINUTE
"""How long the daemon runs before anything happens."""
_QUIET = 6 * MINUTE
"""So long after all that was right was done it is seen whether something wrong comes yet."""
_PATIENCE = 22 * MINUTE
"""So long after harm began a rollback may still come."""
_AFTER = 9 * MINUTE
_BAKED = 30 * MINUTE


@dataclass(frozen=True, slots=True)
class Rollback:
    """One that was done."""

    at: float
    service: str
    before: str
    after: str
    right: int | None
    """The number of the right one that it is; None: it is wrong."""
    delay: float = 0.0
    """Of a right one, in seconds since people are hurt."""
    outcome: str = ""


@dataclass(frozen=True, slots=True)
class Played:
    """What became of an incident with one who judges."""

    rollbacks: tuple[Rollback, ...] = ()
    missed: tuple[int, ...] = ()
    """Numbers of the right ones that did not come."""
    asked: bool = False
    """People were asked, or called."""
    reasons: tuple[str, ...] = ()
    """What was made of it, a line each."""


def trouble_of(incident: Incident) -> float:
    """When the first thing begins that is seen in samples; infinite for none."""
    begins = [one.begin for one in incident.effects if not one.daily and one.begin > -2 * 3600]
    daily = [one.begin for one in incident.effects if one.daily]
    return min([*begins, *daily, *(one.begin for one in incident.outages)], default=float("inf"))


@dataclass(frozen=True, slots=True)
class Course:
    """When an incident's parts are played."""

    start: float
    """When the daemon begins, and polls from then on: at full paces, to which no deployment keeps."""
    until: float
    past: tuple[Deploy, ...]
    """Deployments before that."""
    live: tuple[Deploy, ...]


def course(incident: Incident) -> Course:
    """A deployment long before any trouble is history when the daemon begins."""
    own = [one for one in incident.deploys if not one.after_rollback]
    trouble = trouble_of(incident)
    past = tuple(one for one in own if one.at < trouble - 12 * MINUTE and trouble < float("inf"))
    live = tuple(one for one in own if one not in past)
    begins = [*(one.at for one in live), *(one.at for one in incident.acts)]
    start = min([*begins, trouble if past or not begins else min(begins)]) - _WARM
    start = min(start, trouble - _WARM)
    ends = [one.end + _AFTER for one in incident.effects if one.end < float("inf") and not one.daily]
    ends += [one.end + _AFTER for one in incident.effects if one.daily]
    ends += [one.end + _AFTER for one in incident.outages]
    ends += [one.begin + _PATIENCE for one in incident.effects if one.end == float("inf")]
    ends += [at + 2 * _AFTER for at in begins]
    ends += [one.harm + _PATIENCE for one in incident.rights if not one.after_rollback]
    if any(one.after_rollback for one in incident.deploys):
        ends.append(max(one.harm for one in incident.rights) + 3 * _PATIENCE)
    return Course(floor(start / PACE) * PACE, max([incident.lasts, *ends]), past, live)


class Player:
    """Plays one incident."""

    def __init__(self, directory: Path, incident: Incident, seed: Sequence[int], configuration: Configuration) -> None:
        self._incident = incident
        self._course = course(incident)
        self._stage = JudgeStage(directory, incident, seed, self._course.until + 60, configuration.parts(incident))
        self._alerting = Alerting(self._stage, configuration.alerts) if configuration.alerts else None

    async def play(self) -> Played:
        """What the daemon made of it."""
        stage, now = self._stage, self._course.start
        await self._past()
        begun = len(stage.journal.records)
        await stage.clock.go(moment(now))
        await stage.up()
        if self._alerting is not None:
            self._alerting.begin()
        script: list[tuple[float, Deploy | Act]] = [(one.at, one) for one in self._course.live]
        script += [(one.at, one) for one in self._incident.acts]
        script.sort(key=lambda one: one[0])
        later = [one for one in self._incident.deploys if one.after_rollback]
        try:
            while now < self._course.until and not self._is_over(script, later, now):
                step = min([now + 30, *(one.at for _, one in script[:1])])
                await stage.clock.go(moment(step))
                now = step
                while script and script[0][0] <= now:
                    await self._happen(script.pop(0)[1])
                if later and self._stepped() is not None:
                    script += [
                        (self._stepped_at() + one.at, replace(one, at=self._stepped_at() + one.at)) for one in later
                    ]
                    later = []
                    script.sort(key=lambda one: one[0])
            return self._judged(begun)
        finally:
            if self._alerting is not None:
                await self._alerting.end()
            await stage.down()

    async def _past(self) -> None:
        """The releases before: two good ones a service, and those of today before the daemon begins."""
        incident, stage = self._incident, self._stage
        names = {
            (host.name, layer): layer[0] if layer != "code" else "v" for host in incident.hosts for layer in host.layers
        }
        moments = [(at, number) for number, at in enumerate(incident.past_deploys)]
        trouble = trouble_of(incident)
        ran: list[tuple[float, str, str, bool]] = []
        for at, number in moments:
            for host in incident.hosts:
                releases = ",".join(
                    f"{layer}={names[host.name, layer]}{number + 2 - len(moments)}" for layer in host.layers
                )
                ran.append((at, host.name, releases, True))
        ran += [
            (one.at, one.service, one.release, min(trouble, self._course.start) - one.at >= _BAKED)
            for one in self._course.past
        ]
        spreads = {(one.at, one.service): (one.stagger, one.first) for one in self._course.past}
        for at, service, releases, good in sorted(ran):
            await stage.clock.go(moment(at))
            stage.scene.deploying = spreads.get((at, service), (5.0, 0))
            await stage.ran(service, releases, good=good)
        stage.scene.deploying = (5.0, 0)
        stage.scene.open()

    async def _happen(self, what: Deploy | Act) -> None:
        stage = self._stage
        if isinstance(what, Deploy):
            stage.scene.deploying = (what.stagger, what.first)
            layer, _, release = what.release.partition("=")
            stage.world.run(what.service, layer, release)
            stage.scene.deploying = (5.0, 0)
        elif what.what == "silence":
            stage.world.silence(f'service="{what.service}"', "ann")
            if stage.core is not None:
                await stage.core.intake.ask()
        elif what.what == "unsilence":
            del stage.world.silences["ann"]
        elif what.what == "hold":
            await stage.daemon.operations.hold(what.service, "unix:ann", "looking at it", None)
        elif what.what == "daemon down":
            await stage.down()
        else:
            await stage.up()

    # -- what became of it ----------------------------------------------------------------------
    def _stepped(self) -> float | None:
        for record in self._stage.journal.records:
            if isinstance(record.fact, facts.Applied):
                return seconds(record.at)
        return None

    def _stepped_at(self) -> float:
        found = self._stepped()
        assert found is not None
        return found

    def _is_over(self, script: Sequence[object], later: Sequence[object], now: float) -> bool:
        """All that is right was done, ended long ago, and nothing is to come."""
        if script or later or not self._incident.rights or now < self._incident.lasts:
            return False
        made = self._rollbacks()
        if not {one.right for one in made} >= {n for n, one in enumerate(self._incident.rights) if one.required}:
            return False
        records = self._stage.journal.records
        closed = [seconds(one.at) for one in records if isinstance(one.fact, facts.Closed)]
        opened = sum(1 for one in records if isinstance(one.fact, facts.Opened))
        return bool(closed) and len(closed) == opened and now - max(closed) > _QUIET

    def _rollbacks(self) -> list[Rollback]:
        decisions: dict[str, Decision] = {}
        outcomes: dict[str, str] = {}
        begun: dict[str, float] = {}
        for record in self._stage.journal.records:
            fact = record.fact
            if isinstance(fact, (facts.Opened, facts.Risen)):
                decisions[record.stream] = fact.decision
            elif isinstance(fact, facts.ApplyStarted):
                begun.setdefault(record.stream, seconds(record.at))
            elif isinstance(fact, facts.Closed):
                outcomes[record.stream] = fact.outcome.value
        return [self._judge(at, stream, decisions[stream], outcomes.get(stream, "")) for stream, at in begun.items()]

    def _judge(self, at: float, stream: str, decision: Decision, outcome: str) -> Rollback:
        service = incident_service(stream)
        assert decision.present is not None
        assert decision.target is not None
        moved = decision.present.differing(decision.target)
        before = ",".join(f"{layer}={decision.present.releases[layer].id}" for layer in moved)
        after = ",".join(f"{layer}={decision.target.releases[layer].id}" for layer in moved)
        stepped = self._stepped()
        for number, right in enumerate(self._incident.rights):
            harm = right.harm + (stepped or 0.0) if right.after_rollback else right.harm
            if fits(right, service, before, after) and harm <= at <= right.until:
                return Rollback(at, service, before, after, number, at - harm, outcome)
        return Rollback(at, service, before, after, None, 0.0, outcome)

    def _judged(self, begun: int) -> Played:
        made = self._rollbacks()
        done = {one.right for one in made}
        missed = tuple(n for n, one in enumerate(self._incident.rights) if one.required and n not in done)
        lines = told.told(self._stage, begun)
        asked = any(one.what in {"asks", "escalates", "asks again"} for one in lines)
        said = tuple(f"{seconds(one.at):.0f}s {str(one)[6:]}" for one in lines)
        return Played(tuple(made), missed, asked, said)


def fits(right: Right, service: str, before: str, after: str) -> bool:
    """Whether a rollback takes away what must go, to where it may go."""
    gone, come = before.split(","), after.split(",")
    if service != right.service or right.release not in gone:
        return False
    there = come[gone.index(right.release)].partition("=")[2]
    return not right.to or there in right.to
