"""The host of the example `ai-workstation`: its files in their places, what people do there, and how long that may take."""

import json
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from rollbackd.syntax.units import parse_duration
from tests.dockerd import Dockerd
from tests.e2e.ops_host import EXAMPLES, PYTHON, Host, Units, body, ending
from tests.servers import free_port, prometheus, wait_until

SHIPPED = EXAMPLES / "ai-workstation"


class Workstation(Host):
    """A home directory, a repository with its remote, a library, sessions."""

    docker: Dockerd
    reconciling: threading.Event
    """Cleared: the reconciler does nothing."""

    # -- places ---------------------------------------------------------------------------------
    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def config(self) -> Path:
        return self.home / ".config/workstation"

    @property
    def settings(self) -> Path:
        return self.config / "settings.json"

    @property
    def library(self) -> Path:
        return self.root / "srv/workstation/library"

    @property
    def clone(self) -> Path:
        return self.home / "gitops"

    @property
    def remote(self) -> Path:
        return self.root / "remote.git"

    @property
    def vault(self) -> Path:
        return self.root / "vault/workstation"

    @property
    def applied(self) -> Path:
        return self.root / "srv/workstation/applied"

    # -- making it ------------------------------------------------------------------------------
    def lay_out(self, port: int, metrics: str) -> None:
        """The example's files in their places, and release v1."""
        root = str(self.root)
        self.moves = {
            "https://git.example.com/studio/workstation.git": str(self.remote),
            "127.0.0.1:8600": f"127.0.0.1:{port}",
            "http://127.0.0.1:9090": metrics,
            "/etc/rollbackd": root,
            "/etc/workstation": f"{root}/etc",
            "/home/studio": str(self.home),
            "/mnt/vault": f"{root}/vault",
            "/srv": f"{root}/srv",
            "/var/lib/rollbackd": f"{root}/var",
            "[python3,": f"[{PYTHON},",
            '"workstation/session"': '"--pull=never", "--network=none", "--volume=/usr:/usr:ro", "host", "sleep", "1"',
        }
        self.url = f"http://127.0.0.1:{port}/health"
        place = self.root / "srv/workstation"
        for name in ("app/workstation.py", "app/places.json", *(f"bin/{one}.py" for one in SCRIPTS)):
            self.moved(name, place / name)
        self.program = [PYTHON, str(place / "app/workstation.py"), f"127.0.0.1:{port}", str(place / "app/places.json")]
        self.moved("home/settings.json", self.settings)
        self.moved("home/env.example", self.config / ".env")
        (self.config / ".env").chmod(0o600)
        (self.home / ".profile.env").write_text("EDITOR=vi\nWORKSTATION_MODEL=small\n")
        (self.home / "inbox").mkdir()
        self.library.mkdir()
        self.vault.mkdir(parents=True)
        (self.root / "etc/credentials").mkdir(parents=True)
        (self.root / "etc/credentials/registry").write_text("a secret")
        (self.home / "inbox/handbook.txt").write_text("chapter one\n")
        self.sync()
        self.make_repositories()

    def make_repositories(self) -> None:
        """The remote, the clone that people commit in, the reconciler's, and the daemon's own."""
        self.git(self.root, "init", "-q", "--bare", "-b", "main", str(self.remote))
        self.git(self.home, "clone", "-q", str(self.remote), str(self.clone))
        self.git(self.clone, "switch", "-q", "-c", "main")
        self.moved("gitops/workstation.json", self.clone / "workstation.json")
        self.commit(self.clone, "v1")
        self.git(self.clone, "push", "-q", "--tags", "--set-upstream", "origin", "main")
        self.git(self.root, "clone", "-q", str(self.remote), str(self.applied))
        (self.root / "var").mkdir()
        self.git(self.root, "clone", "-q", "--bare", str(self.remote), str(self.root / "var/workstation.git"))

    def reconcile(self) -> None:
        """What a reconciler does: fetch, apply, say what is applied."""
        self.git(self.applied, "fetch", "-q", "origin", "main")
        self.git(self.applied, "reset", "-q", "--hard", "FETCH_HEAD")
        new = self.applied.with_name("applied.new")
        new.write_text(self.git(self.applied, "rev-parse", "HEAD") + "\n")
        new.rename(self.applied.with_name("applied.revision"))

    def restart_all(self) -> None:
        """The unit: `ExecStopPost` ends the sessions that are left."""
        self.script("sessions", "end")
        self.restart()

    def script(self, name: str, *arguments: str) -> None:
        path = str(self.root / f"srv/workstation/bin/{name}.py")
        subprocess.run([PYTHON, path, *arguments], check=True, timeout=60)

    # -- what people do -------------------------------------------------------------------------
    def publish(self, tag: str, **desired: Any) -> None:
        """Commit and push; wait until it is applied."""
        self.git(self.clone, "switch", "-q", "main")
        self.git(self.clone, "pull", "-q", "--ff-only")
        (self.clone / "workstation.json").write_text(json.dumps({"release": tag, "model": "small", **desired}) + "\n")
        commit = self.commit(self.clone, tag)
        self.git(self.clone, "push", "-q", "--tags", "origin", "main")
        wait_until(lambda: commit in body(self.at("version"))[1], f"{tag} is applied")

    def sync(self) -> None:
        self.script("library", "sync", str(self.home / "inbox"), str(self.library))

    def sick(self) -> None:
        """A damage of the configuration that was never there before."""
        self.settings.write_text(f"{{ {time.monotonic_ns()}")

    # -- asking ---------------------------------------------------------------------------------
    def at(self, path: str) -> str:
        return self.url.replace("/health", f"/{path}")

    def begin(self) -> int:
        """Start a session; the status of the answer."""
        try:
            request = urllib.request.Request(self.at("sessions"), b"", method="POST")
            with urllib.request.urlopen(request, timeout=30) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    def asked(self, path: str) -> int:
        """How often the manager was asked for that, since it runs."""
        return (self.root / "unit.log").read_text().count(f"GET /{path} ")

    def lasting(self) -> str:
        """A session that does not end by itself; its container."""
        return self.docker.run("sleep", "600", options=["--label=workstation.session", "--stop-timeout=1"])

    @property
    def next(self) -> str:
        """The name of the next incident."""
        return f"workstation-{len(self.incidents()) + 1}"

    def seen(self, **layers: str) -> None:
        """Wait until the daemon knows that this runs."""
        wait_until(lambda: layers.items() <= self.present("workstation").items(), f"{layers} is seen")

    def changed(self, layer: str, before: str) -> None:
        wait_until(lambda: self.present("workstation").get(layer) not in {None, before}, f"{layer} is seen to change")

    def marked_good(self) -> None:
        """What is there now was looked at, and is known to be good."""
        assert "is good: marked by" in self.said("good", "workstation")

    def store(self, layer: str) -> Path:
        return self.root / f"layers/workstation/{layer}/store"

    def saved(self, incident: str, layer: str) -> str:
        """The name of the snapshot of what a rollback replaced."""
        (found,) = self.ask("GET", f"snapshots?service=workstation&layer={layer}")["layers"]
        (name,) = [one["name"] for one in found["snapshots"] if one["name"].startswith(f"before-{incident}-")]
        return str(name)

    def calm(self) -> bool:
        """No rule is bad, or about to be: what the scenario before left in the queries' range is over."""
        rules = self.ask("GET", "services/workstation")["rules"]
        return not {"bad", "pending"} & {one["verdict"] for one in rules}

    @contextmanager
    def held(self) -> Iterator[None]:
        """A person works on it."""
        hold = self.signals / "HOLD.workstation"
        hold.touch()
        try:
            yield
        finally:
            hold.unlink()

    def tree(self, revision: str = "main") -> str:
        return self.git(self.remote, "rev-parse", f"{revision}^{{tree}}")

    @contextmanager
    def within(self, limit: timedelta) -> Iterator[str]:
        """A scenario from the damage on; it must end recovered, in its limit with the waits that are shipped."""
        incident, began = self.next, time.monotonic()
        yield incident
        self.until_recovered(incident)
        took = timedelta(seconds=time.monotonic() - began) + waits()
        assert took <= limit, f"{incident}: {took} with the waits that are shipped, not {limit}"


