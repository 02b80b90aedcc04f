"""The host `blue-green-canary`, as it is shipped: each row of its runbook on real servers and a strict fake of the API.

One world serves all stories; each begins with all well, and tells of an incident of its own.
"""

import json
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.e2e.blue_green import Shop, shop_world
from tests.e2e.toy import TOKEN
from tests.servers import wait_until

pytestmark = [
    pytest.mark.timeout(480),
    pytest.mark.needs("prometheus", "prometheus-alertmanager", "redis-server", "pgbackrest"),
]
FIVE_MINUTES = timedelta(minutes=5)
CUSTOMER = "ann@customers.example"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with shop_world(tmp_path_factory.mktemp("s")) as host:
        yield host
        assert "Traceback" not in host.log


@pytest.fixture
def shop(world: Shop) -> Shop:
    """All is well."""
    world.as_new()
    return world


# -- data -------------------------------------------------------------------------------------------
# The first story: changes within five minutes of each other are one change, and this one goes to the instant before it.
def test_data_that_was_damaged_comes_back_with_its_code(shop: Shop) -> None:
    """B1, B7, B12, B14, E2: to the instant before the release that damaged it; exports end first, and nothing writes.

    Nobody's address is in what is kept or told.
    """
    before, server = shop.last, shop.archived.server
    wait_until(lambda: len(shop.visitors.ordered) > 3, "orders come in")
    changed = datetime.now(UTC)
    shop.said("changed", "shop", "--key", "orders-v2")
    shop.roll_out("orders", "v2")
    wait_until(lambda: shop.visitors.ordered[-1][0] > datetime.now(UTC) - timedelta(seconds=1), "orders go on")
    server.sql("UPDATE orders SET net = -net", database="shop")
    export = f"/api/v1/namespaces/{shop.namespace}/pods"
    body = {
        "metadata": {"name": "export", "labels": {"role": "export"}},
        "spec": {"containers": [{"name": "export", "image": "shop/api:v1"}]},
    }
    shop.cluster.api("POST", export, {"apiVersion": "v1", "kind": "Pod", **body})
    shop.report("data_lost")
    incident = shop.newest(before)
    assert [shop.answer(incident, who) for who in ("tech-desk", "business-desk")] == ["one of business", ""]
    wait_until(lambda: json.loads(shop.visitors.ask("edge/state")[1])["closed"], "no new exports")
    assert shop.moved_layers(incident) == []
    shop.cluster.api("DELETE", f"{export}/export")
    with replicas_seen(shop) as replicas:
        shop.until_recovered(incident)
    assert replicas[0] == 0, "what writes is at 0"
    assert replicas[-1] == 1, "and back at what it was"
    said = shop.said("incidents", incident)
    order = ("entered exports", "entered resting", "applied db", "applied orders", "left resting", "recovered: ")
    assert sorted(order, key=said.index) == list(order), said
    assert not json.loads(shop.visitors.ask("edge/state")[1])["closed"]
    assert shop.image("orders") == "v1"
    kept = dict(server.sql("SELECT id, net FROM orders", database="shop"))
    missing = [at for at, number in shop.visitors.ordered if at < changed and number not in kept]
    assert missing == [], "no second of data before the change is lost"
    assert min(kept.values()) > 0
    ((old,),) = server.sql("SELECT min(net) FROM orders", database="shop_rollbackd_old_original")
    assert old < 0, "what was there is kept"
    copies_are_restored_for_practice(shop)
    shop.said("audit")
    assert CUSTOMER not in said + shop.people.said + shop.said("report", "incident", incident)


@contextmanager
def replicas_seen(shop: Shop) -> Iterator[list[int]]:
    """How many replicas what writes has, each time that it changes."""
    seen, ended = list[int](), threading.Event()

    def look() -> None:
        while not ended.wait(0.05):
            found = shop.cluster.api("GET", shop.path("deployments", "orders"))["spec"]["replicas"]
            if seen[-1:] != [found] and (seen or found == 0):
                seen.append(found)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join(timeout=10)


def copies_are_restored_for_practice(shop: Shop) -> None:
    """B7, B12: the present was dumped first, and can be read; a copy of now is restored for practice."""
    (kept,) = (shop.root / "copies/shop/db").glob("snapshot-before-*")
    assert f"{kept.name} whole" in shop.said("snapshot", "verify", "shop", "db", "--name", kept.name)
    shop.said("snapshot", "take", "shop", "db", "--name", "now")
    assert "now restored into scratch" in shop.said("snapshot", "verify", "shop", "db", "--name", "now", "--rehearse")


