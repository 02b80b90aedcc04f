"""Packed bodies are unfolded to what they were, in slices, and no further than somebody reads."""

import gzip
import threading
import time
import zlib
from collections.abc import AsyncIterator, Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollbackd.system.unfolding import NotPackedError, unfolded


def raw_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


def members(body: bytes) -> bytes:
    half = len(body) // 2
    return b"".join(map(gzip.compress, (body[:half], b"", body[half:])))


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress, "deflate": zlib.compress, "raw deflate": raw_deflate, "members": members,
}  # fmt: skip


async def pieces(packed: bytes, cuts: Sequence[int]) -> AsyncIterator[bytes]:
    for start, end in zip([0, *cuts], [*cuts, len(packed)], strict=True):
        if packed[start:end]:
            yield packed[start:end]


def encoding_of(how: str) -> str:
    return "gzip" if how in {"gzip", "members"} else "deflate"


@settings(max_examples=60)
@given(
    st.sampled_from(sorted(PACKED)),
    st.one_of(
        st.binary(max_size=2000),
        st.tuples(st.binary(min_size=1, max_size=9), st.integers(0, 200_000)).map(lambda two: two[0] * two[1]),
    ),
    st.lists(st.floats(0, 1), max_size=6),
)
async def test_what_was_packed_comes_back_whatever_the_pieces(how: str, body: bytes, shares: list[float]) -> None:
    packed = PACKED[how](body)
    cuts = sorted(round(share * len(packed)) for share in shares)
    slices = [slice_ async for slice_ in unfolded(pieces(packed, cuts), encoding_of(how))]
    assert b"".join(slices) == body
    assert max(map(len, slices), default=0) <= 2**18


@settings(max_examples=60)
@given(st.sampled_from(["gzip", "deflate"]), st.binary(min_size=1, max_size=300), st.data())
async def test_what_is_damaged_or_cut_off_is_said_or_was_whole(how: str, body: bytes, data: st.DataObject) -> None:
    packed = bytearray(PACKED[how](body))
    if how == "deflate" or data.draw(st.booleans()):  # without zlib's head `deflate` has no sum to compare
        packed = packed[: data.draw(st.integers(1, len(packed) - 1))]
    else:
        packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = b"".join([slice_ async for slice_ in unfolded(pieces(bytes(packed), []), how)])
    except NotPackedError:
        return
    assert found == body  # only gzip's head has bytes that mean nothing to us, such as the time


async def test_a_bomb_is_unfolded_as_far_as_it_is_read_and_not_on_the_loop() -> None:
    bomb = gzip.compress(bytes(2**26)) * 8
    read, began = 0, time.process_time()
    async for slice_ in unfolded(pieces(bomb, []), "gzip"):
        read += len(slice_)
        if read > 2**20:
            break
    assert read <= 2**20 + 2**18
    assert time.process_time() - began < 0.25
    assert any(thread.name.startswith("unfolding") for thread in threading.enumerate())


@pytest.mark.parametrize("many", [gzip.compress(b"") * 50_000, zlib.compress(b"x") * 2])
async def test_members_without_end_are_refused(many: bytes) -> None:
    began = time.process_time()
    with pytest.raises(NotPackedError, match="more follows what is"):
        async for _ in unfolded(pieces(many, []), "gzip" if many[0] == 0x1F else "deflate"):
            pass
    assert time.process_time() - began < 0.5
