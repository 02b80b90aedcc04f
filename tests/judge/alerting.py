"""Alerting rules that Prometheus evaluates, and Alertmanager that passes on what fires, each with its lag."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta

from rollbackd.model import Alert
from tests.judge.stage import AlertingFile, JudgeStage, moment, seconds

_EVERY = timedelta(seconds=15)
_GROUP_WAIT = 30.0
_GROUP_INTERVAL = 300.0


@dataclass
class _Group:
    """The alerts of one service, told of together."""

    next: float
    firing: dict[str, Alert] = field(default_factory=dict)
    told: dict[str, bool] = field(default_factory=dict)
    """What was said of each: that it fires, or that it is over."""
    over: dict[str, Alert] = field(default_factory=dict)


class Alerting:
    """Evaluates, waits, groups and tells, as long as the incident is played."""

    def __init__(self, stage: JudgeStage, rules: Sequence[AlertingFile]) -> None:
        self._stage, self._rules = stage, rules
        self._since: dict[tuple[str, str], float] = {}
        self._fingerprints: dict[tuple[str, str], str] = {}
        self._groups: dict[str, _Group] = {}
        self._task: asyncio.Task[None] | None = None
        stage.scene.metrics.alerting = rules

    def begin(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            now = seconds(self._stage.clock.true)
            if not any(one.begin <= now < one.end for one in self._stage.scene.incident.outages):
                for rule in self._rules:
                    self._evaluate(rule, now)
            await self._tell(now)
            await self._stage.clock.sleep(_EVERY)

    def _evaluate(self, rule: AlertingFile, now: float) -> None:
        found, column = self._stage.scene.metrics.at(rule.query, now)
        met = {one["service"] for one, there in zip(found.labels, found.there[:, column], strict=True) if there}
        for service in self._stage.world.layers:
            key = (rule.name, service)
            if service not in met:
                self._since.pop(key, None)
                if fingerprint := self._fingerprints.pop(key, ""):
                    group = self._groups[service]
                    group.over[fingerprint] = self._stage.world.resolve(fingerprint)
                    group.firing.pop(fingerprint)
                continue
            since = self._since.setdefault(key, now)
            if now - since >= rule.waits and key not in self._fingerprints:
                labels = {"service": service, **rule.labels}
                alert = self._stage.world.fire(rule.name, labels, moment(now), None)
                self._fingerprints[key] = alert.fingerprint
                group = self._groups.setdefault(service, _Group(now + _GROUP_WAIT))
                if not group.told:
                    group.next = now + _GROUP_WAIT
                group.firing[alert.fingerprint] = alert
                group.over.pop(alert.fingerprint, None)

    async def _tell(self, now: float) -> None:
        for group in self._groups.values():
            if now < group.next:
                continue
            news = [one for key, one in group.firing.items() if not group.told.get(key)]
            ends = [one for key, one in group.over.items() if group.told.get(key)]
            if (news or ends) and self._stage.core is not None:
                await self._stage.core.operations.receive([*group.firing.values(), *ends], "token:alertmanager")
            group.told = dict.fromkeys(group.firing, True)
            group.over.clear()
            group.next = now + _GROUP_INTERVAL if group.firing else now
