"""`rollbackd layer --stdio` in a fork (`tests/forks.py`): `tests.far_side CONFIG WAITING`.

The forced command is `tests/hand_over.py`, which hands over its standard streams and waits; WAITING is its process.
What is served, and how, is the real thing.

Beside a configuration FILE there may be FILE.hook, JSON: at the n-th boundary since it was written (they are counted in
FILE.passed, over all connections) the far side dies, cuts its connection, is hung up, or stops: then FILE.stopped has
its process id.
"""

import json
import os
import signal
import sys
from pathlib import Path

from rollbackd.cli.commands import app
from rollbackd.system import boundary


def _parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def _sshd_of(process: int) -> list[int]:
    """The processes of sshd that serve this one connection, nearest first; not the listener."""
    found = []
    while (process := _parent(process)) > 1:
        title = Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ")
        if title.startswith(b"sshd:") and b"[listener]" not in title:
            found.append(process)
    return found


def _act(what: str, waiting: int, config: str) -> None:
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "stop":
        note = Path(f"{config}.stopping")
        note.write_text(str(os.getpid()))
        note.rename(f"{config}.stopped")
        os.kill(os.getpid(), signal.SIGSTOP)
        return
    for process in _sshd_of(waiting):
        os.kill(process, signal.SIGKILL)
    if what == "hang up":
        os.kill(os.getpid(), signal.SIGHUP)


def _hook(config: str, waiting: int) -> None:
    """Watch the boundaries, if somebody wants that."""
    order = Path(f"{config}.hook")
    if not order.exists():
        return
    wanted = json.loads(order.read_text())
    passed = Path(f"{config}.passed")

    def reached(name: str) -> None:
        with passed.open("a") as log:
            log.write(f"{name}\n")
        if len(passed.read_text().splitlines()) == wanted["at"]:
            _act(wanted["what"], waiting, config)

    boundary.hook = reached


def main() -> None:
    """Until whoever connected goes."""
    config, waiting = sys.argv[1:]
    _hook(config, int(waiting))
    app(["layer", "--stdio", "--config", config], prog_name="rollbackd")
