"""The service under a real systemd: started, watched, reloaded, killed, stopped; and who may do what to it."""

import stat
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.debian import PROGRAMS, Machine, booted, unpacked_wheel, wait_for

pytestmark = [
    pytest.mark.needs(*PROGRAMS),
    pytest.mark.timeout(600),  # the first test makes the Debian
]

PROJECT = Path(__file__).parents[2]
SIGNALS = "/var/lib/rollbackd/signals"
SOCKET = "/run/rollbackd/rollbackd.sock"
SECRET = "s3cret-of-the-webhook"
CONFIG = """
daemon:
  mode: act
  tokens: [{name: alertmanager, role: source, token: {credential: alertmanager-token}}]
services:
  - name: checkout
    match: {service: checkout}
    layers:
      code: {adapter: git, repo: /srv/checkout}
    verify: {settle: 0s, every: 100ms, passes: 2, deadline: 30s, checks: [{command: [test, -f, /srv/checkout/page]}]}
"""
# The limits of the shipped unit, shortened where a test would wait for them, and what one host adds.
DROP_IN = """
[Service]
RestartSec=100ms
WatchdogSec=15s
TimeoutAbortSec=1s
LoadCredential=alertmanager-token:/etc/rollbackd/credentials/alertmanager-token
ReadWritePaths=/srv/checkout
"""
COMMAND = """#!/usr/bin/python3
import sys
from rollbackd.cli import main
sys.exit(main())
"""
CONNECT = f"import socket; socket.socket(socket.AF_UNIX).connect({SOCKET!r})"


def _install(machine: Machine) -> None:
    """What a package does, and an administrator after it."""
    machine.write("/usr/local/lib/python3.11/dist-packages/rollbackd.pth", "/opt/rollbackd\n/opt/dependencies\n")
    machine.write("/usr/local/bin/rollbackd", COMMAND, 0o755)
    shipped = next(machine.files.glob("opt/rollbackd/rollbackd-*.data/data/share/rollbackd/systemd"))
    for name, place in (
        ("rollbackd.service", "/usr/lib/systemd/system/rollbackd.service"),
        ("rollbackd.sysusers.conf", "/usr/lib/sysusers.d/rollbackd.conf"),
        ("rollbackd.tmpfiles.conf", "/usr/lib/tmpfiles.d/rollbackd.conf"),
    ):
        machine.write(place, (shipped / name).read_text())
    machine.run("systemd-sysusers")
    machine.run("systemd-tmpfiles", "--create", "/usr/lib/tmpfiles.d/rollbackd.conf")
    for operator in ("ann", "bob"):
        machine.run("useradd", "--groups", "rollbackd-operators", operator)
    machine.run("useradd", "mallory")


def _configure(machine: Machine) -> None:
    machine.write("/etc/rollbackd/config.yaml", CONFIG)
    machine.write("/etc/rollbackd/credentials/alertmanager-token", SECRET, 0o600)
    machine.write("/etc/systemd/system/rollbackd.service.d/host.conf", DROP_IN)
    machine.run("mkdir", "-p", "/srv/checkout")
    machine.run("chown", "rollbackd:rollbackd", "/srv/checkout")
    git = ("git", "-C", "/srv/checkout", "-c", "user.name=ann", "-c", "user.email=ann@example.com")
    machine.run(*git, "init", "--quiet", user="rollbackd")
    for version in ("one", "two"):
        machine.write("/srv/checkout/page", version)
        machine.run("chown", "rollbackd:rollbackd", "/srv/checkout/page")
        machine.run(*git, "add", "page", user="rollbackd")
        machine.run(*git, "commit", "--quiet", "-m", version, user="rollbackd")
        machine.run(*git, "tag", version, user="rollbackd")
    machine.run("systemctl", "daemon-reload")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A Debian with rollbackd installed from its wheel, configured, not started."""
    unpacked = unpacked_wheel(PROJECT, tmp_path_factory.mktemp("wheel"))
    packages = Path(sysconfig.get_path("purelib"))
    with booted(((unpacked, "/opt/rollbackd"), (packages, "/opt/dependencies"))) as machine:
        _install(machine)
        _configure(machine)
        yield machine


@pytest.fixture
def service(machine: Machine) -> Iterator[Machine]:
    """Started, with the good configuration; `systemctl start` returned, so it said READY."""
    machine.run("systemctl", "start", "rollbackd")
    yield machine
    machine.write("/etc/rollbackd/config.yaml", CONFIG)
    machine.run("systemctl", "stop", "rollbackd")


def _pid(machine: Machine) -> int:
    """The daemon's process as the machine counts it."""
    return int(machine.show("MainPID"))


