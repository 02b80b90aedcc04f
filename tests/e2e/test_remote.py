"""A service on two other hosts: a real sshd, real repositories, and a whole rollback over them."""

import getpass
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from rollbackd.testing import finish, place
from rollbackd_adapters.remote import RemoteAdapter, RemoteSettings
from tests import forks
from tests.contract.over import served
from tests.contract.worlds import CommandWorld, git, new_repository, script, tree
from tests.direct import Direct, direct
from tests.e2e.toy import Toy, toy
from tests.servers import wait_until
from tests.sshd import Sshd, sshd

pytestmark = pytest.mark.needs("sshd", "ssh", "ssh-keygen", "git")

ME = getpass.getuser()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


def rollbackd(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return forks.run("rollbackd", arguments)


@dataclass
class Fleet:
    """A shop on two hosts, and the ops host's configuration."""

    root: Path
    repos: tuple[Path, Path]
    reach: dict[str, Any]

    @classmethod
    def new(cls, root: Path, server: Sshd) -> "Fleet":
        repos = (new_repository(root / "one" / "repo"), new_repository(root / "two" / "repo"))
        key = None
        for number, repo in enumerate(repos, 1):
            code = {"adapter": "git", "repo": str(repo)}
            reach = server.serve(repo.parent / "far", {"code": code}, host=number, key=key)
            key = Path(reach["identity"])
        return cls(root, repos, reach)

    def configure(self, *hosts: str, **settings: Any) -> Path:
        """Write the ops host's configuration for these hosts."""
        config = {
            "daemon": {
                "mode": "act",
                "open_on_loopback": True,
                "socket": str(self.root / "s.sock"),
                "journal": f"sqlite:///{self.root}/journal.db",
                "signals": str(self.root / "signals"),
                "scratch": str(self.root / "layers"),
            },
            "services": [
                {
                    "name": "shop",
                    "match": {"service": "shop"},
                    "layers": {"code": {**self.reach, "hosts": [f"{ME}@{host}" for host in hosts], **settings}},
                    "verify": {
                        "settle": "0",
                        "every": "100ms",
                        "passes": 1,
                        "watch": "0",
                        "checks": [{"command": ["true"]}],
                    },
                }
            ],
        }
        (self.root / "signals").mkdir(exist_ok=True)
        (self.root / "signals").chmod(0o1770)
        path = self.root / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        return path

    def roll_back(self, config: Path, to: str) -> dict[str, Any]:
        """Without a daemon; what became of it, and all that was said."""
        argv = ["--config", str(config), "--json", "rollback", "shop", "--offline", "--yes", "--to", to]
        done = rollbackd(*argv)
        assert done.stdout, done.stderr
        outcome = dict(json.loads(done.stdout.splitlines()[-1]))
        return {**outcome, "code": done.returncode, "said": done.stdout + done.stderr}


def test_the_command_itself_answers_as_a_forced_command(tmp_path: Path, server: Sshd) -> None:
    repo = new_repository(tmp_path / "repo")
    command = f"{sys.executable} -m rollbackd layer --stdio --config {tmp_path}/far/layers.yaml"
    reach = server.serve(tmp_path / "far", {"code": {"adapter": "git", "repo": str(repo)}}, command=command)
    settings = RemoteSettings.model_validate({**reach, "ssh": f"{ME}@127.0.0.1", "layer": "code"})
    remote = RemoteAdapter(settings, place(tmp_path))
    assert finish(remote.current()).id == tree(repo, "v3")
    listed = rollbackd("--config", str(tmp_path / "far" / "layers.yaml"), "--json", "layer", "--list")
    assert json.loads(listed.stdout)["layers"]["code"]["resource"] == f"git:{repo}"


def test_both_hosts_go_back_and_the_incident_says_recovered(tmp_path: Path, server: Sshd) -> None:
    fleet = Fleet.new(tmp_path, server)
    config = fleet.configure("127.0.0.1", "127.0.0.2")
    checked = rollbackd("--config", str(config), "check")
    assert checked.returncode == 0, checked.stdout
    ended = fleet.roll_back(config, tree(fleet.repos[0], "v2"))
    assert (ended["outcome"], ended["code"]) == ("recovered", 0), ended["said"]
    for repo in fleet.repos:
        assert git(repo, "rev-parse", "HEAD") == git(repo, "rev-parse", "v2")


def test_with_one_host_down_and_skipped_it_is_partial_and_never_recovered(tmp_path: Path, server: Sshd) -> None:
    fleet = Fleet.new(tmp_path, server)
    config = fleet.configure("127.0.0.1", "127.0.0.3", unreachable="skip")
    ended = fleet.roll_back(config, tree(fleet.repos[0], "v2"))
    assert (ended["outcome"], ended["code"]) == ("failed", 1), ended["said"]
    assert "done on 127.0.0.1, not on 127.0.0.3: the hosts differ now" in ended["said"]
    assert git(fleet.repos[0], "rev-parse", "HEAD") == git(fleet.repos[0], "rev-parse", "v2")


def test_with_one_host_down_nothing_is_touched(tmp_path: Path, server: Sshd) -> None:
    fleet = Fleet.new(tmp_path, server)
    config = fleet.configure("127.0.0.1", "127.0.0.3")
    done = rollbackd("--config", str(config), "rollback", "shop", "--offline", "--yes", "--to", "v2")
    assert done.returncode == 1
    assert f"{ME}@127.0.0.3 cannot be reached" in done.stdout + done.stderr
    assert git(fleet.repos[0], "rev-parse", "HEAD") == git(fleet.repos[0], "rev-parse", "v3")


# -- hosts that differ --------------------------------------------------------------------------
class TwoHosts:
    """The code on two hosts, which the daemon here guards; what runs there is a file."""

    def __init__(self, root: Path, hosts: Direct, one: Toy) -> None:
        self.toy = one
        self.worlds = CommandWorld(root / "one"), CommandWorld(root / "two")
        self.runs("v2")
        self._hosts = hosts
        self.let_in()
        once = root / "lock.them.out"
        once.touch()
        between = script(root / "between", f"test ! -e {once} || {{ rm {once}; : > {hosts.file('web2')}; }}")
        one.configure(
            daemon={"look_every": "5s"},
            layers={"code": {"adapter": "remote", "hosts": ["deploy@web1", "deploy@web2"], "between": [between]}},
            plans={"default": ["code"]},
            verify={"settle": "0s", "every": "100ms", "passes": 1, "watch": "1m", "checks": ["health"]},
        )

    def runs(self, *releases: str) -> None:
        """Somebody deploys; on each host its own, when two are given."""
        for world, release in zip(self.worlds, releases * 2, strict=False):
            (world.path / "present").write_text(f"{release}\n")

    @property
    def present(self) -> tuple[str, ...]:
        return tuple(world.present() for world in self.worlds)

    def let_in(self) -> None:
        for host, world in zip(("web1", "web2"), self.worlds, strict=True):
            self._hosts.serve(host, world.path / "far", {"code": served(world)})

    def seen(self, release: str) -> None:
        def there() -> bool:
            present = self.toy.ask("GET", "services/shop")["present"]
            return present is not None and present["ids"]["code"] == release

        wait_until(there, f"{release} is seen; {self.toy.log[-2000:]}", 60)


def test_hosts_that_a_failed_rollback_left_apart_are_brought_together_by_the_command_it_names(tmp_path: Path) -> None:
    with direct(tmp_path / "hosts") as running, toy(tmp_path / "shop") as one:
        hosts = TwoHosts(tmp_path, running, one)
        one.start()
        hosts.seen("v2")
        one.ask("POST", "services/shop/good", {})
        hosts.runs("v3")
        hosts.seen("v3")
        one.touch("sick")
        one.alert()
        wait_until(lambda: bool(one.incidents()), "it goes back", 60)
        failed = one.until_closed("shop-1", 60)
        assert (failed["outcome"], hosts.present) == ("failed", ("v2", "v3"))
        assert "done on web1, not on web2: the hosts differ now" in failed["reason"]
        (order,) = re.findall(r"`rollbackd (rollback [^`]*)`", failed["reason"])
        assert order == "rollback shop --to code=v2"
        hosts.let_in()

        one.alert(at=datetime.now(UTC))
        wait_until(lambda: len(one.decisions()) > 1, "it is decided again", 60)
        assert one.decisions()[-1]["action"] == "refuse", "nothing goes back unasked"
        wait_until(lambda: "the hosts differ" in one.ask("GET", "services/shop")["cannot"], "it is told", 60)
        assert f"web1 v2, web2 v3; `rollbackd {order.replace('v2', 'RELEASE')}`" in one.command("status").stdout
        one.remove("sick")
        shown = one.command("plan", *order.split()[1:]).stdout
        assert re.search(r"runs +code web1 v2, web2 v3 \(mixed-\w+\)\n +target +code v2\n", shown), shown
        done = one.command(*order.split(), "--yes")
        assert done.returncode == 0, done.stdout + done.stderr
        assert hosts.present == ("v2", "v2")
        assert hosts.worlds[0].finished() == hosts.worlds[1].finished() == 1, "what was done is not done again"
        hosts.seen("v2")
        assert one.ask("GET", "services/shop")["present"]["good"]

        one.stop()
        hosts.runs("v1", "v3")
        done = one.command(*order.split(), "--offline", "--yes")
        assert done.returncode == 0, done.stdout + done.stderr
        assert hosts.present == ("v2", "v2")


# -- snapshots on another host ------------------------------------------------------------------
class FarFiles:
    """A configuration on another host, which the daemon here guards."""

    def __init__(self, root: Path, server: Sshd, one: Toy) -> None:
        self.toy = one
        self.conf = root / "conf"
        self.store = root / "far" / "scratch" / "served" / "config" / "store"
        self.conf.mkdir(parents=True)
        served = {"config": {"adapter": "files", "paths": [str(self.conf)], "room": "1B"}}
        reach = server.serve(root / "far", served)
        layer = {**reach, "ssh": f"{ME}@127.0.0.1", "traits": ["releases", "step", "snapshots"]}
        one.configure(
            daemon={"look_every": "5s"},
            schedules=[{"snapshot": "shop", "when": "good"}],
            layers={"config": layer},
            plans={"default": ["config"]},
            verify={"settle": "0s", "every": "100ms", "passes": 1, "watch": "1m", "checks": ["health"]},
        )

    def write(self, version: str) -> None:
        (self.conf / "app.env").write_text(f"VERSION={version}\nTOKEN=secret-{version}\n")

    @property
    def version(self) -> str:
        return (self.conf / "app.env").read_text().partition("=")[2].partition("\n")[0]

    def run(self, *arguments: str) -> str:
        done = self.toy.command("snapshot", *arguments)
        assert done.returncode == 0, f"{done.stdout}{done.stderr}{self.toy.log[-2000:]}"
        return done.stdout

    def until(self, condition: Callable[[], object], what: str) -> None:
        wait_until(lambda: bool(condition()), f"{what}; {self.toy.log[-2000:]}", 60)

    def kept(self, why: str) -> set[str]:
        """The snapshots in its store that were taken for that."""
        return {path.name for path in self.store.glob(f"snapshots/snapshot-{why}-*.json")}

    @property
    def runs(self) -> str:
        """The release that the daemon has seen."""
        present = self.toy.ask("GET", "services/shop")["present"]
        return "" if present is None else str(present["ids"]["config"])


def test_files_of_another_host_are_kept_tried_out_restored_and_rolled_back(tmp_path: Path, server: Sshd) -> None:
    with toy(tmp_path / "shop") as one:
        far = FarFiles(tmp_path / "web1", server, one)
        far.write("v1")
        one.start()
        far.run("take", "shop", "config", "--name", "checkpoint-1")
        assert "checkpoint-1" in far.run("list", "shop")
        assert "checkpoint-1 restored into scratch" in far.run("verify", "shop", "config", "--rehearse")
        far.write("broken")
        shown = far.run("diff", "shop", "config", "checkpoint-1")
        assert "app.env" in shown
        assert "secret-" not in shown
        assert "back to that:" in far.run("restore", "shop", "config", "checkpoint-1")
        assert far.version == "v1"
        v1 = json.loads((far.store / "snapshots" / "checkpoint-1.json").read_text().partition("\n")[0])["release"]
        far.until(lambda: far.runs == v1, "v1 is seen again")
        one.ask("POST", "services/shop/good", {})
        far.until(lambda: far.kept("good"), "what became good is kept")

        kept = far.kept("auto")
        far.write("v2")
        far.until(lambda: far.kept("auto") - kept, "what is there now is kept by itself")
        far.until(lambda: far.runs != v1, "v2 is seen")
        one.touch("sick")
        one.alert()
        far.until(lambda: far.version == "v1", "it goes back")
        one.remove("sick")
        assert one.until_closed("shop-1", 60)["outcome"] == "recovered"
        (layer,) = one.ask("GET", "snapshots?service=shop")["layers"]
        assert (layer["problem"], layer["problems"]) == ("", [])
