"""Two daemons with one journal on PostgreSQL: one drives, the other takes over, and nothing is done twice."""

import http.client
import os
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import forks
from tests.e2e.toy import Ear, Toy
from tests.postgres_journal import journal_server, new_journal
from tests.servers import Postgres, wait_until

ONCE = ["enter", "begin config co-v1", "end config co-v1", "begin code co-v1", "end code co-v1", "leave"]


@dataclass
class Second(Toy):
    """Another daemon, with a directory of its own, for the service of the first."""

    first: Toy | None = None

    def service(self, name: str = "shop") -> dict[str, Any]:
        assert self.first is not None
        return self.first.service(name)

    def start_beside(self) -> None:
        with (self.root / "log").open("ab") as log:
            given = ["run", "--config", str(self.root / "config.yaml")]
            self.daemon = forks.start("rollbackd", given, log.fileno(), log.fileno())


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with journal_server() as running:
        yield running


def patient(one: Toy) -> dict[str, Any]:
    """How it is verified, with time enough on a machine that has other work."""
    return {**one.service()["verify"], "deadline": "60s"}


@dataclass
class Pair:
    a: Toy
    b: Second
    server: Postgres

    def b_drives(self) -> None:
        wait_until(lambda: drives(self.b), "the other one drives", 60)


@pytest.fixture
def pair(server: Postgres, tmp_path: Path, ear: Ear) -> Iterator[Pair]:
    url = new_journal(server)
    a = Toy(tmp_path / "a", told=ear.url)
    b = Second(tmp_path / "b", told=ear.url, first=a)
    for host, one in (("ops-a", a), ("ops-b", b)):
        one.build()
        daemon = {"journal": url, "durability": "local", "standby": True, "name": "desk", "host": host}
        one.configure(daemon=daemon, verify=patient(one))
    try:
        yield Pair(a, b, server)
    finally:
        for path in a.root.glob("wait.*"):
            path.unlink()
        for one in (a, b):
            if one.daemon is not None:
                one.daemon.send_signal(signal.SIGCONT)
            one.stop(kill=True)


def test_the_other_one_goes_on_between_two_steps_when_the_first_is_killed(pair: Pair, ear: Ear) -> None:
    pair.a.start_with_two_states()
    pair.a.ask("PUT", "holds/shop", {"reason": "wait"})
    incident = pair.a.ask("POST", "services/shop/rollback", {"over_hold": True})["incident"]
    pair.b.start_beside()
    pair.a.stop(kill=True)
    pair.b_drives()
    if pair.b._view(incident)["outcome"] is None:
        pair.b.ask("DELETE", "holds/shop")
    assert pair.b.until_closed(incident)["outcome"] == "recovered"
    assert pair.a.calls == ONCE
    ear.until_heard("taken_over")
    assert "since desk on ops-a did not renew its lease" in ear.text()


def test_a_step_that_the_lost_host_had_begun_is_waited_for_and_not_begun_again(pair: Pair, ear: Ear) -> None:
    pair.a.start_with_two_states()
    pair.a.touch("wait.config")
    incident = pair.a.ask("POST", "services/shop/rollback", {})["incident"]
    pair.a.until_call("begin config co-v1")
    pair.b.start_beside()
    pair.a.stop(kill=True)
    pair.b_drives()
    waits = "waits: apply config was begun on desk on ops-a, and may still run there"
    wait_until(lambda: waits in ear.text(), "people hear that it waits")
    pair.a.remove("wait.config")
    assert pair.b.until_closed(incident, 60)["outcome"] == "recovered"
    assert pair.a.calls == ONCE
    hosts = [one["fact"]["host"] for one in pair.b.records(incident) if one["kind"] == "Adopted"]
    assert hosts == ["desk on ops-a", "desk on ops-b"]


def test_one_that_froze_for_longer_than_its_lease_loses_and_ends(pair: Pair) -> None:
    pair.a.start_with_two_states()
    pair.a.ask("PUT", "holds/shop", {"reason": "wait"})
    frozen = pair.a.daemon
    assert frozen is not None
    pair.b.start_beside()
    frozen.send_signal(signal.SIGSTOP)
    pair.b_drives()
    pair.b.ask("DELETE", "holds/shop")
    incident = pair.b.ask("POST", "services/shop/rollback", {})["incident"]
    assert pair.b.until_closed(incident)["outcome"] == "recovered"
    frozen.send_signal(signal.SIGCONT)
    assert frozen.wait(timeout=60) != 0, "it ends, to be started anew"
    assert "another daemon drives the journal; this one ends" in pair.a.log
    pair.a.daemon = None
    assert pair.a.calls == ONCE
    assert pair.b.ask("GET", "incidents")["incidents"][0]["id"] == incident