def _restarted(machine: Machine, before: int) -> None:
    wait_for(
        lambda: machine.show("ActiveState") == "active" and _pid(machine) not in {0, before},
        "systemd started it again",
        60,
    )


def test_the_unit_as_installed_has_no_fault(machine: Machine) -> None:
    done = machine.run("systemd-analyze", "verify", "--recursive-errors=yes", "--man=no", "rollbackd.service")
    assert done.stdout + done.stderr == ""


def test_the_directories_are_made_with_their_owners_and_modes(machine: Machine) -> None:
    def owner(path: str) -> str:
        return machine.run("stat", "-c", "%U:%G %a", path).stdout.strip()

    assert owner("/var/lib/rollbackd") == "rollbackd:rollbackd 711"
    assert owner(SIGNALS) == "rollbackd:rollbackd-operators 1770"
    assert owner(f"{SIGNALS}/done") == "rollbackd:rollbackd-operators 750"
    assert owner(f"{SIGNALS}/rejected") == "rollbackd:rollbackd-operators 750"


def test_when_start_returns_it_is_ready_and_answers(service: Machine) -> None:
    assert service.show("ActiveState") == "active"
    assert service.show("StatusText") != ""
    service.run("rollbackd", "status", user="ann")


def test_operators_may_enter_the_signals_directory_and_others_not(service: Machine) -> None:
    held = f"{SIGNALS}/HOLD.checkout"
    service.run("touch", held, user="ann")
    service.run("ls", SIGNALS, user="bob")
    assert service.run("rm", held, user="bob", check=False).returncode != 0, "a hold is its owner's to lift"
    assert service.run("mv", held, f"{SIGNALS}/gone", user="bob", check=False).returncode != 0
    for denied in (("ls", SIGNALS), ("touch", f"{SIGNALS}/HOLD"), ("cat", held)):
        assert service.run(*denied, user="mallory", check=False).returncode != 0, denied
    service.run("rm", held, user="ann")


def test_the_daemon_moves_an_operators_file_out_of_the_sticky_directory(service: Machine) -> None:
    service.run("touch", f"{SIGNALS}/NONSENSE.checkout", user="ann")
    rejected = service.files / SIGNALS.lstrip("/") / "rejected"
    wait_for(lambda: [*rejected.glob("*NONSENSE.checkout*")], "the daemon moved the file away")
    assert not (service.files / SIGNALS.lstrip("/") / "NONSENSE.checkout").exists()


def test_an_operator_may_connect_and_others_not(service: Machine) -> None:
    assert service.run("stat", "-c", "%U:%G %a", SOCKET).stdout.strip() == "rollbackd:rollbackd-operators 660"
    service.run("python3", "-c", CONNECT, user="ann")
    done = service.run("python3", "-c", CONNECT, user="mallory", check=False)
    assert "PermissionError" in done.stderr


def test_a_secret_is_neither_in_the_environment_nor_on_the_command_line(service: Machine) -> None:
    process = service.files / "proc" / str(_pid(service))
    environment = (process / "environ").read_bytes()
    assert b"CREDENTIALS_DIRECTORY=" in environment
    assert SECRET.encode() not in environment + (process / "cmdline").read_bytes()
    assert SECRET not in service.log()


