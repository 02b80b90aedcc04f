"""What a person on call does, with the real command line on the real daemon, and what they read meanwhile."""

import json
import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.toy import Ear, Toy, json_lines, toy
from tests.servers import wait_until

SHORT = {"gate": [], "settle": "0s", "every": "200ms", "passes": 2, "deadline": "1s", "watch": "1m"}
"""Verification that gives up after a second."""


def verify(**changes: Any) -> dict[str, Any]:
    return {**SHORT, "checks": ["health"], **changes}


def ineffective(shop: Toy) -> dict[str, Any]:
    """A rollback that does not help."""
    shop.touch("sick")
    incident = shop.ask("POST", "services/shop/rollback", {})["incident"]
    closed = shop.until_closed(incident)
    shop.remove("sick")
    assert closed["outcome"] == "ineffective"
    return closed


# -- rollback -----------------------------------------------------------------------------------
def test_watch_shows_the_steps_as_they_happen_also_over_a_crash_of_the_daemon(shop: Toy) -> None:
    shop.touch("wait.code")
    watching = shop.beside("rollback", "shop", "--watch", "--reason", "v2 is slow")
    wait_until(lambda: watching.shows("applying code"), "the second step is shown")
    assert watching.shows("entered page")
    assert watching.shows("applied config")
    assert not watching.shows("applied code")

    shop.stop(kill=True)
    shop.start()
    shop.remove("wait.code")
    assert watching.process.wait(timeout=60) == 0
    assert watching.lines[-1] == "shop-1: recovered"
    assert "trying again" in watching.errors.read_text()
    assert len([line for line in watching.lines if line.endswith("applied config")]) == 1
    assert shop.calls.count("begin code co-v1") == 1
    assert shop.runs == "co-v1"


def test_watch_exits_with_1_when_it_did_not_help(shop: Toy) -> None:
    shop.configure(verify=verify(), notify={})
    shop.stop()
    shop.start()
    shop.touch("sick")
    done = shop.command("rollback", "shop", "--watch")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "shop-1: ineffective"
    assert "verification still failed after 1s" in done.stdout
    assert "health bad: exit 1" in done.stdout


def test_nothing_goes_back_while_somebody_mends_it_and_then_it_goes_back_by_itself(shop: Toy) -> None:
    said = shop.command("mending", "shop", "15s", "--reason", "the index")
    assert "is being mended until" in said.stdout
    (hold,) = shop.ask("GET", "holds")["holds"]
    assert hold["reason"] == "mending, 15s: the index"
    shop.alert()
    wait_until(lambda: bool(shop.decisions()), "it is decided on")
    (refused,) = shop.decisions()
    assert refused["action"] == "refuse"
    assert shop.incidents() == []
    wait_until(lambda: bool(shop.incidents()), "it goes back by itself", 60)
    closed = shop.until_closed("shop-1")
    assert closed["outcome"] == "recovered"
    assert closed["opened"] >= hold["until"]
    report = shop.command("report", "incident", "shop-1").stdout
    assert "mended it, and estimated 15s" in report


def test_offline_is_refused_while_the_daemon_runs_and_works_without_it(shop: Toy, ear: Ear) -> None:
    refused = shop.command("rollback", "shop", "--offline")
    assert refused.returncode == 1
    assert shop.daemon is not None
    assert f"journal is in use by process {shop.daemon.pid}; ask that one, or end it first" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert shop.calls == []

    shop.stop()
    done = shop.command("rollback", "shop", "--offline", "--reason", "the daemon is down")
    assert done.returncode == 0, done.stderr
    assert "applied code" in done.stdout
    assert done.stdout.splitlines()[-1].endswith(": recovered")
    assert shop.runs == "co-v1"
    assert ear.heard("recovered")

    shop.start()
    (incident,) = shop.incidents()
    assert (incident["id"], incident["outcome"]) == ("shop-1", "recovered")
    assert shop.records("shop-1")[0]["actor"].startswith("unix:")


def test_without_the_daemon_every_command_says_what_to_do(shop: Toy) -> None:
    shop.stop()
    done = shop.command("status")
    assert done.returncode == 3
    assert "the daemon does not answer" in done.stderr
    assert f"touch {shop.signals}/HOLD" in done.stderr
    assert "rollbackd rollback SERVICE --offline" in done.stderr


