"""A host of the examples, in a directory: their shipped configuration with its paths, ports and waits moved to here.

What systemd does for a unit does a thread of the test: a step asks for it by a file, and hears of it by another.
"""

import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.toy import REPO, TOKEN, Toy
from tests.servers import answers, wait_until

EXAMPLES = REPO / "examples"
IDENTITY = ("-c", "user.name=Ann", "-c", "user.email=ann@example.com", "-c", "commit.gpgsign=false")

_UNIT = """\
#!/bin/sh
set -eu
cd "$(dirname "$0")"
told() { test "$(cat "$1.done" 2>/dev/null)" = "${ROLLBACKD_KEY}"; }
case "$1" in
  ask)
    echo "${ROLLBACKD_KEY}" > "$2.new"
    mv "$2.new" "$2.request"
    n=0
    until told "$2"; do n=$((n + 1)); test "$n" -lt 400; sleep 0.05; done ;;
  progress) if told "$2"; then echo done; else echo not_started; fi ;;
  stopped) test -e "$2.stopped" ;;
  stop) touch "$2.stop"; n=0; until test -e "$2.stopped"; do n=$((n + 1)); test "$n" -lt 400; sleep 0.05; done ;;
  start) touch "$2.start"; n=0; while test -e "$2.stopped"; do n=$((n + 1)); test "$n" -lt 400; sleep 0.05; done ;;
esac
"""


