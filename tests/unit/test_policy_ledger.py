"""What was, folded from facts: a fold that went on live is the fold from the start."""

from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollbackd import facts
from rollbackd.facts import KINDS, Record
from rollbackd.model import DAEMON, FLEET, Action, Outcome, Release, SignalHold, State, service_stream
from rollbackd.policy.changes import newest
from rollbackd.policy.ledger import (
    KEPT,
    KEPT_EPISODES,
    KEPT_MARKS,
    KEPT_OF_FLEET,
    LEDGER_KINDS,
    FleetLedger,
    Hold,
    LastDecision,
    MendingTime,
    Rollback,
    ServiceLedger,
    Spell,
)
from rollbackd.policy.ledger import fold_fleet as fleet_after
from rollbackd.policy.ledger import fold_service as ledger_after
from tests.fakes.clock import START
from tests.unit.builders import (
    at,
    changed,
    decided,
    fleet_of,
    fold_fleet,
    fold_service,
    good,
    minutes,
    records,
    service_of,
    state,
    trigger,
)

V1, V2 = state("v1"), state("v2")


# -- what a rollback leaves --------------------------------------------------------------------------
def test_a_state_with_something_switched_off_is_known_as_that_while_it_runs() -> None:
    told = at(5), facts.Changed(V2, at(5), at(5), "checkout-1", fixed=("flags",), unasked=("search",))
    ledger = service_of(changed("v1", 0, 0), told)
    assert ledger.spells[-1] == Spell(V2, at(5), at(5), "checkout-1", fixed=("flags",), unasked=("search",))
    assert (ledger.switched(V2), ledger.switched(V1), ServiceLedger().switched(V1)) == (True, False, False)
    after = fold_service(records(service_stream("checkout"), changed("v1", 9, 10)), ledger)
    assert not after.switched(V2)
    assert after.spells[-2] == Spell(V2, at(5), at(5), "checkout-1", at(10), ("flags",), ("search",))


def test_the_newest_rollback_that_touched_anything_is_the_one_that_counts() -> None:
    def ended(name: str, when: float, *, acted: bool = True, stepped: float | None = None) -> Any:
        step = at(stepped) if stepped is not None else None
        outcome = Outcome.RECOVERED if stepped is not None else Outcome.FAILED
        return at(when), facts.Ended("checkout", name, outcome, acted, stepped=step)

    def undone(*told: Any) -> tuple[str, datetime | None] | None:
        found = fold_service(records(FLEET, *told)).undone
        return (found.incident, found.stepped) if found is not None else None

    first = (at(0), facts.Opening("checkout", "checkout-1"))
    second = (at(10), facts.Opening("checkout", "checkout-2"))
    drill = (at(10), facts.Opening("checkout", "checkout-2", drill="there"))
    recovered = ended("checkout-1", 5, stepped=3)
    assert undone() is None
    assert undone(first) is None
    assert undone(first, recovered) == ("checkout-1", at(3))
    assert undone(first, recovered, second) == ("checkout-1", at(3))
    assert undone(first, recovered, second, ended("checkout-2", 15, acted=False)) == ("checkout-1", at(3))
    assert undone(first, recovered, second, ended("checkout-2", 15)) == ("checkout-2", None)
    assert undone(first, recovered, drill, ended("checkout-2", 15)) == ("checkout-1", at(3))
    relapsed = (at(6), facts.Ended("checkout", "checkout-1", Outcome.INEFFECTIVE, acted=True))
    assert undone(first, recovered, relapsed) == ("checkout-1", at(3))


# -- states -------------------------------------------------------------------------------------------
def test_of_what_was_never_written_nothing_is_known() -> None:
    empty = ServiceLedger()
    assert (empty.present, empty.open, empty.blocked(V1)) == (None, None, ())
    assert service_of() == empty


