"""What people are told of questions, clocks and escalation."""

import ast
from dataclasses import replace
from datetime import timedelta
from functools import reduce
from pathlib import Path
from typing import Any, get_args

import pytest

from rollbackd import facts
from rollbackd.facts import Record
from rollbackd.incident.clocks import AT_ONCE
from rollbackd.incident.fold import fold as incident_of
from rollbackd.model import DAEMON, Action, CheckResult, Finding, Outcome, Priority, Replaced, Request, Verdict
from rollbackd.notification_events import EVENTS
from rollbackd.notify.messages import presenter, reminders, self_notices
from rollbackd.notify.messages.envelope import Envelope, merge
from rollbackd.notify.messages.troubles import LAST, Troubles, fold
from rollbackd.notify.receivers.pagerduty import event as page
from rollbackd.notify.receivers.slack import payload
from tests.fakes.clock import START
from tests.fakes.notifications import BAD, GOOD, asked, at, decision, opened, planned, question, round_of, trigger
from tests.fakes.slack import SlackFake

SIGNALS = Path("/var/lib/rollbackd/signals")
ANN, BOB = "unix:ann", "unix:bob"
CHANGE = Replaced(GOOD, BAD, at(-60), at(-30), "job-7", ANN, "hotfix")
RESULTS = (CheckResult("health", Verdict.BAD, "answered 500"), CheckResult("smoke", Verdict.GOOD, "exit 0"))
BOTH = question(
    by=("tech", "product"), approvals=2, members={"tech": (ANN,), "product": ("token:desk",)}, excluded=("unix:cat",)
)


def records(*given: Any, incident: str = "checkout-3") -> list[Record]:
    found = []
    for n, one in enumerate(given, 1):
        fact, actor = one if isinstance(one, tuple) else (one, DAEMON)
        found.append(Record(n, f"incident:{incident}", n, at(n), actor, fact))
    return found


def last(*given: Any) -> tuple[Envelope, ...]:
    """What the last of an incident's facts is worth; each may stand with its actor."""
    stream = records(*given)
    before = reduce(fold, stream[:-1], Troubles())
    return presenter.envelopes(stream[-1], incident_of(stream[:-1]), incident_of(stream), before, SIGNALS)


def only(*given: Any) -> Envelope:
    (one,) = last(*given)
    return one


def said(one: Envelope) -> dict[str, str]:
    return dict(one.message.lines)


# -- asked --------------------------------------------------------------------------------------
def test_a_question_says_what_why_how_to_answer_until_when_and_what_then() -> None:
    one = only(asked(change=CHANGE))
    lines = said(one)
    assert (one.message.event, one.message.severity) == ("asks", "critical")
    assert one.message.title == "checkout approval pending: v42 -> v41"
    assert lines["What"].endswith("nothing is touched until people say yes")
    assert lines["Asked because"] == "no change is known"
    assert lines["Say yes"] == "`rollbackd approve checkout-3`, or `touch /var/lib/rollbackd/signals/APPROVE.checkout`"
    assert lines["Say no"] == "`rollbackd deny checkout-3`, or `touch /var/lib/rollbackd/signals/DENY.checkout`"
    until = "2026-03-02 10:30:00 UTC; when nobody answers it ends, and the next people are told"
    assert lines["Until"] == until
    assert (lines["Asked of"], lines["Missing"]) == ("one person who may order a rollback", "1 more person")
    assert "code v41" in lines["To"]
    assert "hotfix announced by unix:ann" in lines["Last change"], "a change that is not to blame is only the last one"


def answers(*given: Any) -> list[tuple[str, str]]:
    return [(button.order, button.command) for button in only(*given).message.buttons]


ACK = ("acknowledge", "rollbackd ack checkout-3")
ABORT = ("abort", "rollbackd abort checkout-3")
YES, NO = ("approve", "rollbackd approve checkout-3"), ("deny", "rollbackd deny checkout-3")


