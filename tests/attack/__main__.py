"""`make attack`: for two minutes everything at once, during a real rollback; then what became of it, as a table.

Exit code 0 when the rollback ended right, nothing that was taken is lost, `/healthz` and the socket answered, a signal
file was obeyed, and no turn of the event loop took longer than 250 ms of processor time; else 1.
"""

import argparse
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from tests.attack.attacks import ATTACKS, MEANT, Attack
from tests.attack.far_side import FarSide, far_side
from tests.e2e.toy import REPO, Toy, listening, toy
from tests.servers import answers, wait_until

_PROBE = REPO / "tests" / "e2e" / "probe"
_SLOWEST = 5.0
"""Seconds that `/healthz` may take beside so many attackers on the same two processors."""
_GIT = ("git", "-c", "user.name=x", "-c", "user.email=x@example.com")


@dataclass
class Watch:
    """How the daemon answered meanwhile."""

    times: list[float] = field(default_factory=list)
    silent: int = 0

    def look(self, shop: Toy, over: threading.Event) -> None:
        """Ask for its health four times a second."""
        while not over.wait(0.25):
            began = time.monotonic()
            if answers(f"http://127.0.0.1:{shop.port}/healthz"):
                self.times.append(time.monotonic() - began)
            else:
                self.silent += 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="make attack", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120, help="how long")
    seconds = parser.parse_args().seconds
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    place = Path(tempfile.mkdtemp(prefix="rollbackd-attack-"))
    try:
        return _run(place, seconds)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _run(place: Path, seconds: float) -> int:
    slow_turns = place / "turns"
    slow_turns.mkdir()
    os.environ |= {"PYTHONPATH": str(_PROBE), "ROLLBACKD_PROBE": str(slow_turns)}
    over, watch, faults = threading.Event(), Watch(), []
    with ExitStack() as stack:
        far, ear = stack.enter_context(far_side()), stack.enter_context(listening())
        shop = stack.enter_context(_attacked(place / "shop", far, ear.url))
        attacks = [Attack(name, shop, over) for name, _ in ATTACKS]
        threads = [
            threading.Thread(target=run, args=(attack,), name=attack.name, daemon=True)
            for attack, (_, run) in zip(attacks, ATTACKS, strict=True)
        ]
        threads.append(threading.Thread(target=watch.look, args=(shop, over), daemon=True))
        shop.touch("wait.code")
        shop.alert()
        shop.until_call("begin code co-v1")
        print(f"a rollback is under way; {len(attacks)} attacks for {seconds:g} s", flush=True)
        for thread in threads:
            thread.start()
        _let_pass(seconds)
        (shop.signals / MEANT).write_text("reason: by hand\n")
        faults += _fails("a signal file is obeyed during all of it", lambda: _went_back(shop))
        over.set()
        for thread in threads:
            thread.join(90)
        shop.remove("wait.code")
        faults += _fails("the rollback ends right", lambda: _recovered(shop))
        faults += _fails("what it said it took is on disk", lambda: _all_kept(shop, attacks))
        faults += _fails("the journal is whole", lambda: _audited(shop))
        turns = [path.read_text() for path in sorted(slow_turns.iterdir())]
    slowest = max(watch.times, default=99.0)
    faults += [f"/healthz took {slowest:.1f} s"] if slowest > _SLOWEST or watch.silent > 3 else []
    faults += [f"a turn of the event loop took too long:\n{turn}" for turn in turns]
    _print(attacks, far, watch, turns)
    for fault in faults:
        print(f"NOT SO: {fault}")
    return 1 if faults else 0


