"""A service of small scripts and the real daemon beside it: a maintenance page, a configuration and a code layer.

The world is files in one directory, so a test holds a step up, breaks it or makes the service sick by touching one:
`wait.LAYER`, `fail.LAYER`, `sick`. What was done is in `calls`, a line each.
"""

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml

from tests import forks
from tests.fakes.receiving import serving
from tests.fakes.webhook import WebhookFake
from tests.servers import answers, free_port, wait_until

REPO = Path(__file__).parents[2]
TOKEN = "the-token-of-the-desk"
Given = TypeVar("Given")

_APPLY = """\
#!/bin/sh
set -eu
cd "$(dirname "$0")"
echo "begin $1 ${ROLLBACKD_AFTER}" >> calls
n=0
while [ -e "wait.$1" ] && [ "$n" -lt 1200 ]; do sleep 0.05; n=$((n + 1)); done
if [ -e "fail.$1" ]; then echo "no $1 today" >&2; exit 3; fi
echo "${ROLLBACKD_AFTER}" > "$1.new"
mv "$1.new" "$1"
echo "end $1 ${ROLLBACKD_AFTER}" >> calls
"""
_LOOK = """\
#!/bin/sh
set -eu
cd "$(dirname "$0")"
echo "$1" >> looks
cat "$1"
"""
_GATE = """\
#!/bin/sh
set -eu
cd "$(dirname "$0")"
case "$1" in
  inside) test -e entered ;;
  enter) echo enter >> calls; touch entered ;;
  leave) echo leave >> calls; rm -f entered ;;
esac
"""


class Ear:
    """A webhook receiver in a thread; what it heard is checked against rollbackd's own format."""

    def __init__(self) -> None:
        self.fake = WebhookFake()
        self.url = ""

    @property
    def events(self) -> list[tuple[str, str]]:
        """Event and title of each message, a repeated one once."""
        return [(one["event"], one["title"]) for one in self.fake.once]

    def heard(self, event: str) -> list[Any]:
        """The messages of one event."""
        return [one for one in self.fake.once if one["event"] == event]

    def until_heard(self, event: str) -> list[Any]:
        """Wait for a message of an event, for they come after what they speak of; all of that event."""
        wait_until(lambda: bool(self.heard(event)), f"{event} is told")
        return self.heard(event)

    def text(self) -> str:
        """All that was said, titles and lines, for searching."""
        return json.dumps(self.fake.once, ensure_ascii=False)


@contextmanager
def served(server: AbstractAsyncContextManager[Given]) -> Iterator[Given]:
    """What an asynchronous server gives; it is served in a thread until the end of the block."""
    given: list[Given] = []
    up = threading.Event()
    loop = asyncio.new_event_loop()
    ended = asyncio.Event()

    async def serve() -> None:
        async with server as one:
            given.append(one)
            up.set()
            await ended.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    assert up.wait(10)
    try:
        yield given[0]
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(timeout=10)
        loop.close()


@contextmanager
def listening() -> Iterator[Ear]:
    """Hear all that is told, until the end of the block."""
    ear = Ear()
    with served(serving(ear.fake)) as base:
        ear.url = base + ear.fake.path
        yield ear
    assert ear.fake.wrong == []


