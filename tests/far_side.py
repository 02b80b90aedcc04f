"""`rollbackd layer --stdio` without its start-up: everything is imported once, and each connection gets a fork.

`python -m tests.far_side SOCKET` is the process that is forked from; the forced command is `tests/hand_over.py`, which
hands over its standard streams and waits. What is served, and how, is the real thing.

Beside a configuration FILE there may be FILE.hook, JSON: at the n-th boundary since it was written (they are counted in
FILE.passed, over all connections) the far side dies, cuts its connection, is hung up, or stops: then FILE.stopped has
its process id.
"""

import gc
import json
import os
import signal
import socket
import sys
from pathlib import Path

from rollbackd.cli.commands import app
from rollbackd.remote import settings
from rollbackd.remote.wire import method, method_names
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


def _serve(connection: socket.socket) -> None:
    message, streams, _, _ = socket.recv_fds(connection, 2**16, 3)
    order = json.loads(message)
    for number, fd in enumerate(streams):
        os.dup2(fd, number)
        os.close(fd)
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _hook(order["config"], order["pid"])
    app(["layer", "--stdio", "--config", order["config"]], prog_name="rollbackd")


def main() -> None:
    """Until it is killed."""
    for name in method_names():
        method(name)
    for adapter in ("git", "command", "files"):
        settings._shape(frozenset({adapter}))
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(sys.argv[1])
        listener.listen(64)
        print("ready", flush=True)
        while True:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                status = 70
                try:
                    _serve(connection)
                except SystemExit as end:
                    status = int(end.code or 0)
                finally:
                    connection.send(bytes([status]))
                    os._exit(status)
            connection.close()


if __name__ == "__main__":
    main()
