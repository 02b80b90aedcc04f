"""What people ask and order, on the whole daemon with a journal in memory, in virtual time."""

import asyncio
import getpass
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest

from rollbackd import facts
from rollbackd.incident.life import Incident
from rollbackd.journal import Entry
from rollbackd.model import Action, ApprovalRequest, CheckResult, Priority, Release, Request, Verdict, incident_stream
from rollbackd.notify.messages.phrases import answers
from rollbackd.operations import InvalidOrder, Operations, OrderRefused, UnknownName
from rollbackd.operations.parameters import ChangeBody
from rollbackd.signals.events import Posted
from rollbackd.views.shapes import ServiceView
from tests.unit.judgement.clock import idle
from tests.unit.judgement.stage import Stage

T = TypeVar("T")
MINUTE, SECOND = timedelta(minutes=1), timedelta(seconds=1)
ANN, BOB, DAVE, CI = "unix:ann", "unix:bob", "unix:dave", "token:ci"
BROKEN = {"name": "broken", "when": {"event": "broken"}}
WORSE = {"name": "worse", "when": {"event": "worse"}, "priority": "P0"}
ASK = {"when": {"rule": "broken"}, "action": "ask", "expires": "15m"}


class House:
    """A shop that ran v1 well and runs v2, and who works there."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    @property
    def operations(self) -> Operations:
        return self.stage.daemon.operations

    async def pass_(self, length: timedelta) -> None:
        await self.stage.clock.go(self.stage.clock.true + length)

    async def get(self, work: Coroutine[Any, Any, T]) -> T:
        """The answer, with as much time as it takes."""
        task = asyncio.create_task(work)
        await idle()
        for _ in range(200):
            if task.done():
                break
            await self.pass_(SECOND / 10)
        return await task

    async def event(self, name: str) -> None:
        await self.get(self.operations.report([Posted(event=name, service="shop", key=f"{name}-1")], CI))
        await self.pass_(SECOND)

    async def deploy(self, release: str) -> None:
        self.stage.world.run("shop", "code", release)
        await self.pass_(MINUTE)

    async def incident(self, name: str = "shop-1") -> Incident:
        found = await self.stage.daemon.read_model.incident(name)
        assert found is not None
        return found

    async def service(self) -> ServiceView:
        return await self.operations.service("shop")

    def written(self, kind: type[T]) -> list[T]:
        return [record.fact for record in self.stage.journal.records if isinstance(record.fact, kind)]

    @property
    def runs(self) -> str:
        return self.stage.world.layers["shop"]["code"].present.id

    @property
    def now(self) -> datetime:
        return self.stage.clock.now()


async def moment() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def disk(stage: Stage) -> None:
    """The journal takes a moment, in which others come."""
    append, latest = stage.journal.append, stage.journal.latest

    async def later(*entries: Entry, **more: Any) -> Any:
        await moment()
        return await append(*entries, **more)

    async def late(*given: Any, **more: Any) -> Any:
        await moment()
        return await latest(*given, **more)

    stage.journal.append = later  # type: ignore[method-assign]
    stage.journal.latest = late  # type: ignore[method-assign]


async def opened(directory: Path, policy: Sequence[dict[str, Any]] = (ASK,), **given: Any) -> House:
    """v1 ran for an hour and was good, v2 came five minutes ago."""
    groups = {"tech": [ANN, BOB], "product": ["token:desk"]}
    whole = {"rules": [BROKEN, WORSE], "policy": list(policy), "groups": groups, **given}
    stage = Stage(directory, {"shop": ["code", "config"], "desk": ["code"]}, whole, 0)
    for release, good, length in (("code=v1,config=c1", True, 60 * MINUTE), ("v2", False, 5 * MINUTE)):
        await stage.ran("shop", release, good=good)
        await stage.clock.go(stage.clock.true + length)
    await stage.ran("desk", "d1", good=True)
    disk(stage)
    await stage.up()
    return House(stage)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    one = await opened(tmp_path)
    yield one
    await one.stage.down()


@pytest.fixture
async def asking(house: House) -> House:
    await house.event("broken")
    assert (await house.service()).incident == "shop-1"
    assert (await house.incident()).waits
    return house


# -- yes and no ---------------------------------------------------------------------------------
async def test_a_yes_by_the_services_name_sets_it_going(asking: House) -> None:
    answer = await asking.get(asking.operations.approve("shop", ANN, "go"))
    assert (answer.incident, answer.missing) == ("shop-1", "")
    await asking.pass_(MINUTE)
    assert asking.runs == "v1"
    assert (await asking.incident()).risen == "approved by unix:ann"


async def test_two_groups_each_give_one_and_the_answer_says_who_is_missing(tmp_path: Path) -> None:
    house = await opened(tmp_path, [{**ASK, "by": ["tech", "product"]}])
    await house.event("broken")
    question = (await house.get(house.operations.incident("shop-1"))).incident.question
    assert question is not None
    assert question.of == "one of tech (unix:ann, unix:bob) and one of product (token:desk)"
    assert (await house.get(house.operations.approve("shop-1", ANN))).missing == "one of product"
    for _ in range(2):
        assert (await house.get(house.operations.approve("shop-1", BOB))).missing == "one of product"
    assert len(house.written(facts.Approved)) == 2
    with pytest.raises(OrderRefused, match="shop-1: unix:dave is in none of the groups that are asked: tech, product"):
        await house.get(house.operations.approve("shop-1", DAVE))
    assert (await house.get(house.operations.approve("shop-1", "token:desk"))).missing == ""
    await house.pass_(MINUTE)
    assert house.runs == "v1"
    await house.stage.down()


async def test_two_yeses_at_once_both_count_and_it_rises_once(tmp_path: Path) -> None:
    house = await opened(tmp_path, [{**ASK, "approvals": 2}])
    await house.event("broken")
    both = together(*(house.operations.approve("shop", actor) for actor in (ANN, BOB)))
    assert {answer.missing for answer in await house.get(both)} == {"1 more person", ""}
    await house.pass_(MINUTE)
    assert len(house.written(facts.Risen)) == 1
    assert house.runs == "v1"
    await house.stage.down()


async def test_two_names_of_one_person_are_one_yes(tmp_path: Path) -> None:
    people = {"ann": {"unix": "ann", "slack": "U0123ABCD"}, "bob": {"unix": "bob"}}
    house = await opened(tmp_path, [{**ASK, "approvals": 2}], people=people)
    await house.event("broken")
    for actor in (ANN, "slack:ann"):
        assert (await house.get(house.operations.approve("shop", actor))).missing == "1 more person"
    assert len(house.written(facts.Approved)) == 1
    assert (await house.get(house.operations.approve("shop", BOB))).missing == ""
    await house.stage.down()


async def together(*work: Coroutine[Any, Any, T]) -> list[T]:
    return list(await asyncio.gather(*work))


async def test_a_yes_to_what_is_asked_no_more_is_none(asking: House) -> None:
    """It was asked again between the look at the question and the writing of the answer."""
    found = await asking.incident()
    inner = asking.stage.journal.append

    async def first_another(*entries: Entry, **more: Any) -> Any:
        if isinstance(entries[0].fact, facts.Approved):
            asking.stage.journal.append = inner  # type: ignore[method-assign]
            asking.stage.clock.set(SECOND)
            await inner(Entry(incident_stream("shop-1"), facts.AskedAgain(found.decision, "now v3 runs")))
        return await inner(*entries, **more)

    asking.stage.journal.append = first_another  # type: ignore[method-assign]
    with pytest.raises(OrderRefused, match=r"shop-1 asks something else since .*, after this answer was given"):
        await asking.get(asking.operations.approve("shop", ANN))
    assert asking.written(facts.Approved) == []
    assert (await asking.get(asking.operations.approve("shop", ANN))).missing == ""


async def test_an_answer_on_paper_from_before_the_question_is_none(asking: House) -> None:
    before = asking.now - 10 * SECOND
    for answer in (asking.operations.approve, asking.operations.deny):
        with pytest.raises(OrderRefused, match="asks something else since"):
            await asking.get(answer("shop", ANN, seen=before))


async def test_a_yes_after_the_time_is_over_is_refused(asking: House) -> None:
    await asking.get(asking.operations.hold("shop", ANN, "", None))
    await asking.pass_(20 * MINUTE)
    said = "shop-1: nobody answered until .*, the question is over; `rollbackd rollback shop` goes back all the same"
    with pytest.raises(OrderRefused, match=said):
        await asking.get(asking.operations.approve("shop", ANN))
    assert (await asking.incident()).outcome is None, "it is held: nothing came of it yet"


async def test_a_no_ends_it_and_is_said_once(asking: House) -> None:
    first, second = asking.operations.deny("shop", ANN, "mended"), asking.operations.deny("shop-1", ANN)
    answers = await asking.get(together(first, second))
    assert {answer.incident for answer in answers} == {"shop-1"}
    assert len(asking.written(facts.Denied)) == 1
    await asking.pass_(10 * MINUTE)
    assert (await asking.incident()).reason == "denied by unix:ann: mended"
    with pytest.raises(OrderRefused, match="shop-1 asks nothing any more, it has ended: declined"):
        await asking.get(asking.operations.approve("shop", BOB))
    assert asking.runs == "v2"


async def test_a_no_after_a_yes_that_was_not_enough_ends_it(tmp_path: Path) -> None:
    house = await opened(tmp_path, [{**ASK, "approvals": 2}])
    await house.event("broken")
    await house.get(house.operations.approve("shop", ANN))
    await house.get(house.operations.deny("shop", DAVE, "a fix comes"))
    await house.pass_(MINUTE)
    assert (await house.incident()).outcome is not None
    assert house.runs == "v2"
    await house.stage.down()


async def test_a_person_calls_the_next_people_with_a_reason_and_in_the_end_all_of_them_again(tmp_path: Path) -> None:
    receivers = [{"name": "room", "webhook": {"url": "http://127.0.0.1:9/"}}]
    tiers = [{"after": "1h", "to": ["room"]}, {"after": "2h", "to": ["room"]}]
    house = await opened(tmp_path, notify={"receivers": receivers, "escalation": tiers})
    await house.event("broken")
    assert [await house.get(house.operations.escalate("shop", ANN, f"why {n}")) for n in range(3)] == ["shop-1"] * 3
    assert [(one.tier, one.why) for one in house.written(facts.Escalated)] == [
        (0, "unix:ann escalated it: why 0"), (1, "unix:ann escalated it: why 1"), (1, "unix:ann escalated it: why 2"),
    ]  # fmt: skip
    with pytest.raises(InvalidOrder, match="say why"):
        await house.get(house.operations.escalate("shop-1", ANN, " "))
    await house.get(house.operations.deny("shop-1", ANN))
    await house.pass_(MINUTE)
    with pytest.raises(OrderRefused, match="shop-1 has ended: declined; nobody need come"):
        await house.get(house.operations.escalate("shop-1", ANN, "why"))
    await house.stage.down()


async def test_nothing_goes_back_while_somebody_mends_it_and_then_it_goes_back_by_itself(tmp_path: Path) -> None:
    house = await opened(tmp_path, [], limits={"mending": "10m"})
    until = await house.get(house.operations.mending("shop", ANN, 8 * MINUTE, "the index"))
    assert until is not None
    await house.event("broken")
    assert (await house.service()).incident == ""
    assert [(hold.actor, hold.reason, hold.until) for hold in await house.operations.holds()] == [
        (ANN, "mending, 8m: the index", until)
    ]
    await house.pass_(until - house.now - SECOND)
    assert (house.runs, house.written(facts.Opened)) == ("v2", [])
    await house.pass_(MINUTE)
    assert house.runs == "v1"
    (decided,) = (one.decision for one in house.written(facts.Opened))
    assert "nothing holds it; unix:ann mended it, and estimated 8m" in [one.reason for one in decided.findings]
    await house.stage.down()


async def test_a_longer_estimate_than_the_limit_holds_nothing_up_and_is_recorded(tmp_path: Path) -> None:
    house = await opened(tmp_path, [], limits={"mending": "10m"})
    assert await house.get(house.operations.mending("shop", ANN, 11 * MINUTE, "a rewrite")) is None
    assert await house.operations.holds() == []
    await house.event("broken")
    await house.pass_(MINUTE)
    assert house.runs == "v1"
    assert house.written(facts.Mending) == [facts.Mending(11 * MINUTE, "a rewrite", heeded=False)]
    await house.stage.down()


async def test_estimates_that_follow_each_other_count_together(house: House) -> None:
    assert await house.get(house.operations.mending("shop", ANN, 6 * MINUTE, "")) is not None
    await house.pass_(5 * MINUTE)
    assert await house.get(house.operations.mending("shop", BOB, 5 * MINUTE, "")) is not None
    await house.pass_(4 * MINUTE)
    assert await house.get(house.operations.mending("shop", ANN, 5 * MINUTE, "")) is None
    await house.pass_(2 * MINUTE)
    assert await house.operations.holds() == []


async def test_mending_during_an_incident_stops_it_is_in_its_record_and_takes_no_hold_away(asking: House) -> None:
    await asking.get(asking.operations.mending("shop", ANN, 8 * MINUTE, "the index"))
    found = await asking.incident()
    assert found.responded is not None
    await asking.get(asking.operations.approve("shop", BOB))
    await asking.pass_(MINUTE)
    assert asking.runs == "v2"
    shown = await asking.get(asking.operations.incident("shop-1"))
    assert "mending, estimated at 8m: the index" in [record.text for record in shown.records]
    await asking.get(asking.operations.unhold("shop", ANN))
    await asking.pass_(MINUTE)
    assert asking.runs == "v1"
    await asking.get(asking.operations.hold("shop", BOB, "freeze", None))
    with pytest.raises(OrderRefused, match="shop is held by unix:bob already: nothing goes back until that is lifted"):
        await asking.get(asking.operations.mending("shop", ANN, MINUTE, ""))
    with pytest.raises(InvalidOrder, match="say how long it takes, such as 8m"):
        await asking.get(asking.operations.mending("shop", ANN, timedelta(), ""))


async def test_a_file_says_that_somebody_mends_it(house: House) -> None:
    assert await drop(house, "MENDING.shop", "for: 8m\nreason: the index\n") == ""
    assert house.written(facts.Mending) == [facts.Mending(8 * MINUTE, "the index")]
    assert "duration" in await drop(house, "MENDING.desk", "for: soon\n")
    assert "duration" in await drop(house, "MENDING.desk")


async def test_what_acts_is_not_answered_and_the_refusal_says_how_to_stop_it(asking: House) -> None:
    await asking.get(asking.operations.approve("shop", ANN))
    await asking.pass_(SECOND)
    said = r"shop-1 does not ask, it acts \(approved by unix:ann\); `rollbackd abort shop-1` stops it"
    for answer in (asking.operations.approve, asking.operations.deny):
        with pytest.raises(OrderRefused, match=said):
            await asking.get(answer("shop", BOB))
    assert (await asking.get(asking.operations.approve("shop", ANN))).missing == "", "the same yes, sent again"


async def test_names_that_are_wrong_are_sentences(house: House) -> None:
    for name, said in (
        ("shop", "shop has no incident"),
        ("shop-9", 'there is no incident "shop-9"; `rollbackd incidents` lists them'),
        ("chekout", 'there is no incident "chekout"; `rollbackd incidents` lists them'),
    ):
        for answer in (house.operations.approve, house.operations.deny, house.operations.abort):
            with pytest.raises(UnknownName, match=f"^{said}$"):
                await house.get(answer(name, ANN))


async def test_a_service_named_like_an_incident_of_another_one_is_asked_about(tmp_path: Path) -> None:
    house = await opened(tmp_path)
    other = house.stage.config.services[1]
    twin = other.model_copy(update={"name": "shop-1"})
    await house.event("broken")
    house.stage.daemon.config.__dict__.pop("by_name", None)
    object.__setattr__(house.stage.daemon.config, "services", (*house.stage.config.services, twin))
    with pytest.raises(InvalidOrder, match=r'^"shop-1" is a service, and an open incident of shop: say shop$'):
        await house.get(house.operations.approve("shop-1", ANN))
    await house.stage.down()


async def test_an_order_rises_what_asks(asking: House) -> None:
    assert await asking.get(asking.operations.rollback(Request("shop", ANN, "enough"))) == "shop-1"
    await asking.pass_(MINUTE)
    assert (await asking.incident()).risen == "ordered by unix:ann"
    assert asking.runs == "v1"


async def test_an_order_for_what_acts_already_joins_it(asking: House) -> None:
    await asking.get(asking.operations.rollback(Request("shop", ANN)))
    await asking.pass_(10 * SECOND)
    assert await asking.get(asking.operations.rollback(Request("shop", BOB, "me too"))) == "shop-1"
    assert [joined.trigger.request.actor for joined in asking.written(facts.Joined) if joined.trigger.request] == [BOB]


async def test_the_same_order_again_goes_on_with_what_it_began(house: House) -> None:
    """It was cut off, by Ctrl-C or with its host: the one who gave it gives it again."""
    order = Request("shop", ANN, to="code=v1")
    assert await house.get(house.operations.rollback(order)) == "shop-1"
    assert await house.get(house.operations.rollback(replace(order, actor=BOB, reason="again"))) == "shop-1"
    with pytest.raises(OrderRefused) as caught:
        await house.get(house.operations.rollback(replace(order, over_hold=True)))
    assert str(caught.value) == (
        "shop is not rolled back: joined shop-1, which is open "
        "(`rollbackd rollback shop` alone goes on with it, `rollbackd abort shop` stops it)"
    )


async def test_while_it_asks_a_state_can_be_marked_good(asking: House) -> None:
    await asking.deploy("v3")
    view = await asking.get(asking.operations.good("shop", {"code": "v2"}, ANN))
    assert view.good == "marked by unix:ann"


# -- answers by file ----------------------------------------------------------------------------
async def drop(house: House, name: str, text: str | None = "") -> str:
    """What became of a file, None: one that lies there; empty when it was carried out, else why it was rejected."""
    signals = house.stage.config.daemon.signals
    if text is not None:
        (signals / name).write_text(text)
    orders = house.stage.daemon.orders
    await orders.scan()
    await house.pass_(SECOND)
    await orders.scan()
    await house.get(orders.settle())
    assert not (signals / name).exists()
    reasons = [one.read_text() for one in (signals / "rejected").glob(f"*.{name}.reason")]
    return reasons[0].strip() if reasons else ""


_COUNTING = [{"approvals": 2}, {"by": ["mine"]}, {"by": ["mine", "product"]}]


@pytest.mark.parametrize("counting", _COUNTING)
async def test_where_persons_are_counted_a_file_is_none_whoever_owns_it(
    tmp_path: Path, counting: dict[str, Any]
) -> None:
    me = f"unix:{getpass.getuser()}"
    house = await opened(tmp_path, [{**ASK, **counting}], groups={"mine": [me], "product": ["token:desk"]})
    await house.event("broken")
    said = await drop(house, "APPROVE.shop")
    assert said == (
        "APPROVE.shop: shop-1 counts persons, and a file's owner need not be who put it there; say it yourself: "
        "`rollbackd approve shop-1`"
    )
    assert house.written(facts.Approved) == []
    (asked,) = [one for one in answers(await house.incident(), Path("/signals")) if one[0] == "Say yes"]
    assert asked[1] == "`rollbackd approve shop-1`"
    assert await drop(house, "DENY.shop") == "", "a no needs nobody in particular"
    await house.stage.down()


def test_who_announced_a_change_approves_nothing_by_a_file_of_somebody_elses() -> None:
    question = ApprovalRequest((), datetime.fromtimestamp(0, UTC), excluded=("unix:ann",))
    assert question.counts_persons
    assert not ApprovalRequest((), datetime.fromtimestamp(0, UTC)).counts_persons


async def test_a_file_says_yes(asking: House) -> None:
    assert await drop(asking, "APPROVE.shop", "reason: go\n") == ""
    (found,) = (record for record in asking.stage.journal.records if isinstance(record.fact, facts.Approved))
    assert (found.actor, found.fact.reason) == (f"unix:{getpass.getuser()}", "go")
    await asking.pass_(MINUTE)
    assert asking.runs == "v1"


async def test_a_file_says_no(asking: House) -> None:
    assert await drop(asking, "DENY.shop", "reason: a fix comes\n") == ""
    assert asking.written(facts.Denied) == [facts.Denied("a fix comes")]


async def test_a_file_of_somebody_who_is_not_asked_is_rejected_with_the_reason(tmp_path: Path) -> None:
    house = await opened(tmp_path, [{**ASK, "by": ["product"]}])
    await house.event("broken")
    me = f"unix:{getpass.getuser()}"
    said = f"APPROVE.shop: shop-1: {me} is in none of the groups that are asked: product"
    assert await drop(house, "APPROVE.shop") == said
    notices = [notice.text for notice in house.written(facts.Notice) if notice.kind == "override"]
    assert notices == [said.replace("APPROVE.shop:", f"APPROVE.shop by {me} was rejected:", 1)]
    await house.stage.down()


async def test_a_file_where_nothing_asks_is_rejected_with_the_reason(house: House) -> None:
    assert await drop(house, "APPROVE.shop") == "APPROVE.shop: shop has no incident"
    await house.get(house.operations.rollback(Request("shop", ANN)))
    said = "DENY.shop: shop-1 does not ask, it acts; `rollbackd abort shop-1` stops it"
    assert await drop(house, "DENY.shop") == said


async def test_a_stop_waits_until_an_order_in_hand_has_ended(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, ended = asyncio.Event(), []

    async def hangs(*_: Any) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await moment()
            ended.append("abort")

    monkeypatch.setattr(house.operations, "abort", hangs)
    (house.stage.config.daemon.signals / "ABORT.shop").touch()
    running = asyncio.create_task(house.stage.daemon.orders.run())
    await house.pass_(5 * SECOND)
    assert begun.is_set()
    running.cancel()
    await asyncio.wait({running})
    assert ended == ["abort"]


async def test_a_file_from_before_the_question_answers_nothing(house: House) -> None:
    """It lay there unread; what it says yes to was another trouble."""
    (house.stage.config.daemon.signals / "APPROVE.shop").touch()
    await house.stage.daemon.orders.scan()
    await house.pass_(SECOND / 2)
    await house.event("broken")
    assert (await drop(house, "APPROVE.shop", None)).startswith("APPROVE.shop: shop-1 asks something else since")
    assert house.written(facts.Approved) == []


# -- announced changes --------------------------------------------------------------------------
def hotfix(release: str = "v3", **more: Any) -> ChangeBody:
    given = {"releases": {"code": release}, "kind": "hotfix", "priority": Priority.P0, "key": "build-17", **more}
    return ChangeBody(service="shop", **given)


async def test_the_same_key_twice_at_once_is_one_change(house: House) -> None:
    both = together(*(house.operations.changed(hotfix(), actor) for actor in (CI, DAVE)))
    first, second = await house.get(both)
    assert first == second
    assert (first.by, first.status, first.confirm_by) == (CI, "waiting", house.now + 15 * MINUTE)
    assert len(house.written(facts.Announced)) == 1
    with pytest.raises(InvalidOrder, match='"build-17" is another change of shop already; each needs a key of its own'):
        await house.get(house.operations.changed(hotfix("v4"), CI))


async def test_a_change_without_a_key_gets_a_name_that_can_be_typed(house: House) -> None:
    now = house.now
    first = await house.get(house.operations.changed(hotfix(key=""), CI))
    assert first.id == f"shop@{now:%Y%m%dT%H%M%SZ}"
    second = await house.get(house.operations.changed(hotfix(key="", confirm_within=timedelta()), CI))
    assert second.id != first.id
    assert second.confirm_by is None


async def test_what_cannot_be_announced_is_a_sentence(house: House) -> None:
    with pytest.raises(UnknownName, match='there is no service "chekout"'):
        await house.get(house.operations.changed(hotfix().model_copy(update={"service": "chekout"}), CI))
    with pytest.raises(InvalidOrder, match='shop has no layer "db"; it has: code, config'):
        await house.get(house.operations.changed(hotfix(releases={"db": "7"}), CI))


async def test_a_change_that_is_confirmed_stays(house: House) -> None:
    await house.get(house.operations.changed(hotfix(), CI))
    assert [one.status for one in (await house.service()).waiting] == ["waiting"]
    await house.deploy("v3")
    (listed,) = await house.operations.changes("shop")
    assert listed.state == (await house.operations.states("shop"))[0].key
    for name in ("shop", "build-17", "shop/build-17"):
        view = await house.get(house.operations.confirm(name, ANN))
        assert (view.status, view.confirmed) == ("confirmed", ANN)
    assert len(house.written(facts.Confirmed)) == 1
    assert (await house.service()).waiting == ()
    await house.pass_(30 * MINUTE)
    assert house.runs == "v3"


async def test_by_the_services_name_the_newest_that_waits_is_confirmed(house: House) -> None:
    await house.get(house.operations.changed(hotfix("v3", key="one"), CI))
    await house.deploy("v3")
    await house.get(house.operations.changed(hotfix("v4", key="two"), CI))
    await house.deploy("v4")
    assert (await house.get(house.operations.confirm("shop", ANN))).id == "two"
    assert (await house.get(house.operations.confirm("shop", ANN))).id == "two", "the one before runs no more"
    assert [one.status for one in await house.operations.changes("shop")] == ["confirmed", "replaced"]
    with pytest.raises(OrderRefused, match=r"one runs no more: code v4, config c1 does"):
        await house.get(house.operations.confirm("one", ANN))


async def test_a_change_that_went_back_cannot_be_confirmed(house: House) -> None:
    await house.get(house.operations.changed(hotfix(), CI))
    await house.deploy("v3")
    layer = house.stage.world.layers["shop"]["code"]
    layer.hold_up = asyncio.Event()
    await house.pass_(15 * MINUTE)
    assert [one.status for one in await house.operations.changes("shop")] == ["overdue"]
    stop = "`rollbackd abort shop-1` stops it"
    with pytest.raises(OrderRefused, match=f"build-17 is not confirmed: shop-1 takes shop back already; {stop}"):
        await house.get(house.operations.confirm("shop", ANN))
    layer.hold_up.set()
    await house.pass_(5 * MINUTE)
    assert house.runs == "v1"
    with pytest.raises(OrderRefused, match="build-17 runs no more: code v1, config c1 does"):
        await house.get(house.operations.confirm("build-17", ANN))


async def test_names_of_changes_that_are_wrong_are_sentences(house: House) -> None:
    with pytest.raises(UnknownName, match="no announced change of shop waits to be confirmed"):
        await house.get(house.operations.confirm("shop", ANN))
    with pytest.raises(UnknownName, match='nobody announced a change "build-9"; `rollbackd status SERVICE` lists them'):
        await house.get(house.operations.confirm("build-9", ANN))
    for service in ("shop", "desk"):
        await house.get(house.operations.changed(ChangeBody(service=service, key="build-9"), CI))
    with pytest.raises(
        InvalidOrder, match='several services have a change "build-9"; say shop/build-9 or desk/build-9'
    ):
        await house.get(house.operations.confirm("build-9", ANN))
    assert (await house.get(house.operations.confirm("desk/build-9", ANN))).service == "desk"


async def late(directory: Path, *, joined: bool) -> House:
    """A deadline that passed while the daemon was down: it asks."""
    house = await opened(directory)
    await house.get(house.operations.changed(hotfix(), CI))
    await house.deploy("v3")
    await house.stage.down()
    await house.pass_(20 * MINUTE)
    await house.stage.up()
    await house.pass_(MINUTE)
    assert (await house.incident()).waits
    if joined:
        await house.event("broken")
        assert [one.rule for one in (await house.incident()).joined] == ["broken"]
    return house


@pytest.mark.parametrize("joined", [False, True], ids=["alone", "joined by other trouble"])
async def test_a_question_about_the_deadline_alone_is_answered_by_confirming(tmp_path: Path, joined: bool) -> None:
    house = await late(tmp_path, joined=joined)
    await house.get(house.operations.confirm("shop", ANN))
    await house.pass_(MINUTE)
    found = await house.incident()
    assert found.denied == ("" if joined else ANN)
    assert house.runs == "v3"
    await house.stage.down()


# -- printed plans ------------------------------------------------------------------------------
async def test_a_plan_printed_twice_at_once_is_written_once(house: House) -> None:
    plans = [house.operations.plan(Request("shop", actor)) for actor in (ANN, BOB, ANN)]
    shown = await house.get(together(*plans))
    assert len({one.id for one in shown}) == 1
    assert len(house.written(facts.Proposed)) == 1
    assert shown[0].action == "roll_back"
    assert {finding.guard for finding in shown[0].findings} >= {"hold", "change", "target", "policy"}
    assert (shown[0].verification, shown[0].expected) == (45 * SECOND, None)


async def test_a_printed_plan_is_run_as_shown(house: House) -> None:
    shown = await house.get(house.operations.plan(Request("shop", ANN)))
    name = await house.get(house.operations.rollback(Request("shop", BOB, plan_id=shown.id)))
    await house.pass_(5 * MINUTE)
    found = await house.incident(name)
    assert found.decision.trigger.request is not None
    assert (found.decision.trigger.request.actor, found.decision.trigger.request.plan_id) == (BOB, shown.id)
    assert house.runs == "v1"


async def test_the_next_plan_tells_how_long_its_steps_took(house: House) -> None:
    layer = house.stage.world.layers["shop"]["code"]
    layer.hold_up = asyncio.Event()
    await house.get(house.operations.rollback(Request("shop", ANN)))
    await house.pass_(40 * SECOND)
    layer.hold_up.set()
    await house.pass_(30 * MINUTE)
    await house.deploy("v3")
    shown = await house.get(house.operations.plan(Request("shop", ANN)))
    (step,) = shown.steps
    assert step.expected is not None
    assert 39 * SECOND <= step.expected <= 41 * SECOND
    assert shown.expected == step.expected + 45 * SECOND


@pytest.mark.parametrize("moved", ["present", "target", "acting", "elsewhere", "unknown"])
async def test_a_printed_plan_is_not_run_in_another_world(house: House, moved: str) -> None:
    shown = await house.get(house.operations.plan(Request("shop", ANN)))
    order = Request("shop", BOB, plan_id=shown.id)
    said = {
        "present": f"the world moved since plan {shown.id} was printed: now code v3, config c1 runs, then code v2",
        "target": f"the world moved since plan {shown.id} was printed: it would go back to code v0, config c1 now, not",
        "acting": f"shop-1 of shop acts already; plan {shown.id} is not run",
        "elsewhere": "a printed plan says where to and by which plan; leave both out",
        "unknown": 'shop has no printed plan "0123456789ab"; `rollbackd plan shop` prints one',
    }
    if moved == "present":
        house.stage.world.run("shop", "code", "v3")
    elif moved == "target":
        house.stage.world.layers["shop"]["code"].known += (Release("v0"),)
        await house.get(house.operations.good("shop", {"code": "v0"}, ANN))
        await house.get(house.operations.quarantine("shop", {"code": "v1"}, ANN))
    elif moved == "acting":
        await house.get(house.operations.rollback(Request("shop", ANN)))
    elif moved == "elsewhere":
        order = replace(order, to="v1")
    else:
        order = replace(order, plan_id="0123456789ab")
    with pytest.raises((OrderRefused, UnknownName, InvalidOrder), match=said[moved]):
        await house.get(house.operations.rollback(order))


async def test_a_deployment_between_the_look_and_the_order_stops_it_before_its_first_step(house: House) -> None:
    shown = await house.get(house.operations.plan(Request("shop", ANN)))
    consider = house.stage.daemon.decision_engine.consider

    async def right_after_a_deployment(*given: Any) -> Any:
        house.stage.world.run("shop", "code", "v3")
        return await consider(*given)

    house.stage.daemon.decision_engine.consider = right_after_a_deployment  # type: ignore[method-assign, assignment]
    with pytest.raises(OrderRefused, match=f"code v2, config c1 runs no more, as plan {shown.id} had it"):
        await house.get(house.operations.rollback(Request("shop", BOB, plan_id=shown.id)))
    await house.pass_(MINUTE)
    assert house.runs == "v3"
    assert house.stage.world.calls == []


async def test_a_plan_is_shown_also_while_nothing_can_be_written(house: House) -> None:
    await house.get(house.operations.plan(Request("shop", ANN, to="v2")))
    house.stage.journal.broken = True
    shown = await house.get(house.operations.plan(Request("shop", ANN)))
    assert (shown.id, [step.layer for step in shown.steps]) == ("", ["code"])
    house.stage.journal.broken = False


# -- what is shown ------------------------------------------------------------------------------
async def test_an_incident_that_asks_shows_its_question_its_change_and_the_checks(asking: House) -> None:
    (listed,) = await asking.get(asking.operations.incidents(open_only=True))
    assert listed.status == "asking"
    assert listed.change.startswith("code v1 -> v2")
    assert [(check.name, check.verdict) for check in listed.checks] == [("health", "good")]
    question = listed.question
    assert question is not None
    assert (question.of, question.missing, question.approvals) == (
        "anybody who may order a rollback",
        "1 more person",
        (),
    )
    assert question.asked == (await asking.incident()).asked
    assert (await asking.incident()).decision.action is Action.ASK


async def test_the_checks_that_verification_counts_say_whether_a_service_is_well(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, sick = house.stage.config, {"log": Verdict.BAD, "smoke": Verdict.BAD}
    shop = config.by_name["shop"]
    verify = shop.verify.model_copy(update={"gate": ("ready", "health"), "checks": ("health", "log")})
    checks = dict.fromkeys(("smoke", "log", "health", "ready"), shop.checks["health"])
    named = {"shop": shop.model_copy(update={"verify": verify, "checks": checks})}
    monkeypatch.setitem(config.__dict__, "by_name", named)

    def verdict(_service: str, name: str) -> CheckResult:
        return CheckResult(name, sick.get(name, Verdict.GOOD), "", warn=name == "log")

    monkeypatch.setattr(house.stage.world, "verdict", verdict)
    found = await house.operations.checks("shop")
    names = [[one.name for one in part] for part in (found.checks, found.others)]
    assert (found.healthy, names) == (True, [["ready", "health"], ["log", "smoke"]])
    for said in (Verdict.INCONCLUSIVE, Verdict.BAD):
        sick["ready"] = said
        assert not (await house.operations.checks("shop")).healthy
    with pytest.raises(UnknownName):
        await house.operations.checks("shp")


async def test_a_history_says_who_announced_what_and_what_waits(house: House) -> None:
    await house.get(house.operations.changed(hotfix(), CI))
    await house.deploy("v3")
    view = await house.service()
    assert [(one.id, one.status, one.kind) for one in view.waiting] == [("build-17", "waiting", "hotfix")]
    states = await house.operations.states("shop")
    assert [(state.releases["code"], state.change) for state in states] == [
        ("v3", "hotfix by token:ci"), ("v2", ""), ("v1", ""),
    ]  # fmt: skip


async def test_a_change_that_nothing_came_of_waits_no_more(house: House) -> None:
    await house.get(house.operations.changed(hotfix("v9", confirm_within=3 * 60 * MINUTE), CI))
    await house.get(house.operations.changed(ChangeBody(service="shop", releases={"config": "c9"}), CI))
    assert [one.status for one in await house.operations.changes("shop")] == ["announced", "waiting"]
    await house.pass_(61 * MINUTE)
    assert [one.status for one in await house.operations.changes("shop")] == ["unseen", "unseen"]
    assert (await house.service()).waiting == ()