def test_a_change_ends_the_spell_before_it() -> None:
    ledger = service_of(changed("v1", 0, 0), changed("v2", 9.5, 10))
    assert ledger.spells == (Spell(V1, at(0), at(0), ended=at(10)), Spell(V2, at(9.5), at(10)))
    assert ledger.present == V2


def test_only_the_spell_that_ran_is_ended() -> None:
    ledger = service_of(changed("v1", 0, 0), changed("v2", 10, 10), changed("v3", 20, 20))
    assert [spell.ended for spell in ledger.spells] == [at(10), at(20), None]


def test_a_change_to_what_runs_already_is_none() -> None:
    assert service_of(changed("v1", 0, 0), changed("v1", 5, 5)) == service_of(changed("v1", 0, 0))


def test_a_release_is_its_content_and_not_its_label() -> None:
    labelled = State({"code": Release("v1", label="release 1")})
    assert len(service_of(changed("v1", 0, 0), changed(labelled, 5, 5)).spells) == 1


def test_a_state_that_returns_is_a_spell_of_its_own() -> None:
    ledger = service_of(changed("v1", 0, 0), changed("v2", 10, 10), changed("v1", 20, 20, "checkout-1"))
    assert [(spell.state, spell.incident) for spell in ledger.spells] == [(V1, ""), (V2, ""), (V1, "checkout-1")]


def test_the_oldest_marks_are_forgotten() -> None:
    ledger = service_of(*(good(f"v{n}", n) for n in range(KEPT_MARKS + 3)))
    assert len(ledger.good) == KEPT_MARKS
    assert {state(f"v{n}").key for n in range(3)}.isdisjoint(ledger.good)
    assert ledger.marked[-1] == state(f"v{KEPT_MARKS + 2}")


def test_a_hundred_spells_are_remembered() -> None:
    ledger = service_of(*(changed(f"v{n}", n, n) for n in range(KEPT + 3)))
    assert len(ledger.spells) == KEPT
    assert ledger.present == state(f"v{KEPT + 2}")


# -- marks --------------------------------------------------------------------------------------------
def test_a_mark_says_why() -> None:
    ledger = service_of(good("v1", 0, "marked by unix:ann"))
    assert (ledger.good, ledger.marked) == ({V1.key: "marked by unix:ann"}, (V1,))


def test_a_mark_given_again_is_the_newest() -> None:
    ledger = service_of(good("v1", 0), good("v2", 1), good("v1", 2, "again"))
    assert ledger.marked == (V2, V1)
    assert ledger.good[V1.key] == "again"


def test_a_mark_is_taken_and_can_be_given_again() -> None:
    taken = service_of(good("v1", 0), good("v2", 1), (at(2), facts.MarkTaken(V1, "errors")))
    assert (set(taken.good), list(taken.marked), set(taken.taken)) == ({V2.key}, [V2], {V1.key})
    back = fold_service(records("s", good("v1", 3)), taken)
    assert (set(back.good), back.taken) == ({V1.key, V2.key}, frozenset())


def test_a_mark_that_was_never_given_can_be_taken_so_that_no_ref_gives_it() -> None:
    assert service_of((at(0), facts.MarkTaken(V1, "errors"))).taken == {V1.key}


# -- quarantine ---------------------------------------------------------------------------------------
def test_a_release_in_quarantine_blocks_every_state_that_has_it() -> None:
    ledger = service_of((at(0), facts.Quarantined({"code": "v2", "config": "c2"}, "left behind by checkout-1")))
    assert ledger.blocked(state("v2", config="c1")) == ("code",)
    assert ledger.blocked(state("v2", config="c2")) == ("code", "config")
    assert ledger.blocked(state("v1", config="c1")) == ()
    assert ledger.blocked(state("c2", config="v2")) == ()
    assert ledger.quarantined["code", "v2"] == "left behind by checkout-1"


