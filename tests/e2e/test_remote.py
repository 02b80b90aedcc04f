"""A service on two other hosts: a real sshd, real repositories, and a whole rollback over them."""

import getpass
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from rollbackd.testing import finish, place
from rollbackd_adapters.remote import Remote, RemoteSettings
from tests.contract.worlds import git, new_repository, tree
from tests.sshd import Sshd, sshd

pytestmark = pytest.mark.needs("sshd", "ssh", "ssh-keygen", "git")

ME = getpass.getuser()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


def rollbackd(*arguments: str) -> "subprocess.CompletedProcess[str]":
    argv = [sys.executable, "-m", "rollbackd", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=100, stdin=subprocess.DEVNULL)


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
    remote = Remote(settings, place(tmp_path))
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
