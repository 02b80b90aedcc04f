"""What people are told, from facts alone."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollbackd import facts
from rollbackd.facts import Record
from rollbackd.incident.fold import fold as incident_of
from rollbackd.model import DAEMON, FLEET, Action, Evidence, Finding, Outcome, Priority, Request, Verdict
from rollbackd.notify.messages import plain_text, presenter, reminders, self_notices
from rollbackd.notify.messages.envelope import Envelope, decode, encode, merge, plain
from rollbackd.notify.messages.troubles import Troubles, fold
from tests.fakes.notifications import EVIDENCE, at, decision, opened, planned, refused, round_of, trigger

SIGNALS = Path("/var/lib/rollbackd/signals")
INCIDENT = "incident:checkout-3"


def stream(*given: Any, name: str = INCIDENT) -> list[Record]:
    return [
        Record(n, name, n, at(n), DAEMON, fact) if not isinstance(fact, Record) else fact
        for n, fact in enumerate(given, 1)
    ]


def last(*given: Any, troubles: Troubles | None = None) -> Sequence[Envelope]:
    """What the last of an incident's facts is worth."""
    records = stream(*given)
    before = troubles or reduce(fold, records[:-1], Troubles())
    return presenter.envelopes(records[-1], incident_of(records[:-1]), incident_of(records), before, SIGNALS)


def only(*given: Any) -> Envelope:
    (one,) = last(*given)
    return one


def of_service(fact: Any, troubles: Troubles | None = None) -> Sequence[Envelope]:
    record = Record(9, "service:checkout", 4, at(0), DAEMON, fact)
    return presenter.envelopes(record, None, None, troubles or Troubles(), SIGNALS)


def said(one: Envelope) -> dict[str, str]:
    return dict(one.message.lines)


def test_an_opening_says_why_from_where_to_where_and_how_to_stop_it() -> None:
    one = only(opened())
    assert one.message.title == "checkout rolling back: v42 -> v41"
    assert one.message.thread == "checkout-3"
    assert (one.message.service, one.message.incident, one.message.priority) == ("checkout", "checkout-3", Priority.P1)
    lines = said(one)
    assert lines["Why"] == "sum(rate(errors[5m])) = 34.2% (> 10% for 5m) at 2026-03-02 10:00:00 UTC"
    assert "code v42 (424242424242)" in lines["From"]
    assert "code v41 (414141414141)" in lines["To"]
    assert lines["Stop it"] == "`rollbackd abort checkout-3`, or `touch /var/lib/rollbackd/signals/HOLD.checkout`"


def test_a_persons_own_rollback_is_told_with_name_and_reason() -> None:
    request = Request("checkout", "unix:ann", "prices are wrong")
    lines = said(only(opened(trigger=trigger(request=request, evidence=(), rule="manual"))))
    assert lines["What"] == "checkout is being taken back: unix:ann asked for it"
    assert lines["Reason"] == "prices are wrong"


def test_the_start_is_told_once_with_the_steps() -> None:
    begun = (opened(), planned(), facts.Entering("traffic"))
    one = only(*begun)
    assert one.message.event == "started"
    assert said(one)["Steps"] == "code: v42 (424242424242) → v41 (414141414141)"
    assert last(*begun, facts.Entered("traffic"), facts.ApplyStarted("code")) == ()


@pytest.mark.parametrize("outcome", list(Outcome))
def test_every_outcome_has_words_and_only_trouble_that_is_over_resolves(outcome: Outcome) -> None:
    one = only(opened(), planned(), round_of(Verdict.GOOD), facts.Closed(outcome, "3 good rounds in a row"))
    assert one.message.event == outcome
    over = {Outcome.RECOVERED, Outcome.PASSED, Outcome.ABORTED, Outcome.SUPERSEDED}
    assert one.message.resolves == (outcome in over)
    assert only(opened(), facts.Denied(""), facts.Closed(Outcome.DECLINED, "no")).message.resolves
    assert "3 good rounds in a row" in said(one)["What"]
    assert said(one)["Checks"] == "health: good, answered 500 in 1.2s, wants 2xx"