def test_quarantine_is_lifted_release_by_release() -> None:
    both = (at(0), facts.Quarantined({"code": "v2", "config": "c2"}, "why"))
    ledger = service_of(both, (at(1), facts.QuarantineLifted({"code": "v2", "config": "c9"})))
    assert set(ledger.quarantined) == {("config", "c2")}


# -- holds --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("now", "holds"), [(0, True), (9.99, True), (10, False)])
def test_a_hold_holds_until_its_time(now: float, holds: bool) -> None:
    ledger = service_of((at(0), facts.Held("freeze", at(10)), "unix:ann"))
    assert ledger.hold == Hold("unix:ann", "freeze", at(10))
    assert ledger.hold.holds(at(now)) is holds


def test_a_hold_without_a_time_holds_until_it_is_lifted() -> None:
    for told in (service_of, fleet_of):
        ledger: Any = told((at(0), facts.Held("freeze"), "unix:ann"))
        assert ledger.hold.holds(at(10**6))
        lifted: Any = told((at(0), facts.Held("freeze"), "unix:ann"), (at(1), facts.Unheld(), "unix:bob"))
        assert lifted.hold is None


def test_mending_holds_for_as_long_as_it_was_estimated_and_what_is_beyond_the_limit_holds_nothing() -> None:
    ledger = service_of((at(0), facts.Mending(minutes(8), "the index"), "unix:ann"))
    assert ledger.hold == Hold("unix:ann", "mending, 8m: the index", at(8))
    assert ledger.mending == MendingTime("unix:ann", minutes(8), at(0), at(8))
    assert service_of((at(0), facts.Mending(minutes(8), ""), "unix:ann")).hold == Hold("unix:ann", "mending, 8m", at(8))
    beyond = service_of((at(0), facts.Mending(minutes(40), "", heeded=False), "unix:ann"))
    assert (beyond.hold, beyond.mending) == (None, None)


def test_estimates_within_an_hour_count_together_and_one_that_is_lifted_ends_then() -> None:
    first = (at(0), facts.Mending(minutes(5), ""), "unix:ann")
    again = service_of(first, (at(60), facts.Mending(minutes(3), ""), "unix:bob"))
    assert again.mending == MendingTime("unix:bob", minutes(3), at(0), at(63))
    anew = service_of(first, (at(65), facts.Mending(minutes(3), ""), "unix:bob"))
    assert anew.mending == MendingTime("unix:bob", minutes(3), at(65), at(68))
    lifted = service_of(first, (at(2), facts.Unheld(), "unix:bob"))
    assert (lifted.hold, lifted.mending) == (None, MendingTime("unix:ann", minutes(5), at(0), at(2)))
    over = service_of(first, (at(9), facts.Held("freeze"), "unix:bob"), (at(10), facts.Unheld(), "unix:bob"))
    assert over.mending == MendingTime("unix:ann", minutes(5), at(0), at(5))


@pytest.mark.parametrize(("begin", "end", "length"), [(0, 10, 3), (6, 10, 2), (0, 6, 1), (9, 12, 0), (0, 4, 0)])
def test_how_much_of_a_time_was_mending(begin: int, end: int, length: int) -> None:
    mending = MendingTime("unix:ann", minutes(3), at(5), at(8))
    assert mending.within(at(begin), at(end)) == minutes(length)


# -- incidents ----------------------------------------------------------------------------------------
OPENING = facts.Opening("checkout", "checkout-1")


def ended(outcome: Outcome = Outcome.RECOVERED, incident: str = "checkout-1", **more: Any) -> facts.Ended:
    return facts.Ended("checkout", incident, outcome, **{"acted": True} | more)


def test_an_incident_is_open_until_it_ended() -> None:
    ledger = service_of((at(0), OPENING))
    assert ledger.open == Rollback("checkout-1", at(0))
    ledger = service_of((at(0), OPENING), (at(9), ended(watch_until=at(24))))
    assert ledger.open is None
    assert ledger.rollbacks == (
        Rollback("checkout-1", at(0), False, at(9), Outcome.RECOVERED, acted=True, watch_until=at(24)),
    )