def test_one_that_is_stopped_gives_it_to_the_other_at_once_and_refuses_where_it_does_not_stand_by(pair: Pair) -> None:
    pair.a.start_with_two_states()
    refused = pair.b.command("rollback", "shop", "--offline", "--yes")
    assert refused.returncode == 1
    assert "journal is driven by desk on ops-a, " in refused.stderr
    pair.b.start_beside()
    wait_until(lambda: "stands by" in pair.b.log, "it stands by")
    assert pair.a.stop() == 0
    pair.b_drives()
    assert "co-v2" in str(pair.b.ask("GET", "services/shop"))


def test_with_the_database_away_no_step_begins_and_what_was_done_is_written_later(pair: Pair, ear: Ear) -> None:
    one = pair.a
    one.start_with_two_states()
    one.touch("wait.config")
    incident = one.ask("POST", "services/shop/rollback", {})["incident"]
    one.until_call("begin config co-v1")
    pair.server.crash()
    one.remove("wait.config")
    one.until_call("end config co-v1")
    wait_until(lambda: not ready(one), "it is not ready")
    status, said, headers = one.refused("POST", "services/shop/rollback", {})
    assert (status, "nothing was stored" in said, "Retry-After" in headers) == (503, True, True)
    with pytest.raises(urllib.error.HTTPError, match="503"):
        one.alert()
    wait_until(lambda: "rollbackd cannot write its journal" in ear.text(), "people are told directly")
    assert "begin code co-v1" not in one.calls
    pair.server.start()
    wait_until(lambda: ready(one), "it is ready", 60)
    assert one.until_closed(incident, 60)["outcome"] == "recovered"
    assert one.calls == ONCE
    wait_until(lambda: "can be written again" in ear.text(), "it is told that it is over")


def test_what_was_done_is_kept_when_the_daemon_is_killed_while_the_database_is_away(pair: Pair) -> None:
    one, kept = pair.a, pair.a.root / "layers" / "journal.unwritten"
    one.start_with_two_states()
    one.touch("wait.config")
    incident = one.ask("POST", "services/shop/rollback", {})["incident"]
    one.until_call("begin config co-v1")
    pair.server.crash()
    one.remove("wait.config")
    wait_until(lambda: bool(list(kept.glob("*.json"))), "what was done is kept on this host")
    one.stop(kill=True)
    pair.server.start()
    one.start()
    wait_until(lambda: drives(one), "it drives again", 60)
    assert one.until_closed(incident, 60)["outcome"] == "recovered"
    assert one.calls == ONCE
    assert list(kept.iterdir()) == []
    kinds = one.kinds(incident)
    begun = kinds.index("ApplyStarted")
    assert kinds[begun : begun + 3] == ["ApplyStarted", "Applied", "Adopted"], "nobody had to ask the layer"


def test_what_a_host_did_that_lost_its_lease_is_written_late_and_changes_nothing(pair: Pair, ear: Ear) -> None:
    pair.a.start_with_two_states()
    pair.a.touch("wait.config")
    incident = pair.a.ask("POST", "services/shop/rollback", {})["incident"]
    pair.a.until_call("begin config co-v1")
    frozen = pair.a.daemon
    assert frozen is not None
    frozen.send_signal(signal.SIGSTOP)
    pair.b.start_beside()
    pair.b_drives()
    wait_until(lambda: "Adopted" in pair.b.kinds(incident)[-2:], "the other one has it")
    frozen.send_signal(signal.SIGCONT)
    wait_until(lambda: "another daemon drives the journal" in pair.a.log, "it hears that it lost")
    assert frozen.poll() is None, "the step in hand ends first"
    pair.a.remove("wait.config")
    assert frozen.wait(timeout=60) == 1
    log = pair.a.log
    with (pair.a.root / "log").open("ab") as more:
        given = ["run", "--config", str(pair.a.root / "config.yaml")]
        pair.a.daemon = forks.start("rollbackd", given, more.fileno(), more.fileno())
    wait_until(lambda: "ReportedLate" in pair.b.kinds(incident), "it is reported late")
    assert "cannot write what was done" in log
    ear.until_heard("reported_late")
    assert pair.a.calls.count("begin config co-v1") == 1
    wait_until(lambda: list((pair.a.root / "layers" / "journal.unwritten").iterdir()) == [], "it is not kept any more")


def test_a_rollback_without_a_daemon_that_loses_its_lease_begins_no_other_step_and_says_so(pair: Pair) -> None:
    pair.a.start_with_two_states()
    assert pair.a.stop() == 0
    pair.a.touch("wait.config")
    command = pair.a.beside("rollback", "shop", "--offline", "--yes")
    pair.a.until_call("begin config co-v1")
    pair.b.start_beside()
    wait_until(lambda: "stands by" in pair.b.log, "it stands by")
    command.process.send_signal(signal.SIGSTOP)
    pair.b_drives()
    incident = pair.b.incidents()[0]["id"]
    command.process.send_signal(signal.SIGCONT)
    wait_until(lambda: "another daemon drives" in command.errors.read_text(), "it hears that it lost")
    assert command.process.poll() is None, "the step in hand ends first"
    driving = pair.b.daemon
    assert driving is not None
    driving.send_signal(signal.SIGSTOP)  # else it may have come to the end before
    pair.a.remove("wait.config")
    assert command.process.wait(timeout=60) == 1
    driving.send_signal(signal.SIGCONT)
    left = f"drives it now; {incident} is left to it, and no other step is begun here"
    assert left in command.errors.read_text()
    assert pair.b.until_closed(incident, 60)["outcome"] == "recovered"
    assert pair.a.calls == ONCE


