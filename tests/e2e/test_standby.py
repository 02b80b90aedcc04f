"""A daemon that stands by beside one that drives: it answers, passes on what it is told, and its signal files count."""

import json
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from tests.e2e.test_two_daemons import Second, driver, drives
from tests.e2e.toy import TOKEN, Ear, Toy, listening
from tests.postgres_journal import journal_server, new_journal
from tests.servers import wait_until


class Fleet:
    """`ops-a` drives and `ops-b` stands by, for one service."""

    def __init__(self, a: Toy, b: Second, ear: Ear) -> None:
        self.a, self.b, self.ear = a, b, ear

    def until(self, holds: Callable[[], bool], what: str) -> None:
        wait_until(holds, what)

    def held(self) -> list[str]:
        return [one["actor"] for one in self.a.ask("GET", "holds")["holds"]]

    def well_again(self) -> None:
        """v2 runs, and v1 is what it would go back to."""
        self.a.deploy("v1")
        self.a.until_seen("co-v1")
        self.a.deploy("v2")
        self.a.until_seen("co-v2")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    root = tmp_path_factory.mktemp("fleet")
    with journal_server() as server, listening() as ear:
        url = new_journal(server)
        a = Toy(root / "a", told=ear.url)
        b = Second(root / "b", told=ear.url, first=a)
        for host, one in (("ops-a", a), ("ops-b", b)):
            one.build()
            daemon = {"journal": url, "durability": "local", "standby": True, "name": "desk", "host": host}
            verify = {**one.service()["verify"], "deadline": "60s"}
            path = one.configure(
                daemon=daemon,
                others=["till"],
                limits={"common_cause": False, "cooldown": "1s"},
                verify=verify,
            )
            config = yaml.safe_load(path.read_text())
            config["services"][1]["on"] = "ops-b"
            path.write_text(yaml.safe_dump(config, sort_keys=False))
        try:
            a.start_with_two_states()
            b.start_beside()
            b.until_up()
            yield Fleet(a, b, ear)
        finally:
            for one in (b, a):
                one.stop(kill=True)


