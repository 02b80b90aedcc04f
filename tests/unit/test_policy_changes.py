"""Which change trouble is put down to, and who announced it."""

from datetime import datetime
from typing import Any

import pytest

from rollbackd import facts
from rollbackd.model import Priority
from rollbackd.policy.changes import announcement, began_later, names, newest, spell_of, to_blame, unconfirmed
from rollbackd.policy.ledger import Announcement, ServiceLedger
from tests.unit.builders import at, changed, minutes, service_of, state

ANN = "unix:ann"


def announced(when: float, key: str = "a", by: str = ANN, **more: Any) -> tuple[datetime, facts.Announced, str]:
    """An announcement so many minutes after the start."""
    return at(when), facts.Announced(key, **more), by


def ledger(*told: Any) -> ServiceLedger:
    """`v1` ran for ten hours before these."""
    return service_of(changed("v1", -600, -600), *told)


def found(of: ServiceLedger) -> str:
    """The id of the newest change's announcement."""
    change = newest(of)
    assert change is not None
    return change.announced


# -- the change to blame -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("onset", "blamed"),
    [
        pytest.param(9, "code v2 -> v3", id="after both: the newest"),
        pytest.param(7.2, "code v2 -> v3", id="between the two looks that saw the second: it may be that one"),
        pytest.param(3, "code v1 -> v2", id="between the two: the first"),
        pytest.param(-1, "code v2 -> v3", id="before both: none of them, and the newest is named"),
    ],
)
def test_trouble_is_put_down_to_the_newest_change_before_it(onset: float, blamed: str) -> None:
    change = to_blame(ledger(changed("v2", 0, 0.5), changed("v3", 7, 7.5)), at(onset))
    assert change is not None
    assert change.name == blamed


def test_a_service_that_never_changed_has_no_change_to_blame() -> None:
    assert to_blame(ledger(), at(5)) is None


# -- the newest change ------------------------------------------------------------------------------------
def test_a_change_names_what_replaced_what_and_who_announced_it() -> None:
    change = newest(ledger(announced(0.2, kind="hotfix"), changed("v2", 0, 0.5)))
    assert change is not None
    assert (change.before, change.after) == (state("v1"), state("v2"))
    assert (change.start, change.end) == (at(0), at(0.5))
    assert change.name == "code v1 -> v2, hotfix announced by unix:ann"


def test_a_change_that_nobody_announced_is_named_by_its_releases() -> None:
    change = newest(service_of(changed(state("v1", config="c1"), -600, -600), changed(state("v2", config="c2"), 0, 1)))
    assert change is not None
    assert change.name == "code v1 -> v2, config c1 -> c2"


def test_a_layer_that_came_or_went_is_a_change_too() -> None:
    change = newest(service_of(changed(state("v1", old="o"), -600, -600), changed(state("v1", new="n"), 0, 1)))
    assert change is not None
    assert change.name == "new new -> n, old o -> gone"


def test_config_and_code_a_minute_apart_are_one_change_from_the_state_before_both() -> None:
    told = (changed(state("v1", config="c2"), -0.5, 0), changed(state("v2", config="c2"), 1, 1.5))
    change = newest(service_of(changed(state("v1", config="c1"), -600, -600), *told))
    assert change is not None
    assert change.name == "code v1 -> v2, config c1 -> c2"
    assert (change.start, change.end) == (at(-0.5), at(1.5))


# -- announcements -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("when", "its"),
    [
        (-59, True),  # before it was made
        (-61, False),
        (0.4, True),  # between the two looks
        (0.6, True),  # right after it
        (5.5, True),
        (5.6, False),  # too late to be of what was there already
    ],
)
def test_an_announcement_without_releases_is_of_the_change_near_it(when: float, its: bool) -> None:
    assert found(ledger(announced(when), changed("v2", 0, 0.5))) == ("a" if its else "")


@pytest.mark.parametrize(("when", "its"), [(-59, True), (5.6, True), (60, True), (61, False)])
def test_an_announcement_that_names_the_release_may_come_an_hour_later(when: float, its: bool) -> None:
    assert found(ledger(announced(when, releases={"code": "v2"}), changed("v2", 0, 0.5))) == ("a" if its else "")


def test_an_announcement_of_another_release_is_not_of_this_change() -> None:
    assert found(ledger(announced(0.2, releases={"code": "v3"}), changed("v2", 0, 0.5))) == ""


def test_a_job_may_say_for_whom_it_announces_and_both_are_known() -> None:
    change = newest(ledger(announced(0.2, by="token:ci"), changed("v2", 0, 0.5)))
    assert change is not None
    assert (change.by, change.announcers) == ("token:ci", ("token:ci",))
    named = newest(ledger((at(0.2), facts.Announced("a", by=ANN), "token:ci"), changed("v2", 0, 0.5)))
    assert named is not None
    assert (named.by, named.announcers) == (ANN, (ANN, "token:ci"))