def test_a_relapse_changes_the_outcome_and_not_the_end() -> None:
    told = [(at(0), OPENING), (at(9), ended(watch_until=at(24)))]
    ledger = service_of(*told, (at(20), ended(Outcome.INEFFECTIVE, watch_until=at(20))))
    (rollback,) = ledger.rollbacks
    assert (rollback.ended, rollback.outcome) == (at(9), Outcome.INEFFECTIVE)


def test_the_end_of_one_incident_leaves_the_others_alone() -> None:
    told = [(at(0), OPENING), (at(9), ended()), (at(20), facts.Opening("checkout", "checkout-2", manual=True))]
    ledger = service_of(*told)
    assert ledger.open == Rollback("checkout-2", at(20), manual=True)
    assert ledger.rollbacks[0].outcome is Outcome.RECOVERED


def test_the_fleet_remembers_openings_ends_and_its_place() -> None:
    ledger = fleet_of((at(0), OPENING), (at(9), ended(Outcome.FAILED)), (at(10), facts.Notice("journal", "text")))
    assert ledger.openings == ((at(0), "checkout-1", False),)
    assert ledger.ends == ((at(9), "checkout-1", Outcome.FAILED),)
    assert ledger.n == 3


def test_an_incident_ends_once_for_the_fleet_by_its_last_outcome() -> None:
    ledger = fleet_of(
        (at(9), ended()), (at(10), ended(Outcome.FAILED, "search-1")), (at(20), ended(Outcome.INEFFECTIVE))
    )
    assert [(one[1], one[2]) for one in ledger.ends] == [
        ("search-1", Outcome.FAILED),
        ("checkout-1", Outcome.INEFFECTIVE),
    ]


@pytest.mark.parametrize("aside", [{"acted": False}, {"manual": True}])
def test_what_touched_nothing_or_was_a_persons_own_is_no_end_of_the_fleets(aside: dict[str, Any]) -> None:
    assert fleet_of((at(9), ended(**aside))).ends == ()
    assert fleet_of((at(9), ended()), (at(10), ended(**aside))).ends == ()


def test_a_person_wipes_the_slate_of_the_breaker() -> None:
    ledger = fleet_of((at(0), OPENING), (at(9), ended(Outcome.FAILED)), (at(10), facts.BreakerReset()))
    assert (ledger.ends, len(ledger.openings)) == ((), 1)


def test_what_signal_files_hold_is_known_by_host_as_said_last() -> None:
    one, two = SignalHold("*", "unix:ann@ops-1", "HOLD"), SignalHold("shop", "unix:bob@ops-2", "HOLD.shop")
    told = (at(0), facts.SignalHolds("ops-1", (one, two))), (at(1), facts.SignalHolds("ops-2", (two,)))
    assert fleet_of(*told).signal_holds == {"ops-1": (one, two), "ops-2": (two,)}
    assert fleet_of(*told, (at(2), facts.SignalHolds("ops-1"))).signal_holds == {"ops-2": (two,)}


def test_the_fleet_remembers_a_thousand() -> None:
    many = [(at(n), facts.Opening("s", f"s-{n}")) for n in range(KEPT_OF_FLEET + 1)]
    assert len(fleet_of(*many).openings) == KEPT_OF_FLEET
    overs = [(at(n), ended(incident=f"s-{n}")) for n in range(KEPT_OF_FLEET + 1)]
    assert len(fleet_of(*overs).ends) == KEPT_OF_FLEET


# -- decisions ----------------------------------------------------------------------------------------
def test_a_decision_is_remembered_by_its_episode() -> None:
    decision = decided(Action.REFUSE, trigger(), against={"hold": Action.REFUSE, "stale": Action.ASK})
    ledger = service_of((at(3), facts.Decided(decision)))
    assert ledger.episodes == {trigger().episode: LastDecision(at(3), Action.REFUSE, frozenset({"hold", "stale"}), "")}


