"""What a watch keeps of what a cluster tells, how long it is believed, and when it asks again; time is the test's own."""

import asyncio
import json
import random
from collections import deque
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any, cast

import pytest

from rollbackd.adapter import AdapterError
from rollbackd_adapters.kubernetes import watch as module
from rollbackd_adapters.kubernetes.client import KubernetesClient, KubernetesError, Object
from rollbackd_adapters.kubernetes.watch import Watch, told_of
from tests.fakes.clock import ManualClock

LIST = "/apis/apps/v1/namespaces/shop/deployments"
WEB, MAIL = f"{LIST}/web", f"{LIST}/mail"
Event = dict[str, Any]


def deployment(name: str, version: int, image: str = "web:1", **metadata: Any) -> Object:
    return {
        "metadata": {"name": name, "uid": name, "generation": version, "resourceVersion": str(version), **metadata},
        "spec": {"template": {"spec": {"containers": [{"name": "web", "image": image}]}}},
        "status": {"observedGeneration": version},
    }


class Teller:
    """A cluster that tells what the test says, when it says so."""

    name = "prod"
    request_timeout = timedelta(seconds=10)

    def __init__(self) -> None:
        self.ordered: dict[str, float] = {}
        self.watches: dict[str, Any] = {}
        self.clock = ManualClock()
        self.there = {"web": deployment("web", 1)}
        self.version = 1
        self.asked: list[str] = []
        self.page = 50
        self.failing: deque[AdapterError] = deque()
        """What the next watches end with at once."""
        self.lists_fail: deque[AdapterError] = deque()
        self.another: AdapterError | None = None
        self._events: asyncio.Queue[Event | AdapterError | None] = asyncio.Queue()

    async def identify(self) -> None:
        if self.another is not None:
            raise self.another

    async def pages(self, _path: str, **query: str) -> AsyncIterator[tuple[list[Object], str]]:
        self.asked.append(f"list of {query['limit']}")
        if self.lists_fail:
            raise self.lists_fail.popleft()
        found, version = list(self.there.values()), str(self.version)
        for at in range(0, max(1, len(found)), self.page):
            yield found[at : at + self.page], version
            await asyncio.sleep(0)

    async def watch(self, _path: str, version: str, lasting: timedelta, take: Callable[[Object | None], None]) -> None:
        self.asked.append(f"watch from {version}")
        if self.failing:
            raise self.failing.popleft()
        take(None)
        while (event := await self._events.get()) is not None:
            if isinstance(event, AdapterError):
                raise event
            take(event)

    # -- what the test does ---------------------------------------------------------------------
    def tell(self, kind: str, of: Object) -> None:
        self._events.put_nowait({"type": kind, "object": of})

    def end(self, error: AdapterError | None = None) -> None:
        self._events.put_nowait(error)

    def told(self, path: str = WEB) -> bytes | None:
        return told_of(cast("KubernetesClient", self), path, self.clock)  # it asks nothing else of one

    @property
    def one(self) -> Watch:
        found: Watch = self.watches[LIST]
        return found

    def image(self, path: str = WEB) -> str | None:
        told = self.told(path)
        return None if told is None else str(json.loads(told)["spec"]["template"]["spec"]["containers"][0]["image"])

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    async def pass_time(self, seconds: float) -> None:
        await self.settle()
        self.clock.advance(timedelta(seconds=seconds))
        await self.settle()

    async def is_next_asked_after(self, most: float) -> float:
        """How many seconds pass until the cluster is asked again; in steps of a tenth."""
        before, passed = len(self.asked), 0.0
        while len(self.asked) == before:
            assert passed < most, f"nothing is asked within {most} s"
            await self.pass_time(0.1)
            passed += 0.1
        return passed