def test_the_daemon_runs_without_privileges(service: Machine) -> None:
    status = (service.files / "proc" / str(_pid(service)) / "status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert "0" not in fields["Uid"].split()
    assert {int(fields[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert fields["NoNewPrivs"] == "1"


def test_what_it_writes_is_closed_to_others(service: Machine) -> None:
    journal = service.files / "var/lib/rollbackd/journal.db"
    assert stat.S_IMODE(journal.stat().st_mode) & 0o077 == 0


def test_the_watchdog_restarts_a_process_that_hangs(service: Machine) -> None:
    before = _pid(service)
    service.run("kill", "-STOP", str(before))
    _restarted(service, before)
    assert "watchdog" in service.run("journalctl", "-u", "rollbackd", "--no-pager", "-o", "cat").stdout.lower()


def test_an_idle_process_feeds_the_watchdog(service: Machine) -> None:
    before = (_pid(service), service.show("WatchdogTimestampMonotonic"))
    wait_for(lambda: service.show("WatchdogTimestampMonotonic") != before[1], "the watchdog was fed")
    assert _pid(service) == before[0]


def test_a_killed_process_is_started_again(service: Machine) -> None:
    before = _pid(service)
    service.run("kill", "-KILL", str(before))
    _restarted(service, before)
    service.run("rollbackd", "status", user="ann")


def test_a_reload_with_a_broken_configuration_keeps_it_running(service: Machine) -> None:
    before = _pid(service)
    service.write("/etc/rollbackd/config.yaml", f"{CONFIG}polcy: []\n")
    service.run("systemctl", "reload", "rollbackd", check=False)
    wait_for(lambda: 'unknown key \\"polcy\\"' in service.log(), "it says what is wrong")
    assert (service.show("ActiveState"), _pid(service)) == ("active", before)
    service.run("rollbackd", "status", user="ann")


def test_a_reload_takes_a_good_configuration_over_in_the_same_process(service: Machine) -> None:
    before = _pid(service)
    service.write("/etc/rollbackd/config.yaml", CONFIG.replace("name: checkout", "name: billing"))
    service.run("systemctl", "reload", "rollbackd")
    wait_for(
        lambda: "billing" in service.run("rollbackd", "status", user="ann", check=False).stdout,
        "the new service is there",
    )
    wait_for(lambda: service.show("ActiveState") != "reloading", "the reload ended")
    assert (service.show("ActiveState"), _pid(service)) == ("active", before)


def test_it_never_gives_up_on_a_broken_configuration_and_starts_once_it_is_mended(machine: Machine) -> None:
    machine.write("/etc/rollbackd/config.yaml", "services: {")
    machine.run("systemctl", "start", "--no-block", "rollbackd")
    try:
        assert machine.show("StartLimitIntervalUSec") == "0", "no number of tries is the last"
        wait_for(lambda: int(machine.show("NRestarts")) >= 2, "it was tried again", 60)
        machine.write("/etc/rollbackd/config.yaml", CONFIG)
        wait_for(lambda: machine.show("ActiveState") == "active", "it started once mended", 60)
    finally:
        machine.write("/etc/rollbackd/config.yaml", CONFIG)
        machine.run("systemctl", "stop", "rollbackd")


def test_a_stop_is_clean_and_leaves_nothing(service: Machine) -> None:
    service.run("systemctl", "stop", "rollbackd")
    assert [service.show(name) for name in ("ActiveState", "Result", "ExecMainStatus")] == ["inactive", "success", "0"]
    assert service.run("pgrep", "-u", "rollbackd", check=False).stdout == ""
    assert not (service.files / SOCKET.lstrip("/")).exists()


def test_an_operators_rollback_works_inside_the_sandbox(service: Machine) -> None:
    done = service.run("rollbackd", "rollback", "checkout", "--to", "one", "--watch", user="ann", check=False)
    assert done.returncode == 0, done.stdout + done.stderr + service.log()
    page = service.files / "srv/checkout/page"
    assert page.read_text() == "one"
    assert stat.S_IMODE(page.stat().st_mode) & 0o044 == 0o044, "who serves it must be able to read it"
    assert "unix:ann" in service.run("rollbackd", "incidents", "checkout-1", user="ann").stdout


def test_a_layer_that_the_unit_does_not_open_is_a_problem_before_anything_is_touched(service: Machine) -> None:
    service.write("/etc/systemd/system/rollbackd.service.d/host.conf", DROP_IN.replace("ReadWritePaths=", "#"))
    try:
        service.run("systemctl", "daemon-reload")
        service.run("systemctl", "restart", "rollbackd")
        before = (service.files / "srv/checkout/page").read_text()
        other = {"one": "two", "two": "one"}[before]
        done = service.run("rollbackd", "rollback", "checkout", "--to", other, "--watch", user="ann", check=False)
        assert done.returncode == 1, done.stdout + done.stderr
        assert (service.files / "srv/checkout/page").read_text() == before
    finally:
        service.write("/etc/systemd/system/rollbackd.service.d/host.conf", DROP_IN)
        service.run("systemctl", "daemon-reload")
        service.run("systemctl", "restart", "rollbackd")


# -- what a step runs ---------------------------------------------------------------------------
SAYS = f"""#!/usr/bin/python3
import http.client, os, socket
if os.fork() == 0:  # gone from its step, with a session of its own and process 1 or the daemon as its parent
    os.setsid()
    if os.fork():
        os._exit(0)
    connection = http.client.HTTPConnection("x")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect({SOCKET!r})
    connection.request("PUT", "/api/v1/holds/checkout", b"{{}}", {{"Content-Type": "application/json"}})
    answer = connection.getresponse()
    with open("/srv/checkout/.git/said.new", "w") as file:
        file.write(f"{{os.getuid()}} {{answer.status}} {{answer.read().decode()}}")
    os.rename("/srv/checkout/.git/said.new", "/srv/checkout/.git/said")
"""


def test_a_release_gives_no_orders_and_the_daemons_own_user_does_from_elsewhere(machine: Machine) -> None:
    machine.write("/opt/says", SAYS, 0o755)
    with_then = CONFIG.replace("repo: /srv/checkout}", "repo: /srv/checkout, then: [[/opt/says]]}")
    machine.write("/etc/rollbackd/config.yaml", with_then)
    machine.run("systemctl", "start", "rollbackd")
    try:
        other = {"one": "two", "two": "one"}[(machine.files / "srv/checkout/page").read_text()]
        done = machine.run("rollbackd", "rollback", "checkout", "--to", other, "--watch", user="ann", check=False)
        said = machine.files / "srv/checkout/.git/said"
        wait_for(said.exists, "it was answered", 30)
        user, status, text = said.read_text().split(" ", 2)
        assert user == machine.run("id", "-u", "rollbackd").stdout.strip()
        assert status == "403", text
        assert "step:rollbackd may not do this" in text
        assert done.returncode == 0, done.stdout + done.stderr
        held = machine.run("rollbackd", "hold", "checkout", "--reason", "by hand", user="rollbackd", check=False)
        assert held.returncode == 0, held.stdout + held.stderr
        machine.run("rollbackd", "resume", "checkout", user="ann")
    finally:
        machine.run("systemctl", "stop", "rollbackd")
        machine.write("/etc/rollbackd/config.yaml", CONFIG)


# -- units as a layer ---------------------------------------------------------------------------
RULES = "/etc/polkit-1/rules.d/50-rollbackd.rules"
APP = "[Service]\nExecStart=sleep infinity\n"
UNITS = """\
      process: {adapter: systemd, units: [app.service], settle: 100ms}
      worker: {adapter: systemd, units: [worker.service], settle: 100ms}
    plans: {default: {within: [worker], steps: [code, process]}}
"""


@pytest.fixture
def app(machine: Machine) -> Iterator[Machine]:
    """A unit that the daemon stops around the steps and one that it restarts after them; nothing allows it to yet."""
    machine.write("/etc/rollbackd/config.yaml", CONFIG.replace("    verify:", f"{UNITS}    verify:"))
    for name in ("app", "worker", "other"):
        machine.write(f"/etc/systemd/system/{name}.service", APP)
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", "rollbackd", "app", "worker", "other")
    yield machine
    (machine.files / RULES.lstrip("/")).unlink(missing_ok=True)
    machine.run("systemctl", "stop", "rollbackd", "app", "worker", "other")
    machine.write("/etc/rollbackd/config.yaml", CONFIG)


def _rolled_back(machine: Machine) -> tuple[int, bool, bool, bool, str]:
    """Roll back to the other release: the exit code, whether the page, and each unit's life, is another, all said."""

    def seen() -> tuple[str, str, str]:
        def life(unit: str) -> str:
            return machine.run("systemctl", "show", unit, "-p", "InvocationID", "--value").stdout

        return (machine.files / "srv/checkout/page").read_text(), life("app"), life("worker")

    before = seen()
    other = {"one": "two", "two": "one"}[before[0]]
    done = machine.run("rollbackd", "rollback", "checkout", "--to", other, "--watch", user="ann", check=False)
    page, app, worker = (now != was for now, was in zip(seen(), before, strict=True))
    return done.returncode, page, app, worker, done.stdout + done.stderr + machine.log()


def test_without_a_polkit_rule_nothing_is_touched_and_it_says_what_is_lacking(app: Machine) -> None:
    *found, said = _rolled_back(app)
    assert found == [1, False, False, False], said
    assert "rollbackd may not restart app.service; `rollbackd check` prints the polkit rule" in said


def test_with_the_rule_that_check_prints_units_are_restarted_and_stopped_and_nothing_else_is_allowed(
    app: Machine,
) -> None:
    credentials = "CREDENTIALS_DIRECTORY=/etc/rollbackd/credentials"
    printed = app.run("env", credentials, "rollbackd", "check").stdout.partition(f"// {RULES}\n")[2]
    app.write(RULES, printed[: printed.index("});\n") + 4])
    ask = ("systemctl", "--no-ask-password")

    def may(verb: str, unit: str, user: str = "rollbackd") -> bool:
        return app.run(*ask, verb, unit, user=user, check=False).returncode == 0

    wait_for(lambda: may("restart", "app.service"), "polkit read its rules again")
    *found, said = _rolled_back(app)
    assert found == [0, True, True, True], said
    assert not may("restart", "other.service")
    assert not may("stop", "rollbackd.service")
    assert not any(may(verb, "app.service") for verb in ("start", "stop", "kill", "mask", "freeze"))
    assert not any(may(verb, "worker.service") for verb in ("reload", "kill", "mask", "freeze"))
    assert not may("restart", "app.service", user="mallory")