def test_an_episode_decided_again_is_what_was_decided_last() -> None:
    refused = facts.Decided(decided(Action.REFUSE, against={"hold": Action.REFUSE}))
    opened = facts.Decided(decided(joins="checkout-1"))
    ledger = service_of((at(3), refused), (at(4), opened))
    assert list(ledger.episodes.values()) == [LastDecision(at(4), Action.ROLL_BACK, frozenset(), "checkout-1")]


def episode(n: int) -> facts.Decided:
    return facts.Decided(decided(Action.REFUSE, trigger(episode=f"e{n}")))


def test_an_alert_for_each_of_many_pods_is_remembered() -> None:
    """Else those that are forgotten are decided, journaled and told again, which drives out others: for ever."""
    ledger = service_of(*((at(0), episode(n)) for n in range(500)))
    assert len(ledger.episodes) == 500


def test_the_episodes_that_are_forgotten_are_those_decided_longest_ago() -> None:
    full = ServiceLedger(
        episodes={f"e{n}": LastDecision(at(0), Action.REFUSE, frozenset()) for n in range(KEPT_EPISODES)}
    )
    ledger = fold_service(records("s", (at(1), episode(0)), (at(2), episode(KEPT_EPISODES))), full)
    assert len(ledger.episodes) == KEPT_EPISODES
    assert "e0" in ledger.episodes
    assert "e1" not in ledger.episodes


# -- the last change ----------------------------------------------------------------------------------
def window(*spells: tuple[float, float] | tuple[float, float, str]) -> tuple[datetime, datetime] | None:
    """Of a first state long ago and these changes: last look, first look, incident."""
    told = [changed(f"v{n}", *one) for n, one in enumerate(spells, 1)]
    found = newest(service_of(changed("v0", -600, -600), *told))
    return None if found is None else (found.start, found.end)


def test_the_first_state_is_no_change() -> None:
    assert newest(ServiceLedger()) is None
    assert window() is None


def test_a_change_is_a_window_between_two_looks() -> None:
    assert window((-90, -89), (9.5, 10)) == (at(9.5), at(10))


@pytest.mark.parametrize(("apart", "one"), [(5, True), (5.01, False)])
def test_layers_that_change_within_five_minutes_are_one_change(apart: float, one: bool) -> None:
    found = window((-0.5, 0), (apart, apart + 0.5))
    assert found == ((at(-0.5) if one else at(apart)), at(apart + 0.5))


def test_a_chain_of_changes_is_one() -> None:
    assert window((-0.5, 0), (4, 4.5), (8, 8.5)) == (at(-0.5), at(8.5))


def test_what_a_rollback_changed_ends_the_search() -> None:
    assert window((-0.5, 0), (1, 1, "checkout-1")) is None
    assert window((-0.5, 0), (1, 1, "checkout-1"), (2, 2.5)) == (at(2), at(2.5))


# -- the fold -----------------------------------------------------------------------------------------
def test_the_ledger_is_made_of_kinds_that_there_are() -> None:
    assert set(LEDGER_KINDS) <= KINDS


def test_what_is_not_the_ledgers_leaves_it_as_it_is() -> None:
    told = [changed("v1", 0, 0), good("v1", 1)]
    assert service_of(*told, (at(2), facts.NoticeAcknowledged()), (at(3), facts.Notice("x", "y"))) == service_of(*told)
    assert (
        fleet_of((at(0), OPENING), (at(1), facts.NoticeAcknowledged())).openings == fleet_of((at(0), OPENING)).openings
    )