def test_a_message_offers_what_can_be_answered_as_it_stands() -> None:
    assert answers(asked()) == [YES, NO, ACK]
    assert answers(asked(question=BOTH), (facts.Approved(), ANN)) == [YES, NO, ACK]
    assert answers(opened()) == [ABORT, ACK]
    acknowledged = (opened(), planned(), facts.ApplyStarted("code"), (facts.Acknowledged(), ANN))
    assert answers(*acknowledged) == [ABORT]
    assert answers(*acknowledged, (facts.AbortRequested(), ANN)) == []
    assert answers(opened(), facts.Closed(Outcome.FAILED, "no")) == [ACK]
    assert answers(opened(), (facts.Acknowledged(), ANN), facts.Closed(Outcome.FAILED, "no")) == []
    assert answers(asked(), (facts.Denied(), ANN), facts.Closed(Outcome.DECLINED, "no")) == []
    assert answers(opened(), facts.Closed(Outcome.RECOVERED, "well")) == []


def test_a_button_answers_the_question_that_people_see_and_no_later_one() -> None:
    first, again = only(asked()), only(asked(), facts.AskedAgain(asked().decision, "v43 runs now"))
    assert {one.asked for one in first.message.buttons} == {at(1), None}
    assert {one.asked for one in again.message.buttons} == {at(2), None}


def test_several_questions_in_one_message_have_no_buttons() -> None:
    several = merge([only(asked()).message, replace(only(asked()).message, key="2", thread="cart-1", service="cart")])
    assert several.buttons == ()


def test_a_change_that_is_to_blame_is_named_as_such_in_every_message() -> None:
    begun = (opened(change=CHANGE), planned(), facts.ApplyStarted("code"))
    for facts_so_far in (begun[:1], begun, (*begun, facts.Paused("HOLD")), (*begun, facts.Parked("poison")),
                         (*begun, facts.Closed(Outcome.FAILED, "no"))):  # fmt: skip
        assert "code v41 (414141414141) -> v42 (424242424242)" in said(only(*facts_so_far))["Change"]


def test_whom_it_asks_is_said_by_group_with_who_may_not() -> None:
    assert said(only(asked(question=BOTH)))["Asked of"] == (
        "one of tech (unix:ann) and one of product (token:desk); not unix:cat, who announced the change"
    )
    three = replace(BOTH, approvals=3, excluded=(), members={"tech": tuple(f"unix:u{n}" for n in range(7))})
    assert said(only(asked(question=three)))["Asked of"] == (
        "3 different people, one of tech (unix:u0, unix:u1, unix:u2, unix:u3, unix:u4, 2 more) "
        "and one of product (nobody)"
    )
    two = question(approvals=2, otherwise="roll_back")
    lines = said(only(asked(question=two)))
    assert lines["Asked of"] == "2 different people who may order a rollback"
    assert lines["Until"].endswith("it goes back, unless something new stands against it")


def test_checks_that_came_beside_a_question_are_told_at_once_and_beside_a_rollback_with_its_next_message() -> None:
    one = only(asked(), facts.Examined(RESULTS))
    assert one.message.event == "checked"
    assert said(one)["Checks"] == "health: bad, answered 500\nsmoke: good, exit 0"
    assert "Say yes" in said(one)
    assert last(opened(), facts.Examined(RESULTS)) == ()
    started = only(opened(), facts.Examined(RESULTS), planned(), facts.ApplyStarted("code"))
    assert said(started)["Checks"].startswith("health: bad")
    assert last(asked(), facts.Closed(Outcome.EXPIRED, ""), facts.Examined(RESULTS)) == ()


def test_what_is_entered_while_it_asks_is_said_with_the_question_and_is_no_start() -> None:
    config = {"plans": {"default": {"within": ["frozen"]}}, "layers": {"frozen": {"enter": "asked", "leave": "gate"}}}
    asks = replace(asked(), config=config)
    entered = (asks, facts.Entering("frozen"), facts.Entered("frozen"))
    assert said(only(asks))["Meanwhile"] == "frozen is entered"
    assert [last(*entered[:2]), last(*entered)] == [(), ()]
    over = only(*entered, facts.Closed(Outcome.EXPIRED, "nobody answered"))
    assert "Still entered" not in said(over), "it is left right after"
    failed = (*entered, (facts.AbortRequested(), ANN), facts.Leaving("frozen"), facts.LeaveFailed("frozen", "no", True))
    assert said(only(*failed, facts.Closed(Outcome.ABORTED, "no")))["Still entered"].startswith("frozen")
    risen = facts.Risen(decision(), "approved by unix:ann", by_people=True)
    assert only(*entered, risen, planned(), facts.ApplyStarted("code")).message.event == "started"


