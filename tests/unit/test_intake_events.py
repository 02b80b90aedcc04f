"""Events from the post to the judge: on disk first, heard once, and judged once whatever ends in between."""

import asyncio
from collections.abc import Coroutine, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from rollbackd import facts
from rollbackd.journal import Entry, JournalUnavailable, Receipt, Received
from rollbackd.judge.engine import Judge
from rollbackd.judge.intake import Intake, Taken
from rollbackd.judge.live import Live
from rollbackd.model import Action, Decision, Event, Outcome, Trigger, service_stream
from rollbackd.preparation import Objection
from rollbackd.sources.events import EventError, Posted, event_to_json
from tests.unit.house import House

MINUTE = timedelta(minutes=1)
E2E = {"name": "e2e", "when": {"event": "e2e_failed", "times": 2, "within": "30m"}}


class Bench:
    """Notes what it is to consider, with the inbox rows that the decision will have handled."""

    def __init__(self) -> None:
        self.behind = False
        self.considered: list[tuple[Trigger, tuple[int, ...]]] = []
        self.tasks: list[asyncio.Task[None]] = []

    def consider_soon(self, trigger: Trigger, handled: Sequence[int] = ()) -> None:
        self.considered.append((trigger, tuple(handled)))

    def run_soon(self, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(asyncio.create_task(work))


class Desk(House):
    """The house with one rule of events, and an intake that may begin anew on the same journal."""

    def __init__(self, directory: Path, *rules: Any) -> None:
        super().__init__(directory, rules=rules or [E2E])
        self.start()

    def start(self) -> None:
        """A new life: what is in memory is gone."""
        self.live = Live(self.config, self.book.undone)
        self.judge = Bench()
        self.intake = Intake(self.book, self.live, cast("Judge", self.judge), self.clock, None)

    async def restart(self) -> None:
        self.start()
        await self.intake.recall()
        await self.intake.recover()
        await self.judged()

    async def report(self, key: str = "", **more: Any) -> Taken:
        given = {"event": "e2e_failed", "service": "shop", "key": key} | more
        taken = await self.intake.report([Posted.model_validate(given)])
        await self.judged()
        return taken

    async def judged(self) -> None:
        await self.settle()
        assert all(task.done() for task in self.judge.tasks)

    async def waiting(self) -> list[str]:
        return [row.key.rpartition("/")[2] for row in await self.journal.unhandled()]


@pytest.fixture
async def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


async def test_the_event_that_makes_enough_of_them_is_considered_with_its_row(desk: Desk) -> None:
    assert await desk.report("1") == Taken(1, 0, ())
    assert (desk.judge.considered, await desk.waiting()) == ([], [])
    desk.clock.advance(5 * MINUTE)
    assert await desk.report("2") == Taken(1, 0, ())
    ((trigger, rows),) = desk.judge.considered
    (row,) = await desk.journal.unhandled()
    assert rows == (row.id,)
    assert (trigger.rule, trigger.onset) == ("e2e", desk.clock.now() - 5 * MINUTE)


async def test_the_same_key_again_is_a_duplicate_and_counts_once(desk: Desk) -> None:
    await desk.report("1")
    assert await desk.report("1", text="again") == Taken(0, 1, ())
    assert desk.judge.considered == []
    both = [Posted(event="e2e_failed", service="shop", key=key) for key in ("2", "2", "1")]
    assert await desk.intake.report(both) == Taken(1, 2, ())


async def test_what_nobody_asks_for_is_not_kept_and_said_why(desk: Desk) -> None:
    assert await desk.report("1", service="basket") == Taken(
        0, 0, ("e2e_failed: there is no service basket in the configuration",)
    )
    assert await desk.waiting() == []


async def test_what_cannot_be_is_refused_whole(desk: Desk) -> None:
    good = Posted(event="e2e_failed", service="shop", key="1")
    bad = Posted(event="e2e_failed", service="shop", at=desk.clock.now() + 2 * MINUTE)
    with pytest.raises(EventError, match="in the future"):
        await desk.intake.report([good, bad])
    assert await desk.report("1") == Taken(1, 0, ())


async def test_what_could_not_be_stored_is_not_heard(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(_items: Sequence[Received]) -> Receipt:
        raise JournalUnavailable("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(desk.journal, "receive", full)
        with pytest.raises(JournalUnavailable):
            await desk.report("1")
    await desk.report("2")
    assert desk.judge.considered == []
    assert await desk.report("1") == Taken(1, 0, ())
    assert len(desk.judge.considered) == 1


async def test_a_start_hears_again_what_may_still_count(desk: Desk) -> None:
    await desk.report("1")
    await desk.restart()
    assert desk.judge.considered == []
    await desk.report("2")
    assert len(desk.judge.considered) == 1


async def test_what_was_stored_and_not_judged_is_judged_after_a_start(desk: Desk) -> None:
    await desk.report("1")
    await desk.report("2")
    ((before, _),) = desk.judge.considered
    await desk.restart()
    ((after, rows),) = desk.judge.considered
    (row,) = await desk.journal.unhandled()
    assert (after.episode, rows) == (before.episode, (row.id,))
    await desk.journal.handled(rows)
    await desk.restart()
    assert desk.judge.considered == []


async def test_what_came_before_a_long_absence_is_judged_as_of_then(desk: Desk) -> None:
    """It was answered 200: it is judged, and how late that is is for the decision to say."""
    await desk.report("1")
    await desk.report("2")
    ((before, _),) = desk.judge.considered
    desk.clock.advance(60 * MINUTE)
    await desk.restart()
    ((after, _),) = desk.judge.considered
    assert (after.episode, after.onset) == (before.episode, before.onset)


async def test_what_was_resolved_before_a_start_leads_to_nothing(desk: Desk) -> None:
    await desk.report("1")
    await desk.report("2")
    desk.clock.advance(MINUTE)
    await desk.report("2", state="resolved")
    await desk.restart()
    assert (desk.judge.considered, await desk.waiting()) == ([], [])


async def test_what_nobody_asks_for_any_more_is_put_aside_by_one_write_at_a_start(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = desk.clock.now()
    reported = [Event("of_a_rule_that_is_gone", f"{n}", now, service="shop") for n in range(5)]
    await desk.journal.receive([Received(event.key, "event", event_to_json(event)) for event in reported])
    handled, writes = desk.journal.handled, []

    async def counted(ids: Sequence[int]) -> None:
        writes.append(len(ids))
        await handled(ids)

    monkeypatch.setattr(desk.journal, "handled", counted)
    await desk.restart()
    assert (writes, await desk.waiting()) == ([5], [])


async def test_one_more_of_an_episode_that_was_decided_is_no_news(desk: Desk) -> None:
    await desk.report("1")
    await desk.report("2")
    ((met, _),) = desk.judge.considered
    decided = facts.Decided(Decision(met, Action.OBSERVE, (), None, None))
    await desk.book.append(Entry(service_stream("shop"), decided))
    await desk.journal.handled([row.id for row in await desk.journal.unhandled()])
    await desk.report("3")
    assert (len(desk.judge.considered), await desk.waiting()) == (1, [])


async def test_what_fails_after_a_rollback_is_news_also_for_the_next_life(desk: Desk) -> None:
    await desk.report("1")
    await desk.report("2")
    ((met, _),) = desk.judge.considered
    await desk.open(trigger=met)
    await desk.journal.handled([row.id for row in await desk.journal.unhandled()])
    desk.clock.advance(MINUTE)
    assert (await desk.run()).outcome is Outcome.RECOVERED
    desk.clock.advance(MINUTE)
    await desk.report("3")
    assert len(desk.judge.considered) == 1
    await desk.report("4")
    again = desk.judge.considered[-1][0]
    assert again.onset == desk.clock.now()
    await desk.restart()
    assert [trigger.episode for trigger, _ in desk.judge.considered] == [again.episode]


async def test_an_incident_that_touched_nothing_leaves_what_was_reported_as_it_is(desk: Desk) -> None:
    await desk.report("1")
    desk.objection = Objection(Outcome.DECLINED, "not now")
    await desk.open()
    desk.clock.advance(MINUTE)
    assert (await desk.run()).outcome is Outcome.DECLINED
    desk.clock.advance(MINUTE)
    await desk.report("2")
    assert len(desk.judge.considered) == 1


async def test_what_the_configuration_no_longer_asks_for_leads_to_nothing(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    await desk.report("1")
    await desk.report("2")
    desk.config = desk.config.model_copy(update={"rules": ()})
    await desk.restart()
    assert (desk.judge.considered, await desk.waiting()) == ([], [])


async def test_an_event_meets_a_composed_rule(tmp_path: Path) -> None:
    either = {"name": "either", "when": {"any": [{"all": [E2E["when"], {"alert": "a=b"}]}, {"event": "lost"}]}}
    desk = Desk(tmp_path, either)
    await desk.report("1")
    await desk.report("2")
    assert desk.judge.considered == []
    await desk.report("3", event="lost")
    assert [trigger.rule for trigger, _ in desk.judge.considered] == ["either"]
