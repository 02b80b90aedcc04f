"""How often the journal is read on the way of one alert to its end: what is known already is not asked again."""

import asyncio
from collections import Counter
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from rollbackd import facts
from rollbackd.adapter import NotifierSettings
from rollbackd.config.models import Notify, Receiver
from rollbackd.model import Outcome
from rollbackd.notify.dispatcher import NotificationDispatcher
from rollbackd.signals.events import Posted
from tests.fakes.notifications import Recorder
from tests.unit.judgement.clock import idle
from tests.unit.judgement.stage import Stage

MINUTE = timedelta(minutes=1)
FACTS = ("read", "since", "latest")
"""The questions about facts."""


def counted(stage: Stage) -> Counter[str]:
    """Counts what is asked of the journal from now on."""
    asked = Counter[str]()

    def counting(name: str) -> Any:
        ask = getattr(stage.journal, name)

        async def one(*given: Any, **more: Any) -> Any:
            asked[name] += 1
            return await ask(*given, **more)

        return one

    for name in (*FACTS, "unhandled", "arrived", "cursor", "waiting", "pages"):
        setattr(stage.journal, name, counting(name))
    return asked


async def test_one_alert_from_its_arrival_to_recovered_reads_the_journal_hardly_ever(tmp_path: Path) -> None:
    rules = [{"name": "broken", "when": {"event": "broken"}}]
    stage = Stage(tmp_path, {"shop": ["code", "config"]}, {"rules": rules}, 0)
    rooms = {name: Recorder() for name in ("room", "oncall", "desk")}
    rooms["oncall"].keeps_open = True
    receivers = tuple(Receiver(name=name, kind="x", settings=NotifierSettings()) for name in rooms)
    config = stage.config.model_copy(update={"notify": Notify(receivers=receivers)})
    dispatcher = NotificationDispatcher(stage.journal, config, rooms, stage.clock)
    for release, good, length in (("code=v1,config=c1", True, 60 * MINUTE), ("v2", False, 5 * MINUTE)):
        await stage.ran("shop", release, good=good)
        await stage.clock.go(stage.clock.true + length)
    await stage.up()
    beside = [asyncio.create_task(work) for work in (dispatcher.run(), stage.daemon.incident_clocks.run())]
    await idle()
    await stage.clock.go(stage.clock.true + MINUTE)
    asked = counted(stage)
    posting = asyncio.create_task(
        stage.daemon.operations.report([Posted(event="broken", service="shop", key="1")], "ci")
    )
    for _ in range(100):
        await stage.clock.go(stage.clock.true + timedelta(seconds=2))
        if any(isinstance(record.fact, facts.Closed) for record in stage.journal.records):
            break
    await stage.clock.go(stage.clock.true + MINUTE / 2)
    await posting
    ends = [record.fact.outcome for record in stage.journal.records if isinstance(record.fact, facts.Closed)]
    for task in beside:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    await stage.down()
    assert ends == [Outcome.RECOVERED]
    assert [room.events for room in rooms.values()] == [["opened", "started", "recovered"]] * 3
    assert sum(asked.values()) <= 15
    assert [name for name in FACTS if asked[name]] == []