def test_what_to_goes_back_to_is_named_by_label_prefix_key_or_layer(shop: Toy) -> None:
    releases = [{"id": f"co-v{n}", "label": f"release-{n}"} for n in (3, 2, 1)]
    (shop.root / "code.releases").write_text(json.dumps(releases))

    def target(to: str) -> dict[str, str]:
        found = shop.ask("POST", "services/shop/plan", {"to": to})["target"]
        return dict(found["ids"]) if found else {}

    v1 = next(state for state in shop.ask("GET", "states?service=shop")["states"] if state["ids"]["code"] == "co-v1")
    assert target(v1["key"]) == {"config": "co-v1", "code": "co-v1"}
    assert target("release-3") == {"config": "co-v2", "code": "co-v3"}
    assert target("code=co-v3") == {"config": "co-v2", "code": "co-v3"}
    assert target("code=release-1") == {"config": "co-v2", "code": "co-v1"}
    assert target("last-stable") == {"config": "co-v1", "code": "co-v1"}

    done = shop.command("rollback", "shop", "--to", "code=co-v3", "--watch")
    assert done.returncode == 0, done.stdout + done.stderr
    assert shop.runs == "co-v3"
    assert shop.calls == ["enter", "begin code co-v3", "end code co-v3", "leave"]


def test_a_target_that_is_unknown_or_two_is_refused_with_what_there_is(shop: Toy) -> None:
    nowhere = shop.command("rollback", "shop", "--to", "code=v9")
    assert nowhere.returncode == 1
    assert 'code: no release "v9"; the newest are: co-v3, co-v2, co-v1' in nowhere.stderr
    both = shop.command("rollback", "shop", "--to", "co-v3")
    assert both.returncode == 1
    assert '"co-v3" is a release of config and code; say LAYER=co-v3' in both.stderr
    short = shop.command("rollback", "shop", "--to", "code=co-v")
    assert short.returncode == 1
    assert 'code: no release "co-v"; the newest are: co-v3, co-v2, co-v1' in short.stderr
    plan = shop.command("rollback", "shop", "--plan", "evrything")
    assert plan.returncode == 2
    assert 'shop has no plan "evrything"; it has: default, code' in plan.stderr
    unknown = shop.command("rollback", "shopp")
    assert unknown.returncode == 1
    assert 'there is no service "shopp"; there are: shop' in unknown.stderr
    for done in (nowhere, both, short, plan, unknown):
        assert "Traceback" not in done.stderr
    assert shop.calls == []
    assert shop.incidents() == []


def test_the_beginning_of_an_id_is_shown_before_anything_goes_there(shop: Toy) -> None:
    releases = [{"id": "co-v3"}, {"id": "co-v2"}, {"id": "0123456789abcdef", "label": "v1"}]
    (shop.root / "code.releases").write_text(json.dumps(releases))
    for body in ({"to": "code=0123456"}, {"to": "0123456"}):
        status, said, _ = shop.refused("POST", "services/shop/rollback", body)
        assert status == 409
        assert "only the beginning of v1 (0123456789ab) (0123456789abcdef)" in said
    done = shop.command("rollback", "shop", "--to", "code=0123456", "--yes")
    assert done.returncode == 1
    assert "`rollbackd plan shop --to code=0123456` shows by its --plan-id" in done.stderr
    assert shop.incidents() == []
    shown = shop.ask("POST", "services/shop/plan", {"to": "code=0123456"})
    assert shown["target"]["ids"]["code"] == "0123456789abcdef"
    shop.command("rollback", "shop", "--plan-id", shown["id"], "--watch")
    assert [one["target"]["ids"]["code"] for one in shop.incidents()] == ["0123456789abcdef"]