# -- blue and green ---------------------------------------------------------------------------------
def test_a_bad_colour_goes_back_by_itself(shop: Shop) -> None:
    """B1, B2, B5, B8, B9, B10, B11, B13: every second answer is an error, and nobody is waited for."""
    before = shop.last
    shop.roll_out("api-green", "v2-5xx")
    bad, began = shop.visitors.lost(), datetime.now(UTC)
    shop.switch("green")
    incident = shop.newest(before)
    shop.until_recovered(incident)
    assert (shop.colour, shop.image("api-green")) == ("blue", "v2-5xx"), "a switch, and no rollout"
    assert shop.moved_layers(incident) == ["colour"]
    it_is_well_within_the_goals(shop, began, bad)
    all_was_looked_at_in_time(shop, incident)
    assert "rule errors-above-10, plan blue-green" in shop.said("incidents", incident)
    everybody_is_told(shop, incident)
    its_figures_are_scraped(shop)
    report = shop.said("report", "incident", incident)
    for part in ("Immediate", "Short term", "Medium term", "Long term"):
        assert f"## After-care: {part}" in report
    assert "regulators" in report


def it_is_well_within_the_goals(shop: Shop, began: datetime, bad: tuple[int, int]) -> None:
    """B1: recovered within five minutes, no acknowledged order is lost, and what visitors lost is counted."""
    took = datetime.now(UTC) - began
    lost, answers = (now - then for now, then in zip(shop.visitors.lost(), bad, strict=True))
    assert took < FIVE_MINUTES
    assert 0 < lost < answers / 2, f"{lost} of {answers} answers in {took}"
    kept = {number for (number,) in shop.archived.server.sql("SELECT id FROM orders", database="shop")}
    assert {number for at, number in shop.visitors.ordered if at > began} <= kept
    print(f"recovered in {took.total_seconds():.1f}s, {lost} of {answers} answers lost, 0 s of data lost")


def all_was_looked_at_in_time(shop: Shop, incident: str) -> None:
    """B8, B13: each check of the runbook, two minutes after the onset at the latest; and again while it is verified."""
    onset = datetime.fromisoformat(shop.fact(incident, "Opened")["fact"]["decision"]["trigger"]["onset"])
    looked = shop.fact(incident, "Examined")
    assert datetime.fromisoformat(looked["at"]) - onset < timedelta(minutes=2)
    names = {"api", "front", "contract", "orders", "database", "sessions", "rows", "fast", "log"}
    assert names <= {one["name"] for one in looked["fact"]["results"]}
    rounds = [one["fact"]["results"] for one in shop.records(incident) if one["kind"] == "Round"]
    assert all(names <= {one["name"] for one in results} for results in rounds)
    assert {one["name"] for one in rounds[-1] if one["warn"]} & names == {"fast", "log"}
    (log,) = (one for one in looked["fact"]["results"] if one["name"] == "log")
    assert (log["verdict"], "ERROR api v2-5xx" in log["reason"]) == ("bad", True), log


def everybody_is_told(shop: Shop, incident: str) -> None:
    """B10, B11: Slack with colour, reason and target, a mail, and the status page in words of its own."""
    wait_until(lambda: any("recovered" in one for one in shop.people.mailed("shop")), "the mail")
    opened, well = (
        "Some requests to the shop fail. We are going back to the last good version.",
        "The shop works again.",
    )
    wait_until(lambda: {opened, well} <= set(shop.people.texts), "the status page")
    slack = json.dumps([one for one in shop.people.slack.taken if incident in json.dumps(one)], ensure_ascii=False)
    for text in ("green", "blue", "errors-above-10", "errors", "UTC"):
        assert text in slack, slack


