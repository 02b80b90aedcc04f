"""Daemons that are started, killed and waited for."""

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from rollbackd.testing import kill
from tests import forks

LIMIT = 60.0
"""Seconds that anything here may take on a busy machine before it counts as hanging."""
LOOK = 0.02


async def until(condition: Callable[[], Awaitable[Any]], what: str, limit: float = LIMIT) -> Any:
    """Ask again and again until the answer is true; the answer."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit
    while not (found := await condition()):
        assert loop.time() < deadline, f"{what}: not within {limit:g} s"
        await asyncio.sleep(LOOK)
    return found


class Zygote:
    """The process that daemons are forked from."""

    def __init__(self, answers: asyncio.StreamReader, orders: asyncio.StreamWriter) -> None:
        self._answers = answers
        self._orders = orders
        self._lock = asyncio.Lock()

    async def ask(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """One order, one answer."""
        async with self._lock:
            self._orders.write(json.dumps(order).encode() + b"\n")
            line = await self._answers.readline()
        assert line, "the zygote ended"
        return dict(json.loads(line))


@asynccontextmanager
async def zygote() -> AsyncIterator[Zygote]:
    """One, until the end of the block; daemons that still run are killed then. It is itself a fork of who is warm."""
    ours, its = socket.socketpair()
    with its:
        process = forks.start("tests.crash.zygote", [], its.fileno(), 2, stdin=its.fileno())
    answers, orders = await asyncio.open_connection(sock=ours)
    try:
        yield Zygote(answers, orders)
    finally:
        orders.close()
        await orders.wait_closed()
        await asyncio.to_thread(process.wait, LIMIT)


class Life:
    """One run of a daemon."""

    def __init__(self, pid: int, mother: Zygote) -> None:
        self.pid = pid
        self._mother = mother
        self._fd = os.pidfd_open(pid)  # our zygote reaps it only when it is asked to
        self._gone = asyncio.Event()
        self._code: int | None = None
        asyncio.get_running_loop().add_reader(self._fd, self._over)

    def _over(self) -> None:
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)
        self._gone.set()

    @property
    def alive(self) -> bool:
        return not self._gone.is_set()

    async def ended(self) -> int:
        """Its exit code, negative for a signal; waits for it."""
        await asyncio.wait_for(self._gone.wait(), LIMIT)
        if self._code is None:
            self._code = int((await self._mother.ask({"reap": self.pid}))["code"])
        return self._code

    async def kill(self, *others: int, descending: bool = False) -> None:
        """`kill -9`; `descending`: with all that it started."""
        if self.alive:
            kill(self.pid, *others, descending=descending)
        await self.ended()

    async def stop(self) -> int:
        """An orderly end; the exit code. One that has just begun, and does not listen for it yet, ends all the same."""
        if self.alive:
            os.kill(self.pid, signal.SIGTERM)
        code = await self.ended()
        return 0 if code == -signal.SIGTERM else code