def test_the_plan_touches_nothing(shop: Toy) -> None:
    before = _facts(shop)
    shop.command("plan", "shop")
    done = shop.command("plan", "shop")
    assert done.returncode == 0
    assert "by itself  roll_back" in done.stdout
    assert "within     page" in done.stdout
    words = [line.split() for line in done.stdout.splitlines()]
    assert [line[:3] for line in words if line[:1] in (["config"], ["code"])] == [
        ["config", "co-v2", "co-v1"],
        ["code", "co-v2", "co-v1"],
    ]
    assert done.stdout.splitlines()[-1].startswith("as shown, or not at all: rollbackd rollback shop --plan-id ")
    assert shop.calls == []
    assert shop.incidents() == shop.decisions() == []
    assert _facts(shop) == [*before, "Proposed"], "the plan itself is written down, once"


def _facts(shop: Toy) -> list[str]:
    with closing(sqlite3.connect(f"file:{shop.journal}?mode=ro", uri=True)) as connection:
        return [kind for (kind,) in connection.execute("select kind from facts where kind != 'Notice' order by seq")]


# -- holds --------------------------------------------------------------------------------------
def test_over_a_hold_only_by_name(shop: Toy) -> None:
    held = shop.command("hold", "shop", "--reason", "the database moves", "--until", "2h")
    assert held.returncode == 0
    assert "shop is held until" in held.stdout
    refused = shop.command("rollback", "shop", "--watch")
    assert refused.returncode == 1
    assert "the database moves" in refused.stderr
    assert "--over-hold" in refused.stderr
    assert shop.calls == []
    assert "the database moves" in shop.command("status").stdout
    done = shop.command("rollback", "shop", "--watch", "--over-hold")
    assert done.returncode == 0, done.stderr
    assert shop.runs == "co-v1"


def test_a_hold_by_command_is_lifted_by_command_and_a_file_by_removing_it(shop: Toy) -> None:
    assert shop.command("hold", "--all").returncode == 0
    assert shop.command("resume", "--all").returncode == 0
    nothing = shop.command("resume", "shop")
    assert nothing.returncode == 1
    assert "nothing holds shop" in nothing.stderr
    file = shop.touch("signals/HOLD.shop")
    by_file = shop.command("resume", "shop")
    assert by_file.returncode == 1
    assert f"it is held by a file; lift it with `rm {file}`" in by_file.stderr
    everything = shop.touch("signals/HOLD")
    file.unlink()
    by_all = shop.command("resume", "shop")
    assert f"rm {everything}" in by_all.stderr
    everything.unlink()
    assert shop.command("rollback", "shop", "--watch").returncode == 0


def test_a_hold_in_the_past_or_without_a_zone_is_no_hold(shop: Toy) -> None:
    past = shop.command("hold", "shop", "--until", "2020-01-01T00:00:00Z")
    assert past.returncode == 2
    assert "is in the past" in past.stderr
    naive = shop.command("hold", "shop", "--until", "2030-01-01T00:00:00")
    assert naive.returncode == 2
    assert "is no time; write 2h" in naive.stderr
    assert shop.ask("GET", "holds")["holds"] == []


# -- while it runs ------------------------------------------------------------------------------
def test_abort_ends_the_step_in_hand_begins_no_other_and_leaves_the_page(shop: Toy, ear: Ear) -> None:
    shop.touch("wait.config")
    incident = shop.ask("POST", "services/shop/rollback", {})["incident"]
    shop.until_call("begin config co-v1")
    aborted = shop.command("abort", "shop", "--reason", "wrong service")
    assert aborted.returncode == 0
    shop.remove("wait.config")
    closed = shop.until_closed(incident)
    assert closed["outcome"] == "aborted"
    assert "wrong service" in closed["reason"]
    assert shop.calls == ["enter", "begin config co-v1", "end config co-v1", "leave"]
    assert closed["entered"] == []
    assert shop.runs == "co-v2"
    assert "what is entered is left" in aborted.stdout
    again = shop.command("abort", incident)
    assert again.returncode == 1
    assert "shop-1 has ended: aborted" in again.stderr
    wait_until(lambda: bool(ear.heard("aborted")), "it is told")


