"""The load, in a process of its own: alerts over keep-alive connections, one a request, each after the last's answer.

Started once, it serves a line of JSON on its standard input with a line on its standard output:
`{"port": 9099, "first": 0, "count": 3000, "services": 1000, "connections": 32}` → `{"seconds": 1.2, "accepted": 3000}`.
"""

import asyncio
import json
import re
import sys
import time
from collections import deque

from bench.alerts import alert, body

_LENGTH = re.compile(rb"content-length: *([0-9]+)", re.IGNORECASE)
_ACCEPTED = re.compile(rb'"accepted": ?([0-9]+)')


class Line(asyncio.Protocol):
    """One connection: sends the next request when the answer is whole."""

    def __init__(self, requests: deque[bytes], ended: asyncio.Future[None]) -> None:
        self._requests = requests
        self._ended = ended
        self._transport: asyncio.WriteTransport | None = None
        self._answer = b""
        self.accepted = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport
        self._next()

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, found, rest = self._answer.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not found or length is None or len(rest) < int(length[1]):
            return
        accepted = _ACCEPTED.search(rest)
        if not head.startswith(b"HTTP/1.1 200") or accepted is None:
            self._end(RuntimeError(f"an alert was not accepted: {self._answer[:500]!r}"))
            return
        self.accepted += int(accepted[1])
        self._answer = b""
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc or RuntimeError("the server closed a connection"))

    def _next(self) -> None:
        assert self._transport is not None
        if self._requests:
            self._transport.write(self._requests.popleft())
        else:
            self._end(None)
            self._transport.close()

    def _end(self, error: Exception | None) -> None:
        if self._ended.done():
            return
        if error is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(error)


def _request(port: int, number: int, services: int) -> bytes:
    content = body([alert(number, number % services)])
    head = (
        f"POST /api/v1/alerts HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: Alertmanager/0.25.0\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


async def post(port: int, first: int, count: int, services: int, connections: int) -> dict[str, float]:
    """Post alerts with numbers from `first`; how long that took, in seconds, and how many were accepted."""
    loop = asyncio.get_running_loop()
    requests = deque(_request(port, number, services) for number in range(first, first + count))
    ended: list[asyncio.Future[None]] = [loop.create_future() for _ in range(connections)]
    begun = time.perf_counter()
    lines = [
        (await loop.create_connection(lambda one=one: Line(requests, one), "127.0.0.1", port))[1]  # type: ignore[misc]
        for one in ended
    ]
    await asyncio.gather(*ended)
    return {"seconds": time.perf_counter() - begun, "accepted": sum(line.accepted for line in lines)}


def main() -> None:
    """Answer until the input ends."""
    for line in sys.stdin:
        print(json.dumps(asyncio.run(post(**json.loads(line)))), flush=True)


if __name__ == "__main__":
    main()
