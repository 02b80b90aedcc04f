"""What people are reminded of, and what ends it."""

from datetime import timedelta
from typing import Any

import pytest

from rollbackd import facts
from rollbackd.facts import Record
from rollbackd.model import DAEMON, FLEET, Outcome, Request
from rollbackd.notify.messages.troubles import Troubles, fold
from tests.fakes.notifications import BAD, GOOD, at, opened, refused, trigger

INCIDENT = "incident:checkout-3"
SERVICE = "service:checkout"


def after(*given: tuple[str, Any] | tuple[str, Any, str]) -> Troubles:
    troubles = Troubles()
    for seq, (stream, fact, *actor) in enumerate(given, 1):
        troubles = fold(troubles, Record(seq, stream, seq, at(seq), actor[0] if actor else DAEMON, fact))
    return troubles


def whats(*given: Any) -> list[str]:
    return [trouble.what for trouble in after(*given).open]


OPENED = (INCIDENT, opened())
REFUSED = (SERVICE, refused())


@pytest.mark.parametrize("outcome", [Outcome.INEFFECTIVE, Outcome.UNVERIFIED, Outcome.FAILED, Outcome.EXPIRED])
def test_a_bad_end_stays_until_it_is_acknowledged(outcome: Outcome) -> None:
    closed = (INCIDENT, facts.Closed(outcome, ""))
    assert whats(OPENED, closed) == [outcome]
    seen = after(OPENED, closed, (INCIDENT, facts.Acknowledged()))
    assert (seen.open, [one.sick for one in seen.known.values()]) == ((), [True]), "its page is still open"
    assert after(OPENED, closed, (INCIDENT, facts.Acknowledged()), (SERVICE, facts.MarkedGood(BAD, ""))).known == {}


@pytest.mark.parametrize("outcome", [Outcome.RECOVERED, Outcome.ABORTED, Outcome.PASSED, Outcome.SUPERSEDED])
def test_a_calm_end_leaves_nothing(outcome: Outcome) -> None:
    assert after(OPENED, (INCIDENT, facts.Closed(outcome, ""))).known == {}


def test_a_bracket_still_entered_is_a_trouble_whatever_the_outcome() -> None:
    entered = (OPENED, (INCIDENT, facts.Entering("traffic")), (INCIDENT, facts.Closed(Outcome.RECOVERED, "")))
    (trouble,) = after(*entered).open
    assert (trouble.what, trouble.entered) == ("still_entered", ("traffic",))
    assert after(*entered, (INCIDENT, facts.Left("traffic"))).known == {}


def test_what_could_not_be_left_after_its_end_was_acknowledged_is_a_trouble_until_it_is() -> None:
    entered = (OPENED, (INCIDENT, facts.Entering("traffic")), (INCIDENT, facts.Closed(Outcome.RECOVERED, "")))
    failed = (INCIDENT, facts.LeaveFailed("traffic", "answered 500", permanent=False))
    seen = (*entered, (INCIDENT, facts.Acknowledged()))
    assert after(*seen).known == {}
    (trouble,) = after(*seen, failed).open
    assert (trouble.what, trouble.service, trouble.entered) == ("still_entered", "checkout", ("traffic",))
    assert after(*seen, failed, (INCIDENT, facts.Left("traffic"))).known == {}
    assert whats(*seen, failed, (INCIDENT, facts.Acknowledged())) == []
    assert whats(OPENED, failed) == [], "it goes on: its end tells that"


def test_paused_is_over_with_the_hold_parked_is_not() -> None:
    assert whats(OPENED, (INCIDENT, facts.Paused("hold"))) == ["paused"]
    assert whats(OPENED, (INCIDENT, facts.Paused("hold")), (INCIDENT, facts.Unpaused())) == []
    assert whats(OPENED, (INCIDENT, facts.Parked("poison")), (INCIDENT, facts.Unpaused())) == ["parked"]


def test_what_comes_after_an_acknowledgement_is_a_new_trouble() -> None:
    seen = (OPENED, (INCIDENT, facts.Paused("hold")), (INCIDENT, facts.Acknowledged()))
    assert whats(*seen) == []
    assert whats(*seen, (INCIDENT, facts.Closed(Outcome.FAILED, ""))) == ["failed"]