@contextmanager
def _attacked(place: Path, far: FarSide, told: str) -> Iterator[Toy]:
    """The toy's service with a slow step, a repository beside it, and everything that it asks on the far side."""
    with toy(place, told=told) as shop:
        shop.configure(others=["crowd"])
        repo = place / "repo"
        repo.mkdir()
        _git(repo, "init", "-q", "-b", "main")
        for tag in ("v1", "v2"):
            (repo / "release").write_text(tag)
            _git(repo, "add", ".")
            _git(repo, "commit", "-qm", tag)
            _git(repo, "tag", tag)
        config = yaml.safe_load((place / "config.yaml").read_text())
        config["alertmanager"] = {"url": far.url}
        config["daemon"]["heartbeat"] = f"{far.url}/heartbeat"
        far_check = {"far": {"http": f"{far.url}/health", "timeout": "5s", "warn": True}}
        config["services"].append(
            {
                "name": "repo",
                "match": {"service": "repo"},
                "layers": {"code": {"adapter": "git", "repo": str(repo), "good": "v1"}},
                "checks": {**far_check, "there": {"command": ["test", "-e", str(repo / "release")]}},
                "verify": {"settle": "0s", "every": "500ms", "passes": 1, "checks": ["there", "far"]},
            }
        )
        (place / "etc").mkdir()
        (place / "etc" / "app.conf").write_text("mode=normal\n")
        kept = {"etc": {"adapter": "files", "paths": [str(place / "etc")]}}
        there = {"checks": [{"command": ["test", "-e", str(place / "etc")]}]}
        config["services"].append({"name": "kept", "match": {"service": "kept"}, "layers": kept, "verify": there})
        config["services"][0]["checks"] |= far_check
        config["services"][0]["verify"]["deadline"] = "2m"  # the step ends after a minute, in the middle of it all
        config["rules"].append({"name": "far", "when": {"check": "far", "every": "1s", "failures": 3}})
        (place / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        shop.start_with_two_states()
        yield shop


def _git(repo: Path, *arguments: str) -> None:
    subprocess.run([*_GIT, *arguments], cwd=repo, check=True, capture_output=True, timeout=60)


def _let_pass(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.2)


def _fails(what: str, holds: Callable[[], None]) -> list[str]:
    try:
        holds()
    except Exception as error:  # noqa: BLE001  # whatever it is, it is what the table is to say
        return [f"{what}: {error}"]
    return []


def _went_back(shop: Toy) -> None:
    wait_until(lambda: (shop.root / "repo" / "release").read_text() == "v1", "the repository goes back", 60)


def _recovered(shop: Toy) -> None:
    ended = shop.until_closed("shop-1", 90)
    assert ended["outcome"] == "recovered", ended
    assert shop.runs == "co-v1"
    assert [call for call in shop.calls if call.startswith("end code")] == ["end code co-v1"], shop.calls


def _all_kept(shop: Toy, attacks: list[Attack]) -> None:
    with closing(sqlite3.connect(f"file:{shop.journal}?mode=ro", uri=True)) as journal:
        ((kept,),) = journal.execute("SELECT count(*) FROM inbox").fetchall()
    taken = sum(attack.accepted for attack in attacks)
    assert kept >= taken + 1, f"{taken} alerts were taken, {kept} are there"


def _audited(shop: Toy) -> None:
    done = shop.command("audit")
    assert done.returncode == 0, done.stdout + done.stderr


def _print(attacks: list[Attack], far: FarSide, watch: Watch, turns: list[str]) -> None:
    table = Table("attack", "sent", "what came of it")
    for attack in attacks:
        said = ", ".join(f"{count} x {status}" for status, count in sorted(attack.answers.items()))
        table.add_row(attack.name, f"{attack.sent:,}", said or "-")
    for way, count in sorted(far.asked.items()):
        table.add_row(f"a far side that answers: {way}", f"{count:,}", "-")
    times = sorted(watch.times) or [0.0]
    middle = times[len(times) // 2]
    table.add_row("asked for its health", f"{len(times):,}", f"p50 {middle * 1000:.0f} ms, most {times[-1]:.2f} s")
    table.add_row("turns of the loop above 250 ms", str(len(turns)), "of processor time of its thread")
    with suppress(OSError):
        Console(width=110).print(table)


if __name__ == "__main__":
    sys.exit(main())