def test_sigterm_waits_for_the_step_in_hand_and_the_next_life_goes_on(shop: Toy) -> None:
    shop.touch("wait.config")
    incident = shop.ask("POST", "services/shop/rollback", {})["incident"]
    shop.until_call("begin config co-v1")
    daemon = shop.daemon
    assert daemon is not None
    daemon.send_signal(signal.SIGTERM)
    assert shop.incidents()[0]["outcome"] == ""  # it still answers: the signal was heard before this was asked
    assert daemon.poll() is None
    shop.remove("wait.config")
    assert daemon.wait(timeout=30) == 0
    assert shop.calls[-1] == "end config co-v1"
    shop.start()
    assert shop.until_closed(incident)["outcome"] == "recovered"
    assert shop.calls == [
        "enter", "begin config co-v1", "end config co-v1", "begin code co-v1", "end code co-v1", "leave",
    ]  # fmt: skip
    assert shop.kinds(incident).count("Applied") == 2


def test_a_broken_file_changes_nothing_and_a_good_one_is_taken_over_by_the_same_process(shop: Toy, ear: Ear) -> None:
    daemon = shop.daemon
    assert daemon is not None
    config = shop.root / "config.yaml"
    good = config.read_text()
    config.write_text(good.replace("bake: 1h", "bakes: 1h"))
    daemon.send_signal(signal.SIGHUP)
    wait_until(lambda: "the old one stays" in ear.text(), "the fault is told")
    (said,) = ear.heard("configuration")
    assert 'unknown key "bakes"; did you mean "bake"?' in json.dumps(said, ensure_ascii=False).replace('\\"', '"')
    assert "Traceback" not in shop.log
    assert shop.ask("GET", "services/shop")["priority"] == "P1"

    config.write_text(good.replace("priority: P1", "priority: P3"))
    daemon.send_signal(signal.SIGHUP)
    shop.until_up()
    wait_until(lambda: _priority(shop) == "P3", "the new configuration is in use")
    assert daemon.poll() is None
    assert shop.command("rollback", "shop", "--watch").returncode == 0


def _priority(shop: Toy) -> str:
    try:
        return str(shop.ask("GET", "services/shop")["priority"])
    except OSError:
        return ""


def test_a_running_incident_keeps_the_configuration_that_it_was_opened_with(shop: Toy) -> None:
    shop.touch("wait.config")
    incident = shop.ask("POST", "services/shop/rollback", {})["incident"]
    shop.until_call("begin config co-v1")
    shop.configure(plans={"default": ["config"]}, verify=verify(passes=1), priority="P3", notify={})
    assert shop.daemon is not None
    shop.daemon.send_signal(signal.SIGHUP)
    wait_until(lambda: "starting anew" in shop.log, "the signal is taken")
    shop.remove("wait.config")
    shop.until_up()
    wait_until(lambda: _priority(shop) == "P3", "the new configuration is in use")
    assert shop.until_closed(incident)["outcome"] == "recovered"
    assert shop.calls == [
        "enter", "begin config co-v1", "end config co-v1", "begin code co-v1", "end code co-v1", "leave",
    ]  # fmt: skip
    assert shop.kinds(incident).count("Round") == 2


# -- afterwards ---------------------------------------------------------------------------------
def test_an_acknowledgement_ends_the_reminders_of_that_trouble_alone(tmp_path: Path, ear: Ear) -> None:
    patient = verify(every="6s", deadline="30s")
    with toy(
        tmp_path / "shop", told=ear.url, verify=patient, daemon={"remind_every": "1m", "look_every": "15s"}
    ) as shop:
        shop.start_with_two_states("--speed", "30")
        ineffective(shop)
        shop.alert()
        wait_until(lambda: len(_reminders(ear, "shop still failing after the rollback")) >= 2, "it is reminded of")
        wait_until(lambda: len(_reminders(ear, "needs a person")) >= 2, "the refused alert is reminded of")
        seen = shop.command("ack", "shop-1")
        assert seen.returncode == 0
        assert "its reminders stop" in seen.stdout
        wait_until(lambda: bool(ear.heard("acknowledged")), "it is told")
        before, others = (
            len(_reminders(ear, "shop still failing after the rollback")),
            len(_reminders(ear, "needs a person")),
        )
        wait_until(lambda: len(_reminders(ear, "needs a person")) >= others + 3, "the other trouble's go on")
        assert len(_reminders(ear, "shop still failing after the rollback")) <= before + 1
        assert shop.command("ack", "shop").returncode == 0
        wait_until(lambda: len(ear.heard("acknowledged")) >= 2, "that is told, too")
        assert shop.ask("GET", "incidents/shop-1")["incident"]["acknowledged"].startswith("unix:")


