"""Looks that come round are answered by a watch, as a cluster really tells; whatever acts asks."""

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rollbackd.adapter import AdapterError, Place, Watched
from rollbackd.execution.layers import Layers
from rollbackd.model import Problem, Progress, Release
from rollbackd.system.clock import SystemClock
from rollbackd.testing import finish, perform, planned
from rollbackd_adapters.kubernetes import KubernetesAdapter, KubernetesSettings, client, watch
from rollbackd_adapters.kubernetes.blue_green import ServiceColours
from rollbackd_adapters.kubernetes.client import client_of
from rollbackd_adapters.kubernetes.settings import BlueGreenSettings
from tests.clusters import JSON_PATCH, MERGE_PATCH, Cluster, kubeconfig
from tests.contract.kubernetes_worlds import WorkloadWorld
from tests.fakes.kubernetes_api import TOKEN, FakeKubernetes
from tests.servers import wait_until


async def until(condition: Callable[[], Any], what: str) -> None:
    async with asyncio.timeout(120):
        while not condition():
            await asyncio.sleep(0.02)
    assert condition(), what


@contextlib.contextmanager
def silent_server() -> Iterator[str]:
    """One that takes connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def world(cluster: Cluster, tmp_path: Path) -> WorkloadWorld:
    return WorkloadWorld(cluster, tmp_path, history=("web:1",))


@pytest.fixture
def place(world: WorkloadWorld) -> Place:
    return world.cluster.place(world.path)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A watch lasts a second, and one that is silent is dead ten seconds later."""
    monkeypatch.setattr(watch, "_LASTING", timedelta(seconds=1))


def adapter(place: Place, world: WorkloadWorld, **settings: Any) -> KubernetesAdapter:
    return KubernetesAdapter(KubernetesSettings.model_validate(world.settings | settings), place)


def watch_of(place: Place, world: WorkloadWorld) -> watch.Watch:
    found: watch.Watch = client_of(place, "prod").watches[f"{world.base}/deployments"]
    return found


async def watched(place: Place, world: WorkloadWorld, **settings: Any) -> KubernetesAdapter:
    """A layer that a watch tells of, and that has nothing more to find out."""
    made = adapter(place, world, **settings)
    await made.current()
    await until(lambda: watch_of(place, world).is_fresh, "the watch")
    await made.current()
    return made


def asked(fake: FakeKubernetes) -> list[str]:
    """What was asked of the namespace since the last time, but for the watch's own connection."""
    found = [line for line in fake.asked if "kube-system" not in line and not line.startswith("WATCH")]
    fake.asked.clear()
    return found


def watches(fake: FakeKubernetes, world: WorkloadWorld) -> list[str]:
    """The connections that are open."""
    return [path for path in fake.watches if world.namespace in path]


def layers(one: KubernetesAdapter) -> Layers:
    service: Any = SimpleNamespace(name="shop", layers={"web": one})
    return Layers(service, {"web": one})


async def test_a_look_is_answered_without_a_request_and_a_change_is_seen(
    place: Place, world: WorkloadWorld, fake: FakeKubernetes
) -> None:
    one = await watched(place, world)
    before, _ = await one.asked(), asked(fake)
    assert [await one.current() for _ in range(3)] == [before] * 3
    assert asked(fake) == []
    world.deploy("web:2")
    wanted = world.release("web:2").id
    async with asyncio.timeout(60):
        while (now := await one.current()).id != wanted:
            await asyncio.sleep(0.02)
    assert now == await one.asked()
    assert list(place.scratch.rglob(f"{wanted}.json")), "a template that only the watch told of is kept as well"


async def test_whatever_acts_or_decides_asks(place: Place, world: WorkloadWorld, fake: FakeKubernetes) -> None:
    one = await watched(place, world)
    target = await one.asked()
    world.deploy("web:2")
    world.settled()
    await until(lambda: "web:2" in str(watch_of(place, world).told("web")), "the event")
    await one.current()
    of, get = layers(one), f"GET {world.at}"
    asked(fake)
    await of.steady((await of.look(told=True)).key, SystemClock(), told=True)
    assert asked(fake) == []
    change = await planned(one, target)
    for name, work in {
        "plan": one.plan(target),
        "progress": one.progress(change),
        "releases": one.releases(),
        "ready": one.ready(),
        "a look": of.look(),
        "a check of what runs": of.releases("web"),
        "a steady state": of.steady("", SystemClock()),
        "apply": one.apply(change),
    }.items():
        asked(fake)
        await work
        assert get in asked(fake), name


async def test_what_was_ordered_is_never_answered_from_before(
    place: Place, world: WorkloadWorld, fake: FakeKubernetes
) -> None:
    fake.watching.append("swallowed")
    one = await watched(place, world)
    before, _ = await one.current(), asked(fake)
    world.deploy("web:2")
    assert await one.current() == before, "nobody has said anything else yet"
    assert asked(fake) == []
    world.settled()
    await one.apply(await planned(one, before))
    world.deploy("web:3")
    assert (await one.current()).id == world.release("web:3").id