SCRIPTS = ("library", "sessions", "setup", "smoke")


def waits(*, detection: bool = True) -> timedelta:
    """The longest that the shipped configuration waits on purpose: until it is detected, drained, verified."""
    config = yaml.safe_load((SHIPPED / "config.yaml").read_text())
    (service,) = config["services"]
    smoke, verify = config["rules"][3]["when"], service["verify"]
    detected: timedelta = parse_duration(config["daemon"]["look_every"]) + smoke["failures"] * parse_duration(
        smoke["every"]
    )
    drained: timedelta = parse_duration(service["layers"]["sessions"]["limit"])
    verified: timedelta = parse_duration(verify["settle"]) + (verify["passes"] - 1) * parse_duration(verify["every"])
    return (detected if detection else timedelta()) + drained + verified


def sooner(config: dict[str, Any], units: Units) -> None:
    """The same configuration with shorter waits, and systemd's part taken over."""
    (service,) = config["services"]
    config["daemon"]["look_every"] = "500ms"
    config["prometheus"]["poll_every"] = "500ms"
    errors, corruption, smoke = (rule["when"] for rule in config["rules"][1:])
    errors["query"] = errors["query"].replace("[1m]", "[2s]")
    errors["for"] = "3s"  # the smoke test is sooner here, too
    corruption["any"][1]["every"], smoke["every"] = "700ms", "500ms"  # each is a Python of its own
    service["layers"]["sessions"] |= {"every": "200ms", "limit": "2s"}
    service["layers"]["process"] = units.layer("workstation")
    service["verify"] |= {"settle": "200ms", "every": "300ms", "deadline": "10s"}
    many = {"rollbacks": 99, "per": "1h"}
    config["limits"] = {"per_service": many, "fleet": many, "cooldown": "100ms"}