def test_of_two_announcements_the_newest_counts() -> None:
    assert found(ledger(announced(0.2, "a"), announced(0.3, "b", "unix:bob"), changed("v2", 0, 0.5))) == "b"


def test_an_announcement_is_of_the_first_change_after_it() -> None:
    of = ledger(announced(0, "a"), changed("v2", 1, 2), changed("v3", 30, 31))
    assert found(of) == ""
    first = announcement(of, of.spells[1])
    assert first is not None
    assert first.id == "a"


def test_a_rollback_is_nobodys_announced_change() -> None:
    of = ledger(changed("v2", -1, -0.5), announced(0, "a"), changed("v1", 1, 1, "checkout-1"))
    assert spell_of(of, of.announced[0]) == of.spells[1]
    assert newest(of) is None


@pytest.mark.parametrize(
    ("named", "fits"),
    [
        ({}, True),
        ({"code": "3f2a9c1b77"}, True),
        ({"code": "3f2a9c1"}, True),
        ({"code": "3f2a9c"}, False),  # too short to mean it
        ({"code": "v41"}, True),
        ({"code": "v42"}, False),
        ({"flags": "x"}, False),
        ({"code": "v41", "flags": "x"}, False),
    ],
)
def test_a_release_is_named_by_its_id_a_prefix_of_seven_or_its_label(named: dict[str, str], fits: bool) -> None:
    from rollbackd.model import Release, State

    known = State({"code": Release("3f2a9c1b77", "v41")})
    assert names(Announcement("a", at(0), ANN, named), known) is fits


# -- deadlines ------------------------------------------------------------------------------------------------
def due(*told: Any, now: float = 20) -> str:
    one = unconfirmed(ledger(*told), at(now))
    return one.id if one is not None else ""


HOTFIX = announced(0.2, "hot", kind="hotfix", priority=Priority.P0, confirm_by=at(15))
MADE = changed("v2", 0, 0.5)


def test_a_change_that_nobody_confirmed_in_time_is_due() -> None:
    assert due(HOTFIX, MADE, now=14.9) == ""
    assert due(HOTFIX, MADE, now=15) == "hot"


def test_a_confirmed_change_is_not_due() -> None:
    of = ledger(HOTFIX, MADE, (at(10), facts.Confirmed("hot"), "unix:bob"), (at(11), facts.Confirmed("hot"), ANN))
    assert unconfirmed(of, at(20)) is None
    assert of.announced[0].confirmed == "unix:bob"


def test_what_nobody_announced_cannot_be_confirmed() -> None:
    assert service_of((at(1), facts.Confirmed("who"))).announced == ()


def test_a_change_without_a_deadline_never_is_due() -> None:
    assert due(announced(0.2, "a", priority=Priority.P3), MADE) == ""


def test_a_change_that_never_came_or_runs_no_more_is_not_due() -> None:
    assert due(HOTFIX) == ""
    assert due(HOTFIX, MADE, changed("v3", 10, 11)) == ""
    assert due(HOTFIX, MADE, changed("v1", 10, 10, "checkout-1")) == ""
    assert unconfirmed(ServiceLedger(), at(20)) is None


def test_the_same_announcement_twice_is_the_first() -> None:
    of = ledger(HOTFIX, announced(3, "hot", "unix:bob"), MADE)
    assert [(one.by, one.at) for one in of.announced] == [(ANN, at(0.2))]


def test_only_the_newest_announcements_are_kept() -> None:
    of = ledger(*(announced(n * 0.01, f"a{n}") for n in range(60)))
    assert [of.announced[0].id, of.announced[-1].id, len(of.announced)] == ["a10", "a59", 50]


def test_states_that_ran_for_days_are_not_gone_through() -> None:
    """An announcement is compared with the states around it only."""
    old = [changed(f"v{n}", n * 100, n * 100 + 1) for n in range(100)]
    of = service_of(*old, announced(9901 + 3, "a"))
    assert found(of) == "a"
    assert newest(of) is not None
    assert of.spells[-1].by - of.spells[-2].by == minutes(100)


# -- questions and later states ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("asked", "onset", "later"),
    [
        pytest.param(1, 9, True, id="a change came between"),
        pytest.param(1, 3, False, id="it began before the change"),
        pytest.param(8, 9, False, id="they were asked after the change"),
        pytest.param(1, None, False, id="nobody knows when it began"),
    ],
)
def test_trouble_of_a_later_state_is_not_what_people_were_asked_about(
    asked: float, onset: float | None, *, later: bool
) -> None:
    of = ledger(changed("v2", 4, 5))
    assert began_later(of, at(asked), None if onset is None else at(onset)) is later
