"""Where to go back to: the newest good state that nothing speaks against."""

import pytest

from rollbackd import facts
from rollbackd.model import State
from rollbackd.policy.ledger import ServiceLedger
from rollbackd.policy.target import Candidate, candidates, still_there
from tests.unit.builders import at, changed, good, service_of, state


def targets(ledger: ServiceLedger) -> list[str]:
    """The code of each candidate, best first."""
    return [one.state.releases["code"].id for one in candidates(ledger, ledger.present)]


def test_nothing_is_known_of_a_service_that_just_began() -> None:
    assert candidates(ServiceLedger(), None) == ()
    assert targets(service_of(changed("v1", 0, 0))) == []


def test_only_a_state_that_is_good_is_a_target() -> None:
    assert targets(service_of(changed("v1", 0, 0), changed("v2", 10, 10))) == []
    assert targets(service_of(changed("v1", 0, 0), good("v1", 5), changed("v2", 10, 10))) == ["v1"]


def test_the_present_state_is_no_target() -> None:
    ledger = service_of(changed("v1", 0, 0), good("v1", 5))
    assert targets(ledger) == []
    assert candidates(ledger, None) == (Candidate(state("v1"), 0, None),)


def test_the_newest_good_state_comes_first_whatever_was_marked_when() -> None:
    told = [changed("v1", 0, 0), changed("v2", 10, 10), changed("v3", 20, 20), changed("v4", 30, 30)]
    ledger = service_of(*told, good("v2", 40), good("v1", 41))
    assert candidates(ledger, ledger.present) == (
        Candidate(state("v2"), 2, at(20)),
        Candidate(state("v1"), 3, at(10)),
    )


def test_a_state_counts_as_it_ran_last() -> None:
    told = [changed("v1", 0, 0), good("v1", 5), changed("v2", 10, 10), good("v2", 15), changed("v1", 20, 20)]
    ledger = service_of(*told, changed("v3", 30, 30))
    assert candidates(ledger, ledger.present) == (
        Candidate(state("v1"), 1, at(30)),
        Candidate(state("v2"), 2, at(20)),
    )


def test_a_state_that_still_ran_when_the_trouble_began_is_no_target_for_it() -> None:
    told = [changed("v1", 0, 0), good("v1", 5), changed("v2", 10, 10), good("v2", 15), changed("v3", 19, 20)]
    ledger = service_of(*told)

    def left(onset: float) -> list[str]:
        found = candidates(ledger, ledger.present, at(onset))
        return [one.state.releases["code"].id for one in found]

    assert left(18) == ["v1"]  # v2 was seen at 19
    assert left(19) == ["v2", "v1"]  # it may have been gone by then
    assert left(9) == []
    again = service_of(*told, changed("v1", 30, 30), changed("v4", 40, 40))
    assert candidates(again, again.present, at(35)) == (Candidate(state("v2"), 3, at(20)),)


def test_our_own_rollbacks_are_no_changes_on_the_way_back() -> None:
    told = [changed("v1", 0, 0), good("v1", 5), changed("v2", 10, 10), changed("v1", 12, 12, "checkout-1")]
    ledger = service_of(*told, changed("v3", 30, 30), changed("v2", 31, 31, "checkout-2"))
    assert candidates(ledger, ledger.present)[0] == Candidate(state("v1"), 1, at(30))


def test_a_state_whose_mark_was_taken_is_no_target() -> None:
    told = [changed("v1", 0, 0), good("v1", 5), changed("v2", 10, 10), good("v2", 15), changed("v3", 20, 20)]
    assert targets(service_of(*told)) == ["v2", "v1"]
    assert targets(service_of(*told, (at(21), facts.MarkTaken(state("v2"), "errors")))) == ["v1"]


def test_a_quarantined_release_is_never_a_target_in_whatever_state() -> None:
    both = state("v2", config="c1")
    told = [changed("v1", 0, 0), good("v1", 5), changed(both, 10, 10), good(both, 15), changed("v3", 20, 20)]
    assert targets(service_of(*told)) == ["v2", "v1"]
    assert targets(service_of(*told, (at(21), facts.Quarantined({"config": "c1"}, "why")))) == ["v1"]
    assert targets(service_of(*told, (at(21), facts.Quarantined({"code": "v1"}, "why")))) == ["v2"]
    lifted = [(at(21), facts.Quarantined({"code": "v1"}, "why")), (at(22), facts.QuarantineLifted({"code": "v1"}))]
    assert targets(service_of(*told, *lifted)) == ["v2", "v1"]


def test_a_state_that_was_marked_and_never_ran_here_comes_last_and_the_newest_mark_of_these_first() -> None:
    told = [good("w1", 0), good("w2", 1), changed("v1", 2, 2), good("v1", 5), changed("v2", 10, 10)]
    ledger = service_of(*told)
    assert targets(ledger) == ["v1", "w2", "w1"]
    assert candidates(ledger, ledger.present)[1] == Candidate(state("w2"), 0, None)


def test_a_trouble_that_was_caught_once_is_not_gone_back_to() -> None:
    """S0 good, S1 baked and was good, then fell sick and went back to S0; S2 is bad: the target is S0, not S1."""
    ledger = service_of(
        changed("s0", 0, 0),
        good("s0", 30),
        changed("s1", 100, 100),
        good("s1", 130),
        (at(200), facts.MarkTaken(state("s1"), "errors (checkout-1)")),
        changed("s0", 210, 210, "checkout-1"),
        good("s0", 210, "verified after checkout-1"),
        (at(210), facts.Quarantined({"code": "s1"}, "left behind by checkout-1")),
        changed("s2", 300, 300),
    )
    assert candidates(ledger, ledger.present) == (Candidate(state("s0"), 1, at(300)),)


def test_no_ref_makes_a_state_a_target_whose_release_was_left_behind() -> None:
    told = [changed("v1", 0, 0), (at(1), facts.Quarantined({"code": "w1"}, "why")), good("w1", 2, "ref checkpoint-7")]
    assert targets(service_of(*told)) == []


HERE = state("v2", config="c1")
THERE = {"code": {"v1", "v2"}, "config": {"c2"}}


@pytest.mark.parametrize(
    ("wanted", "present", "gone"),
    [
        (state("v1", config="c1"), HERE, ()),  # the configuration stays: it need not be among what can be gone back to
        (state("v0", config="c1"), HERE, ("code",)),
        (state("v0", config="c0"), HERE, ("code", "config")),
        (state("v1", config="c2"), HERE, ()),
        (state("v1", data="d0"), HERE, ()),  # a layer that nobody asked
        (state("v1", config="c1"), None, ("config",)),
    ],
)
def test_a_release_that_is_gone_cannot_be_gone_back_to(
    wanted: State, present: State | None, gone: tuple[str, ...]
) -> None:
    assert still_there(wanted, present, THERE) == gone
