"""What Redis answers is bounded, and in its own language, or an error. Imports the package for Redis."""

from typing import Any

from redis._parsers import _AsyncRESP3Parser
from redis.exceptions import InvalidResponse

LARGEST_ANSWER = 16 * 2**20
"""Bytes of one answer; a page of keys has some hundred thousand at most."""


class BoundedParser(_AsyncRESP3Parser):
    """Reads no further than that: a length that a server announces is no reason to wait for so many bytes."""

    async def read_response(self, *args: Any, **named: Any) -> Any:
        """:raises InvalidResponse: it is too large, or no answer."""
        self._left = LARGEST_ANSWER
        try:
            return await super().read_response(*args, **named)
        except (ValueError, RecursionError) as error:
            raise InvalidResponse(f"no answer of Redis's: {error}") from error

    async def _read(self, length: int) -> bytes:
        self._take(length)
        return await super()._read(length)

    async def _readline(self) -> bytes:
        line = await super()._readline()
        self._take(len(line))
        return line

    def _take(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise InvalidResponse(f"the answer is larger than {LARGEST_ANSWER // 2**20} MiB")
