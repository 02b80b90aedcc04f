"""Answers requests about this host's layers, one after the other, until the input ends.

A process serves one connection. An effect holds a lock that `progress` sees from any other connection: whoever lost his
asks again, and hears that it still runs. Requests are acted upon whole or not at all.
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from io import RawIOBase
from typing import Any, BinaryIO

from rollbackd import __version__
from rollbackd.adapter import Adapter, AdapterError, Prunes, Snapshots
from rollbackd.model import Problem, Progress
from rollbackd.plugins import unknown
from rollbackd.remote import wire
from rollbackd.remote.settings import Served, build
from rollbackd.remote.wire import PROTOCOL, Hello, Offer, Refusal, WireAnswer, WireError, WireRequest
from rollbackd.system.boundary import boundary
from rollbackd.system.clock import Clock, SystemClock
from rollbackd.system.spawner import Busy, Spawner
from rollbackd.system.supervisor import write_durably

_TURN = timedelta(seconds=30)
"""How long an effect waits for an earlier one of the same layer: one whose connection was lost, and that goes on."""
_ASKED_FIRST = ("progress", "inside")
"""What whoever takes over asks before it does anything."""
_ROOM = 2**20
"""Bytes in `scratch` without which no change is begun: markers and locks are small."""
_FULL = {errno.ENOSPC, errno.EDQUOT}
_LONGEST_EFFECT = timedelta(days=30)
"""The commands of an effect have limits of their own; the lock's is only to be longer."""


class LayerServer:
    """The layers of one configuration."""

    def __init__(self, served: Served, clock: Clock | None = None) -> None:
        self._served = served
        self._clock = clock or SystemClock()
        self._spawner = Spawner(served.scratch / "locks", self._clock)
        self._adapters: dict[str, Adapter] = {
            name: build(served, name, self._spawner, self._clock) for name in served.layers
        }

    @property
    def hello(self) -> Hello:
        """What is served, and in which protocol."""
        layers = {
            name: Offer(
                self._served.layers[name].adapter,
                adapter.resource,
                adapter.traits,
                isinstance(adapter, Snapshots),
                isinstance(adapter, Prunes),
            )
            for name, adapter in self._adapters.items()
        }
        return Hello(PROTOCOL, __version__, layers, fences=True)

    async def answer(self, line: bytes) -> WireAnswer:
        """Do what a request's line asks for; a failure is an answer too."""
        number = 0
        try:
            request = wire.read_request(line)
            number = request.id
            return WireAnswer(number, await self._do(request))
        except WireError as error:
            return WireAnswer(number, error=Refusal(str(error), permanent=True))
        except AdapterError as error:
            return WireAnswer(number, error=Refusal(str(error), error.permanent, error.evidence))
        except Busy as error:
            return WireAnswer(number, error=Refusal(str(error), permanent=False))
        except OSError as error:
            return WireAnswer(number, error=Refusal(self._refused(error), permanent=False))
        except Exception as error:  # noqa: BLE001  # an adapter of somebody else's may raise anything; who asked must hear it
            text = f"its adapter failed: {type(error).__name__}: {error}"
            return WireAnswer(number, error=Refusal(text, permanent=False))

    def _refused(self, error: OSError) -> str:
        """What the system refused, and what to do about it."""
        where = f"{error.filename}: " if error.filename else ""
        if error.errno in _FULL:
            return f"{where}{error.strerror}; make room on this host, at {self._served.scratch} and where the layer is"
        return f"{where}{error.strerror or error}; it is asked for as user {os.geteuid()}"

    async def _do(self, request: WireRequest) -> Any:
        if request.protocol != PROTOCOL:
            text = (
                f"this host speaks protocol {PROTOCOL}, not {request.protocol}; have the same rollbackd on both hosts"
            )
            raise WireError(text)
        if request.layer not in self._adapters:
            raise WireError(unknown("layer", request.layer, self._adapters))
        adapter = self._adapters[request.layer]
        can = [name for name in wire.method_names() if hasattr(adapter, name)]
        if request.method not in can:
            raise WireError(unknown("method", request.method, can))
        method = wire.method(request.method)
        arguments = method.read(request.params)
        boundary("layer.asked")
        if method.name in _ASKED_FIRST:
            self._fence(request)
        if method.effect:
            async with self._alone(request.layer):
                self._fence(request)
                result = await getattr(adapter, method.name)(**arguments)
        elif method.name == "progress" and self._spawner.held(_effects_of(request.layer)):
            result = Progress.RUNNING
        else:
            result = await getattr(adapter, method.name)(**arguments)
        if method.name == "ready":
            result = [*result, *self._own_problems(request.layer)]
        boundary("layer.done")
        return method.result(result)

    @contextlib.asynccontextmanager
    async def _alone(self, layer: str) -> AsyncIterator[None]:
        """While an effect is in hand, in whichever process."""
        async with self._spawner.hold(_effects_of(layer), wait=_TURN) as lock:
            seen = lock.grant((self._clock.now() + _LONGEST_EFFECT).timestamp())
            try:
                yield
            finally:
                fcntl.flock(seen, fcntl.LOCK_UN)
                os.close(seen)

    def _fence(self, request: WireRequest) -> None:
        """From now on nobody with a lower epoch moves the layer; one without any is the only daemon there is.

        :raises AdapterError: this one has a lower epoch.
        """
        if not request.epoch:
            return
        path = self._served.place(request.layer, None, None).scratch / "epoch"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            highest = int(path.read_text()) if path.exists() else 0
            if request.epoch < highest:
                raise AdapterError(
                    f"another daemon has taken {request.layer} over: epoch {highest} was here, this is {request.epoch}",
                    permanent=True,
                )
            if request.epoch > highest:
                write_durably(path, b"%d\n" % request.epoch)

    def _own_problems(self, layer: str) -> list[Problem]:
        scratch = self._served.scratch
        there = next(path for path in (scratch, *scratch.parents) if path.exists())
        if not os.access(there, os.W_OK | os.X_OK):
            text = f"{there} cannot be written by user {os.geteuid()}; give scratch: {scratch} to them"
        elif shutil.disk_usage(there).free < _ROOM:
            text = f"{there} has less than {_ROOM // 2**20} MiB free; make room there"
        else:
            return []
        return [Problem(layer, text)]


