"""A shop with a good release v1 behind it, for tests of single parts: the stage of the situations, step by step."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from rollbackd.incident.life import Incident
from rollbackd.model import Priority, Request, Trigger
from tests.unit.judgement import script, told
from tests.unit.judgement.clock import idle
from tests.unit.judgement.script import SHOP
from tests.unit.judgement.stage import Stage
from tests.unit.judgement.told import Told

MONDAY = datetime.fromisoformat("2026-03-02T09:58:00+00:00")
PAGE = {"name": "page", "when": {"alert": 'alertname="Sick"'}}


class Shop(Stage):
    """`v2` was deployed at ten."""

    def __init__(self, directory: Path, *rules: Mapping[str, Any], **settings: Any) -> None:
        given: dict[str, Any] = {"rules": list(rules) or [PAGE], **settings}
        super().__init__(directory, {SHOP: ("code",), "bank": ("code",)}, given, 0)

    async def open(self) -> None:
        """From the day before until v2 runs and was seen."""
        await self.let("Sun 10:00 all: ran v1, good")
        await self.clock.go(MONDAY)
        await self.up()
        await self.let("10:00 all: deploys v2", "10:01 nothing more happens")

    async def let(self, *lines: str) -> None:
        """Let something happen, as the situations write it."""
        for line in script.parse("\n".join(lines)):
            await self.clock.go(line.at)
            await script.perform(self, line)

    async def wait(self, **length: float) -> None:
        await self.clock.go(self.clock.true + timedelta(**length))
        await idle()

    @property
    def told(self) -> list[Told]:
        """What was made of it so far."""
        return list(told.told(self, 0))

    @property
    def words(self) -> list[str]:
        return [one.what for one in self.told]

    async def incident(self, name: str = "shop-1") -> Incident:
        found = await self.daemon.read_model.incident(name)
        assert found is not None
        return found

    def trigger(self, rule: str = "page", service: str = SHOP, **more: Any) -> Trigger:
        """Trouble that begins now."""
        now = self.clock.now()
        given = {"episode": f"{rule}/{service}/{now.isoformat()}", "onset": now, "reached": now}
        return Trigger(service=service, rule=rule, priority=Priority.P1, **{**given, **more})

    def order(self, by: str = "unix:ann") -> Trigger:
        """A person's."""
        return self.trigger("manual", request=Request(SHOP, by))