STATES = st.sampled_from([state("v1"), state("v2"), state("v3"), state("v1", config="c2")])
PAIRS = st.sampled_from([{"code": "v1"}, {"code": "v2"}, {"config": "c2"}])
NAMES = st.sampled_from(["checkout-1", "checkout-2", "checkout-3"])
OUTCOMES = st.sampled_from(list(Outcome))
WHENS = st.integers(0, 5000).map(at)
FACTS = st.one_of(
    st.builds(facts.Changed, STATES, WHENS, WHENS, st.one_of(st.just(""), NAMES)),
    st.builds(facts.MarkedGood, STATES, st.just("why")),
    st.builds(facts.MarkTaken, STATES, st.just("why")),
    st.builds(facts.Quarantined, PAIRS, st.just("why")),
    st.builds(facts.QuarantineLifted, PAIRS),
    st.builds(facts.Held, st.just("why"), st.one_of(st.none(), WHENS)),
    st.builds(facts.Unheld),
    st.builds(facts.Mending, st.just(minutes(7)), st.just("why"), st.booleans()),
    st.builds(facts.Opening, st.just("checkout"), NAMES, st.booleans()),
    st.builds(facts.Ended, st.just("checkout"), NAMES, OUTCOMES, st.booleans(), st.none(), st.booleans()),
    st.builds(facts.BreakerReset),
    st.builds(
        facts.SignalHolds, st.sampled_from(["ops-1", "ops-2"]), st.sampled_from([(), (SignalHold("*", "a", "b"),)])
    ),
    st.builds(facts.Notice, st.just("kind"), st.just("text")),
    st.integers(0, 5).map(episode),
)


def _streamed(told: list[Any]) -> list[Record]:
    return [Record(n, service_stream("checkout"), n, START + minutes(n), DAEMON, one) for n, one in enumerate(told, 1)]


@given(st.lists(FACTS, max_size=40), st.integers(0, 40))
def test_a_fold_that_goes_on_live_is_the_fold_from_the_start(told: list[Any], cut: int) -> None:
    found = _streamed(told)
    continued = fold_service(found[cut:], fold_service(found[:cut]))
    assert continued == fold_service(found)
    fleet = fold_fleet(found[cut:], fold_fleet(found[:cut]))
    assert fleet == fold_fleet(found)


@given(st.lists(FACTS, max_size=40))
def test_facts_that_were_stored_and_read_again_fold_to_the_same(told: list[Any]) -> None:
    found = _streamed(told)
    again = [
        Record(one.seq, one.stream, one.n, one.at, one.actor, facts.decode(*facts.encode(one.fact))) for one in found
    ]
    assert fold_service(again) == fold_service(found)
    assert fold_fleet(again) == fold_fleet(found)


@given(st.lists(FACTS, max_size=60))
def test_many_facts_at_once_fold_as_one_by_one(told: list[Any]) -> None:
    """A start folds all of them together, the daemon then one after the other."""
    found = _streamed(told)
    assert ledger_after(ServiceLedger(), found) == fold_service(found)
    assert fleet_after(FleetLedger(), found) == fold_fleet(found)


@given(st.lists(FACTS, max_size=60))
def test_whatever_happens_the_ledger_makes_sense(told: list[Any]) -> None:
    ledger, fleet = ServiceLedger(), FleetLedger()
    for record in _streamed(told):
        ledger, fleet = ledger_after(ledger, (record,)), fleet_after(fleet, (record,))
        assert all(spell.ended is not None for spell in ledger.spells[:-1])
        assert not ledger.spells or ledger.spells[-1].ended is None
        assert all(one.state != next_.state for one, next_ in zip(ledger.spells, ledger.spells[1:], strict=False))
        assert ledger.good.keys() == {marked.key for marked in ledger.marked}
        assert not ledger.taken & ledger.good.keys()
        assert len({incident for _, incident, _ in fleet.ends}) == len(fleet.ends)
        assert fleet.n == record.n


def test_streams_have_names() -> None:
    assert (FLEET, service_stream("checkout")) == ("fleet", "service:checkout")
