"""Facts and ledgers in words."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any, get_args

import pytest

from rollbackd import facts
from rollbackd.incident.life import Incident, Yes
from rollbackd.model import (
    Action,
    ApprovalRequest,
    Decision,
    Evidence,
    Finding,
    Outcome,
    Plan,
    Priority,
    Release,
    Request,
    State,
    Trigger,
    Verdict,
)
from rollbackd.views.presenters import (
    asked_of,
    decision_view,
    evidence_text,
    finding_view,
    incident_view,
    record_view,
    sentence,
    state_view,
    status,
)
from rollbackd.views.shapes import FindingView, QuestionView, StateView, StepView
from tests.unit.builders import (
    PRESENT,
    TARGET,
    Story,
    at,
    change,
    changed,
    checked,
    decided,
    entered,
    good,
    minutes,
    plan,
    service_of,
    state,
    stepped,
    trigger,
)

SEEN = Evidence("sum by (service) (rate(errors[5m]))", "0.342, above 0.1", "> 0.1 for 5m", at(0))
FIRING = Evidence("alert HighErrorRate {}", "errors at 34%", "", at(0))


# -- values -------------------------------------------------------------------------------------------
def test_a_state_is_shown_with_its_marks_and_its_time() -> None:
    ledger = service_of(
        changed("v1", 0, 1, "checkout-1"),
        good("v1", 2, "verified after checkout-1"),
        changed("v2", 9, 10),
        (at(11), facts.Quarantined({"code": "v2"}, "why")),
    )
    first, second = ledger.spells
    assert state_view(ledger, first.state, first) == StateView(
        key=state("v1").key,
        releases={"code": "v1"},
        ids={"code": "v1"},
        since=at(1),
        until=at(10),
        good="verified after checkout-1",
        via="checkout-1",
    )
    shown = state_view(ledger, second.state, second)
    assert (shown.until, shown.good, shown.quarantined, shown.via) == (None, "", ("code",), "")


def test_a_state_that_never_ran_has_no_time_and_a_release_its_label() -> None:
    labelled = State({"code": Release("3f2a9c0d1e2b4c5d", label="v41")})
    shown = state_view(service_of(), labelled)
    assert (shown.since, shown.until, shown.via) == (None, None, "")
    assert (shown.releases, shown.ids) == ({"code": "v41 (3f2a9c0d1e2b)"}, {"code": "3f2a9c0d1e2b4c5d"})


def test_evidence_names_value_threshold_and_query() -> None:
    assert evidence_text(SEEN) == "0.342, above 0.1 (> 0.1 for 5m): sum by (service) (rate(errors[5m]))"
    assert evidence_text(FIRING) == "errors at 34%: alert HighErrorRate {}"


@pytest.mark.parametrize(
    ("finding", "view"),
    [
        (Finding("hold", None, "nothing holds it"), FindingView("hold", "", "nothing holds it", False)),
        (Finding("stale", Action.ASK, "old"), FindingView("stale", "ask", "old", False)),
        (Finding("target", Action.REFUSE, "none", escalate=True), FindingView("target", "refuse", "none", True)),
        (
            Finding("cooldown", Action.REFUSE, "just now", escalate=True, counted=False),
            FindingView("cooldown", "", "(not counted) just now", False),
        ),
        (Finding("stale", None, "fresh", counted=False), FindingView("stale", "", "fresh", False)),
    ],
)
def test_a_finding_says_what_it_wants_and_why(finding: Finding, view: FindingView) -> None:
    assert finding_view(finding) == view


def test_a_decision_is_shown_with_its_reasons() -> None:
    by = trigger(evidence=(SEEN, FIRING), priority=Priority.P0)
    decision = decided(Action.REFUSE, by, state("v2"), state("v1"), {"hold": Action.REFUSE}, joins="checkout-1")
    shown = decision_view(decision, at(2))
    assert (shown.at, shown.service, shown.rule, shown.priority) == (at(2), "checkout", "errors", "P0")
    assert (shown.action, shown.incident, shown.onset, shown.escalate) == ("refuse", "checkout-1", at(0), False)
    assert shown.evidence == (evidence_text(SEEN), evidence_text(FIRING))
    assert [finding.guard for finding in shown.findings] == ["hold"]
    assert (shown.present, shown.target) == ("code v2", "code v1")


def test_a_decision_without_states_shows_none() -> None:
    shown = decision_view(decided(), at(0))
    assert (shown.present, shown.target, shown.evidence) == ("", "", ())


@pytest.mark.parametrize(("reason", "text"), [("", "ordered by unix:ann"), ("slow", "ordered by unix:ann: slow")])
def test_a_persons_order_is_its_own_evidence(reason: str, text: str) -> None:
    by = trigger("manual", request=Request("checkout", "unix:ann", reason))
    assert decision_view(decided(by=by), at(0)).evidence == (text,)


# -- incidents ----------------------------------------------------------------------------------------
STATUS: list[tuple[str, Callable[[], Story]]] = [
    ("queued", Story),
    ("running", entered),
    ("running", lambda: entered().did("apply", "config").tell(facts.ApplyStarted("code"))),
    ("verifying", stepped),
    ("running", lambda: stepped().tell(facts.Leaving("traffic"))),
    ("paused", lambda: stepped().tell(facts.Paused("HOLD"))),
    ("parked", lambda: stepped().tell(facts.Paused("HOLD"), facts.Parked("cut off"))),
    ("closed", lambda: stepped().tell(facts.Parked("cut off")).closed(Outcome.ABORTED)),
]


@pytest.mark.parametrize(("word", "story"), STATUS)
def test_where_an_incident_stands_is_one_word(word: str, story: Callable[[], Story]) -> None:
    assert status(story().incident) == word


def test_an_incident_at_a_glance() -> None:
    ledger = service_of(good(TARGET, 0))
    story = stepped().verified().wait(minutes(1)).closed().tell(facts.Acknowledged(), actor="unix:ann")
    shown = incident_view(story.incident, ledger)
    assert (shown.id, shown.service, shown.status, shown.outcome) == ("checkout-1", "checkout", "closed", "recovered")
    assert (shown.reason, shown.rule, shown.priority, shown.plan) == ("it is over", "errors", "P1", "default")
    assert (shown.opened, shown.closed, shown.acknowledged) == (at(0), story.now, "unix:ann")
    assert shown.entered == ("traffic",)
    assert shown.before == state_view(ledger, PRESENT)
    assert shown.target == state_view(ledger, TARGET)
    assert [step.status for step in shown.steps] == ["done", "done"]


def test_each_step_says_how_far_it_is() -> None:
    story = entered().did("apply", "config").failed("apply", "code")
    assert incident_view(story.incident, service_of()).steps == (
        StepView("config", "c2", "c1", "done", took=timedelta()),
        StepView("code", "v2", "v1", "failed", attempt=1),
    )
    story.tell(facts.ApplyStarted("code", 2))
    running = incident_view(story.incident, service_of()).steps[1]
    assert (running.attempt, running.since) == (2, at(0))
    assert [step.status for step in incident_view(story.incident, service_of()).steps] == ["done", "running"]
    assert [step.status for step in incident_view(entered().incident, service_of()).steps] == ["waiting"] * 2


def asking(question: ApprovalRequest) -> Incident:
    decision = replace(decided(present=PRESENT, target=TARGET), action=Action.ASK, question=question)
    return replace(Story(target=None).incident, decision=decision, asked=at(0))


def test_an_incident_that_asks_shows_of_whom_and_what_is_missing() -> None:
    said = replace(asking(QUESTION), approvals=(Yes("unix:ann", at(1)), Yes("unix:ann", at(2))))
    assert status(said) == "asking"
    shown = incident_view(said, service_of()).question
    assert shown == QuestionView(
        ("it is night", "it is far"), "one of product", ("unix:ann",), at(15), "escalate",
        "one of tech (unix:ann, unix:bob) and one of product (token:desk) and 1 more of them", "unix:dave", at(0),
    )  # fmt: skip
    assert incident_view(replace(said, outcome=Outcome.EXPIRED), service_of()).question is None


@pytest.mark.parametrize(
    ("approvals", "of"),
    [(1, "anybody who may order a rollback"), (2, "2 people who may order a rollback")],
)
def test_without_groups_anybody_is_asked(approvals: int, of: str) -> None:
    assert asked_of(ApprovalRequest(("why",), at(15), approvals)) == of


def test_an_incident_that_waits_shows_why() -> None:
    shown = incident_view(Story(target=None).tell(facts.Paused("HOLD by unix:ann")).incident, service_of())
    assert (shown.outcome, shown.reason, shown.target, shown.steps) == ("", "HOLD by unix:ann", None, ())
    parked = incident_view(Story().tell(facts.Parked("cut off")).incident, service_of())
    assert parked.reason == "cut off"


# -- sentences ----------------------------------------------------------------------------------------
def opening(target: State | None) -> facts.Opened:
    decision: Decision = decided(present=PRESENT, target=target)
    return facts.Opened("checkout", decision, {}, ("config", "default"))


QUESTION = ApprovalRequest(
    ("it is night", "it is far"), at(15), 3, ("tech", "product"),
    {"tech": ("unix:ann", "unix:bob"), "product": ("token:desk",)}, ("unix:dave",),
)  # fmt: skip
AGAIN: Trigger = trigger("latency", evidence=(SEEN, FIRING))
SENTENCES: list[tuple[Any, str]] = [
    (opening(state("v1")), "opened for errors: checkout goes back to code v1, by plan config, then default"),
    (opening(None), "opened for errors: checkout goes back to ?, by plan config, then default"),
    (facts.Adopted("b00t/4711"), "driven by process 4711"),
    (facts.Joined(AGAIN), f"latency joined: {evidence_text(SEEN)}; {evidence_text(FIRING)}"),
    (
        facts.Joined(replace(AGAIN, rule="manual", evidence=(), request=Request("checkout", "unix:ann", "now"))),
        "manual joined: ordered by unix:ann: now",
    ),
    (
        replace(
            opening(state("v1")), decision=replace(decided(present=PRESENT, target=state("v1")), question=QUESTION)
        ),
        "errors: asks whether checkout goes back to code v1, by plan config, then default: it is night; it is far",
    ),
    (
        facts.Examined(checked(Verdict.GOOD) + checked(Verdict.BAD, "log")),
        "checked beside it: health good: it is good; log bad: it is bad",
    ),
    (
        facts.EvidenceTaken(checked(Verdict.BAD, "host")),
        "evidence while it does not help: host bad: it is bad",
    ),
    (facts.EvidenceTaken(checked(Verdict.GOOD), at_end=True), "evidence after the end: health good: it is good"),
    (
        facts.Measured("errors", at(0), minutes(1), (0.5, None, 0.25)),
        "measured 0.25 to 0.5 around the onset",
    ),
    (
        facts.Measured("errors", at(0), minutes(1), (0.5,), at_end=True),
        "measured 0.5 to 0.5 from before the onset to the end",
    ),
    (facts.Approved(), "approved"),
    (facts.Approved("go"), "approved: go"),
    (facts.Denied("a fix comes"), "denied: a fix comes"),
    (facts.AskedAgain(decided(), "now code v3 runs"), "asked again: now code v3 runs"),
    (facts.Risen(decided(), "approved by unix:ann", by_people=True), "goes back: approved by unix:ann"),
    (facts.ClockPassed("start_within", minutes(5), "not begun within 5m"), "not begun within 5m"),
    (facts.Escalated(1, "nobody answered"), "escalated to tier 2: nobody answered"),
    (facts.Mending(minutes(8), ""), "mending, estimated at 8m"),
    (
        facts.Mending(minutes(40), "a rewrite", heeded=False),
        "mending, estimated at 40m, longer than limits.mending allows, so nothing is held up: a rewrite",
    ),
    (facts.Planned(plan("config", "code"), PRESENT), "plan default: config c2 -> c1, code v2 -> v1"),
    (
        facts.Planned(replace(plan("code"), unasked=("search", "page")), PRESENT),
        "plan default: code v2 -> v1; rules not asked after it: search, page",
    ),
    (
        facts.Planned(plan("code", freeze="steps", traffic="gate"), PRESENT),
        "plan default: within freeze, traffic: code v2 -> v1",
    ),
    (facts.Entering("traffic"), "entering traffic"),
    (facts.ApplyStarted("code", 2), "applying code, attempt 2"),
    (facts.Leaving("traffic"), "leaving traffic"),
    (facts.Entered("traffic"), "entered traffic"),
    (facts.Entered("traffic", "1 session is left"), "entered traffic: 1 session is left"),
    (facts.Left("traffic", "somebody else keeps it"), "left traffic: somebody else keeps it"),
    (facts.Applied("code"), "applied code"),
    (facts.Applied("db", "", {"schema": Release("4f2a")}), "applied db; schema came with it, at 4f2a"),
    (facts.Left("traffic"), "left traffic"),
    (facts.EnterFailed("traffic", "no", permanent=True), "entering traffic failed: no"),
    (facts.ApplyFailed("code", "no", permanent=False), "applying code failed: no (may be tried again)"),
    (facts.LeaveFailed("traffic", "no", permanent=True), "leaving traffic failed: no"),
    (facts.StepSuperseded("code"), "somebody else changed code meanwhile"),
    (facts.Gated(Verdict.BAD, checked(Verdict.BAD)), "gate bad: health bad: it is bad"),
    (
        facts.Round(Verdict.GOOD, checked(Verdict.GOOD) + checked(Verdict.BAD, "log")),
        "verification good: log bad: it is bad; health good",
    ),
    (facts.PlanEnded("config", Outcome.INEFFECTIVE), "plan config ended ineffective; the next one runs"),
    (facts.PlanEnded("config", Outcome.PASSED), "plan config has no step to take; the next one runs"),
    (facts.Paused("HOLD by unix:ann"), "paused: HOLD by unix:ann"),
    (facts.Unpaused(), "goes on: nothing holds it any more"),
    (facts.AbortRequested(), "abort requested"),
    (facts.AbortRequested("wrong release"), "abort requested: wrong release"),
    (facts.Acknowledged(), "acknowledged"),
    (facts.Acknowledged(leave=True), "acknowledged, every bracket is to be left"),
    (facts.Parked("cut off"), "parked for a person: cut off"),
    (
        facts.ReportedLate("apply", "code", "ops-a", at(9)),
        "late: apply code was done on ops-a, at 2026-03-02 10:09:00 UTC; nothing follows from it",
    ),
    (facts.Closed(Outcome.FAILED, "it broke"), "failed: it broke"),
    (facts.Relapsed(AGAIN), "ineffective after all: latency again"),
    (facts.Told("room", "opened", "k"), "told room: opened"),
]


@pytest.mark.parametrize(("fact", "text"), SENTENCES, ids=[type(fact).__name__ for fact, _ in SENTENCES])
def test_a_fact_is_a_sentence(fact: Any, text: str) -> None:
    assert sentence(fact) == text


def test_every_kind_of_an_incidents_facts_has_a_sentence() -> None:
    assert {type(fact) for fact, _ in SENTENCES} == set(get_args(facts.IncidentFact))


def test_any_other_fact_is_named() -> None:
    assert sentence(facts.Subsided("e", "well")) == "Subsided"


@pytest.mark.parametrize(
    ("fact", "text"),
    [
        (facts.Changed(TARGET, at(0), at(1)), f"{TARGET.name} runs"),
        (facts.Changed(TARGET, at(0), at(1), "shop-1"), f"{TARGET.name} runs, by shop-1"),
        (facts.MarkedGood(TARGET, "baked"), f"{TARGET.name} is good: baked"),
        (facts.MarkTaken(TARGET, "blamed"), f"{TARGET.name} is good no more: blamed"),
        (facts.Quarantined({"code": "v2"}, "by ann"), "code v2 quarantined: by ann"),
        (facts.QuarantineLifted({"code": "v2"}, "by ann"), "code v2 quarantined no more: by ann"),
        (facts.Held("release day"), "held: release day"),
        (
            facts.Held("", datetime(2026, 3, 2, 8, tzinfo=timezone(timedelta(hours=1)))),
            "held until 2026-03-02 07:00:00 UTC",
        ),
        (facts.Unheld(), "held no more"),
        (facts.Announced("1", kind="hotfix", text="login"), "hotfix announced: login"),
        (facts.Confirmed("1"), "1 confirmed"),
        (facts.Drilled(("default",), "ready"), "drill: ready"),
    ],
)
def test_a_fact_of_a_service_is_a_sentence(fact: Any, text: str) -> None:
    assert sentence(fact) == text


def test_a_record_is_shown_without_the_configuration_it_carries() -> None:
    story = Story()
    shown = record_view(story.told[0])
    assert (shown.n, shown.at, shown.actor, shown.kind) == (1, at(0), "daemon", "Opened")
    assert shown.text == sentence(story.told[0].fact)
    assert "config" not in shown.fact
    assert shown.fact["plans"] == ["default"]


def test_a_record_keeps_the_risks_of_its_plan() -> None:
    risky = Plan("default", (change("code"),))
    shown = record_view(Story().tell(facts.Planned(risky, PRESENT)).told[-1])
    assert shown.fact["plan"]["steps"][0]["layer"] == "code"