def _reminders(ear: Ear, of: str) -> list[str]:
    """Reminders that speak of a trouble, alone or in a list."""
    return [one["title"] for one in ear.heard("reminder") if of in json.dumps(one, ensure_ascii=False)]


def test_a_page_that_waits_for_a_person_is_left_when_they_have_seen_it(tmp_path: Path, ear: Ear) -> None:
    layers = Toy(tmp_path / "shop").service()["layers"]
    layers["page"]["leave"] = "acknowledged"
    with toy(tmp_path / "shop", told=ear.url, layers=layers) as shop:
        shop.start_with_two_states()
        assert shop.command("rollback", "shop", "--watch").returncode == 0
        assert (shop.root / "entered").exists()
        assert shop.ask("GET", "incidents/shop-1")["incident"]["entered"] == ["page"]
        (told,) = ear.until_heard("recovered")
        assert "page" in json.dumps(told["lines"])
        assert "rollbackd ack shop-1" in json.dumps(told["lines"])
        shop.reboot()
        assert (shop.root / "entered").exists()
        assert shop.command("ack", "shop").returncode == 0
        wait_until(lambda: not (shop.root / "entered").exists(), "the page is left")
        wait_until(lambda: shop.ask("GET", "incidents/shop-1")["incident"]["entered"] == [], "it is known")


def test_what_a_failure_kept_closed_is_left_by_the_command_that_the_message_names(tmp_path: Path, ear: Ear) -> None:
    with toy(tmp_path / "shop", told=ear.url, verify=verify(gate=["health"])) as shop:
        shop.start_with_two_states()
        closed = ineffective(shop)
        assert closed["entered"] == ["page"]
        (told,) = ear.until_heard("ineffective")
        assert "rollbackd ack shop-1 --leave" in json.dumps(told["lines"])
        assert (shop.root / "entered").exists()
        assert shop.command("ack", "shop-1", "--leave").returncode == 0
        wait_until(lambda: not (shop.root / "entered").exists(), "the page is left")


def test_good_and_quarantine_choose_the_target(shop: Toy) -> None:
    def target() -> str:
        found = shop.ask("GET", "services/shop")["target"]
        return found["ids"]["code"] if found else ""

    assert target() == "co-v1"
    done = shop.command("quarantine", "shop", "code=co-v1")
    assert done.returncode == 0
    assert target() == ""
    refused = shop.command("rollback", "shop")
    assert refused.returncode == 1
    assert "no good state to go back to" in refused.stderr
    marked = shop.command("good", "shop", "code=co-v1")
    assert marked.returncode == 1
    assert "code is quarantined; lift that first" in marked.stderr
    assert shop.command("quarantine", "shop", "code=co-v1", "--lift").returncode == 0
    assert target() == "co-v1"
    assert shop.command("good", "shop", "code=co-v3", "config=co-v3").returncode == 0
    states = shop.ask("GET", "states?service=shop")["states"]
    assert [state["good"][:14] for state in states if state["ids"]["code"] == "co-v3"] == ["marked by unix"]
    twice = shop.command("quarantine", "shop", "code=co-v2", "--lift")
    assert twice.returncode == 2
    assert "not quarantined: code=co-v2" in twice.stderr


def test_three_rollbacks_that_did_not_help_stop_all_until_a_person_resumes(tmp_path: Path, ear: Ear) -> None:
    many = {"rollbacks": 100, "per": "1h"}
    limits = {"common_cause": False, "cooldown": "0s", "per_service": many, "fleet": many}
    with toy(tmp_path / "shop", told=ear.url, verify=verify(), limits=limits) as shop:
        shop.start_with_two_states()
        shop.touch("sick")
        for number, version in ((1, "v3"), (2, "v2"), (3, "v3")):
            shop.alert()
            wait_until(lambda n=number: len(shop.incidents()) == n, f"incident {number}")  # type: ignore[misc]
            assert shop.until_closed(f"shop-{number}")["outcome"] == "ineffective"
            shop.until_looked()
            shop.deploy(version)
            shop.until_seen(f"co-{version}")
        shop.alert()
        wait_until(lambda: "3 rollbacks in a row did not help" in ear.text(), "the breaker is told")
        assert len(shop.incidents()) == 3
        assert "rollbackd resume --breaker" in ear.text()
        shop.remove("sick")
        done = shop.command("resume", "--breaker", "--reason", "it was the load balancer")
        assert done.returncode == 0
        assert "automatic rollbacks go on" in done.stdout
        wait_until(lambda: len(shop.incidents()) == 4, "the alert that goes on is decided again")
        assert shop.until_closed("shop-4")["outcome"] == "recovered"