# -- at any instant -----------------------------------------------------------------------------
KILLS = [4, 12, 19, 27] if "ROLLBACKD_SWEEP" not in os.environ else range(1, 60)
"""At the how manieth boundary of a rollback; the numbers of a short run are a sample."""


def begins(pair: Pair, number: signal.Signals, place: str) -> forks.Fork:
    """The first daemon, which has begun a rollback and signalled itself in the middle, or come to its end before."""
    for one in (pair.a, pair.b):
        layers = {name: {**layer, "fenced": True} for name, layer in one.service()["layers"].items()}
        daemon = yaml.safe_load((one.root / "config.yaml").read_text())["daemon"]
        one.configure(daemon=daemon, layers=layers, verify=patient(one))
    pair.a.start_with_two_states("--signal-at", str(int(number)), place, str(pair.a.root / "armed"))
    pair.b.start_beside()
    wait_until(lambda: "stands by" in pair.b.log, "it stands by")
    pair.a.touch("armed")
    threading.Thread(target=order, args=(pair.a,), daemon=True).start()
    daemon = pair.a.daemon
    assert isinstance(daemon, forks.Fork)
    wait_until(lambda: state_of(daemon) in "TZ" or "leave" in pair.a.calls, "it is signalled")
    return daemon


def order(one: Toy) -> None:
    """It may be killed, or freeze, before it answers."""
    with suppress(OSError, http.client.HTTPException):
        one.ask("POST", "services/shop/rollback", {})


def state_of(process: forks.Fork) -> str:
    """As the kernel calls it: T for one that is stopped, Z for one that has ended."""
    with suppress(OSError):
        return Path(f"/proc/{process.pid}/stat").read_text().rpartition(") ")[2][0]
    return "Z"


def taken_over(pair: Pair) -> None:
    """The other one goes on to the end of the rollback, which may have to be ordered again, and all was done once."""
    pair.b_drives()
    if not pair.b.incidents():
        pair.b.ask("POST", "services/shop/rollback", {})
    assert pair.b.until_closed(pair.b.incidents()[0]["id"], 60)["outcome"] == "recovered"
    assert pair.a.calls == ONCE
    assert pair.b.command("audit").returncode == 0


@pytest.mark.parametrize("number", KILLS)
def test_killed_anywhere_in_a_rollback_the_other_one_ends_it_and_nothing_is_done_twice(pair: Pair, number: int) -> None:
    begins(pair, signal.SIGKILL, str(number))
    pair.a.stop(kill=True)
    taken_over(pair)


@pytest.mark.parametrize("place", ["runner.apply", "runner.enter.done", "journal.before"])
def test_frozen_anywhere_in_a_rollback_it_loses_to_the_other_one_and_nothing_is_done_twice(
    pair: Pair, place: str
) -> None:
    """Between intent and effect, before the next intent, and in a transaction: until the other one is done with it."""
    frozen = begins(pair, signal.SIGSTOP, place)
    taken_over(pair)
    frozen.send_signal(signal.SIGCONT)
    assert frozen.wait(timeout=60) == 1, "it ends, to be started anew"
    pair.a.daemon = None
    assert pair.a.calls == ONCE


def test_frozen_for_less_than_others_wait_it_begins_nothing_until_its_lease_is_renewed(pair: Pair) -> None:
    frozen = begins(pair, signal.SIGSTOP, "runner.apply")
    pair.b.stop(kill=True)
    since = time.monotonic()
    wait_until(lambda: time.monotonic() - since > 4, "its renewal is too old")
    frozen.send_signal(signal.SIGCONT)
    assert pair.a.until_closed(pair.a.incidents()[0]["id"], 60)["outcome"] == "recovered"
    assert pair.a.calls == ONCE


def drives(one: Toy) -> bool:
    """Whether it does, and no longer stands by; in between it does not serve."""
    said = driver(one)  # asked once: between two answers it may have ceased to serve
    return said.endswith(" drives") and "stands by" not in said


def driver(one: Toy) -> str:
    """Who drives, as it says; empty while it does not serve."""
    with suppress(OSError):
        return str(one.ask("GET", "daemon")["driver"])
    return ""


def ready(one: Toy) -> bool:
    request = urllib.request.Request(f"http://127.0.0.1:{one.port}/readyz", headers=one.headers)
    try:
        with urllib.request.urlopen(request, timeout=30):
            return True
    except urllib.error.HTTPError as error:
        with error:
            return error.code != 503
