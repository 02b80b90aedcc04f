"""A release goes bad, an alert fires, rollbackd rolls it back, verifies it and tells people. Watch it happen.

Usage: run.py [DIRECTORY]. Exit code 0 only if the service was rolled back and verified. KEEP=1 leaves everything
running after it. DIRECTORY must not be there yet; without it `.demo` in the checkout is used, and emptied first.
"""

import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from rich.console import Console  # the checkout's root must be importable first
from rich.text import Text

from examples.demo.world import BAD, World, has_servers, shop_world
from tests import servers

LIMIT = 85
"""Seconds, from the first line to the last."""
console = Console(highlight=False, soft_wrap=True)


class Failed(Exception):  # noqa: N818  # the story did not end as it must
    """What was waited for did not come."""


def say(what: str, text: str, style: str = "") -> None:
    """One line of the story."""
    line = Text(f"  {datetime.now(UTC):%H:%M:%S}  {what:<9} ", style="dim")
    line.append(text, style=style)
    console.print(line)


def chapter(number: int, text: str) -> None:
    console.print()
    console.print(Text(f"{number}. {text}", style="bold"))


def until(condition: Callable[[], Any], what: str, limit: float) -> Any:
    """Wait for a condition and give what it gave. :raises Failed: when it does not come."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        with suppress(OSError):
            if found := condition():
                return found
        time.sleep(0.2)
    raise Failed(f"{what} did not come within {limit:.0f} s")


@contextmanager
def receivers() -> Iterator[str]:
    """A stand-in for Slack; each message it takes is a line of the story."""
    port = servers.free_port()
    argv = [sys.executable, "-m", "tests.fakes.receivers", "--port", str(port)]
    started = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:
        assert started.stdout is not None
        for line in started.stdout:
            lines.put(line)
            if not line.startswith("listening"):
                name, _, text = line.strip().partition(" ")
                say("message", f"to {name}: {text.strip()}", "magenta")

    threading.Thread(target=read, daemon=True).start()
    try:
        lines.get(timeout=20)
        yield f"http://127.0.0.1:{port}"
    finally:
        if not keep():
            started.kill()


def keep() -> bool:
    return os.environ.get("KEEP", "") not in {"", "0"}


def service(world: World) -> dict[str, Any]:
    """What rollbackd says of the shop."""
    return dict(world.get(f"{world.api}/api/v1/services/shop"))


def post_recorded_alert(world: World) -> None:
    """Without a Prometheus: a webhook body as a real Alertmanager sent it, moved to now and to the shop."""
    body = json.loads((ROOT / "tests/data/alertmanager/firing-0.33.json").read_text())
    for alert in body["alerts"]:
        alert["labels"] |= {"alertname": "ShopErrors", "service": "shop", "severity": "critical"}
        alert["startsAt"] = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{world.api}/api/v1/alerts", json.dumps(body).encode(), headers)
    urllib.request.urlopen(request, timeout=10).close()


def watch_rules(world: World, ended: threading.Event) -> None:
    """Say when a rule changes its mind."""
    before: dict[str, str] = {}
    while not ended.wait(0.5):
        with suppress(OSError):
            for rule in service(world)["rules"]:
                verdict = rule["verdict"]
                if before.get(rule["rule"]) != verdict and verdict in {"pending", "bad"}:
                    style = "red" if verdict == "bad" else "yellow"
                    say("rule", f"{rule['rule']} is {verdict}: {rule['reason']}", style)
                before[rule["rule"]] = verdict


def watch_incident(world: World) -> dict[str, Any]:
    """Follow the incident to its end, fact by fact."""
    first = until(world.incidents, "an incident", 40)[0]["id"]
    after = 0
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        detail = world.get(f"{world.api}/api/v1/incidents/{first}?after={after}&wait=2s")
        if not after:
            show_decision(detail["decision"])
        for record in detail["records"]:
            after = record["n"]
            if record["kind"] not in {"Told", "Adopted"}:
                say("incident", record["text"], "green" if record["kind"] in {"Applied", "Closed"} else "")
        if detail["incident"]["outcome"]:
            return dict(detail["incident"])
    raise Failed(f"{first} did not end within {LIMIT} s")


def show_decision(decision: dict[str, Any]) -> None:
    """The decision with its reasons."""
    say("decision", f"{decision['action']}, because of {decision['rule']}", "bold red")
    for line in decision["evidence"]:
        say("", f"saw     {' '.join(line.split())[:150]}")
    for finding in decision["findings"]:
        if finding["guard"] in {"change", "same_state", "target", "cooldown", "fleet_budget", "common_cause"}:
            say("", f"{finding['guard']:<13} {finding['reason']}")


def story(world: World) -> None:
    """The whole of it. :raises Failed: when it does not end well."""
    monitored = bool(world.prometheus)
    chapter(1, "A shop runs release v1 from a git repository; rollbackd watches it")
    say("shop", f"{world.shop} runs {world.running()}")
    if monitored:
        say("servers", f"Prometheus {world.prometheus}, Alertmanager {world.alertmanager}")
    else:
        say("servers", "no Prometheus here: the smoke check and a recorded webhook body stand in for it")
    world.write_config()
    world.start_daemon()
    say("rollbackd", f"{world.api}, rules: {', '.join(rule['rule'] for rule in service(world)['rules'])}")
    good = until(lambda: (service(world).get("present") or {}).get("good"), "a good state", 40)
    say("rollbackd", f"v1 is good: {good}", "green")

    chapter(2, "Somebody deploys v2: a third of its answers are errors, and it is slow")
    ended = threading.Event()
    threading.Thread(target=watch_rules, args=(world, ended), daemon=True).start()
    started = time.monotonic()
    world.deploy(BAD, "v2")
    say("deploy", f"the shop runs {world.running()}", "yellow")
    if not monitored:
        until(lambda: len(world.get(f"{world.api}/api/v1/states?service=shop")["states"]) > 1, "the look at v2", 20)
        post_recorded_alert(world)
        say("alert", "posted the recorded webhook body")
    incident = watch_incident(world)
    ended.set()
    took = time.monotonic() - started

    chapter(3, "What happened, from the journal alone: rollbackd incidents " + incident["id"])
    time.sleep(1)
    console.print(Text(world.command("incidents", incident["id"]).stdout.rstrip()))
    if incident["outcome"] != "recovered" or world.running() != "v1":
        raise Failed(f"{incident['id']} ended {incident['outcome']}, and the shop runs {world.running()}")
    console.print()
    verdict = f"Rolled back and verified: the shop runs {world.running()} again, {took:.0f} s after the deploy."
    console.print(Text(verdict, style="bold green"))


def more(world: World) -> None:
    """How to look further."""
    program = ROOT / ".venv/bin/rollbackd"
    option = f"--config {world.config}"
    console.print()
    console.print(
        "Look further, and try more (" + ("all is running" if keep() else "with KEEP=1 all stays running") + "):"
    )
    for command, why in (
        ("status shop", "its states, marks and rules"),
        ("decisions", "every decision with every guard's finding"),
        ("plan shop", "what a rollback would be now; touches nothing"),
        ("rollback shop --to v2 --watch", "go somewhere by hand: v2 is quarantined, a person may still"),
        ("audit", "the journal's chain of hashes"),
    ):
        console.print(Text(f"  {program} {command} {option}"), Text(f"   # {why}", style="dim"))
    console.print(Text(f"  touch {world.root / 'signals' / 'HOLD'}"), Text("   # stops every rollback", style="dim"))


def main(arguments: Sequence[str] = ()) -> int:
    root = Path(arguments[0]).absolute() if arguments else ROOT / ".demo"
    if not arguments:
        shutil.rmtree(root, ignore_errors=True)
    elif root.exists():
        print(f"{root} is there already; name a directory that is not", file=sys.stderr)
        return 2
    root.mkdir(parents=True)
    code = 1
    try:
        with receivers() as messages, shop_world(root, monitored=has_servers(), receivers=messages) as world:
            try:
                story(world)
                code = 0
            except Failed as error:
                console.print(Text(f"FAILED: {error}", style="bold red"))
                console.print(Text((root / "rollbackd.log").read_text()[-3000:]))
            more(world)
            if keep() and code == 0:
                console.print("\nCtrl-C ends it.")
                with suppress(KeyboardInterrupt):
                    threading.Event().wait()
    except KeyboardInterrupt:
        console.print("\nended")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