def test_a_later_recovered_incident_ends_what_was_before() -> None:
    failed = (OPENED, (INCIDENT, facts.Closed(Outcome.FAILED, "")), REFUSED)
    other = ("incident:checkout-4", opened())
    assert whats(*failed) == ["failed", "refused"]
    assert after(*failed, other, ("incident:checkout-4", facts.Closed(Outcome.RECOVERED, ""))).known == {}


def test_a_relapse_is_a_trouble_even_when_the_incident_was_forgotten() -> None:
    assert whats(OPENED, (INCIDENT, facts.Closed(Outcome.RECOVERED, "")), (INCIDENT, facts.Relapsed(trigger()))) == [
        "ineffective"
    ]


def test_a_refusal_stays_until_it_is_acknowledged_on_its_service() -> None:
    assert whats(REFUSED) == ["refused"]
    assert whats(REFUSED, (SERVICE, facts.NoticeAcknowledged("another"))) == ["refused"]
    assert whats(REFUSED, ("service:cart", facts.NoticeAcknowledged())) == ["refused"]
    assert whats(REFUSED, (SERVICE, facts.NoticeAcknowledged("episode-checkout"))) == []
    assert whats(REFUSED, (SERVICE, facts.NoticeAcknowledged())) == []


def test_a_persons_own_refused_request_is_no_trouble() -> None:
    asked = refused(trigger=trigger(request=Request("checkout", "unix:ann")))
    assert whats((SERVICE, asked)) == []


def test_a_refusal_gives_way_to_the_incident_of_its_own_episode() -> None:
    assert whats(REFUSED, OPENED) == []
    assert whats(REFUSED, OPENED, (INCIDENT, facts.Closed(Outcome.PASSED, ""))) == []


def test_a_refusal_is_quiet_while_another_incident_is_at_work_and_comes_back() -> None:
    other = (INCIDENT, opened(trigger=trigger(episode="another")))
    assert whats(REFUSED, other) == []
    assert whats(REFUSED, other, (INCIDENT, facts.Closed(Outcome.ABORTED, ""))) == ["refused"]


def test_the_state_that_runs_turning_out_good_ends_it_a_mark_on_another_does_not() -> None:
    assert whats(REFUSED, (SERVICE, facts.MarkedGood(BAD, "ran 30m without a trigger"))) == []
    assert whats(REFUSED, (SERVICE, facts.MarkedGood(GOOD, "marked by unix:ann"), "unix:ann")) == ["refused"]
    moved = (REFUSED, (SERVICE, facts.Changed(GOOD, at(1), at(2))))
    assert whats(*moved, (SERVICE, facts.MarkedGood(GOOD, "ran 30m without a trigger"))) == []


def test_a_failed_incident_ends_when_the_daemon_finds_its_service_well() -> None:
    failed = (OPENED, (INCIDENT, facts.Closed(Outcome.FAILED, "")))
    assert whats(*failed, (SERVICE, facts.MarkedGood(GOOD, "marked"), "unix:ann")) == ["failed"]
    assert whats(*failed, (SERVICE, facts.MarkedGood(GOOD, "ran 30m without a trigger"))) == []


def test_a_lasting_notice_stays_until_it_is_over_and_others_never_begin() -> None:
    down = facts.Notice("backend_unreachable", "no answer")
    assert whats((FLEET, down), (FLEET, down)) == ["backend_unreachable"]
    assert whats((FLEET, down), (FLEET, facts.Notice("backend_unreachable", "answers", over=True))) == []
    assert whats((FLEET, facts.Notice("quarantined_release", "v42 is back", "checkout"))) == []


def test_periods_are_counted_from_where_it_began() -> None:
    (trouble,) = after(REFUSED).open
    half_an_hour = timedelta(minutes=30)
    assert [trouble.mark(at(1) + timedelta(minutes=m), half_an_hour) for m in (0, 29, 30, 61)] == ["", "", "1", "2"]


def test_the_fold_may_start_at_the_oldest_open_trouble() -> None:
    cart = "service:cart"
    ended = (cart, facts.Subsided("episode-cart", "gone"))
    given = ((cart, refused("cart")), REFUSED, (cart, facts.NoticeAcknowledged()), ended, OPENED)
    whole = after(*given)
    start = whole.oldest
    assert start == 5
    part = Troubles()
    for seq, (stream, fact) in enumerate(given, 1):
        if seq >= start:
            part = fold(part, Record(seq, stream, seq, at(seq), DAEMON, fact))
    assert part == whole