@contextmanager
def workstation(
    root: Path, docker: Dockerd, told: str, change: Callable[[dict[str, Any], Units], None]
) -> Iterator[Workstation]:
    """All of it runs, by its configuration as that was changed, and is seen."""
    port = free_port()
    scraped = prometheus(root / "prometheus", targets=[f"127.0.0.1:{port}"], labels={"service": "workstation"})
    with pytest.MonkeyPatch.context() as patch, scraped as metrics:
        patch.setenv("HOME", str(docker.home))
        made = Workstation(root, told=told, example="ai-workstation")
        made.docker, made.reconciling = docker, threading.Event()
        made.prepare()
        made.lay_out(port, metrics.url)
        made.reconcile()
        made.restart()
        units = Units(root / "units", {"workstation": made.restart_all})
        config = made.loaded()
        change(config, units)
        for name in ("ci", "alertmanager"):
            made.secret(name)
        made.write(config)
        with ending(made, units):
            made.start()
            wait_until(lambda: len(made.present("workstation")) == 4, "its layers are seen")
            yield made
        docker.remove_all()


@contextmanager
def reconciler(host: Workstation) -> Iterator[None]:
    """It applies what the branch has, again and again."""
    ended, branch = threading.Event(), host.remote / "refs/heads/main"
    host.reconciling.set()

    def run() -> None:
        applied = ""
        while not ended.wait(0.2):
            if host.reconciling.is_set() and branch.read_text() != applied:
                applied = branch.read_text()
                host.reconcile()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=10)