def its_figures_are_scraped(shop: Shop) -> None:
    """B9: what the alert rules on rollbackd ask."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{shop.port}/metrics", headers={"Authorization": f"Bearer {TOKEN}"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    began = next(line for line in lines if line.startswith('rollbackd_rollbacks_total{service="shop"}'))
    assert float(began.rpartition(" ")[2]) >= 1
    assert 'rollbackd_rollbacks_open{service="shop"} 0.0' in lines
    assert any(line.startswith('rollbackd_rollbacks_ended_total{outcome="failed",service="shop"} 0') for line in lines)


def test_a_live_check_and_a_drill_ask_the_cluster(shop: Shop) -> None:
    """A line that the Role has lost is named by both."""
    assert shop.cluster.fake is not None
    shop.roll_out("api-green", "v2")
    shop.switch("green")
    shop.until_state(colour="green")
    denied, lost = shop.cluster.fake.denied, ("patch", "services")
    denied.add(lost)
    try:
        refused = [shop.command(*words) for words in (("drill", "shop"), ("check", "--live", "--no-messages"))]
    finally:
        denied.discard(lost)
    for each in refused:
        assert each.returncode == 1, each.stdout + each.stderr
        assert "resources: [services], verbs: [patch]" in " ".join(each.stdout.split()), each.stdout + each.stderr
    assert "drill ready, plan blue-green" in shop.said("drill", "shop")


def test_an_idle_colour_that_tires_gets_no_traffic(shop: Shop) -> None:
    """B5, B11: it answers fewer than five times in a row, so nothing is touched, until somebody has mended it."""
    before = shop.last
    shop.roll_out("api-green", "v2-5xx")
    shop.roll_out("api-blue", "v1-tiring")
    shop.switch("green")
    incident = shop.newest(before)
    wait_until(lambda: "traffic stays where it is" in json.dumps(shop.records(incident)), "it is tried", 60)
    assert "blue is not healthy, so the traffic stays where it is (" in shop.said("incidents", incident)
    assert shop.colour == "green"
    shop.said("escalate", incident, "--reason", "blue is sick as well")
    wait_until(lambda: bool(shop.people.mailed("lead")), "the next people of the list are called")
    shop.roll_out("api-blue", "v1")
    shop.until_recovered(incident)
    assert shop.colour == "blue"


def test_a_dependency_that_is_down_rolls_nothing_back(shop: Shop) -> None:
    """B1, B2: a new release is there, and then nobody answers for sessions; people are asked, and say no."""
    before = shop.last
    shop.roll_out("api-green", "v2")
    shop.switch("green")
    shop.until_state(colour="green")
    bad = shop.visitors.lost()[0]
    with shop.without_redis():
        incident = shop.newest(before)
        wait_until(lambda: shop.visitors.lost()[0] > bad + 20, "many answers are lost", 60)
        assert shop.fact(incident, "Opened")["fact"]["decision"]["trigger"]["rule"] == "trouble"
        (errors,) = (one for one in shop.ask("GET", "services/shop")["rules"] if "errors-above-10" in one.values())
        assert errors["verdict"] == "inconclusive"
    wait_until(
        lambda: all(one["verdict"] == "good" for one in shop.ask("GET", "services/shop")["rules"]), "it is over", 60
    )
    shop.said("deny", incident, "--reason", "sessions are back")
    assert shop.until_closed(incident, 30)["outcome"] == "declined"
    assert (shop.colour, shop.moved_layers(incident)) == ("green", [])


# -- canary -----------------------------------------------------------------------------------------
@contextmanager
def weights_written(shop: Shop) -> Iterator[list[int]]:
    """Each share of the canary that the API is given."""
    assert shop.cluster.fake is not None
    store, seen = shop.cluster.fake.store, list[int]()
    put = store.put

    def watched(resource: str, of: dict[str, Any]) -> dict[str, Any]:
        if resource == "virtualservices":
            seen.append(of["spec"]["http"][0]["route"][1]["weight"])
        return put(resource, of)

    store.put = watched  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        store.put = put  # type: ignore[method-assign]


def test_a_canary_goes_in_stages_and_faster_when_it_is_worse(shop: Shop) -> None:
    """B3, B6: a person's own, whose canary is well, takes each stage; one that fails goes at once, and by itself."""
    shop.split(100)
    shop.until_state(weights="100")
    with weights_written(shop) as seen:
        shop.said("rollback", "shop", "--plan", "canary", "--yes", "--reason", "B6")
    assert (seen, shop.weights) == ([75, 50, 25, 0], [100, 0])
    before = shop.last
    shop.roll_out("front-canary", "v2-5xx")
    shop.split(90)
    with weights_written(shop) as seen:
        incident = shop.newest(before)
        wait_until(lambda: shop.weights == [100, 0], "the canary gets nothing", 60)
    assert seen == [75, 0]
    shop.until_recovered(incident)
    assert shop.moved_layers(incident) == ["weights"]


# -- people -----------------------------------------------------------------------------------------
def test_two_different_people_where_it_is_not_automatic(shop: Shop) -> None:
    """B3, B4: slow for all, and no user has errors: two of the technical leads, whom nobody else stands in for."""
    before = shop.last
    shop.roll_out("api-green", "v2-slow")
    shop.switch("green")
    incident = shop.newest(before)
    assert shop.fact(incident, "Opened")["fact"]["decision"]["trigger"]["impact"] == "medium"
    said = [shop.answer(incident, who) for who in ("business-desk", "tech-desk", "tech-desk")]
    assert "" not in said, said
    assert shop.colour == "green"
    assert shop.command("approve", incident).returncode == 0
    shop.until_recovered(incident)
    assert shop.colour == "blue"


def test_a_security_signal_wants_one_person_and_both_ends_go_back(shop: Shop) -> None:
    """B4, D10: whoever it is; front and back end speak one version of their contract before, and one after."""
    before = shop.last
    shop.roll_out("api-green", "v2-contract2")
    shop.switch("green")
    shop.roll_out("front", "v2-contract2")
    shop.until_state(colour="green")
    contract = {"speaks": 2, "back": 2, "agree": True}
    wait_until(lambda: json.loads(shop.visitors.ask("front/contract")[1]) == contract, "both speak the next version")
    shop.report("security_signal")
    incident = shop.newest(before)
    assert shop.answer(incident, "business-desk") == ""
    shop.until_recovered(incident)
    assert shop.moved_layers(incident) == ["colour", "front"]
    assert (shop.colour, shop.image("front")) == ("blue", "v1")
    assert json.loads(shop.visitors.ask("front/contract")[1]) == {"speaks": 1, "back": 1, "agree": True}