@pytest.fixture
async def teller(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Teller]:
    """One whose first list has been told; pauses are as long as they can be."""
    monkeypatch.setattr(random, "uniform", lambda _least, most: most)
    made = Teller()
    assert made.told() is None, "the first look asks"
    await made.settle()
    yield made
    if (task := made.one._task) is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_what_was_listed_and_what_changed_since_is_told(teller: Teller) -> None:
    assert teller.image() == "web:1"
    teller.tell("MODIFIED", deployment("web", 2, "web:2"))
    teller.tell("ADDED", deployment("mail", 3, "mail:1"))
    await teller.settle()
    assert (teller.image(), teller.image(MAIL)) == ("web:2", "mail:1")
    teller.tell("DELETED", deployment("mail", 4))
    await teller.settle()
    assert (teller.image(), teller.image(MAIL)) == ("web:2", None)
    assert teller.asked == ["list of 50", "watch from 1"]


async def test_records_are_small_and_the_same_while_only_the_status_changes(teller: Teller) -> None:
    before = teller.told()
    noted = {"kubectl.kubernetes.io/last-applied-configuration": "x" * 5000}
    teller.tell("MODIFIED", deployment("web", 7, managedFields=[{"manager": "kubectl"}] * 50, annotations=noted))
    await teller.settle()
    after = teller.told()
    assert after is not None
    assert len(after) < 300
    teller.tell("MODIFIED", {**deployment("web", 8, annotations=noted), "status": {"replicas": 9}})
    await teller.settle()
    assert teller.told() == after != before


async def test_a_watch_that_ends_in_order_goes_on_where_it_was(teller: Teller) -> None:
    teller.tell("BOOKMARK", deployment("", 40))
    await teller.pass_time(30)
    teller.end()
    await teller.pass_time(1)
    assert teller.asked == ["list of 50", "watch from 1", "watch from 40"]
    assert teller.image() == "web:1"


async def test_nothing_is_told_after_a_silence_nor_while_a_watch_is_broken(teller: Teller) -> None:
    await teller.pass_time(39)
    assert teller.image() == "web:1"
    await teller.pass_time(1)
    assert teller.image() is None, "whoever is silent for longer than a request may last is dead"
    teller.tell("BOOKMARK", deployment("", 5))
    await teller.settle()
    assert teller.image() == "web:1"
    teller.end(KubernetesError("the connection was reset", permanent=False))
    await teller.settle()
    assert teller.image() is None
    await teller.pass_time(1)
    assert teller.image() == "web:1", "it goes on from where it was, and the cluster agreed"
    assert teller.asked[-1] == "watch from 5"


async def test_a_version_that_is_too_old_is_listed_anew_and_what_is_gone_is_found(teller: Teller) -> None:
    teller.there = {"mail": deployment("mail", 90)}
    teller.version = 90
    teller.end(KubernetesError("too old", permanent=False, status=410))
    await teller.settle()
    assert teller.image() is None
    await teller.pass_time(2)
    assert teller.asked[2:] == ["list of 50", "watch from 90"]
    assert (teller.image(), teller.image(MAIL), teller.one.is_fresh) == (None, "web:1", True)


async def test_pages_that_expire_are_begun_anew(teller: Teller) -> None:
    teller.there = {f"web-{n}": deployment(f"web-{n}", n) for n in range(120)}
    teller.lists_fail.append(KubernetesError("the continue parameter is too old", permanent=False, status=410))
    teller.end(KubernetesError("too old", permanent=False, status=410))
    await teller.pass_time(2)
    assert teller.told(f"{LIST}/web-119") is None
    await teller.pass_time(4)
    assert teller.told(f"{LIST}/web-119") is not None
    assert teller.told() is None


async def test_what_we_ordered_ourselves_is_told_only_from_a_list_since_then(teller: Teller) -> None:
    assert teller.image() == "web:1"
    await teller.pass_time(3)
    teller.ordered[LIST] = teller.clock.monotonic()
    teller.tell("MODIFIED", deployment("web", 2, "web:1"))
    await teller.settle()
    assert teller.image() is None
    await teller.pass_time(10)
    teller.end()
    await teller.pass_time(1)
    assert teller.asked[2:] == ["list of 50", "watch from 1"]
    assert teller.image() == "web:1"