def test_the_audit_finds_a_row_that_somebody_changed(shop: Toy) -> None:
    assert shop.command("rollback", "shop", "--watch").returncode == 0
    sound = shop.command("audit")
    assert sound.returncode == 0
    assert "all fit" in sound.stdout
    shop.stop()
    with closing(sqlite3.connect(shop.journal)) as connection, connection:
        with pytest.raises(sqlite3.IntegrityError, match="a fact is never changed"):
            connection.execute("update facts set actor = 'unix:somebody'")
        connection.execute("drop trigger facts_are_never_changed")
        changed = connection.execute(
            "update facts set actor = 'unix:somebody' where stream = 'incident:shop-1' and n = 1"
        )
        assert changed.rowcount == 1
    broken = shop.command("audit")
    assert broken.returncode == 1
    assert "incident:shop-1" in broken.stdout
    assert "Traceback" not in broken.stderr


def test_in_shadow_mode_it_is_said_what_would_have_been_done_and_nothing_is_touched(tmp_path: Path, ear: Ear) -> None:
    with toy(tmp_path / "shop", told=ear.url, mode="shadow") as shop:
        shop.start_with_two_states()
        shop.alert()
        (said,) = ear.until_heard("observed")
        assert said["title"] == "shop would have been rolled back (sick)"
        (decision,) = shop.decisions()
        assert decision["action"] == "observe"
        assert [one["guard"] for one in decision["findings"] if one["against"]] == ["shadow"]
        assert shop.incidents() == []
        assert shop.calls == []
        assert "is in shadow mode" in shop.command("status").stdout


def test_every_command_speaks_json(shop: Toy) -> None:
    reading = (
        ["status"], ["status", "shop"], ["incidents"], ["decisions"], ["plan", "shop"], ["audit"], ["check"],
        ["schema"], ["hold", "shop"], ["resume", "shop"], ["good", "shop"], ["quarantine", "shop", "code=co-v3"],
        ["resume", "--breaker"], ["rollback", "shop"],
    )  # fmt: skip
    for arguments in reading:
        done = shop.command(*arguments, "--json")
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        assert isinstance(json.loads(done.stdout), dict), arguments
    shop.until_closed("shop-1")
    assert json.loads(shop.command("incidents", "shop-1", "--json").stdout)["incident"]["outcome"] == "recovered"
    assert json.loads(shop.command("ack", "shop-1", "--json").stdout)["done"]
    for arguments, status in ((["abort", "shop-1"], 409), (["rollback", "nowhere"], 404), (["hold", "nowhere"], 404)):
        done = shop.command(*arguments, "--json")
        assert done.returncode == 1
        assert json.loads(done.stdout)["status"] == status
        assert done.stderr
    shop.deploy("v2")
    shop.until_seen("co-v2")
    *records, last = json_lines(shop.command("rollback", "shop", "--watch", "--json").stdout)
    assert [record["kind"] for record in records if record["kind"] in {"Applied", "Closed"}] == [
        "Applied", "Applied", "Closed",
    ]  # fmt: skip
    assert last["outcome"] == "recovered"
    shop.deploy("v2")
    shop.until_seen("co-v2")
    shop.stop()
    *_, last = json_lines(shop.command("rollback", "shop", "--offline", "--json").stdout)
    assert last["outcome"] == "recovered"
    assert json.loads(shop.command("audit", "--json").stdout)["broken"] == []


def test_a_configuration_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    one = Toy(tmp_path / "shop")
    one.build()
    for command in ("run", "check"):
        done = one.command(command)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert str(one.root / "config.yaml") in done.stdout + done.stderr
    assert os.listdir(one.signals) == []
