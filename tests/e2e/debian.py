"""A Debian of our own with systemd as process 1: made once by debootstrap, booted by systemd-nspawn, thrown away.

Every boot has a fresh overlay over the same root, so tests may do anything in it.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

PROGRAMS = ("root", "systemd-nspawn", "debootstrap", "nsenter", "setpriv")
PACKAGES = ("systemd", "systemd-sysv", "dbus", "python3", "git", "procps", "libpam-systemd", "polkitd", "acl")
T = TypeVar("T")
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def wait_for(what: Callable[[], T], saying: str, limit: float = 20) -> T:
    """The first true answer, within `limit` seconds."""
    end = time.monotonic() + limit
    while not (answer := what()):
        assert time.monotonic() < end, f"not within {limit:g}s: {saying}"
        time.sleep(0.05)
    return answer


def _codename() -> str:
    found = re.search(r"^VERSION_CODENAME=\"?(\w+)", Path("/etc/os-release").read_text(), re.MULTILINE)
    return found.group(1) if found else "bookworm"


def _mirror(suite: str) -> str:
    """Where this machine gets its own Debian from."""
    apt = Path("/etc/apt")
    for file in sorted(apt.glob("sources.list.d/*.sources")):
        for stanza in re.split(r"\n\s*\n", file.read_text()):
            fields = dict(re.findall(r"^(URIs|Suites):\s*(.+)$", stanza, re.MULTILINE))
            if suite in fields.get("Suites", "").split():
                return str(fields["URIs"].split()[0])
    for file in (apt / "sources.list", *sorted(apt.glob("sources.list.d/*.list"))):
        text = file.read_text() if file.exists() else ""
        if found := re.search(rf"^deb\s+(?:\[[^]]*\]\s+)?(\S+)\s+{suite}\s", text, re.MULTILINE):
            return found.group(1)
    pytest.skip("missing: a Debian mirror in apt's sources")


def _cache() -> Path:
    for place in (Path("/var/cache"), Path(tempfile.gettempdir())):
        if os.access(place, os.W_OK):
            (place / "rollbackd-tests").mkdir(mode=0o755, exist_ok=True)
            return place / "rollbackd-tests"
    pytest.skip("missing: a directory to keep a Debian in")


def root() -> Path:
    """The directory of a Debian with `PACKAGES`; made in about a minute the first time, then found."""
    suite = _codename()
    key = hashlib.sha256(" ".join((suite, *PACKAGES)).encode()).hexdigest()[:12]
    made = _cache() / f"{suite}-{key}"
    with (_cache() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            making = made.with_name(f"{made.name}.making")
            shutil.rmtree(making, ignore_errors=True)
            keyring = [f"--keyring={_KEYRING}"] if _KEYRING.exists() else []
            include = f"--include={','.join(PACKAGES)}"
            argv = ["debootstrap", "--variant=minbase", *keyring, include, suite, str(making), _mirror(suite)]
            done = subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
            if done.returncode != 0:
                pytest.skip(f"missing: a Debian ({argv[0]} says: {(done.stdout + done.stderr).strip()[-300:]})")
            making.rename(made)
    return made


class Machine:
    """A booted Debian. Its files are below `files`, as seen by root outside."""

    def __init__(self, leader: int) -> None:
        self.leader = leader
        self.files = Path(f"/proc/{leader}/root")

    def run(
        self, *argv: str, user: str = "", check: bool = True, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a program inside, as root or as a user with the user's groups."""
        inside = ["nsenter", "-t", str(self.leader), "-m", "-u", "-i", "-n", "-p", "-C"]
        if user:
            inside += ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]
        done = subprocess.run(
            [*inside, *argv], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=timeout
        )
        if check and done.returncode != 0:
            log = self.log() if argv[0] == "systemctl" else ""
            raise AssertionError(f"{argv}: exit {done.returncode}\n{done.stdout}{done.stderr}{log}")
        return done

    def log(self) -> str:
        """The daemon's last lines in the machine's journal."""
        return self.run("journalctl", "-u", "rollbackd", "-n", "40", "--no-pager", "-o", "cat").stdout

    def show(self, name: str) -> str:
        """A property of the daemon's unit."""
        return self.run("systemctl", "show", "rollbackd", "-p", name, "--value").stdout.strip()

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        file = self.files / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)


def _leader(nspawn: subprocess.Popen[bytes]) -> int:
    """The container's process 1, as seen from outside; 0 while there is none."""
    for task in Path(f"/proc/{nspawn.pid}/task").glob("*/children"):
        for child in task.read_text().split():
            if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                return int(child)
    return 0


@contextmanager
def booted(binds: Sequence[tuple[Path, str]] = ()) -> Iterator[Machine]:
    """Boot it with directories of ours at paths inside, read only; about a second. Ended whatever happens."""
    options = ["--register=no", "--keep-unit", "--console=pipe", "--link-journal=no", "--volatile=overlay"]
    # It has a network of its own, so its ports are free; and it ends with us, also when we are killed.
    options += ["--private-network", f"--directory={root()}", f"--machine=rollbackd-{os.getpid()}"]
    mounts = [f"--bind-ro={outside}:{inside}" for outside, inside in binds]
    with tempfile.TemporaryFile() as output:
        nspawn = subprocess.Popen(
            ["setpriv", "--pdeathsig=TERM", "systemd-nspawn", *options, *mounts, "-b"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

        def up() -> int:
            if nspawn.poll() is not None:
                output.seek(0)
                pytest.skip(f"missing: systemd-nspawn cannot boot here: {output.read()[-300:]!r}")
            return _leader(nspawn)

        try:
            machine = Machine(wait_for(up, "systemd-nspawn started systemd", 60))
            settled = {"running", "degraded"}
            wait_for(
                lambda: machine.run("systemctl", "is-system-running", check=False).stdout.strip() in settled,
                "systemd booted",
                60,
            )
            yield machine
        finally:
            nspawn.terminate()
            try:
                nspawn.wait(30)
            except subprocess.TimeoutExpired:
                nspawn.kill()
                nspawn.wait(10)


def build_wheel(project: Path, where: Path) -> Path:
    """The project's wheel, built without the network."""
    argv = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(where)]
    done = subprocess.run(argv, cwd=project, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = where.glob("*.whl")
    return wheel


def unpacked_wheel(project: Path, where: Path) -> Path:
    """What a wheel of the project has in it, as the Debian's own Python and everybody there can read it."""
    if sys.version_info[:2] != (3, 11):
        pytest.skip("missing: Python 3.11, Debian 12's, for which the dependencies were compiled")
    with zipfile.ZipFile(build_wheel(project, where)) as wheel:
        wheel.extractall(where / "unpacked")
    where.chmod(0o755)
    return where / "unpacked"
