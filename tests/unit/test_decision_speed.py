"""How long one decision takes for a service with a long past, in a fleet of ten thousand that is all in trouble."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from time import process_time
from typing import Any

import pytest

from rollbackd import facts
from rollbackd.decision.situation import SituationReader
from rollbackd.facts import Record
from rollbackd.model import FLEET, Action, Alert, Outcome, Trigger, service_stream
from rollbackd.policy.decide import decide
from rollbackd.policy.ledger import KEPT, KEPT_ANNOUNCEMENTS
from tests.unit.judgement.shop import MONDAY, PAGE
from tests.unit.judgement.shop import Shop as Small

FLEET_SIZE = 10_000
MOST = 0.005
"""Seconds of processor time: 10,000 services with 100 states each decide in less than this."""
ROUNDS = 1000


class Shop(Small):
    """A hundred states, as many rollbacks, fifty announcements that nobody ever confirmed; thousands of neighbours."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, PAGE)
        one = self.config.services[0]
        crowd = [
            one.model_copy(update={"name": f"other-{n}", "match": ({"service": f"other-{n}"},)})
            for n in range(FLEET_SIZE - len(self.config.services))
        ]
        self.config = self.config.model_copy(update={"services": (*self.config.services, *crowd)})
        self.crowd = [service.name for service in crowd]

    async def past(self) -> None:
        """Written at once: a journal in memory that is asked for each fact takes longer than all of this."""
        await self.ran("shop", "v0", good=True)
        self.world.run("shop", "code", f"v{KEPT}")
        state = self.journal.records[0].fact.state
        stream, records = service_stream("shop"), self.journal.records

        def tell(where: str, fact: Any, hours: float) -> None:
            n = sum(1 for one in records if one.stream == where) + 1
            at = MONDAY - timedelta(hours=KEPT + 1 - hours)
            records.append(Record(len(records) + 1, where, n, at, "unix:ann", fact))

        for n in range(1, KEPT + 1):
            at = MONDAY - timedelta(hours=KEPT + 1 - n)
            new = type(state)({"code": type(state.releases["code"])(f"v{n}")})
            tell(stream, facts.Changed(new, at, at), n)
            if n % 2:
                tell(stream, facts.MarkedGood(new, "ran 30m without a trigger"), n + 0.6)
            if n < KEPT:
                due = at + timedelta(minutes=5)
                tell(stream, facts.Announced(f"deploy-{n}", {"code": f"v{n}"}, confirm_by=due), n)
            tell(FLEET, facts.Opening("shop", f"shop-{n}"), n)
            tell(FLEET, facts.Ended("shop", f"shop-{n}", Outcome.RECOVERED, acted=True), n + 0.1)

    def sick(self) -> Trigger:
        """All of them at once."""
        now = self.clock.now()
        for service in self.config.services:
            labels = {"alertname": "Sick", "service": service.name}
            self.daemon.rule_states.hear(Alert(service.name, labels, {}, now, None), service.name, now)
        return self.trigger()


@pytest.fixture
async def shop(tmp_path: Path) -> Any:
    one = Shop(tmp_path)
    await one.past()
    await one.clock.go(MONDAY)
    await one.up()
    yield one
    await one.down()


def slowest(work: Callable[[], Any]) -> float:
    """Of a hundred times all but the slowest take no longer, in seconds of processor time."""
    took = []
    for _ in range(ROUNDS):
        begun = process_time()
        work()
        took.append(process_time() - begun)
    return sorted(took)[ROUNDS * 99 // 100]


async def test_a_decision_takes_less_than_five_milliseconds(shop: Shop) -> None:
    trigger = shop.sick()
    ledger = shop.daemon.read_model.of("shop")
    assert (len(ledger.spells), len(ledger.announced), len(ledger.rollbacks)) == (KEPT, KEPT_ANNOUNCEMENTS, KEPT)
    situations: SituationReader = shop.daemon.decision_engine._situations
    given = situations.quick(trigger)
    assert len(given.troubled) == FLEET_SIZE
    decision = decide(trigger, given)
    assert decision.action is Action.ASK
    assert {finding.guard for finding in decision.against} == {"common_cause"}
    assert slowest(lambda: decide(trigger, given)) < MOST
    assert slowest(lambda: decide(trigger, situations.quick(trigger))) < MOST
    deadlines = shop.daemon.deadlines
    assert deadlines.due("shop") == []  # asked for every service every few seconds, and hardly anybody ever confirms
    assert slowest(lambda: deadlines.due("shop")) < MOST / 10