def _effects_of(layer: str) -> str:
    return f"served:{layer}"


async def converse(server: LayerServer, source: BinaryIO, sink: RawIOBase) -> None:
    """One connection, from the hello to the end of the input, or until nobody listens any more."""
    with contextlib.suppress(OSError):
        boundary("layer.hello")
        await _say(sink, wire.hello(server.hello))
        while (line := await asyncio.to_thread(source.readline, wire.LONGEST_REQUEST)).endswith(b"\n"):
            said = await server.answer(line)
            await _say(sink, wire.answer(said))
        if len(line) == wire.LONGEST_REQUEST:
            text = f"a request has at most {wire.LONGEST_REQUEST} bytes"
            await _say(sink, wire.answer(WireAnswer(0, error=Refusal(text, permanent=True))))


async def _say(sink: RawIOBase, line: bytes) -> None:
    boundary("layer.say")
    await asyncio.to_thread(_write, sink, line)
    boundary("layer.said")


def _write(sink: RawIOBase, line: bytes) -> None:
    rest = memoryview(line)
    while rest:
        rest = rest[sink.write(rest) or 0 :]


def serve_stdio(served: Served) -> None:
    """Serve whoever is at the other end of standard input and output.

    Nothing else may be written there, and once nobody listens a warning must not fail an effect: our own standard
    output and error lead nowhere. A hang-up does not end what is in hand.
    """
    signal.signal(signal.SIGHUP, _ignored)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with os.fdopen(os.dup(1), "wb", buffering=0) as sink:
        for own in (1, 2):
            os.dup2(nowhere, own)
        os.close(nowhere)
        asyncio.run(converse(LayerServer(served), sys.stdin.buffer, sink))


def _ignored(*_: object) -> None:
    """A handler, unlike SIG_IGN, is not inherited by programs."""
