"""Programs of ours that start at once: forks of a process that has imported everything. `python -m tests.forks SOCKET`.

Who connects sends a program's arguments as JSON, its environment where it is not to be the server's, and its three
standard streams. The answer is the number of the process, and at its end its exit code, as four bytes each. What is
tested of a start itself (its arguments, its descriptors, its environment, what stands in its way) starts the real
program instead.
"""

import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from aiohttp import web

from rollbackd import facts
from rollbackd.api.answers import written
from rollbackd.api.routes import ROUTES
from rollbackd.config.load import dump_service, load
from rollbackd.page.rendering import page_templates
from rollbackd.remote import settings as far_layers
from rollbackd.remote.wire import method, method_names
from tests.endings import at_the_end

_ROOT = Path(__file__).parents[1]
_NUMBER = struct.Struct("i")


# -- whoever wants one started --------------------------------------------------------------------
class Fork:
    """A program that was started, with what `subprocess.Popen` has of one."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        (self.pid,) = _NUMBER.unpack(connection.recv(_NUMBER.size))
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit code, once it has ended."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code; the number of a signal is below zero. :raises subprocess.TimeoutExpired:"""
        if self.returncode is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            (self.returncode,) = _NUMBER.unpack(self._connection.recv(_NUMBER.size))
            self._connection.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it has ended since
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


def start(
    module: str,
    arguments: Sequence[str],
    stdout: int,
    stderr: int,
    *,
    stdin: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> Fork:
    """`python -m MODULE ARGUMENTS` in the project's directory and a session of its own; by default without any input."""
    order = {"module": module, "arguments": [*arguments], "environment": dict(environment or os.environ)}
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(server())
    with open(os.devnull, "rb") as nothing:
        given = nothing.fileno() if stdin is None else stdin
        socket.send_fds(connection, [json.dumps(order).encode()], [given, stdout, stderr])
    return Fork(connection)


def run(
    module: str, arguments: Sequence[str], timeout: float = 120, *, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Such a program to its end; what it wrote."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        one = start(module, arguments, out.fileno(), errors.fileno(), environment=environment)
        try:
            code = one.wait(timeout)
        except subprocess.TimeoutExpired:
            one.kill()
            raise
        texts = []
        for file in (out, errors):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
        return subprocess.CompletedProcess([module, *arguments], code, *texts)


@cache
def server() -> str:
    """The socket of this process's own server, which ends with it."""
    directory = tempfile.TemporaryDirectory(prefix="forks")
    path = f"{directory.name}/socket"
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.forks", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=_ROOT
    )
    assert server.stdin is not None
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"

    def end() -> None:
        with server, directory:
            pass  # its input is closed

    at_the_end(end)
    return path


# -- the server -----------------------------------------------------------------------------------
class _Server:
    """It never starts a thread: what is forked must not share any."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._running: dict[int, socket.socket] = {}
        self._wake, wake = socket.socketpair()
        for end in (self._wake, wake):
            end.setblocking(False)
        self._woken = wake
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake.fileno())

    def serve(self) -> int:
        """Until the input ends; a fork leaves it with its program's exit code."""
        while True:
            ready, _, _ = select.select([sys.stdin, self._listener, self._wake], [], [])
            if sys.stdin in ready:
                return 0
            if self._wake in ready:
                self._wake.recv(4096)
                self._reap()
            if self._listener in ready and (code := self._start(self._listener.accept()[0])) is not None:
                return code

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                with suppress(OSError), self._running.pop(ended[0]) as connection:
                    connection.send(_NUMBER.pack(os.waitstatus_to_exitcode(ended[1])))

    def _start(self, connection: socket.socket) -> int | None:
        message, streams, _, _ = socket.recv_fds(connection, 2**20, 3)
        if not message:
            connection.close()
            return None
        pid = os.fork()
        if pid:
            for fd in streams:
                os.close(fd)
            self._running[pid] = connection
            with suppress(OSError):  # who asked may be gone already
                connection.send(_NUMBER.pack(pid))
            return None
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for end in (self._listener, self._wake, self._woken, connection, *self._running.values()):
            end.close()
        for number, fd in enumerate(streams):
            os.dup2(fd, number)
            os.close(fd)
        os.setsid()
        return _program(**json.loads(message))


def _program(module: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> int:
    """A program's life in its fork; its exit code."""
    if environment is not None:
        os.environ.clear()
        os.environ.update(environment)
    sys.orig_argv[:] = [sys.executable, "-m", module, *arguments]
    sys.argv[:] = [module, *arguments]
    if os.environ.get("PYTHONWARNINGS") == "error":
        warnings.simplefilter("error")
    if "ROLLBACKD_PROBE" in os.environ:
        sys.path[:0] = os.environ["PYTHONPATH"].split(os.pathsep)
        sys.modules.pop("sitecustomize", None)
        importlib.import_module("sitecustomize")
    try:
        return int(importlib.import_module(f"{module}.cli" if module == "rollbackd" else module).main() or 0)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001  # as the interpreter ends a program, whatever came
        traceback.print_exc()
        return 1


def _warm() -> None:
    """Import and build all that programs need and never change. Whoever is forked afterwards begins at once."""
    for package in ("rollbackd", "rollbackd_adapters"):
        for found in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            if not found.name.endswith(("__main__", ".testing")):
                with suppress(ImportError):
                    importlib.import_module(found.name)
    for kind in facts.KINDS:
        facts._adapter(kind)
    for route in ROUTES:
        written(route.answer)
        for model in (route.query, route.body):
            model.model_rebuild()
        web.UrlDispatcher().add_resource(route.path)  # its pattern is compiled
    page_templates()
    for name in method_names():
        method(name)
    for adapter in ("git", "command", "files"):
        far_layers._shape(frozenset({adapter}))
    config = load(_ROOT / "config.example.yaml", look_for=None).config
    for service in config.services:
        dump_service(service)
    assert threading.active_count() == 1
    gc.freeze()


def main() -> None:
    """Until the input ends."""
    _warm()
    importlib.import_module("tests.e2e.launch")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(sys.argv[1])
        listener.listen(64)
        print("ready", flush=True)
        code = _Server(listener).serve()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