async def test_one_watch_serves_all_layers_and_ends_with_the_daemon(world: WorkloadWorld, fake: FakeKubernetes) -> None:
    async def daemon() -> None:
        first = await watched(world.cluster.place(world.path / "a"), world)
        second = adapter(world.cluster.place(world.path / "b"), world)
        asked(fake)
        assert await second.current() == await first.current()
        assert f"GET {world.at}" not in asked(fake)
        assert watches(fake, world) == [f"{world.base}/deployments"]

    await asyncio.to_thread(asyncio.run, daemon())
    await until(lambda: watches(fake, world) == [], "the end of the connection")


async def test_a_watch_that_a_proxy_swallowed_is_found_dead(
    cluster: Cluster, place: Place, world: WorkloadWorld, fake: FakeKubernetes, short: None
) -> None:
    fake.watching.append("swallowed")
    one = await watched(place, world)
    world.deploy("web:2")
    told, wanted = watch_of(place, world), world.release("web:2").id
    await until(lambda: not told.is_fresh, "the end of the silence")
    assert (await one.current()).id == wanted, "it asks again"
    await until(lambda: "web:2" in str(told.told("web")), "the next watch")
    assert [line for line in fake.asked if line == f"GET {world.base}/deployments"] == [
        f"GET {world.base}/deployments"
    ], "and goes on where it was, without another list"


@pytest.mark.parametrize("gap", ["hang", "reset", "429"])
async def test_what_was_deleted_during_a_gap_is_found(
    gap: str, cluster: Cluster, place: Place, world: WorkloadWorld, fake: FakeKubernetes, short: None
) -> None:
    await watched(place, world)
    told = watch_of(place, world)
    fake.watching.append(gap)
    await until(lambda: not fake.watching, "the gap")
    cluster.api("DELETE", world.at)
    fake.store.compact()
    fake.asked.clear()
    await until(lambda: told.told("web") is None and told.is_fresh, "the list")
    assert f"GET {world.base}/deployments" in fake.asked
    with pytest.raises(AdapterError, match="there is no deployment/web"):
        await adapter(place, world).current()


async def test_bookmarks_move_the_version_on(
    cluster: Cluster, place: Place, world: WorkloadWorld, fake: FakeKubernetes, short: None
) -> None:
    await watched(place, world)
    told = watch_of(place, world)
    cluster.namespace()  # somebody else's changes, of which this watch hears nothing

    def moved() -> bool:
        fake.bookmarks += 1  # again, where no watch was open a moment ago
        return told._version == str(fake.store.version)

    await until(moved, "a bookmark")
    fake.store.compact()
    fake.asked.clear()
    await until(lambda: sum(line.startswith("WATCH") for line in fake.asked) > 1, "the watch after the next")
    assert f"GET {world.base}/deployments" not in fake.asked