class Units:
    """What systemd would be asked for: does it for whoever leaves a request, and says so when it is done."""

    def __init__(
        self,
        directory: Path,
        actions: Mapping[str, Callable[[], None]],
        stops: Mapping[str, Callable[[], None]] | None = None,
    ) -> None:
        """:param stops: of those units that are also stopped; `actions` starts them again."""
        directory.mkdir()
        self._script = directory / "unit"
        self._script.write_text(_UNIT)
        self._script.chmod(0o755)
        self._directory = directory
        self._actions = actions
        self._stops = stops or {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def layer(self, unit: str) -> dict[str, Any]:
        """As the configuration has it."""
        script = str(self._script)
        found = {"adapter": "command", "apply": [script, "ask", unit], "progress": [script, "progress", unit]}
        if unit not in self._stops:
            return found
        bracket = {"inside": "stopped", "enter": "stop", "leave_by": "start"}
        return {**found, "leave": "steps", **{key: [script, verb, unit] for key, verb in bracket.items()}}

    def _serve(self) -> None:
        while not self._ended.wait(0.05):
            for unit, action in self._actions.items():
                request = self._directory / f"{unit}.request"
                if request.exists():
                    action()
                    request.rename(self._directory / f"{unit}.done")
            for unit, stop in self._stops.items():
                self._take(unit, stop)

    def _take(self, unit: str, stop: Callable[[], None]) -> None:
        """Stop or start a unit, where that is asked for."""
        asked, stopped = (self._directory / f"{unit}.{word}" for word in ("stop", "stopped"))
        if asked.exists():
            stop()
            asked.rename(stopped)
        if (start := self._directory / f"{unit}.start").exists():
            self._actions[unit]()
            start.unlink()
            stopped.unlink(missing_ok=True)

    def stop(self) -> None:
        self._ended.set()
        self._thread.join(timeout=30)


@dataclass
class Host(Toy):
    """One example's host; `build` and `configure` of the toy are replaced by the example's own files."""

    example: str = ""
    moves: dict[str, str] = field(default_factory=dict)
    """Places of the example and where they are here; what begins another one comes after it."""
    program: Sequence[str] = ()
    """What the unit runs."""
    url: str = ""
    """Answers while it runs."""
    process: subprocess.Popen[bytes] | None = None
    restarting: threading.Lock = field(default_factory=threading.Lock)
    """A person and a step may restart it at the same time."""

    def moved(self, name: str, to: Path | None = None) -> str:
        """A file of the example as it is here, written to its place."""
        text = (EXAMPLES / self.example / name).read_text()
        for old, new in self.moves.items():
            text = text.replace(old, new)
        if to is not None:
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_text(text)
        return text

    def prepare(self) -> None:
        """What every host has: the override's directory and an operator's token."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.signals.mkdir()
        self.signals.chmod(0o1770)
        (self.root / "token").write_text(TOKEN)
        (self.root / "token").chmod(0o600)

    def write(self, config: dict[str, Any]) -> None:
        """The configuration, the daemon's own places and an operator of the test's added."""
        config["daemon"] |= {
            "listen": f"127.0.0.1:{self.port}",
            "socket": str(self.root / "socket"),
            "journal": f"sqlite:///{self.root / 'journal.db'}",
            "signals": str(self.signals),
            "scratch": str(self.root / "layers"),
            "tokens": [
                *config["daemon"].get("tokens", ()),
                {"name": "desk", "role": "operator", "token": {"file": str(self.root / "token")}},
            ],
        }
        config["limits"] = {"common_cause": False, "cooldown": "1s", **config.get("limits", {})}
        config.setdefault("notify", {"receivers": [{"name": "room", "webhook": {"url": self.told}}]})
        (self.root / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))

    def loaded(self) -> dict[str, Any]:
        """The example's configuration, with its places moved."""
        found: dict[str, Any] = yaml.safe_load(self.moved("config.yaml"))
        return found

    # -- the unit -------------------------------------------------------------------------------
    def restart(self) -> None:
        """As systemd does, one after the other; until it answers."""
        with self.restarting:
            self.kill()
            with (self.root / "unit.log").open("ab") as log:
                process = subprocess.Popen(self.program, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
            self.process = process

            def up() -> bool:
                assert process.poll() is None, (self.root / "unit.log").read_text()[-2000:]
                return answers(self.url)

            wait_until(up, "the unit")

    def halt(self) -> None:
        """As systemd stops it."""
        with self.restarting:
            self.kill()

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(timeout=10)
        self.process = None

    # -- git ------------------------------------------------------------------------------------
    @staticmethod
    def git(repo: Path, *arguments: str) -> str:
        done = subprocess.run(
            ["git", *IDENTITY, *arguments], cwd=repo, capture_output=True, text=True, check=True, timeout=30
        )
        return done.stdout.strip()

    def commit(self, repo: Path, tag: str) -> str:
        """All that is there, as a release; the commit."""
        self.git(repo, "add", "-A")
        self.git(repo, "commit", "-q", "-m", f"Release {tag}")
        self.git(repo, "tag", tag)
        return self.git(repo, "rev-parse", "HEAD")

    # -- asking ---------------------------------------------------------------------------------
    def present(self, service: str) -> dict[str, Any]:
        """The present state, by layer."""
        found = self.ask("GET", f"services/{service}")["present"]
        return dict(found["ids"]) if found else {}

    def good(self, service: str) -> bool:
        """Whether the present state is known to be good."""
        found = self.ask("GET", f"services/{service}")["present"]
        return bool(found and found["good"])

    def until_opened(self, incident: str) -> None:
        """Wait until there is one of this name."""
        wait_until(lambda: incident in {one["id"] for one in self.incidents()}, f"{incident} is opened", 90)

    def approve(self, incident: str) -> None:
        """Say yes at once: on a clock that runs fast a question is open for seconds, which a command may take."""
        assert self.ask("POST", f"incidents/{incident}/approve", {})["missing"] == ""

    def until_recovered(self, incident: str) -> None:
        """Wait until it is opened, and then closed: its service is well."""
        self.until_opened(incident)
        assert self.until_closed(incident, 90)["outcome"] == "recovered", self.said("incidents", incident)

    def secret(self, name: str) -> Path:
        """A token's file; its text is its name."""
        path = self.root / f"{name}.token"
        path.write_text(f"the token {name}")
        path.chmod(0o600)
        return path

    def said(self, *arguments: str) -> str:
        """What a command prints, that must succeed."""
        done = self.command(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def body(url: str, method: str = "GET", **headers: str) -> tuple[int, str]:
    """Status and text of an answer; 0 when there is none."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers, method=method), timeout=5) as answer:
            return int(answer.status), str(answer.read().decode())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


@contextmanager
def ending(host: Host, units: Units) -> Iterator[None]:
    """Whatever runs on it is ended: the daemon first, while its steps are still served."""
    try:
        yield
    finally:
        host.stop()
        units.stop()
        host.kill()


PYTHON = sys.executable