def test_recovered_with_something_switched_off_says_that_it_stays_off() -> None:
    degrade = replace(planned().plan, unasked=("search",))
    steps = (facts.Planned(degrade, planned().present), facts.ApplyStarted("code"), facts.Applied("code"))
    one = only(opened(), *steps, facts.Closed(Outcome.RECOVERED, "3 good rounds in a row, with code at v41"))
    assert one.message.title == "checkout recovered, with something switched off: v42 -> v41"
    assert one.message.resolves
    assert said(one)["Next"].startswith("Mend the cause, then switch it on again")


def test_what_a_bracket_said_of_its_crossing_is_in_what_follows() -> None:
    said_so = "3 sessions are left after 10m, and the rollback went on"
    begun = (opened(), planned(), facts.Entering("traffic"), facts.Entered("traffic", said_so))
    recovered = (facts.Leaving("traffic"), facts.Left("traffic"), facts.Closed(Outcome.RECOVERED, "well"))
    for end in ((facts.Closed(Outcome.FAILED, "no"),), recovered, (facts.Paused("HOLD"),)):
        assert said(only(*begun, *end))["Mind"] == f"traffic: {said_so}"


def test_a_failure_names_what_is_still_entered_and_how_to_leave_it() -> None:
    one = only(
        opened(),
        planned(),
        facts.Entering("traffic"),
        facts.Entered("traffic"),
        facts.ApplyStarted("code"),
        facts.ApplyFailed("code", "npm exited 1", permanent=True, evidence="ERR! missing script"),
        facts.Closed(Outcome.FAILED, "apply code: npm exited 1"),
    )
    assert one.message.severity == "critical"
    assert said(one)["Still entered"] == "traffic; when that can go, `rollbackd ack checkout-3 --leave` leaves it"
    assert said(one)["Output"] == "ERR! missing script"
    assert said(one)["Failed last"] == "code: npm exited 1"


def test_a_relapse_is_told_as_ineffective() -> None:
    one = only(opened(), facts.Closed(Outcome.RECOVERED, "well"), facts.Relapsed(trigger()))
    assert (one.message.event, one.message.severity, one.message.resolves) == ("ineffective", "critical", False)


def test_a_hold_a_parking_an_abort_and_the_next_plan_are_told() -> None:
    begun = (replace(opened(), plans=("config", "default")), planned())
    events = [
        only(*begun, fact).message.event
        for fact in (
            facts.Paused("HOLD of unix:ann"),
            facts.Parked("it killed its driver 3 times"),
            facts.AbortRequested("wrong release"),
            facts.PlanEnded("config", Outcome.INEFFECTIVE),
        )
    ]
    assert events == ["paused", "parked", "abort_requested", "plan_ended"]
    assert said(only(*begun, facts.PlanEnded("config", Outcome.INEFFECTIVE)))["Next"] == "plan default, on top of it"
    assert list(last(*begun, facts.PlanEnded("config", Outcome.PASSED))) == [], "a plan without a step is no news"


def test_what_a_host_that_drove_before_did_is_told_when_it_is_heard_of() -> None:
    for failed, came in (("", "was done"), ("no room", "failed: no room")):
        late = facts.ReportedLate("apply", "code", "ops-a", at(60), failed)
        one = only(opened(), planned(), facts.Parked("cut off"), late)
        assert (one.message.event, one.message.severity) == ("reported_late", "warning")
        assert said(one)["What"].startswith(f"apply code {came} on ops-a, at ")
        assert said(one)["Next"].startswith("nothing follows from it; look at what runs")