async def test_a_list_is_asked_page_by_page_and_anew_when_its_pages_expire(
    cluster: Cluster, place: Place, world: WorkloadWorld, fake: FakeKubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.frozen = True
    body = world.read()
    for n in range(4):
        made = {**body, "metadata": {"name": f"web-{n}"}, "status": {}}
        cluster.api("POST", f"{world.base}/deployments", made)
    monkeypatch.setattr(fake, "page", 2)
    fake.listing.extend(["429", "expired", ""])
    fake.rest = 0
    await watched(place, world)
    told = watch_of(place, world)
    assert all(told.told(f"web-{n}") for n in range(4))
    assert asked(fake).count(f"GET {world.base}/deployments") == 6, "refused, two that expire, and three pages"


async def test_without_the_right_to_watch_it_is_asked_and_that_is_a_note(
    place: Place, world: WorkloadWorld, fake: FakeKubernetes
) -> None:
    fake.denied.add(("watch", "deployments"))
    one = adapter(place, world)
    for _ in range(2):
        await one.current()
        await until(lambda: f"WATCH {world.base}/deployments" in fake.asked, "the try")
    asked(fake)
    await one.current()
    assert f"GET {world.at}" in asked(fake)
    assert await one.ready() == []
    line = '{apiGroups: ["apps"], resources: [deployments], verbs: [watch]}'
    (note,) = await layers(one).unwatched(["web"])
    assert note == Problem("web", f"the Role in namespace {world.namespace} has no line {line}; add it, {NOTED}")
    fake.denied.clear()
    assert await layers(one).unwatched(["web"]) == ()


NOTED = "so that its looks are answered by a watch; until then each asks the cluster"


async def test_a_layer_with_config_maps_asks_at_each_look(
    place: Place, world: WorkloadWorld, fake: FakeKubernetes
) -> None:
    one = adapter(place, world, config_maps="settings")
    for _ in range(2):
        asked(fake)
        await one.current()
        assert f"GET {world.at}" in asked(fake)
    assert client_of(place, "prod").watches == {}
    assert await one.unwatched() == []


async def test_a_line_without_an_end_is_given_up(
    place: Place, world: WorkloadWorld, fake: FakeKubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_LONGEST_EVENT", 10_000)
    one = await watched(place, world)
    world.patch({"op": "add", "path": "/metadata/annotations/long", "value": "x" * 200_000})
    await until(lambda: not watch_of(place, world).is_fresh, "the end of the watch")
    assert await one.current() == await one.asked()


async def test_a_cluster_that_hangs_delays_no_other(
    cluster: Cluster, world: WorkloadWorld, fake: FakeKubernetes
) -> None:
    fine = await watched(cluster.place(world.path), world)
    with silent_server() as url:
        away = world.path / "away"
        away.write_text(kubeconfig(url, TOKEN))
        away.chmod(0o600)
        hung = [
            adapter(cluster.place(world.path / str(n), kubeconfig=str(away), request_timeout="60s"), world)
            for n in range(8)
        ]
        looks = [asyncio.create_task(one.current()) for one in hung]
        for _ in range(20):
            await fine.current()
            await fine.asked()
        assert [look.done() for look in looks] == [False] * 8
        for look in looks:
            look.cancel()
        await asyncio.gather(*looks, return_exceptions=True)


async def test_a_service_and_its_colours_are_watched_too(
    place: Place, world: WorkloadWorld, fake: FakeKubernetes
) -> None:
    core = f"/api/v1/namespaces/{world.namespace}"
    service = {"selector": {"app": "web", "color": "green"}, "ports": [{"port": 80}]}
    made = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": service}
    world.cluster.api("POST", f"{core}/services", made)
    colours = {"blue": "deployment/blue", "green": "deployment/green"}
    known = {"adapter": "blue_green", "cluster": "prod", "namespace": world.namespace, "service": "web"}
    healthy = {colour: f"service/{colour}:80/health" for colour in colours}
    settings = BlueGreenSettings.model_validate(known | {"colours": colours, "healthy": healthy})
    one = ServiceColours(settings, place)
    assert isinstance(one, Watched)
    assert await one.current() == Release("green", "green")
    told = client_of(place, "prod").watches[f"{core}/services"]
    await until(lambda: told.is_fresh, "the watch")
    asked(fake)
    assert await one.current() == Release("green", "green")
    assert asked(fake) == []
    switched = [{"op": "replace", "path": "/spec/selector/color", "value": "blue"}]
    world.cluster.api("PATCH", f"{core}/services/web", switched, JSON_PATCH)
    await until(lambda: json.loads(told.told("web") or b"{}")["spec"]["selector"]["color"] == "blue", "the event")
    asked(fake)
    assert await one.current() == Release("blue", "blue")
    assert asked(fake) == []


# -- rollouts -----------------------------------------------------------------------------------
async def rolled_out(world: WorkloadWorld, fake: FakeKubernetes, place: Place, **settings: Any) -> list[str]:
    """Roll back while the cluster takes its time, which ends once its workload is watched; what was asked."""
    world.deploy("web:2")
    world.settled()
    one, target = adapter(place, world, **settings), world.release("web:1")
    await one.asked()
    fake.asked.clear()
    change = await planned(one, target)
    fake.frozen = True
    work = asyncio.create_task(perform(one, change))
    watched = f"WATCH {world.base}/deployments"
    await until(lambda: watched in fake.asked or work.done(), "the rollout is watched")
    fake.frozen = False
    world.cluster.api("PATCH", world.at, {"metadata": {"labels": {"its": "time"}}}, MERGE_PATCH)
    fake.asked.remove(f"PATCH {world.at}")  # one of them was this
    async with asyncio.timeout(60):
        assert await work is Progress.DONE
    return fake.asked


async def test_the_end_of_a_rollout_is_told_and_not_asked_for(
    place: Place, world: WorkloadWorld, fake: FakeKubernetes
) -> None:
    asked = await rolled_out(world, fake, place, every="10m", failing_for="30m", timeout="30m")
    assert len(asked) <= 15, asked


async def test_without_the_right_to_watch_a_rollout_is_asked_for(
    place: Place, world: WorkloadWorld, fake: FakeKubernetes
) -> None:
    fake.denied.add(("watch", "deployments"))
    asked = await rolled_out(world, fake, place)
    assert f"GET {world.at}" in asked


async def test_a_rollout_whose_watch_a_proxy_swallowed_is_asked_for(
    place: Place, world: WorkloadWorld, fake: FakeKubernetes
) -> None:
    fake.watching.append("swallowed")
    asked = await rolled_out(world, fake, place)
    assert f"GET {world.at}" in asked


def test_one_look_leaves_nothing_behind(world: WorkloadWorld, fake: FakeKubernetes) -> None:
    assert finish(adapter(world.cluster.place(world.path), world).current()).id == world.present()
    wait_until(lambda: watches(fake, world) == [], "the end of the connection")