def test_a_yes_that_is_not_enough_says_who_is_missing_and_the_last_one_is_told_as_what_it_leads_to() -> None:
    first = (asked(question=BOTH), (facts.Approved("errors are ours"), ANN))
    one = only(*first)
    assert one.message.title == "checkout approved by unix:ann, more approvals pending"
    assert (said(one)["Missing"], said(one)["Said yes"]) == ("one of product", ANN)
    assert said(one)["Reason"] == "errors are ours"
    assert last(*first, (facts.Approved(), "token:desk")) == ()
    risen = only(*first, facts.Risen(decision(), "approved by unix:ann, token:desk", by_people=True))
    assert risen.message.event == "risen"
    assert said(risen)["What"] == "checkout is being taken back: approved by unix:ann, token:desk"
    assert "Stop it" in said(risen)


def test_asked_again_says_what_changed() -> None:
    again_asked = facts.AskedAgain(asked().decision, "approved by unix:ann, but now code v43 runs")
    one = only(asked(), (facts.Approved(), ANN), again_asked)
    assert one.message.event == "asked_again"
    assert said(one)["Changed"] == "approved by unix:ann, but now code v43 runs"
    assert "Said yes" not in said(one)


@pytest.mark.parametrize(
    ("outcome", "before", "resolves"),
    [
        (Outcome.DECLINED, (facts.Denied("it is the load test"), BOB), True),
        (Outcome.DECLINED, facts.Adopted("boot/1"), False),
        (Outcome.PASSED, facts.Adopted("boot/1"), True),
        (Outcome.EXPIRED, facts.Adopted("boot/1"), False),
        (Outcome.SUPERSEDED, facts.Adopted("boot/1"), True),
        (Outcome.ABORTED, facts.Adopted("boot/1"), True),
    ],
)
def test_a_page_of_a_question_is_resolved_when_nobody_need_come(outcome: Outcome, before: Any, resolves: bool) -> None:
    first = page(only(asked()).message, "k" * 32)
    assert (first["event_action"], first["payload"]["severity"]) == ("trigger", "error")
    one = only(asked(), before, facts.Closed(outcome, "denied by unix:bob: it is the load test"))
    end = page(one.message, "k" * 32)
    assert end["event_action"] == ("resolve" if resolves else "trigger")
    assert end["dedup_key"] == first["dedup_key"]
    if outcome is Outcome.EXPIRED:
        assert (one.message.severity, "Seen it" in said(one)) == ("critical", True)


def test_a_mild_question_is_a_warning() -> None:
    assert only(asked(trigger=trigger(priority=Priority.P2))).message.severity == "warning"


# -- reminded -----------------------------------------------------------------------------------
def troubles(*given: Any) -> Troubles:
    found = Troubles()
    for record in records(*given):
        found = fold(found, record)
    return found


def test_a_question_is_reminded_of_each_period_and_once_when_a_fifth_of_its_time_is_left() -> None:
    every = timedelta(minutes=10)
    (one,) = troubles(asked()).open
    marks = [one.mark(START + timedelta(minutes=minute), every) for minute in range(0, 31, 3)]
    # 0 3 6 9 12 15 18 21 24 27 30
    assert marks == ["", "", "", "", "1", "1", "1", "2", "2", LAST, ""]
    stream = records(asked(question=BOTH), facts.Examined(RESULTS), (facts.Approved(), ANN))
    made = reminders.reminder(one, incident_of(stream), START + timedelta(minutes=25), LAST, SIGNALS)
    assert made is not None
    assert made.message.title == "Reminder: checkout approval pending: v42 -> v41, only 5m are left"
    assert (said(made)["Missing"], made.message.severity) == ("one of product", "critical")
    usual = reminders.reminder(one, incident_of(stream), START + timedelta(minutes=11), "1", SIGNALS)
    assert usual is not None
    assert usual.message.title == "Reminder: checkout approval pending: v42 -> v41"
    assert reminders.reminder(one, None, START, "1", SIGNALS) is None