def test_one_that_stands_by_answers_from_the_shared_journal_and_says_who_drives(fleet: Fleet) -> None:
    b = fleet.b
    assert b.ask("GET", "services/shop")["present"]["ids"]["code"] == "co-v2"
    assert b.ask("GET", "services/shop")["health"] == "inconclusive"
    with urllib.request.urlopen(
        urllib.request.Request(f"http://127.0.0.1:{b.port}/readyz", headers=b.headers)
    ) as ready:
        assert json.load(ready)["notes"][0].startswith("stands by: desk on ops-a, process ")
    fleet.a.ask("PUT", "holds/shop", {"reason": "seen from both"})
    fleet.until(lambda: "seen from both" in str(b.ask("GET", "holds")), "what was written since is known there")
    fleet.a.ask("DELETE", "holds/shop")
    status, said, _ = b.refused("POST", "services/shop/checks", {})
    assert (status, said.startswith("this daemon stands by; desk on ops-a, process ")) == (409, True)
    page = urllib.request.Request(f"http://127.0.0.1:{b.port}/", headers={"Authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(page) as answer:
        assert "stands by; desk on ops-a" in answer.read().decode()


def test_an_alert_that_is_posted_to_it_goes_back_once(fleet: Fleet) -> None:
    before = len(fleet.a.incidents())
    assert fleet.b.alert() == {"accepted": 1, "duplicates": 0, "unmatched": 0}
    fleet.until(lambda: len(fleet.a.incidents()) > before, "it is judged where it is driven")
    incident = fleet.a.incidents()[0]["id"]
    assert fleet.a.until_closed(incident)["outcome"] == "recovered"
    assert fleet.a.calls.count("begin code co-v1") == 1


def test_another_one_of_its_name_is_refused_and_says_so(fleet: Fleet) -> None:
    refused = fleet.b.command("run")
    assert refused.returncode == 1
    assert "another daemon is called ops-b and lives" in refused.stderr
    assert [one["host"] for one in fleet.a.ask("GET", "members")["members"]] == ["ops-a", "ops-b"]


def test_an_order_that_is_given_to_it_is_answered_by_who_drives(fleet: Fleet) -> None:
    assert fleet.b.ask("PUT", "holds/shop", {"reason": "by b"})["done"] == "shop is held: no step is started"
    assert fleet.held() == ["token:desk"]
    lifted = fleet.b.command("resume", "shop")
    assert (lifted.returncode, "@ops-b)" in lifted.stdout) == (0, True), lifted.stderr
    refused = fleet.b.command("resume", "shop")
    assert (refused.returncode, "nothing holds shop" in refused.stderr) == (1, True)


def test_a_hold_there_stops_the_one_that_drives_and_outlives_its_host_until_a_person_lifts_it(fleet: Fleet) -> None:
    hold = fleet.b.signals / "HOLD.shop"
    hold.write_text("reason: look first")
    fleet.until(lambda: fleet.held() != [], "it is known where it is driven")
    (actor,) = fleet.held()
    assert actor.endswith("@ops-b")
    status, said, _ = fleet.a.refused("POST", "services/shop/rollback", {})
    assert (status, "held on ops-b: HOLD.shop by unix:" in said, "look first" in said) == (409, True, True)
    hold.unlink()
    fleet.until(lambda: fleet.held() == [], "it is gone with its file")
    hold.touch()
    fleet.until(lambda: fleet.held() != [], "it holds again")
    fleet.b.stop(kill=True)
    hold.unlink()
    assert "held on ops-b" in fleet.a.refused("POST", "services/shop/rollback", {})[1]
    lifted = fleet.a.command("resume", "--from", "ops-b")
    assert (lifted.returncode, fleet.held()) == (0, []), lifted.stderr
    again = fleet.a.command("resume", "--from", "ops-b")
    assert (again.returncode, "no signal file of ops-b holds anything" in again.stderr) == (1, True)
    fleet.b.start_beside()
    fleet.b.until_up()


def test_orders_by_file_there_are_carried_out_once_where_it_is_driven(fleet: Fleet) -> None:
    fleet.well_again()
    before = {one["id"] for one in fleet.a.incidents()}
    calls = fleet.a.calls.count("begin code co-v1")
    (fleet.b.signals / "ROLLBACK.shop").write_text("reason: by hand")
    new: list[dict[str, Any]] = []

    def begun() -> bool:
        new[:] = [one for one in fleet.a.incidents() if one["id"] not in before]
        return bool(new)

    fleet.until(begun, "the driver takes it")
    assert fleet.a.until_closed(new[0]["id"])["outcome"] == "recovered"
    detail = fleet.a.ask("GET", f"incidents/{new[0]['id']}")
    assert "@ops-b" in str(detail["decision"])
    assert fleet.a.calls.count("begin code co-v1") == calls + 1
    assert [path.name.rpartition("Z.")[2] for path in (fleet.b.signals / "done").iterdir()] == ["ROLLBACK.shop"]
    (fleet.b.signals / "APPROVE.shop").touch()
    fleet.until(lambda: "APPROVE.shop by unix:" in fleet.ear.text(), "who gave it hears that it was rejected")


def test_a_service_that_is_on_one_host_is_not_touched_from_another_and_people_hear_that_at_once(fleet: Fleet) -> None:
    fleet.until(lambda: "cannot roll back till: it is on ops-b, and ops-a drives" in fleet.ear.text(), "it is told")
    why = "till is on ops-b, and this is ops-a: it cannot be rolled back from here"
    fleet.until(lambda: why in fleet.a.ask("GET", "services/till")["cannot"], "it is shown")
    assert why in fleet.a.refused("POST", "services/till/rollback", {})[1]


def test_the_hosts_are_listed_with_who_drives_and_the_one_that_drives_can_be_drained(fleet: Fleet) -> None:
    found = fleet.b.ask("GET", "members")["members"]
    epoch = found[0]["epoch"]
    assert [(one["host"], one["drives"], one["epoch"]) for one in found] == [
        ("ops-a", True, epoch),
        ("ops-b", False, epoch),
    ]
    assert all(abs(one["ahead"]) < 2 for one in found)
    assert len({one["configuration"] for one in found}) == 1
    listed = fleet.a.command("members")
    assert [line.split()[:3] for line in listed.stdout.splitlines()[1:]] == [
        ["ops-a", "yes", "0.1.0"],
        ["ops-b", "no", "0.1.0"],
    ]
    assert "ops-a drives" in fleet.a.command("status").stdout
    assert "ops-b does not drive; ops-a does" in fleet.b.command("drain", "ops-b").stderr
    drained = fleet.b.command("drain", "ops-a")
    assert (drained.returncode, "gives the journal away" in drained.stdout) == (0, True), drained.stderr
    wait_until(lambda: drives(fleet.b), "the other one drives", 60)
    wait_until(lambda: "stands by" in driver(fleet.a), "the first one stands by", 60)
    found = fleet.a.ask("GET", "members")["members"]
    assert [(one["host"], one["drives"], one["epoch"]) for one in found] == [
        ("ops-a", False, epoch + 1),
        ("ops-b", True, epoch + 1),
    ]
    fleet.until(lambda: "till can be rolled back again: ops-b drives" in fleet.ear.text(), "that it is over is told")
    assert not fleet.ear.heard("taken_over"), "nobody need look at a host that gave it away"


def test_a_hold_on_the_host_that_drives_outlives_it_when_it_is_killed_right_after(fleet: Fleet) -> None:
    assert drives(fleet.b)
    (fleet.b.signals / "HOLD").touch()
    fleet.until(lambda: "@ops-b" in str(fleet.a.ask("GET", "holds")), "the one that stands by knows")
    fleet.b.stop(kill=True)
    wait_until(lambda: drives(fleet.a), "it takes over", 60)
    assert "held on ops-b: HOLD by unix:" in fleet.a.refused("POST", "services/shop/rollback", {})[1]
    fleet.ear.until_heard("taken_over")
