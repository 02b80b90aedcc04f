"""Changes that nobody confirmed in time: what is made of them, and what a start makes of those that passed before it."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from rollbackd import facts
from rollbackd.decision.confirmation_deadlines import ConfirmationDeadlines
from rollbackd.journal import Entry
from rollbackd.model import Priority, Trigger, service_stream
from rollbackd.policy.changes import UNCONFIRMED
from tests.unit.judgement.shop import Shop

ANN = "unix:ann"


class Hall(Shop):
    """v2 runs since ten; what is announced of it is the test's. The real judge is asleep: it would act."""

    async def open(self) -> None:
        await super().open()
        await self.let("10:01 unix:ann holds all services")
        self.begin()

    def begin(self) -> None:
        """A life begins."""
        self.deadlines = ConfirmationDeadlines(self.config, self.daemon.read_model, self.clock)

    async def announce(self, key: str = "deploy-7", minutes: float | None = 10, **more: Any) -> None:
        """The fact of an announcement now."""
        by = None if minutes is None else self.clock.now() + timedelta(minutes=minutes)
        fact = facts.Announced(key, confirm_by=by, **more)
        await self.daemon.read_model.append(Entry(service_stream("shop"), fact, ANN))

    def due(self, service: str = "shop") -> list[Trigger]:
        return list(self.deadlines.due(service))


@pytest.fixture
async def hall(tmp_path: Path) -> Any:
    one = Hall(tmp_path)
    await one.open()
    yield one
    await one.down()


async def test_nothing_is_due_before_the_deadline(hall: Hall) -> None:
    await hall.announce()
    await hall.wait(minutes=9.9)
    assert hall.due() == []


async def test_what_is_due_says_who_announced_it_and_how_long_it_waited(hall: Hall) -> None:
    await hall.announce(kind="hotfix", text="the cart is empty", priority=Priority.P0, releases={"code": "v2"})
    deadline = hall.clock.now() + timedelta(minutes=10)
    await hall.wait(minutes=10)
    (trigger,) = hall.due()
    assert (trigger.rule, trigger.priority, trigger.missed) == (UNCONFIRMED, Priority.P0, "")
    assert (trigger.onset, trigger.episode) == (deadline, "unconfirmed/shop/deploy-7")
    (evidence,) = trigger.evidence
    assert evidence.source == "hotfix announced by unix:ann: the cart is empty"
    assert (evidence.value, evidence.at) == ("not confirmed in 10m", deadline)


async def test_it_is_over_once_it_is_confirmed(hall: Hall) -> None:
    await hall.announce()
    await hall.wait(minutes=10)
    assert hall.deadlines.over("shop", "unconfirmed/shop/deploy-7") == ""
    await hall.daemon.read_model.append(Entry(service_stream("shop"), facts.Confirmed("deploy-7"), ANN))
    assert hall.deadlines.over("shop", "unconfirmed/shop/deploy-7") == "it was confirmed, or runs no more"


async def test_without_a_priority_of_its_own_it_has_the_services(hall: Hall) -> None:
    await hall.announce()
    await hall.wait(minutes=10)
    (trigger,) = hall.due()
    assert trigger.priority is Priority.P2
    assert trigger.evidence[0].source == "change announced by unix:ann"


async def test_it_is_the_same_episode_each_time(hall: Hall) -> None:
    await hall.announce()
    await hall.wait(minutes=10)
    (first,) = hall.due()
    await hall.wait(minutes=5)
    (later,) = hall.due()
    assert (first.episode, first.onset) == (later.episode, later.onset)


async def test_what_was_confirmed_is_not_due(hall: Hall) -> None:
    await hall.announce()
    await hall.daemon.read_model.append(Entry(service_stream("shop"), facts.Confirmed("deploy-7"), ANN))
    await hall.wait(minutes=10)
    assert hall.due() == []


async def test_what_need_not_be_confirmed_is_not_due(hall: Hall) -> None:
    await hall.announce(minutes=None)
    await hall.wait(hours=3)
    assert hall.due() == []


async def test_what_runs_no_more_is_not_due(hall: Hall) -> None:
    await hall.announce(releases={"code": "v2"})
    await hall.let("10:06 deploys v3", "10:07 nothing more happens")
    await hall.wait(minutes=10)
    assert hall.due() == []


async def test_a_release_that_is_announced_and_not_there_yet_is_not_due(hall: Hall) -> None:
    """A deadline of what was never deployed must not take back what runs."""
    await hall.announce(releases={"code": "v3"})
    await hall.wait(minutes=30)
    assert hall.due() == []


async def test_an_unknown_service_and_one_without_announcements_have_none(hall: Hall) -> None:
    assert hall.due("bank") == []
    assert hall.due("nobody") == []


async def test_a_service_whose_layers_were_never_seen_has_none(tmp_path: Path) -> None:
    """It was announced, but nobody knows what runs."""
    hall = Hall(tmp_path)
    await hall.let("Mon 09:59 code cannot be seen", "Mon 09:59 bank: code cannot be seen")
    await hall.up()
    hall.begin()
    await hall.announce()
    await hall.wait(minutes=10)
    assert hall.daemon.read_model.of("shop").spells == ()
    assert hall.due() == []
    await hall.down()


async def test_a_start_after_the_deadline_says_that_nobody_watched(hall: Hall) -> None:
    await hall.announce()
    await hall.wait(minutes=12)
    assert hall.due()[0].missed == ""
    hall.begin()
    (trigger,) = hall.due()
    assert trigger.missed == "nobody confirmed it until 10:11:00, and rollbackd was down then"


async def test_a_start_before_the_deadline_forgets_nothing(hall: Hall) -> None:
    await hall.announce()
    await hall.wait(minutes=5)
    hall.begin()
    await hall.wait(minutes=5)
    assert [trigger.missed for trigger in hall.due()] == [""]


async def test_of_two_announcements_of_what_runs_the_newer_one_is_named(hall: Hall) -> None:
    await hall.announce("first", 3, releases={"code": "v2"})
    await hall.announce("second", 4, releases={"code": "v2"})
    await hall.wait(minutes=5)
    assert [trigger.episode for trigger in hall.due()] == ["unconfirmed/shop/second"]
