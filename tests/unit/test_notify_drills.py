"""What people are told of drills: their end, and what needs a person; nobody is woken for practice."""

from pathlib import Path

import pytest

from rollbackd import facts
from rollbackd.facts import Record
from rollbackd.incident.fold import fold
from rollbackd.model import Outcome, service_stream
from rollbackd.notification_events import EVENTS
from rollbackd.notify.messages.presenter import envelopes
from rollbackd.notify.messages.troubles import Troubles
from tests.unit.builders import SERVICE, Story, at
from tests.unit.test_incident_drill import recovered, stepped, way


def told(story: Story) -> list[tuple[str, str, str]]:
    """Event, severity and title of all that is said of an incident."""
    found: list[tuple[str, str, str]] = []
    for place, record in enumerate(story.told, 1):
        for one in envelopes(
            record, fold(story.told[: place - 1]), fold(story.told[:place]), Troubles(), Path("/signals")
        ):
            assert one.message.event in EVENTS
            found.append((one.message.event, one.message.severity, one.message.title))
    return found


def test_of_the_way_there_people_hear_that_it_begins_and_of_the_return_nothing() -> None:
    assert told(recovered("there")) == [("opened", "warning", "drill: checkout rolling back: 2 layers")]
    assert told(recovered("back")) == []


@pytest.mark.parametrize(("drill", "severity"), [("there", "warning"), ("back", "critical")])
def test_a_failure_is_critical_only_when_it_cannot_come_back(drill: str, severity: str) -> None:
    failed = told(stepped(drill).closed(Outcome.FAILED))[-1]
    assert failed == ("failed", severity, "drill: checkout could not be rolled back: 2 layers")


def test_a_hold_is_told_on_both_ways() -> None:
    for drill in ("there", "back"):
        assert told(way(drill).tell(facts.Paused("look first")))[-1][0] == "paused"


def test_the_end_of_one_that_was_executed_is_told_with_what_it_showed() -> None:
    def said(fact: facts.Drilled) -> list[tuple[str, str, str]]:
        record = Record(9, service_stream(SERVICE), 4, at(5), "unix:ann", fact)
        made = envelopes(record, None, None, Troubles(), Path("/signals"))
        return [(one.message.event, one.message.severity, one.message.title) for one in made]

    assert said(facts.Drilled(("full",), "ready")) == []
    ready = facts.Drilled(("full",), "ready", incident="checkout-1", returned="checkout-2")
    assert said(ready) == [("drilled", "info", "drill of checkout: went back and returned")]
    lost = facts.Drilled(("full",), "not_ready", ("it broke",), incident="checkout-1")
    assert said(lost) == [("drilled", "warning", "drill of checkout: a rollback would not work")]