def test_later_trouble_of_a_service_whose_rollback_is_stopped_is_told_once_in_a_while() -> None:
    def met(rule: str, minute: int) -> facts.Joined:
        return facts.Joined(trigger(rule=rule, reached=at(minute * 60), priority=Priority.P1))

    assert not last(opened(), met("errors", 1)), "a rollback is at work on it"
    for stop in (facts.Parked("cut off 3 times"), facts.Paused("HOLD of unix:ann")):
        one = only(opened(), stop, met("errors", 1))
        assert one.message.event == "joined"
        assert one.message.severity == "critical"
        assert "rule errors is met, and nothing is done about it" in said(one)["What"]
        assert said(one)["Reason"] in {
            "checkout-3 is stopped: cut off 3 times",
            "checkout-3 is stopped: HOLD of unix:ann",
        }
        assert not last(opened(), stop, met("errors", 1), met("errors", 6))
        assert last(opened(), stop, met("errors", 1), met("latency", 6))
        assert last(opened(), stop, met("errors", 1), met("errors", 12))
    ordered = facts.Joined(trigger(request=Request("checkout", "unix:ann", "now"), rule="manual"))
    assert not last(opened(), facts.Parked("cut off 3 times"), ordered)


def test_an_acknowledgement_is_told_as_one() -> None:
    assert only(opened(), facts.Acknowledged()).message.acknowledged
    for outcome in Outcome:
        late = only(opened(), facts.Closed(outcome, ""), facts.Acknowledged())
        assert late.message.acknowledged, "never a page of its own"


def test_a_persons_order_that_is_refused_is_that_persons_answer_and_wakes_nobody() -> None:
    request = Request("checkout", "unix:ann", "now")
    assert of_service(refused(trigger=trigger(request=request, rule="manual"))) == ()
    slip = Record(1, FLEET, 1, at(0), DAEMON, facts.Notice("override", "ROLBACK.checkout was rejected"))
    (one,) = presenter.envelopes(slip, None, None, Troubles(), SIGNALS)
    assert not one.opens


def test_facts_that_nobody_needs_to_hear_of_make_no_message() -> None:
    for fact in (facts.Adopted("boot/1"), facts.Applied("code"), facts.Told("room", "opened", "k"), planned()):
        assert last(opened(), fact) == ()


def test_a_refusal_that_needs_a_person_says_what_stood_against_it() -> None:
    (one,) = of_service(refused())
    assert one.message.severity == "critical"
    assert said(one)["Against it"] == "target: no good state"
    assert said(one)["Seen it"] == "`rollbackd ack checkout`"
    assert one.group == "refused/target"


def test_a_refusal_by_a_persons_hold_and_a_join_are_not_told() -> None:
    held = decision("checkout", Finding("hold", Action.REFUSE, "HOLD of unix:ann"), action=Action.REFUSE)
    joined = refused(joins="checkout-2").decision
    assert of_service(facts.Decided(held)) == of_service(facts.Decided(joined)) == ()


def test_the_refusal_of_a_persons_own_order_is_an_answer_to_that_person_and_pages_nobody() -> None:
    by_itself = refused().decision
    ordered = replace(by_itself, trigger=replace(by_itself.trigger, request=Request("checkout", "unix:ann", to="v4O")))
    assert len(of_service(facts.Decided(by_itself))) == 1
    assert of_service(facts.Decided(ordered)) == ()


def test_the_same_refusal_again_is_not_told_again_but_another_reason_is() -> None:
    troubles = fold(Troubles(), Record(1, "service:checkout", 1, at(0), DAEMON, refused()))
    assert of_service(refused(), troubles) == ()
    assert len(of_service(refused(guard="breaker"), troubles)) == 1


def test_shadow_mode_says_what_would_have_been_done() -> None:
    finding = Finding("shadow", Action.OBSERVE, "mode is shadow: nothing is touched")
    (one,) = of_service(facts.Decided(decision("checkout", finding, action=Action.OBSERVE)))
    assert one.message.title == "checkout would have been rolled back (high-error-rate)"
    blocked = (finding, Finding("stale", Action.ASK, "too old"))
    (one,) = of_service(facts.Decided(decision("checkout", *blocked, action=Action.OBSERVE)))
    assert "was only observed" in one.message.title
    assert "stale: too old" in said(one)["Against it"]


