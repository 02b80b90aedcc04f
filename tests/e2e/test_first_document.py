"""Somebody who has only the first document: its commands, word for word, on a Debian that has nothing of ours.

Nothing can be fetched in there, so what the first block installs is put into place: Debian's own servers, and what pip
would have made of the wheel.
"""

import json
import re
import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.debian import PROGRAMS, Machine, booted, unpacked_wheel, wait_for

pytestmark = [
    pytest.mark.needs(*PROGRAMS, "prometheus", "prometheus-alertmanager", "promtool"),
    pytest.mark.timeout(600),
]

PROJECT = Path(__file__).parents[2]
PROGRAM = """#!/usr/bin/python3
import sys
from rollbackd.cli import main
sys.exit(main())
"""
SERVER = """[Service]
User=prometheus
Restart=always
StateDirectory={name}
ExecStart=/usr/bin/{name} --config.file=/etc/prometheus/{file} --storage.{kind}=/var/lib/{name} --web.listen-address=127.0.0.1:{port}{more}
"""


SHARED = """
daemon: {mode: act, open_on_loopback: true}
services:
  - name: checkout
    match: {service: checkout}
    layers: {code: {adapter: git, repo: /srv/checkout}}
    verify: {settle: 0s, every: 100ms, passes: 2, deadline: 30s, checks: [{command: [test, -f, /srv/checkout/v1/page]}]}
"""


def blocks(page: str) -> list[str]:
    """The commands of a page, block by block."""
    return re.findall(r"^```sh\n(.*?)^```", (PROJECT / "docs" / page).read_text(), re.MULTILINE | re.DOTALL)


def _put_into_place(machine: Machine) -> None:
    """What apt-get and pip do in the first block."""
    machine.write("/usr/local/lib/python3.11/dist-packages/rollbackd.pth", "/opt/unpacked\n/opt/dependencies\n")
    machine.write("/opt/rollbackd/bin/rollbackd", PROGRAM, 0o755)
    machine.run("useradd", "--system", "prometheus")
    for name, file, kind, port, more in (
        ("prometheus", "prometheus.yml", "tsdb.path", 9090, ""),
        ("prometheus-alertmanager", "alertmanager.yml", "path", 9093, " --cluster.listen-address="),
    ):
        unit = SERVER.format(name=name, file=file, kind=kind, port=port, more=more)
        machine.write(f"/usr/lib/systemd/system/{name}.service", unit)
    machine.write("/etc/prometheus/alertmanager.yml", "route: {receiver: people}\nreceivers: [{name: people}]\n")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Where the document was followed to its end."""
    unpacked = unpacked_wheel(PROJECT, tmp_path_factory.mktemp("wheel"))
    servers = [Path(shutil.which(name) or "") for name in ("prometheus", "prometheus-alertmanager")]
    binds = [(unpacked, "/opt/unpacked"), (Path(sysconfig.get_path("purelib")), "/opt/dependencies")]
    binds += [(path, f"/usr/bin/{path.name}") for path in servers]
    with booted([*binds, (Path("/usr/share/prometheus"), "/usr/share/prometheus")]) as machine:
        _put_into_place(machine)
        _follow(machine)
        yield machine


def typed(machine: Machine, block: str, limit: float = 120) -> str:
    """What a block says; its lines are what a person would type."""
    done = machine.run("bash", "-euo", "pipefail", "-c", block, timeout=limit)
    return done.stdout + done.stderr


def _follow(machine: Machine) -> None:
    """Every block of the document in its order, and what it promises after each."""
    install, *rest = blocks("start.md")
    *fetched, last = install.splitlines()
    assert [line.split()[0] for line in fetched] == ["apt-get", "python3", "/opt/rollbackd/bin/pip"]
    assert "write    /etc/systemd/system/rollbackd.service" in typed(machine, last)
    service, alert, init, wired, good, bad, after, onward = rest
    typed(machine, service)
    typed(machine, alert)
    wait_for(lambda: machine.run("python3", "-c", ASKS, check=False).returncode == 0, "Prometheus has seen it", 60)
    said = typed(machine, init)
    assert re.search(r"route +to us +wrong", said), said
    assert said.count(" wrong ") == 1, "nothing else is wrong"
    assert "group_by: [alertname, service]" in said
    said = typed(machine, wired)
    assert "all is well" in said
    assert "brought by token:alertmanager" in said, said
    typed(machine, good)
    said = typed(machine, bad, 400)
    assert "recovered" in said, said + machine.log()
    released = machine.files / "srv/hello/release"
    assert released.read_text() == "v1\n"
    said = typed(machine, after)
    assert re.search(r"runs +code v1", said), said
    assert "HelloIsNotWell" in said
    typed(machine, onward)


def test_from_nothing_to_a_verified_rollback_and_on(machine: Machine) -> None:
    assert (machine.files / "srv/hello/release").read_text() == "v3\n"
    listed = json.loads(machine.run("rollbackd", "--json", "incidents").stdout)["incidents"]
    assert [(one["id"], one["outcome"]) for one in listed] == [("hello-1", "recovered")]


ASKS = """
import json, sys, urllib.request
with urllib.request.urlopen("http://127.0.0.1:9090/api/v1/query?query=hello_well") as answer:
    sys.exit(0 if json.load(answer)["data"]["result"] else 1)
