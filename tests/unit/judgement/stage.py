"""The daemon as it is built for production, on a journal in memory and the world of a situation, in virtual time."""

import asyncio
import json
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

from rollbackd import core, facts
from rollbackd.config.load import load
from rollbackd.config.models import Config
from rollbackd.core import Core
from rollbackd.journal import Entry, Journal
from rollbackd.model import FLEET, Outcome, Release, State, service_stream
from rollbackd.system.rounds import Rounds
from tests.unit.house import HookedJournal
from tests.unit.judgement.clock import LeapingClock, idle
from tests.unit.judgement.world import World, WorldCheckRunner

BEGIN = datetime.fromisoformat("2026-03-01T00:00:00+00:00")
"""A Sunday; what happens without a day's name happens on the Monday after it."""
_LAYER = {"adapter": "command", "current": ["current"], "releases": ["releases"], "apply": ["apply"]}
_VERIFY = {"every": "30s", "passes": 2, "deadline": "5m", "watch": "15m", "checks": ["health"]}


def configured(directory: Path, layers: Mapping[str, Sequence[str]], given: Mapping[str, Any], crowd: int) -> Config:
    """A configuration of these services; `given` are whole parts of the file, `shop` and the like parts of a service."""
    parts = {key: value for key, value in given.items() if key not in layers}
    services = [
        {
            "name": name,
            "match": {"service": name},
            "priority": "P2",
            "layers": dict.fromkeys(own, _LAYER),
            "bake": "30m",
            "checks": {"health": {"command": ["true"]}},
            "verify": _VERIFY,
            **given.get(name, {}),
        }
        for name, own in layers.items()
    ]
    signals = directory / "signals"
    signals.mkdir(mode=0o770, exist_ok=True)
    document = {
        "prometheus": {"url": "http://127.0.0.1:9090", "poll_every": "30s"},
        "alertmanager": {"url": "http://127.0.0.1:9093"},
        **parts,
        "daemon": {
            "mode": "act",
            "open_on_loopback": True,
            "signals": str(signals),
            "scratch": str(directory),
            **parts.get("daemon", {}),
        },
        "services": services,
    }
    path = directory / "config.yaml"
    path.write_text(json.dumps(document))
    config = load(path).config
    if not crowd:
        return config
    one = config.services[0]
    others = (
        one.model_copy(update={"name": f"other-{n}", "match": ({"service": f"other-{n}"},)}) for n in range(crowd)
    )
    return config.model_copy(update={"services": (*config.services, *others)})


class Stage:
    """One world, one journal, and one life of the daemon after the other."""

    def __init__(
        self, directory: Path, layers: Mapping[str, Sequence[str]], given: Mapping[str, Any], crowd: int
    ) -> None:
        self._set(World(LeapingClock(BEGIN), layers), configured(directory, layers, given, crowd))

    def _set(self, world: World, config: Config) -> None:
        self.clock = world.clock
        self.world = world
        self.journal = HookedJournal(self.clock)
        self.config = config
        self.crowd = [service.name for service in config.services if service.name not in world.layers]
        """Services that exist only to be counted."""
        self.core: Core | None = None
        self.answers: list[tuple[int, datetime, str, str]] = []
        """What people were told who asked for what is not done: after which fact, when, the service, the sentence."""
        self._tasks: list[asyncio.Task[None]] = []

    # -- lives ----------------------------------------------------------------------------------
    async def up(self) -> None:
        """A life begins, as `app.py` has it."""
        self.journal.broken = False
        with patch.multiple(
            core,
            LayerFactory=lambda *_, **_given: self.world,
            Prometheus=lambda *_: self.world.prometheus,
            Alertmanager=lambda *_: self.world.alertmanager,
            CheckRunner=lambda _: WorldCheckRunner(self.world),
        ):
            made = self.core = await core.build(self.config, cast("Journal", self.journal), self.clock)
        await made.intake.recall()
        self._begin(self._resume(made))
        self._begin(made.decision_engine.run())
        if any(service.drill for service in self.config.services):
            self._begin(made.drills.run())
        self._begin(made.evidence_taker.run())
        self._begin(made.measurement_taker.run())
        self._begin(made.jumps.run(_jumped))
        self._begin(made.intake.run(self.config.daemon.look_every))
        if made.polls is not None:
            self._begin(made.polls.run())
        looks = (*made.state_watcher.turns(), *made.smoke.turns())
        turns = (*(replace(turn, first=timedelta()) for turn in looks), *made.bake_timer.turns())
        self._begin(Rounds(turns, self.clock, lambda _, work: asyncio.ensure_future(work())).run())
        await idle()

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work))

    @staticmethod
    async def _resume(made: Core) -> None:
        for name in made.read_model.open_incidents():
            made.runner.start(name)
        await made.intake.recover()

    async def down(self) -> None:
        """It ends, or is ended."""
        made, self.core = self.core, None
        if made is None:
            return
        stopping = asyncio.create_task(made.runner.stop())
        while not stopping.done():
            await self.clock.go(self.clock.true + timedelta(seconds=1))
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task
        self._tasks.clear()
        await made.close()

    @property
    def daemon(self) -> Core:
        assert self.core is not None, "the daemon is down then"
        return self.core

    # -- what was before ------------------------------------------------------------------------
    async def ran(self, service: str, release: str, *, good: bool, incident: str = "") -> None:
        """A release of `code`, or LAYER=RELEASE for more layers, ran from now on; before the first life."""
        releases = releases_of(release)
        known = {name: layer.present.id for name, layer in self.world.layers[service].items() if layer.present.id}
        for layer, name in releases.items():
            self.world.run(service, layer, name)
        state = State({layer: Release(name) for layer, name in {**known, **releases}.items()})
        now = self.clock.now()
        await self.write(service_stream(service), facts.Changed(state, now, now, incident))
        if good:
            await self.write(service_stream(service), facts.MarkedGood(state, "ran 30m without a trigger"))

    async def rolled_back(self, service: str, number: int, outcome: Outcome) -> None:
        """An incident that was opened by itself ended now."""
        name = f"{service}-{number}"
        await self.write(FLEET, facts.Opening(service, name))
        watch = self.clock.now() + timedelta(minutes=15) if outcome is Outcome.RECOVERED else None
        await self.write(FLEET, facts.Ended(service, name, outcome, acted=True, watch_until=watch))

    async def write(self, stream: str, fact: object) -> None:
        await self.journal.append(Entry(stream, fact))


async def _jumped(_length: timedelta) -> None:
    return


def releases_of(text: str) -> dict[str, str]:
    """`v2` is a release of the layer `code`, `code=v2,config=c2` are releases of two."""
    parts = [part.partition("=") for part in text.split(",")]
    return {layer if equals else "code": release if equals else layer for layer, equals, release in parts}