def test_what_answers_a_question_ends_its_reminders_and_asking_again_begins_anew() -> None:
    assert troubles(asked(), facts.Risen(decision(), "approved")).open == ()
    assert troubles(asked(), (facts.Acknowledged(), ANN)).open == ()
    assert troubles(asked(), facts.Denied(), facts.Closed(Outcome.DECLINED, "")).known == {}
    later = question(expires=START + timedelta(hours=2))
    (one,) = troubles(asked(), facts.AskedAgain(asked(question=later).decision, "moved")).open
    assert (one.what, one.expires) == ("asks", later.expires)
    (expired,) = troubles(asked(), facts.Closed(Outcome.EXPIRED, "nobody answered in 30m")).open
    made = reminders.reminder(
        expired,
        incident_of(records(asked(), facts.Closed(Outcome.EXPIRED, "nobody answered"))),
        START,
        "1",
        SIGNALS,
    )
    assert made is not None
    assert made.message.title == "Reminder: checkout approval expired, nothing was done"
    unknown = Record(1, "incident:checkout-9", 4, at(1), DAEMON, facts.Risen(decision(), "approved"))
    assert fold(Troubles(), unknown) == Troubles()
    assert fold(Troubles(), replace(unknown, fact=facts.AskedAgain(asked().decision, ""))) == Troubles()


# -- clocks and people --------------------------------------------------------------------------
def test_a_passed_clock_says_where_it_is_and_a_target_is_another_event() -> None:
    late = facts.ClockPassed("start_within", timedelta(minutes=15), "the rollback of checkout did not start within 15m")
    one = only(asked(), late)
    assert (one.message.event, one.message.severity) == ("clock_passed", "critical")
    assert said(one)["Now"] == "it asks people, nothing was touched"
    assert "Say yes" in said(one)
    slow = facts.ClockPassed("target:code", timedelta(minutes=2), "the step of code takes longer than 3m")
    one = only(opened(), planned(), facts.ApplyStarted("code"), slow)
    assert (one.message.event, one.message.severity) == ("over_target", "warning")
    assert said(one)["Now"] == "apply code since 2026-03-02 10:00:03 UTC"


STANDS = [
    ((opened(),), "nothing was touched yet"),
    (
        (opened(), planned(), facts.ApplyStarted("code"), facts.ApplyFailed("code", "no", permanent=False)),
        "between two",
    ),
    ((opened(), planned(), facts.ApplyStarted("code"), facts.Applied("code")), "the checks are asked"),
    ((opened(), facts.Paused("HOLD of unix:ann")), "held: HOLD of unix:ann"),
    ((opened(), facts.Parked("poison")), "it waits for a person: poison"),
    ((opened(), facts.Closed(Outcome.FAILED, "npm exited 1")), "failed: npm exited 1"),
]


@pytest.mark.parametrize(("given", "words"), STANDS)
def test_whom_it_is_escalated_to_hears_all_that_matters(given: tuple[Any, ...], words: str) -> None:
    one = only(*given, facts.Escalated(1, "nobody acknowledged it in 30m"))
    assert one.message.title == "checkout needs people: nobody acknowledged it in 30m"
    assert (one.message.event, one.message.severity, one.tier) == ("escalated", "critical", 1)
    assert said(one)["Now"].startswith(words)
    assert {"Why", "Since", "From", "To", "Seen it", "More"} <= said(one).keys()
    assert ("Stop it" in said(one)) == (given[-1] != STANDS[-1][0][-1])


