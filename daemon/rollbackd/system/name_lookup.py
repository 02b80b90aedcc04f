"""Names are looked up on threads of their own, one a name: a name server that is silent holds up no other work.

The resolver of the system waits for as long as it wants, half a minute and more, and nothing can break it off. On the
threads that asyncio has for all blocking work a few such names would stop files, bodies and healthy names alike.
"""

import asyncio
import socket
from contextlib import suppress
from threading import Thread
from typing import Any

_MOST = 64
"""Names that are looked up at the same time; a configuration has fewer hosts."""
_FRESH = 1.0
"""Seconds for which an answer is given again: who looks a name up and then connects asks twice."""

Question = tuple[Any, ...]


class EventLoop(asyncio.SelectorEventLoop):
    """The daemon's event loop: whatever connects through it, aiohttp, Redis and SMTP too, looks names up like this."""

    def __init__(self) -> None:
        super().__init__()
        self._asked: dict[Question, asyncio.Future[Any]] = {}

    async def getaddrinfo(
        self,
        host: Any,
        port: Any,
        *,
        family: int = 0,
        type: int = 0,  # noqa: A002  # asyncio's name for it
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        """What `socket.getaddrinfo` says. The same question that is under way already is asked once.

        :raises OSError: as that does, and when too many names are being looked up.
        """
        question = (host, port, family, type, proto, flags)
        answer = self._asked.get(question) or self._ask(question)
        return await asyncio.shield(answer)

    def _ask(self, question: Question) -> asyncio.Future[Any]:
        if sum(not one.done() for one in self._asked.values()) >= _MOST:
            raise socket.gaierror(socket.EAI_AGAIN, f"{_MOST} names are being looked up already")
        answer: asyncio.Future[Any] = self.create_future()
        thread = Thread(target=self._look, args=(question, answer), name="name-lookup", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the system's limit of threads
            raise socket.gaierror(socket.EAI_AGAIN, str(error)) from error
        self._asked[question] = answer
        answer.add_done_callback(lambda over: self._forget(question, failed=over.exception() is not None))
        return answer

    def _forget(self, question: Question, *, failed: bool) -> None:
        if failed or self.is_closed():
            self._asked.pop(question, None)
        else:
            self.call_later(_FRESH, self._asked.pop, question, None)

    def _look(self, question: Question, answer: asyncio.Future[Any]) -> None:
        """On the thread."""
        found: Any = None
        error: Exception | None = None
        try:
            found = socket.getaddrinfo(*question)
        except Exception as failure:  # noqa: BLE001  # the thread's root: whatever it was, who asked must hear
            error = failure
        with suppress(RuntimeError):  # the loop is closed, and with it whoever would want to know
            self.call_soon_threadsafe(_settle, answer, found, error)


def _settle(answer: asyncio.Future[Any], found: Any, error: Exception | None) -> None:
    if error is None:
        answer.set_result(found)
    else:
        answer.set_exception(error)
        answer.exception()  # it is known, also when nobody asks for it any more


async def addresses(host: str, port: int) -> list[tuple[int, str]]:
    """Family and numeric address of each place that a name stands for, in the order to try them.

    :raises OSError: it does not resolve.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(int(family), str(address[0])) for family, _, _, _, address in found]