def test_trouble_with_what_is_switched_off_is_not_told_again() -> None:
    off = Finding("switched_off", Action.OBSERVE, "it asks what checkout-1 switched off: flags at no-search")
    assert of_service(facts.Decided(decision("checkout", off, action=Action.OBSERVE))) == ()


def test_a_notice_is_its_own_event_and_its_end_resolves() -> None:
    notice = facts.Notice("backend_unreachable", "prometheus does not answer", details={"url": "http://p:9090"})
    begun = Record(1, FLEET, 1, at(0), DAEMON, notice)
    over = Record(2, FLEET, 2, at(9), DAEMON, replace(notice, over=True))
    (first,) = presenter.envelopes(begun, None, None, Troubles(), SIGNALS)
    (second,) = presenter.envelopes(over, None, None, Troubles(), SIGNALS)
    assert (first.message.event, first.message.severity) == ("backend_unreachable", "warning")
    assert first.message.thread == second.message.thread
    assert (first.message.resolves, second.message.resolves) == (False, True)
    assert said(first)["url"] == "http://p:9090"


def test_acknowledging_refusals_acknowledges_the_thread_of_each() -> None:
    record = Record(1, "service:checkout", 1, at(0), DAEMON, refused())
    (told,) = presenter.envelopes(record, None, None, Troubles(), SIGNALS)
    (seen,) = of_service(facts.NoticeAcknowledged(), fold(Troubles(), record))
    assert seen.message.thread == told.message.thread
    assert seen.message.acknowledged


HOSTILE = "$(reboot)\n*Next*\r\n\x1b[31m<!channel>\x00\u202e\ud800" + "A" * 1_048_576


def test_evidence_may_hold_anything_and_is_shown_as_text_of_sane_length() -> None:
    evidence = Evidence(HOSTILE, HOSTILE, HOSTILE, at(0), "javascript:alert(1)")
    one = only(opened(trigger=trigger(evidence=(evidence,) * 30)))
    shown = said(one)["Why"]
    assert shown.startswith("$(reboot)␊*Next*␍␊␛[31m<!channel>␀��AAA")
    assert f"… ({len(HOSTILE)} characters)" in shown
    assert "\nand 25 more" not in said(one).get("See", "")
    assert "See" not in said(one)
    assert len(plain(one.message)) < 6000
    assert decode(encode(one)) == one


def test_many_pieces_of_evidence_are_counted() -> None:
    one = only(opened(trigger=trigger(evidence=(EVIDENCE,) * 30)))
    assert said(one)["Why"].endswith("\nand 25 more")


@given(st.text(alphabet=st.characters(codec=None), max_size=400))
def test_a_line_is_one_line_that_every_encoding_takes(value: str) -> None:
    shown = plain_text.line(value)
    shown.encode()
    assert len(shown.splitlines()) <= 1
    assert not any(ord(char) < 32 or 0x7F <= ord(char) < 0xA0 for char in shown)
    assert plain_text.line(shown, 10_000) == shown
    assert len(plain_text.fit(value, 20)) <= 20


def test_several_alike_become_one_with_all_names() -> None:
    made = [presenter.envelopes(Record(n, f"service:{name}", 1, at(n), DAEMON, refused(name)), None, None, Troubles(), SIGNALS)[0]
            for n, name in enumerate(("checkout", "cart", "pay"))]  # fmt: skip
    one = merge([envelope.message for envelope in made])
    assert one.title == "3 × need a person, decided alike: checkout, cart, pay"
    assert [heading for heading, _ in one.lines] == [envelope.message.title for envelope in made]
    assert (one.severity, one.service) == ("critical", "")
    assert merge([envelope.message for envelope in made]).key == one.key
    assert merge([envelope.message for envelope in made[:2]]).key != one.key


def test_of_several_reminders_of_one_trouble_only_the_newest_is_kept() -> None:
    record = Record(1, "service:checkout", 1, at(0), DAEMON, refused())
    (trouble,) = fold(Troubles(), record).open
    made = [reminders.reminder(trouble, None, at(3600 * k), str(k), SIGNALS) for k in (1, 2, 3)]
    messages = [one.message for one in made if one is not None]
    assert [message.key for message in messages] == [
        f"refused/checkout/episode-checkout/reminder/1.{k}" for k in (1, 2, 3)
    ]
    assert merge(messages).at == at(3600 * 3)
    assert merge(messages).lines == messages[-1].lines