def test_the_first_people_hear_the_opening_itself_and_all_that_follows() -> None:
    for first, event in ((opened(), "opened"), (asked(), "asks")):
        one = only(first, facts.Escalated(0, AT_ONCE))
        assert (one.message.event, one.only_tier, one.tier) == (event, True, 0)
        assert said(one) == said(only(first))
    assert only(opened(), facts.Escalated(0, AT_ONCE), facts.Paused("HOLD")).tier == 0
    assert only(opened(), facts.Paused("HOLD")).tier == -1


def test_a_plan_that_did_not_help_raises_the_priority_and_says_so() -> None:
    two = replace(opened(), plans=("config", "default"))
    ended = (two, planned(), round_of(Verdict.BAD), facts.PlanEnded("config", Outcome.INEFFECTIVE))
    one = only(*ended)
    assert said(one)["Priority"] == "raised from P1 to P0"
    assert (one.message.priority, one.message.severity) == (Priority.P0, "critical")
    assert one.message.title == "checkout still failing after plan config, now P0"
    highest = replace(two, decision=replace(two.decision, trigger=trigger(priority=Priority.P0)))
    assert "Priority" not in said(only(highest, *ended[1:]))


# -- many ---------------------------------------------------------------------------------------
def test_a_thousand_questions_are_one_message_with_all_names_that_every_receiver_takes() -> None:
    made = []
    for n in range(1000):
        stream = records(asked(f"service-{n}"), incident=f"service-{n}-1")
        (one,) = presenter.envelopes(stream[0], None, incident_of(stream), Troubles(), SIGNALS)
        made.append(one)
    assert {one.group for one in made} == {"asks/change"}
    message = merge([one.message for one in made])
    assert message.title.startswith("1000 × approval pending, alike: service-0, service-1")
    told = " ".join(text_ for _, text_ in message.lines)
    assert all(f"service-{n}-1" in told or f"service-{n} " in told for n in range(1000))
    assert "`rollbackd approve service-0-1`" in told
    threads = {one.message.thread for one in made}
    assert message.thread not in threads, "one answer must not resolve the page of all the others"
    assert merge([one.message for one in made[:2]]).thread == message.thread, "sent again with more it is the same page"
    assert SlackFake().problems(payload(message), {"Content-Type": "application/json"}) == []
    assert page(message, "k" * 32)["event_action"] == "trigger"


def test_questions_asked_for_other_reasons_are_not_alike() -> None:
    other = replace(asked("cart").decision, findings=(Finding("stale", Action.ASK, "too old"),))
    assert only(replace(asked("cart"), decision=other)).group != only(asked()).group


def test_merged_ends_resolve_what_each_of_them_is_about() -> None:
    over = only(asked(), facts.Closed(Outcome.PASSED, "the trouble is over")).message
    ends = [replace(over, key=one, thread=one, settles=settles) for one, settles in (("a", ("x",)), ("b", ("y", "a")))]
    both = merge(ends)
    assert (both.resolves, both.thread, both.settles) == (True, "a", ("x", "b", "y"))
    goes_on = merge([replace(one, resolves=False) for one in ends])
    assert (goes_on.resolves, goes_on.settles) == (False, ("x", "y", "a")), "what became of it is another page"


def test_a_recovery_ends_the_pages_of_what_was_refused_before() -> None:
    stream = records(opened(), facts.Closed(Outcome.RECOVERED, "well"))
    held = replace(opened().decision, action=Action.REFUSE, joins="", escalate=True, trigger=trigger(episode="other"))
    troubles = fold(Troubles(), Record(1, "service:checkout", 1, at(0), DAEMON, facts.Decided(held)))
    (one,) = presenter.envelopes(stream[-1], incident_of(stream[:-1]), incident_of(stream), troubles, SIGNALS)
    mine = opened().decision.trigger.episode
    assert one.message.settles == ("refused/checkout/other", f"refused/checkout/{mine}")


def test_words_of_ones_own_stay_sentences() -> None:
    bare = replace(only(asked()).message, lines=(), title="We look into it.")
    several = merge([bare, replace(bare, key="b"), replace(bare, key="c", title="We look into cart.")])
    assert (several.title, several.lines) == ("We look into it.; We look into cart.", ())