"""


def test_once_more_changes_nothing_and_secrets_are_encrypted(machine: Machine) -> None:
    before = machine.show("MainPID")
    assert "nothing is left to do on this host" in typed(machine, "rollbackd install --yes")
    said = typed(machine, "rollbackd init --yes --no-start")
    assert "config.yaml is there already, and stays" in said
    assert "nothing is left to do on this host" in said
    assert machine.show("MainPID") == before
    credentials = machine.files / "etc/rollbackd/credentials"
    token = (machine.files / "etc/rollbackd/alertmanager-token").read_text()
    assert sorted(path.name for path in credentials.iterdir()) == ["alertmanager-token.cred", "metrics-token.cred"]
    assert token not in (credentials / "alertmanager-token.cred").read_text()
    assert machine.run("ls", "/etc/rollbackd/credentials", user="prometheus", check=False).returncode != 0


def test_a_work_tree_is_shared_with_the_deploy_user(machine: Machine) -> None:
    shared, onward = blocks("sharing.md")
    fetched, *share = shared.splitlines()
    assert fetched == "apt-get install -y acl"
    machine.run("useradd", "deploy")
    deploy = ("git", "-C", "/srv/checkout", "-c", "user.name=d", "-c", "user.email=d@example.com")

    def deployed(version: str) -> None:
        machine.run("mkdir", "-p", f"/srv/checkout/{version}", user="deploy")
        machine.run("cp", "/etc/hostname", f"/srv/checkout/{version}/page", user="deploy")
        for words in (["add", "-A"], ["commit", "-qm", version], ["tag", version]):
            machine.run(*deploy, *words, user="deploy")

    machine.run("install", "-d", "-o", "deploy", "/srv/checkout")
    machine.run("git", "init", "-q", "-b", "main", "/srv/checkout", user="deploy")
    deployed("v1")
    typed(machine, "\n".join(share))
    machine.write("/etc/rollbackd/config.yaml", SHARED)
    typed(machine, "rollbackd install --yes && systemctl restart rollbackd && rollbackd good checkout")
    deployed("v2")
    said = typed(machine, "rollbackd rollback checkout --to v1 --yes")
    tree = machine.files / "srv/checkout"
    assert not (tree / "v2").exists(), said
    typed(machine, onward)
    assert (tree / "v2" / "page").exists()
    deployed("v3")


def test_uninstalled_it_is_gone_and_its_memory_is_not(machine: Machine) -> None:
    typed(machine, "rollbackd uninstall --yes")
    assert machine.show("LoadState") == "not-found"
    assert not (machine.files / "usr/local/bin/rollbackd").is_symlink()
    assert (machine.files / "var/lib/rollbackd/journal.db").exists()
    program = "/opt/rollbackd/bin/rollbackd"
    assert "nothing is left to do" in typed(machine, f"{program} uninstall --yes")
    typed(machine, f"{program} uninstall --yes --purge")
    assert not (machine.files / "var/lib/rollbackd").exists()
    assert not (machine.files / "etc/rollbackd").exists()
