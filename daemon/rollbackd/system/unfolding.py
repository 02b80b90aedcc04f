"""Packed bodies, gzip or deflate, are unfolded slice by slice: whoever reads counts the bytes and stops when he likes.

A thousand bytes may unfold to a million. Only the first slice is made on the event loop; the others are made on threads
that do nothing else, so that no body holds up the loop or the work on files.
"""

import asyncio
import zlib
from collections.abc import AsyncIterable, AsyncIterator
from concurrent.futures import ThreadPoolExecutor

ENCODINGS = ("gzip", "deflate")
"""What is understood as a `Content-Encoding`."""
_FIRST = 2**16
"""Bytes of a slice that is made on the loop: less than a millisecond."""
_SLICE = 2**18
"""Bytes of a slice that is made on a thread."""
_MEMBERS = 64
"""Members of one gzip body: each costs a copy of all that follows it, also when it is empty."""
_GZIP = 16 + zlib.MAX_WBITS
_RAW = -zlib.MAX_WBITS
_THREADS = ThreadPoolExecutor(2, thread_name_prefix="unfolding")


class NotPackedError(ValueError):
    """The bytes are not packed as was said, or are cut off."""


async def unfolded(pieces: AsyncIterable[bytes], encoding: str) -> AsyncIterator[bytes]:
    """What the pieces unfold to, in slices of at most 256 KiB.

    :param encoding: one of `ENCODINGS`.
    :raises NotPackedError: they are something else, or not all of it.
    """
    packed, size = _Packed(encoding), _FIRST
    async for piece in pieces:
        packed.left += piece
        while packed.left or packed.more:
            if size == _FIRST:
                slice_ = packed.unfold(size)
            else:
                slice_ = await asyncio.get_running_loop().run_in_executor(_THREADS, packed.unfold, size)
            size = _SLICE
            if slice_:
                yield slice_
    if not packed.whole:
        raise NotPackedError(f"what was to be {encoding} is cut off")


class _Packed:
    """The bytes that are still packed; a gzip body may have several members, one after the other."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._member: zlib._Decompress | None = None
        self._members = 0
        self.left = b""
        """Bytes that came and are not unfolded yet."""
        self.more = False
        """Whether there may be bytes to come from what was taken in already."""

    @property
    def whole(self) -> bool:
        """Whether it ends where it may; nothing at all is whole, too, as the body of an answer to HEAD."""
        return self._member is None or self._member.eof

    def unfold(self, most: int) -> bytes:
        """The next bytes, at most so many. :raises NotPackedError: it is not what was said."""
        if self._member is None or self._member.eof:
            if self._members == (_MEMBERS if self._encoding == "gzip" else 1):
                raise NotPackedError(f"more follows what is {self._encoding}")
            self._members += 1
            self._member = zlib.decompressobj(self._bits())
        try:
            slice_ = self._member.decompress(self.left, most)
        except zlib.error as error:
            raise NotPackedError(f"it is not {self._encoding}: {error}") from error
        self.left = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
        self.more = len(slice_) == most and not self._member.eof
        return slice_

    def _bits(self) -> int:
        """Of `deflate` there are two: with zlib's head, as it should be, and without, as some send it."""
        if self._encoding == "gzip":
            return _GZIP
        return zlib.MAX_WBITS if self.left[:1] and self.left[0] & 0x0F == 8 else _RAW