def test_a_reminder_names_what_is_still_entered() -> None:
    records = stream(
        opened(), planned(), facts.Entering("traffic"), facts.Entered("traffic"), facts.Closed(Outcome.FAILED, "no")
    )
    troubles = Troubles()
    for record in records:
        troubles = fold(troubles, record)
    (trouble,) = troubles.open
    one = reminders.reminder(trouble, incident_of(records), at(1800), "1", SIGNALS)
    assert one is not None
    assert one.message.title == "Reminder: checkout rollback failed"
    assert said(one)["Still entered"].startswith("traffic;")


def test_what_cannot_be_left_after_the_end_is_told_when_nothing_more_is_tried_and_again() -> None:
    failed = facts.LeaveFailed("traffic", "answered 500", permanent=False)
    recovered = (opened(), planned(), facts.Entering("traffic"), facts.Closed(Outcome.RECOVERED, ""))
    tries = [fact for n in range(1, 6) for fact in (facts.Leaving("traffic", n), failed)]
    acknowledged = (*recovered, facts.Acknowledged(leave=True))
    assert last(*acknowledged, *tries[:-2]) == ()
    one = only(*acknowledged, *tries)
    assert (one.message.event, one.message.title) == ("not_left", "checkout traffic could not be left")
    assert said(one)["What"] == "traffic of checkout is still entered: leaving it failed: answered 500"
    assert said(one)["Still entered"].startswith("traffic; ")
    assert "`rollbackd ack checkout-3" in said(one)["Still entered"]
    assert only(*acknowledged, tries[0], replace(failed, permanent=True)).message.event == "not_left"
    assert last(opened(), planned(), facts.Entering("traffic"), *tries) == (), "its end tells it"
    records = stream(*acknowledged, *tries)
    (trouble,) = fold(Troubles(), records[-1]).open
    reminder = reminders.reminder(trouble, incident_of(records), at(1800), "1", SIGNALS)
    assert reminder is not None
    assert said(reminder)["What"].endswith("leaving traffic failed: answered 500")


def test_a_lost_message_is_repeated_word_for_word_to_the_others() -> None:
    notice = self_notices.undeliverable("room", only(opened()).message, "room answered 404")
    (one,) = presenter.envelopes(Record(1, FLEET, 1, at(0), DAEMON, notice), None, None, Troubles(), SIGNALS)
    assert one.avoid == "room"
    assert "checkout rolling back" in said(one)["message"]
    assert "34.2%" in said(one)["message"]


@pytest.mark.parametrize(
    ("heeded", "title", "what", "then"),
    [
        (
            True, "checkout mending by unix:ann, 8m", "nothing goes back until 2026-03-02 10:08:00 UTC",
            "when the time is over and the trouble goes on, it goes back by itself",
        ),
        (
            False, "checkout is not held up: unix:ann estimates 8m for mending",
            "unix:ann mends checkout, and estimates 8m, longer than `limits.mending` allows",
            "what would go back goes back",
        ),
    ],
)  # fmt: skip
def test_who_mends_it_and_until_when_is_told_and_wakes_nobody(heeded: bool, title: str, what: str, then: str) -> None:
    fact = facts.Mending(timedelta(minutes=8), "the index", heeded)
    record = Record(1, "service:checkout", 1, at(0), "unix:ann", fact)
    (one,) = presenter.envelopes(record, None, None, Troubles(), SIGNALS)
    lines = said(one)
    assert (one.message.title, one.message.severity, one.opens) == (title, "info", False)
    assert lines["What"].endswith(what)
    assert (lines["Reason"], lines["Next"]) == ("the index", then)
    assert ("Ends" in lines) is heeded
    assert last(opened(), fact) == (), "the service's own word is told"
