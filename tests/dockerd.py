"""A real dockerd with directories of its own, and an image that needs no registry.

It lives in a process and a mount namespace of its own: with it end, whatever happens, all that it started and mounted.
Nobody's network is touched.
"""

import os
import signal
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.servers import program, remove, wait_until

PROGRAMS = ("root", "dockerd", "docker", "unshare", "setpriv")
IMAGE = "host"
"""Has nothing but the names of directories; a container sees this host's own programs, read only."""

_LINKS = {name: f"usr/{name}" for name in ("bin", "lib", "lib64", "sbin")}
_OPTIONS = (
    "--storage-driver=overlay2",
    "--bridge=none",
    "--iptables=false",
    "--ip6tables=false",
    "--ip-forward=false",
    "--ip-masq=false",
    "--shutdown-timeout=1",
)


@dataclass
class Dockerd:
    """A running dockerd. Who has its `home` as HOME has it as `docker`'s context, as the daemon's user would."""

    directory: Path
    """Has a short path: a socket's has at most 108 bytes."""
    process: subprocess.Popen[bytes]

    @property
    def home(self) -> Path:
        return self.directory / "home"

    @property
    def host(self) -> str:
        return f"unix://{self.directory / 'sock'}"

    def docker(self, *arguments: str, check: bool = True, stdin: bytes = b"") -> str:
        """Call `docker` as a person would; what it printed."""
        env = {**os.environ, "HOME": str(self.home)}
        env.pop("DOCKER_HOST", None)
        done = subprocess.run(
            ["docker", *arguments], env=env, input=stdin, capture_output=True, check=False, timeout=60
        )
        assert done.returncode == 0 or not check, f"docker {' '.join(arguments)}: {done.stderr.decode()}{self.log()}"
        return done.stdout.decode().strip()

    def run(self, *argv: str, options: Sequence[str] = ()) -> str:
        """Start a container and leave it alone; its id."""
        usr = "--volume=/usr:/usr:ro"
        return self.docker("run", "--detach", "--pull=never", "--network=none", usr, *options, IMAGE, *argv)

    def remove_all(self) -> None:
        """Every container, running or not."""
        if containers := self.docker("ps", "--all", "--quiet").split():
            self.docker("rm", "--force", *containers)

    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")[-2000:]

    @property
    def number(self) -> int:
        """The daemon's own process; `process` is what keeps its namespaces."""
        (child,) = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(child)

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """It takes connections and answers none."""
        os.kill(self.number, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.number, signal.SIGCONT)

    @contextmanager
    def away(self) -> Iterator[None]:
        """Nothing listens where it did."""
        sock = self.directory / "sock"
        sock.rename(sock.with_name("away"))
        try:
            yield
        finally:
            sock.with_name("away").rename(sock)

    def end(self) -> None:
        """All of it is gone when this returns: the namespace ends with its first process, and is waited for."""
        with suppress(OSError, ValueError):
            os.kill(self.number, signal.SIGKILL)
        try:
            self.process.wait(timeout=10)
        finally:
            self.process.kill()
            self.process.wait(timeout=10)

    def import_image(self) -> None:
        """Make `IMAGE`."""
        made = self.directory / "image.tar"
        with tarfile.open(made, "w") as image:
            for name in ("usr", "tmp", "end"):
                entry = tarfile.TarInfo(name)
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                image.addfile(entry)
            for name, goal in _LINKS.items():
                entry = tarfile.TarInfo(name)
                entry.type, entry.linkname = tarfile.SYMTYPE, goal
                image.addfile(entry)
        self.docker("import", "-", IMAGE, stdin=made.read_bytes())


@contextmanager
def dockerd() -> Iterator[Dockerd]:
    """One, from its start to its end: about a second."""
    directory = Path(tempfile.mkdtemp(prefix="rbd-"))
    directory.chmod(0o755)  # the socket says who may
    try:
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen(_argv(directory), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        server = Dockerd(directory, process)
        try:
            _choose(server)
            wait_until(lambda: _answers(server), "dockerd")
            server.import_image()
            yield server
            server.remove_all()  # their control groups would stay
        finally:
            server.end()
    finally:
        remove(directory)


def _argv(directory: Path) -> list[str]:
    (directory / "daemon.json").write_text("{}")
    path = os.pathsep.join((os.environ["PATH"], "/usr/sbin", "/sbin"))
    started = _script(directory / "start", path, directory)
    namespaces = ["--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"]
    return [program("setpriv"), "--pdeathsig=KILL", program("unshare"), *namespaces, started]


def _script(path: Path, search: str, directory: Path) -> str:
    """What runs inside: /run is its own, so that it meets no other containerd."""
    places = {"data-root": "data", "exec-root": "exec", "pidfile": "pid", "config-file": "daemon.json"}
    own = [f"--{name}={directory / place}" for name, place in places.items()]
    lines = (
        "#!/bin/sh",
        "set -eu",
        f"export PATH='{search}' HOME='{directory / 'home'}'",
        "mount -t tmpfs none /run",
        f"exec dockerd --host=unix://{directory / 'sock'} {' '.join((*_OPTIONS, *own))}",
    )
    path.write_text("\n".join((*lines, "")))
    path.chmod(0o755)
    return str(path)


def _choose(server: Dockerd) -> None:
    """Make it the context of `home`, where no variable says otherwise."""
    server.home.mkdir()
    server.docker("context", "create", "tests", f"--docker=host={server.host}")
    server.docker("context", "use", "tests")


def _answers(server: Dockerd) -> bool:
    if server.process.poll() is not None:
        pytest.skip(f"missing: dockerd cannot run here: {server.log()[-300:]}")
    return bool(server.docker("version", "--format={{.Server.Version}}", check=False))
