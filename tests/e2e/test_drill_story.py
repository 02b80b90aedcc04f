"""Drills with the real command line on the real daemon; and a rollback in one command, whatever the daemon does."""

import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.e2e.toy import Ear, Toy, toy, webhook
from tests.servers import wait_until


@pytest.fixture
def shop(tmp_path: Path, ear: Ear) -> Iterator[Toy]:
    """v1 is good, v2 runs, the daemon too; it may be drilled."""
    with toy(tmp_path / "shop", told=ear.url) as one:
        one.configure(drill=True)
        one.start_with_two_states()
        yield one


def metric(shop: Toy) -> str:
    request = urllib.request.Request(f"http://127.0.0.1:{shop.port}/metrics", headers=shop.headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return next((line for line in lines if line.startswith('rollbackd_ready{service="shop"}')), "")


def test_readiness_is_asked_lost_and_regained_and_told_once_each(shop: Toy, ear: Ear) -> None:
    ready = shop.command("drill", "shop")
    assert ready.returncode == 0, ready.stderr
    assert "shop: drill ready, plan default" in ready.stdout
    assert metric(shop).endswith(" 1.0")
    shop.touch("sick")
    for _ in range(2):
        lost = shop.command("drill", "shop")
        assert lost.returncode == 1
        assert "check health fails now, no rollback could be verified" in lost.stdout
    assert metric(shop).endswith(" 0.0")
    wait_until(lambda: bool(ear.heard("readiness")), "people hear that readiness is lost")
    shop.remove("sick")
    assert shop.command("drill", "shop").returncode == 0
    wait_until(lambda: len(ear.heard("readiness")) == 2, "people hear that it is back")
    assert [one["title"] for one in ear.heard("readiness")] == [
        "shop: a rollback would not work",
        "shop: a rollback would not work is over",
    ]
    listed = shop.command("drill", "--list")
    ours = [one["result"] for one in shop.ask("GET", "drills?service=shop")["drills"] if one["actor"] != "daemon"]
    assert ours == ["ready", "not_ready", "not_ready", "ready"], "the daemon's own may be beside them"
    lines = [line.count("ready") for line in listed.stdout.splitlines() if "shop" in line]
    assert set(lines) == {1}
    assert len(lines) >= len(ours)
    assert shop.calls == []
    assert shop.incidents() == []


def test_an_executed_drill_goes_there_and_back_and_says_little(shop: Toy, ear: Ear) -> None:
    done = shop.command("drill", "shop", "--execute")
    assert done.returncode == 0, done.stdout + done.stderr
    ways = [["enter", *(f"{what} {layer} co-{v}" for layer in ("config", "code") for what in ("begin", "end")), "leave"]
            for v in ("v1", "v2")]  # fmt: skip
    assert shop.calls == [call for way in ways for call in way]
    assert shop.runs == "co-v2"
    assert "shop: drill ready, plan default\n  went there  shop-1\n  came back   shop-2\n" in done.stdout
    wait_until(lambda: bool(ear.heard("drilled")), "people hear of its end")
    assert [event for event, _ in ear.events if event != "cannot_roll_back"] == ["opened", "drilled"]
    assert ear.heard("opened")[0]["title"].startswith("drill: shop rolling back: ")
    assert ear.heard("drilled")[0]["title"] == "drill of shop: went back and returned"
    states = shop.ask("GET", "states?service=shop")["states"]
    assert [(state["ids"]["code"], state["via"]) for state in states] == [("co-v2", ""), ("co-v1", "")]
    refused = shop.command("drill", "shop", "--plan", "evrything")
    assert refused.returncode == 2
    assert 'shop has no plan "evrything"; it has: default, code' in refused.stderr


def test_a_drill_that_cannot_go_there_says_what_a_rollback_would_run_into(shop: Toy, ear: Ear) -> None:
    shop.touch("fail.code")
    drilling = shop.beside("drill", "shop", "--execute")
    wait_until(lambda: "begin code co-v1" in shop.calls, "the step that fails is begun")
    shop.ask("POST", "incidents/shop-1/abort", {"reason": "seen enough"})
    assert drilling.process.wait(timeout=60) == 1
    assert shop.runs == "co-v2"
    assert (shop.root / "config").read_text() == "co-v2\n"
    assert not (shop.root / "entered").exists()
    assert any("interrupted" in line for line in drilling.lines)


def test_real_trouble_during_a_drill_is_rolled_back_when_it_has_returned(shop: Toy) -> None:
    shop.touch("wait.code")
    drilling = shop.beside("drill", "shop", "--execute")
    wait_until(lambda: "begin code co-v1" in shop.calls, "the drill is in the middle")
    sick = webhook("Sick", "shop", datetime.now(UTC))
    shop.ask("POST", "alerts", sick)
    shop.remove("wait.code")
    wait_until(lambda: len(shop.incidents()) == 3, "the real rollback begins", 60)
    shop.end_alert(sick, lambda: "Applied" in shop.kinds("shop-3"))
    closed = shop.until_closed("shop-3", limit=60)
    assert (closed["outcome"], closed["rule"]) == ("recovered", "sick")
    assert shop.runs == "co-v1"
    assert drilling.process.wait(timeout=60) == 1


def test_real_files_are_tried_out_on_the_calendar_too_and_taken_there_and_back(tmp_path: Path) -> None:
    with toy(tmp_path / "shop") as shop:
        conf, store = shop.root / "conf", shop.root / "store"
        conf.mkdir()
        layers = {"config": {"adapter": "files", "paths": [str(conf)], "store": str(store), "room": "1B"}}
        calendar = [{"drill": "shop", "every": "1h"}]
        shop.configure(layers=layers, plans={"default": ["config"]}, drill=True, schedules=calendar)

        def runs() -> str:
            return str((shop.ask("GET", "services/shop")["present"] or {}).get("key", ""))

        (conf / "app.json").write_text("1")
        shop.start()
        wait_until(lambda: bool(runs()), "the first state is seen")
        first = runs()
        shop.ask("POST", "services/shop/good", {})
        (conf / "app.json").write_text("2")
        wait_until(lambda: runs() != first, "the second state is seen")
        found = shop.ask("POST", "services/shop/drill", {})
        assert (found["result"], found["problems"]) == ("ready", [])
        assert found["layers"][0]["snapshot"].endswith("verified, restored into scratch")
        done = shop.command("drill", "shop", "--execute")
        assert done.returncode == 0, done.stdout + done.stderr
        assert (conf / "app.json").read_text() == "2"
        listed = shop.ask("GET", "drills?service=shop")["drills"]
        executed, by_a_person, *by_itself = listed
        assert (bool(executed["incident"]), bool(by_a_person["incident"])) == (True, False)
        assert {one["actor"] for one in by_itself} == {"daemon"}, "at the start, and on the calendar"
        for blob in [path for path in store.rglob("*") if path.is_file() and path.read_bytes() == b"1"]:
            blob.chmod(0o600)
            blob.write_bytes(b"x")
        damaged = shop.command("drill", "shop")
        assert damaged.returncode == 1
        assert "drill not ready" in damaged.stdout


def test_one_command_rolls_back_with_the_daemon_up_and_stopped_and_reports(shop: Toy) -> None:
    up = shop.command("rollback", "shop", "--plan", "default", "--yes", "--reason", "all is down")
    assert up.returncode == 0, up.stderr
    assert "applied code" in up.stdout
    assert "  what       shop: recovered, 2 good rounds in a row\n" in up.stdout
    assert up.stdout.endswith("shop-1: recovered\n")
    shop.deploy("v3")
    shop.until_seen("co-v3")
    shop.stop()
    stopped = shop.command("rollback", "shop", "--to", "last-stable", "--plan", "default", "--yes")
    assert stopped.returncode == 0, stopped.stderr
    assert "the daemon does not answer" in stopped.stderr
    assert "going on without it, on its journal" in stopped.stderr
    assert "  left over  nothing\n" in stopped.stdout
    assert shop.runs == "co-v1"
    shop.start()
    assert [one["outcome"] for one in shop.incidents()] == ["recovered", "recovered"]