@dataclass
class Toy:
    """The service, its configuration, and the daemon when it runs."""

    root: Path
    port: int = field(default_factory=free_port)
    told: str = ""
    """The address of who is told."""
    journal: Path = field(default_factory=Path)
    """By default in its own directory; another place may be given before `build`."""
    daemon: subprocess.Popen[bytes] | forks.Fork | None = None

    # -- the service ----------------------------------------------------------------------------
    def build(self) -> None:
        """Its files; it runs v1."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.journal = self.journal if self.journal.is_absolute() else self.root / "journal.db"
        self.signals.mkdir(exist_ok=True)
        self.signals.chmod(0o1770)
        for name, text in (("apply", _APPLY), ("look", _LOOK), ("gate", _GATE)):
            (self.root / name).write_text(text)
            (self.root / name).chmod(0o755)
        for layer in ("config", "code"):
            (self.root / f"{layer}.releases").write_text("".join(f"{layer[:2]}-v{number}\n" for number in (3, 2, 1)))
        (self.root / "token").write_text(TOKEN)
        (self.root / "token").chmod(0o600)
        self.deploy("v1")

    def deploy(self, version: str) -> None:
        """What a deployment does: both layers go to this version."""
        for layer in ("config", "code"):
            (self.root / f"{layer}.new").write_text(f"{layer[:2]}-{version}\n")
            (self.root / f"{layer}.new").rename(self.root / layer)

    def layer_knows(self, version: str) -> None:
        """There is one more release that can be gone back to."""
        for layer in ("config", "code"):
            path = self.root / f"{layer}.releases"
            path.write_text(f"{layer[:2]}-{version}\n{path.read_text()}")

    @property
    def signals(self) -> Path:
        return self.root / "signals"

    @property
    def calls(self) -> list[str]:
        """What was done to it, in order."""
        path = self.root / "calls"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def runs(self) -> str:
        """The code that runs."""
        return (self.root / "code").read_text().strip()

    def touch(self, name: str) -> Path:
        path = self.root / name
        path.touch()
        return path

    def remove(self, name: str) -> None:
        (self.root / name).unlink()

    # -- the configuration ----------------------------------------------------------------------
    def configure(self, *, daemon: Mapping[str, Any] | None = None, others: Sequence[str] = (), **changes: Any) -> Path:
        """Write it; `changes` replace keys of the service, or whole top-level keys. `others` are services like it."""
        top: dict[str, Any] = {
            key: changes.pop(key)
            for key in (
                "rules",
                "limits",
                "notify",
                "prometheus",
                "asking",
                "policy",
                "priorities",
                "targets",
                "schedules",
                "people",
                "groups",
            )
            if key in changes
        }
        config: dict[str, Any] = {
            "daemon": {
                "mode": "act",
                "listen": f"127.0.0.1:{self.port}",
                "socket": str(self.root / "socket"),
                "journal": f"sqlite:///{self.journal}",
                "signals": str(self.signals),
                "scratch": str(self.root / "layers"),
                "tokens": [{"name": "desk", "role": "operator", "token": {"file": str(self.root / "token")}}],
                "look_every": "500ms",
                **(daemon or {}),
            },
            "rules": [{"name": "sick", "when": {"alert": 'alertname="Sick"'}}],
            "limits": {"common_cause": False},
            "notify": {"receivers": [{"name": "room", "webhook": {"url": self.told}}]} if self.told else {},
            **top,
            "services": [{**self.service(), **changes}, *(self.service(name) for name in others)],
        }
        path = self.root / "config.yaml"
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        return path

    def service(self, name: str = "shop") -> dict[str, Any]:
        """It, as the configuration has it."""
        apply, gate = str(self.root / "apply"), str(self.root / "gate")
        return {
            "name": name,
            "match": {"service": name},
            "priority": "P1",
            "layers": {
                "page": {
                    "adapter": "command",
                    "inside": [gate, "inside"],
                    "enter": [gate, "enter"],
                    "leave_by": [gate, "leave"],
                },
                **{layer: self._layer(layer, apply) for layer in ("config", "code")},
            },
            "plans": {"default": {"within": ["page"], "steps": ["config", "code"]}, "code": ["code"]},
            "bake": "1h",
            "checks": {"health": {"command": ["test", "!", "-e", str(self.root / "sick")]}},
            "verify": {
                "gate": ["health"],
                "settle": "0s",
                "every": "200ms",
                "passes": 2,
                "deadline": "3s",
                "watch": "1m",
                "checks": ["health"],
            },
        }

    def _layer(self, layer: str, apply: str) -> dict[str, Any]:
        return {
            "adapter": "command",
            "current": [str(self.root / "look"), layer],
            "releases": ["cat", str(self.root / f"{layer}.releases")],
            "apply": [apply, layer],
        }

    # -- the daemon -----------------------------------------------------------------------------
    @property
    def log(self) -> str:
        path = self.root / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self, *launcher: str) -> None:
        """`rollbackd run`, or the launcher's arguments for a clock of another kind; waits until it serves."""
        module, *arguments = ["tests.e2e.launch", *launcher] if launcher else ["rollbackd", "run"]
        with (self.root / "log").open("ab") as log:
            given = [*arguments, "--config", str(self.root / "config.yaml")]
            self.daemon = forks.start(module, given, log.fileno(), log.fileno())
        self.until_up()

    def until_up(self) -> None:
        daemon = self.daemon
        assert daemon is not None

        def up() -> bool:
            assert daemon.poll() is None, f"rollbackd ended: {self.log[-3000:]}"
            return answers(f"http://127.0.0.1:{self.port}/healthz")

        wait_until(up, "rollbackd", 60)

    def start_with_two_states(self, *launcher: str) -> None:
        """Begin with v1, which is good, and v2, which runs."""
        self.start(*launcher)
        self.until_seen("co-v1")
        self.ask("POST", "services/shop/good", {})
        self.deploy("v2")
        self.until_seen("co-v2")

    def until_seen(self, code: str) -> None:
        """Wait until the daemon has seen that this code runs."""

        def seen() -> bool:
            present = self.ask("GET", "services/shop")["present"]
            return present is not None and present["ids"]["code"] == code

        wait_until(seen, f"{code} is seen")

    def until_looked(self) -> None:
        """Wait until the daemon has looked at the layers once more, and taken in what it saw."""
        looks = self.root / "looks"
        before = len(looks.read_text())
        wait_until(lambda: len(looks.read_text()) >= before + 3 * len("config code "), "the layers are looked at")

    def stop(self, *, kill: bool = False) -> int:
        """End it, orderly or as a crash does; its exit code."""
        daemon, self.daemon = self.daemon, None
        if daemon is None:
            return 0
        if daemon.poll() is None:
            daemon.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        return daemon.wait(timeout=60)

    def reboot(self) -> None:
        """Killed, and started again: what is in memory is gone, files stay."""
        self.stop(kill=True)
        self.start()

    # -- asking it ------------------------------------------------------------------------------
    headers: ClassVar[dict[str, str]] = {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"}

    def ask(self, method: str, path: str, body: object = None, token: str = TOKEN) -> Any:
        """One call of the API. :raises urllib.error.HTTPError: for what is no success."""
        data = None if body is None else json.dumps(body).encode()
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}"
        headers = self.headers | {"Authorization": f"Bearer {token}"}
        request = urllib.request.Request(url, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def refused(self, method: str, path: str, body: object = None) -> tuple[int, str, Mapping[str, str]]:
        """A call that must be refused: status, sentence, headers."""
        try:
            found = self.ask(method, path, body)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)["detail"], dict(error.headers)
        raise AssertionError(f"{path} was not refused: {found}")

    def alert(self, name: str = "Sick", service: str = "shop", at: datetime | None = None) -> Any:
        """Alertmanager says that it is sick, and that this has ended once a layer went back."""
        body = webhook(name, service, at or datetime.now(UTC))
        known = self._known()
        answer = self.ask("POST", "alerts", body)
        over = partial(self._went_back, self.runs, known)
        threading.Thread(target=self.end_alert, args=(body, over), daemon=True).start()
        return answer

    def _known(self) -> set[str]:
        """The incidents that have ended, which have no part in what comes now."""
        return {one["id"] for one in self.incidents() if one["outcome"]}

    def _went_back(self, sick: str, known: Collection[str]) -> bool:
        """Whether other code runs, or any layer was moved in an incident that is not known."""
        if self.runs != sick or not self.root.exists():
            return True
        time.sleep(0.3)
        try:
            return any("Applied" in self.kinds(one["id"]) for one in self.incidents()[:1] if one["id"] not in known)
        except (OSError, ValueError):
            return False

    def ends_when_well(self, body: dict[str, Any], known: Collection[str], token: str = TOKEN) -> None:
        """The alert of a notification ends once all but the alert itself is good in an incident that is not known."""
        over = partial(self._is_well, known)
        threading.Thread(target=self.end_alert, args=(body, over, token), daemon=True).start()

    def _is_well(self, known: Collection[str]) -> bool:
        time.sleep(0.2)
        try:
            new = [one["id"] for one in self.incidents() if one["id"] not in known][:1]
            rounds = [one["fact"]["results"] for name in new for one in self.records(name) if one["kind"] == "Round"]
        except (OSError, ValueError):
            return False
        others = [one for one in rounds[-1] if not one["name"].startswith("alert ")] if rounds else []
        return bool(others) and all(one["verdict"] == "good" or one["warn"] for one in others)

    def end_alert(self, body: dict[str, Any], over: Callable[[], bool], token: str = TOKEN) -> None:
        """Wait until its trouble is over; then it has ended."""
        with suppress(OSError, AssertionError):
            wait_until(over, "a layer went back", 300)
            ended = {**body["alerts"][0], "status": "resolved", "endsAt": datetime.now(UTC).isoformat()}
            wait_until(lambda: self._takes({**body, "alerts": [ended]}, token), "its end is heard of", 60)

    def _takes(self, body: dict[str, Any], token: str) -> bool:
        with suppress(OSError):
            self.ask("POST", "alerts", body, token)
            return True
        return False

    def incidents(self) -> list[dict[str, Any]]:
        return list(self.ask("GET", "incidents")["incidents"])

    def decisions(self) -> list[dict[str, Any]]:
        """Oldest first."""
        return list(self.ask("GET", "decisions?limit=500")["decisions"])[::-1]

    def records(self, incident: str) -> list[dict[str, Any]]:
        return list(self.ask("GET", f"incidents/{incident}")["records"])

    def kinds(self, incident: str) -> list[str]:
        """The kinds of its facts, deliveries aside."""
        return [record["kind"] for record in self.records(incident) if record["kind"] != "Told"]

    def until_closed(self, incident: str, limit: float = 30) -> dict[str, Any]:
        """Wait until it is closed; the incident."""
        wait_until(lambda: bool(self._view(incident)["outcome"]), f"{incident} is closed", limit)
        return self._view(incident)

    def until_status(self, incident: str, status: str) -> dict[str, Any]:
        wait_until(lambda: self._view(incident)["status"] == status, f"{incident} is {status}")
        return self._view(incident)

    def _view(self, incident: str) -> dict[str, Any]:
        return dict(self.ask("GET", f"incidents/{incident}")["incident"])

    def until_call(self, line: str) -> None:
        """Wait until a script has done that; else say what was decided instead."""
        try:
            wait_until(lambda: line in self.calls, f'"{line}" is among the calls')
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.command('decisions').stdout}") from error

    # -- the command line -----------------------------------------------------------------------
    def argv(self, *arguments: str) -> list[str]:
        module, given = self._module(*arguments)
        return [sys.executable, "-m", module, *given]

    def _module(self, *arguments: str) -> tuple[str, list[str]]:
        return "rollbackd", [*arguments, "--config", str(self.root / "config.yaml")]

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A `rollbackd` command, to its end."""
        return forks.run(*self._module(*arguments))

    def beside(self, *arguments: str) -> "Beside":
        """A `rollbackd` command that goes on beside the test."""
        out, errors = self.root / "beside.out", self.root / "beside.err"
        with out.open("wb") as stdout, errors.open("wb") as stderr:
            process = forks.start(*self._module(*arguments), stdout.fileno(), stderr.fileno())
        return Beside(process, out, errors)


@dataclass
class Beside:
    """A command under way."""

    process: forks.Fork
    out: Path
    errors: Path

    @property
    def lines(self) -> list[str]:
        """What it printed so far."""
        return self.out.read_text().splitlines()

    def shows(self, text: str) -> bool:
        return any(line.endswith(text) for line in self.lines)


def webhook(name: str, service: str, at: datetime) -> dict[str, Any]:
    """Alertmanager's body for one alert that fires since then."""
    labels = {"alertname": name, "service": service}
    alert = {
        "status": "firing",
        "labels": labels,
        "annotations": {"summary": f"{service} is sick"},
        "startsAt": at.isoformat(),
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus.example/graph",
        "fingerprint": f"{zlib.crc32(f'{name}/{service}'.encode()):016x}",
    }
    return {
        "version": "4",
        "groupKey": f'{{}}:{{service="{service}"}}',
        "truncatedAlerts": 0,
        "status": "firing",
        "receiver": "rollbackd",
        "groupLabels": {"service": service},
        "commonLabels": labels,
        "commonAnnotations": {},
        "externalURL": "http://alertmanager.example",
        "alerts": [alert],
    }


@contextmanager
def toy(root: Path, told: str = "", journal: Path = Path(), **changes: Any) -> Iterator[Toy]:
    """The service with its configuration; whatever daemon is started for it is ended."""
    one = Toy(root, told=told, journal=journal)
    one.build()
    one.configure(**changes)
    try:
        yield one
    finally:
        for path in root.glob("wait.*"):
            path.unlink()
        one.stop()


def json_lines(text: str) -> Sequence[Any]:
    """Each line as JSON."""
    return [json.loads(line) for line in text.splitlines()]