async def test_pauses_grow_while_it_fails_and_are_short_again_after_it_went_well(teller: Teller) -> None:
    teller.failing.extend(KubernetesError("reset", permanent=False) for _ in range(7))
    teller.end(KubernetesError("reset", permanent=False))
    waited = [await teller.is_next_asked_after(61) for _ in range(8)]
    assert waited == pytest.approx([2, 4, 8, 16, 32, 60, 60, 60], abs=0.3)
    await teller.pass_time(30)
    teller.end(KubernetesError("reset", permanent=False))
    assert await teller.is_next_asked_after(2) == pytest.approx(1, abs=0.3)


async def test_one_that_ends_at_once_again_and_again_is_not_asked_in_a_hurry(teller: Teller) -> None:
    waited = []
    for _ in range(3):
        teller.end()
        waited.append(await teller.is_next_asked_after(61))
    assert waited == pytest.approx([2, 4, 8], abs=0.3)


async def test_a_rest_that_the_server_asks_for_is_kept(teller: Teller) -> None:
    busy = KubernetesError("too many requests", permanent=False, status=429)
    busy.rest = timedelta(seconds=90)
    teller.end(busy)
    assert await teller.is_next_asked_after(100) == pytest.approx(92, abs=0.3)


async def test_without_the_right_it_is_tried_seldom_and_nothing_is_told(teller: Teller) -> None:
    teller.end(KubernetesError("forbidden", permanent=True, status=403))
    await teller.settle()
    assert teller.image() is None
    for _ in range(30):
        await teller.pass_time(10)
        assert (teller.told(), teller.asked[2:]) == (None, [])
    await teller.pass_time(3)
    assert teller.asked[2:] == ["list of 50", "watch from 1"]


async def test_another_cluster_at_the_same_address_is_not_believed(teller: Teller) -> None:
    teller.another = AdapterError("it is another cluster", permanent=True)
    teller.end()
    await teller.pass_time(2)
    assert teller.image() is None
    assert teller.one._records == {}


async def test_it_ends_when_nobody_asks_any_more_and_begins_anew_when_somebody_does(teller: Teller) -> None:
    await teller.pass_time(301)
    teller.end()
    await teller.pass_time(2)
    assert (teller.one._task, teller.one._records) == (None, {})
    assert teller.told() is None
    await teller.settle()
    assert teller.image() == "web:1"
    assert teller.asked == ["list of 50", "watch from 1"] * 2


def nested(depth: int) -> Any:
    made: Any = []
    for _ in range(depth):
        made = [made]
    return made


@pytest.mark.parametrize(
    "object_",
    [{}, {"metadata": 3}, {"metadata": {"name": ""}}, {"metadata": {"name": "web"}, "spec": nested(50_000)}],
    ids=["nothing", "metadata that is none", "no name", "too deep"],
)
async def test_what_is_no_object_is_not_believed(teller: Teller, object_: Any) -> None:
    teller.tell("MODIFIED", object_)
    await teller.settle()
    assert teller.image() is None
    await teller.pass_time(200)
    assert teller.image() is None
    await teller.pass_time(103)
    assert teller.image() == "web:1"


async def test_records_have_a_bound(teller: Teller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LARGEST", 2000)
    for version in range(2, 9):  # each replaces the one before it
        teller.tell("MODIFIED", deployment("web", version, "x" * 1500))
    await teller.settle()
    assert teller.image() == "x" * 1500
    teller.tell("ADDED", deployment("mail", 9, "x" * 1500))
    await teller.settle()
    assert teller.image() is None
    assert teller.one._records == {}


async def test_all_who_name_the_same_list_share_it(teller: Teller) -> None:
    for path in (WEB, MAIL, WEB):
        teller.told(path)
    await teller.settle()
    assert list(teller.watches) == [LIST]
    assert teller.asked == ["list of 50", "watch from 1"]
