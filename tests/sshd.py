"""A real sshd on loopback, with host keys and users' keys of its own, whose forced commands serve layers."""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests import forks
from tests.servers import free_port, program, wait_until

PROJECT = Path(__file__).parents[1]
HAND_OVER = PROJECT / "tests" / "hand_over.py"


def _key(path: Path) -> str:
    """A new key pair; the public half."""
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path)]
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
    return path.with_suffix(".pub").read_text().strip()


@dataclass
class Sshd:
    """A running sshd."""

    directory: Path
    port: int
    process: subprocess.Popen[bytes]

    @property
    def known_hosts(self) -> Path:
        return self.directory / "known_hosts"

    def serve(
        self, path: Path, layers: Mapping[str, Any], *, host: int = 1, key: Path | None = None, command: str = ""
    ) -> dict[str, Any]:
        """Serve layers below `path` to whoever has a key; the settings that reach them. Again: serve others there.

        :param host: 127.0.0.1 or 127.0.0.2 serves them.
        :param key: one that is there already, such as that of another host.
        :param command: the forced command, instead of a fork of the far side.
        """
        path.mkdir(parents=True, exist_ok=True)
        config = path / "layers.yaml"
        config.write_text(yaml.safe_dump({"scratch": str(path / "scratch"), "layers": dict(layers)}))
        identity = key or path / "id_ed25519"
        if key is None and identity.exists():
            return self.reach(identity)
        public = _key(identity) if key is None else key.with_suffix(".pub").read_text().strip()
        forced = command or shlex.join([sys.executable, "-I", "-S", str(HAND_OVER), forks.server(), str(config)])
        assert '"' not in forced
        with (self.directory / f"authorized_keys.{host}").open("a") as keys:
            keys.write(f'command="{forced}",restrict {public}\n')
        return self.reach(identity)

    def reach(self, identity: Path) -> dict[str, Any]:
        """Settings of adapter `remote`, without the host."""
        return {
            "adapter": "remote",
            "port": self.port,
            "identity": str(identity),
            "known_hosts": str(self.known_hosts),
        }

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(timeout=10)


@contextmanager
def sshd(directory: Path) -> Iterator[Sshd]:
    """One, from its start to its end. It listens on 127.0.0.1 and 127.0.0.2, two hosts to whoever connects."""
    directory.mkdir(parents=True, exist_ok=True)
    port = free_port()
    host_key = _key(directory / "host")
    kind, key, *_ = host_key.split()
    (directory / "known_hosts").write_text("".join(f"[127.0.0.{host}]:{port} {kind} {key}\n" for host in (1, 2, 3)))
    lines = [
        f"Port {port}",
        "ListenAddress 127.0.0.1",
        "ListenAddress 127.0.0.2",
        f"HostKey {directory / 'host'}",
        f"AuthorizedKeysFile {directory / 'authorized_keys.1'}",
        "PidFile none",
        "UsePAM no",
        "StrictModes no",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "PermitRootLogin yes",
        "MaxStartups 200",
        "PrintMotd no",
        "KexAlgorithms curve25519-sha256",  # a tenth of a second less for each connection
        "Match LocalAddress 127.0.0.2",
        f"AuthorizedKeysFile {directory / 'authorized_keys.2'}",
    ]
    (directory / "sshd_config").write_text("\n".join(lines) + "\n")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # it wants that as root
    argv = [_sshd_program(), "-D", "-e", "-f", str(directory / "sshd_config")]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        server = Sshd(directory, port, process)
        try:
            wait_until(lambda: b"listening" in (directory / "log").read_bytes(), "sshd")
            yield server
        finally:
            server.stop()


def _sshd_program() -> str:
    path = Path("/usr/sbin/sshd")
    return str(path) if path.exists() else program("sshd")