@pytest.mark.parametrize("length", [5, 60, 151, 400])
def test_many_messages_in_words_of_ones_own_are_one_sms(length: int) -> None:
    bare = replace(only(asked()).message, lines=(), own_words=True)
    titles = [f"{'x' * length}{n:03}" for n in range(500)]
    title = merge([replace(bare, key=one, thread=one, title=one) for one in titles]).title
    whole = [one for one in title.split("; ") if one in titles]
    assert len(title) <= 160
    assert title.endswith(f"; and {500 - max(1, len(whole))} more")
    assert whole == titles[: len(whole)]
    few = merge([replace(bare, key=one, thread=one, title=one) for one in ("a is sick", "b is sick")])
    assert few.title == "a is sick; b is sick"


def test_a_response_that_did_not_come_has_an_event_of_its_own_for_routes() -> None:
    passed = facts.ClockPassed("respond_within", timedelta(minutes=5), "nobody responded to checkout within 5m")
    one = only(asked(), passed)
    assert (one.message.event, one.message.severity) == ("unanswered", "critical")
    assert one.message.title == "checkout out of time: nobody responded to checkout within 5m"
    several = merge([one.message, replace(one.message, key="2", thread="cart-1", service="cart")])
    assert several.title == "2 × nobody responded: checkout, cart"


def test_who_escalated_it_and_why_is_told() -> None:
    one = only(asked(), (facts.Escalated(1, "unix:ann escalated it: the architect decides"), ANN))
    assert one.message.title == "checkout needs people: unix:ann escalated it: the architect decides"
    assert one.tier == 1


# -- names of events ----------------------------------------------------------------------------
def test_every_message_has_an_event_that_routes_can_name() -> None:
    request = trigger(request=Request("checkout", ANN))
    made: list[Envelope] = []
    examples: dict[str, Any] = {
        "Opened": opened(), "Examined": facts.Examined(RESULTS), "Approved": facts.Approved(),
        "AskedAgain": facts.AskedAgain(asked().decision, ""), "Risen": facts.Risen(decision(), "approved"),
        "ClockPassed": facts.ClockPassed("x", timedelta(), ""), "Escalated": facts.Escalated(1, "late"),
        "Entering": facts.Entering("traffic"), "ApplyStarted": facts.ApplyStarted("code"),
        "PlanEnded": facts.PlanEnded("default", Outcome.INEFFECTIVE), "Paused": facts.Paused(""),
        "AbortRequested": facts.AbortRequested(), "Acknowledged": facts.Acknowledged(), "Parked": facts.Parked(""),
        "Joined": facts.Joined(trigger()),
        "LeaveFailed": facts.LeaveFailed("traffic", "", permanent=True),
        "Closed": facts.Closed(Outcome.FAILED, ""), "Relapsed": facts.Relapsed(request),
        "Mending": facts.Mending(timedelta(minutes=8), ""),
        "ReportedLate": facts.ReportedLate("apply", "code", "ops-1", START, ""),
    }  # fmt: skip
    for name, fact in examples.items():
        made += last(fact) if name == "Opened" else last(asked(question=BOTH), fact)
    assert {one.message.event for one in made} <= EVENTS.keys()
    assert {type(fact) for fact in examples.values()} == presenter._MAKERS.keys() & set(get_args(facts.IncidentFact))
    assert set(Outcome) <= EVENTS.keys()
    assert {"refused", "observed", "reminder", "unreadable"} <= EVENTS.keys()


def test_every_notice_that_is_ever_written_has_a_name_that_routes_know() -> None:
    kinds = {self_notices.UNDELIVERABLE, self_notices.UNREACHABLE, self_notices.WAITING}
    for path in (Path(__file__).parents[2] / "daemon").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(node.func, "attr", getattr(node.func, "id", "")) if isinstance(node, ast.Call) else ""
            if isinstance(node, ast.Call) and name in {"Notice", "_notice"} and node.args:
                first = node.args[0]
                kinds |= {first.value} if isinstance(first, ast.Constant) and isinstance(first.value, str) else set()
    assert "cannot_roll_back" in kinds
    assert kinds <= EVENTS.keys()
