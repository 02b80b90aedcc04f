"""What open pages cost: as many as there may be, in processor time of a real daemon."""

import asyncio
import time
from pathlib import Path

import aiohttp
import pytest

from bench import past
from bench.alerts import service_name
from bench.host import Host, fixed_services, processor_time
from rollbackd.page.streams import MOST_STREAMS

SERVICES = 100
SHARE = 0.05
"""Of one processor."""
SIGNS = 3
"""Signs of life of each stream, while they are measured."""


class Reader:
    """An open page."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.signs = 0
        self.shown = b""
        self._answer = answer
        self.task = asyncio.create_task(self._read())

    def close(self) -> None:
        self.task.cancel()
        self._answer.close()

    async def _read(self) -> None:
        async for line in self._answer.content:
            self.signs += line.startswith(b"event: alive")
            self.shown += line


async def until_all_live(readers: list[Reader], signs: int) -> None:
    async with asyncio.timeout(240):
        while any(one.signs < signs for one in readers):
            assert not any(one.task.done() for one in readers)
            await asyncio.sleep(0.2)


@pytest.mark.timeout(600)
async def test_as_many_pages_as_may_be_open_cost_little_and_one_more_is_told(tmp_path: Path) -> None:
    host = Host(tmp_path / "host")
    host.write_config(fixed_services(SERVICES))
    names = [service_name(number) for number in range(SERVICES)]
    await asyncio.to_thread(past.release_all, host.journal, names)
    half = MOST_STREAMS // 2
    paths = [*["/"] * half, *(f"/services/{name}" for name in names[:half])]
    with host.daemon() as process:
        async with aiohttp.ClientSession(
            f"http://127.0.0.1:{host.port}",
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
        ) as client:
            readers = [Reader(await client.get(path, params={"live": "1"})) for path in paths]
            await until_all_live(readers, 2)
            before, begun = processor_time(process), time.monotonic()
            await until_all_live(readers, max(one.signs for one in readers) + SIGNS)
            used = (processor_time(process) - before) / (time.monotonic() - begun)
            async with client.get("/", params={"live": "1"}) as late:
                told = await late.text()
            for one in readers:
                one.close()
            await asyncio.gather(*(one.task for one in readers), return_exceptions=True)
    assert all(names[0].encode() in one.shown for one in readers[:half])
    assert f"{MOST_STREAMS} pages are live already" in told
    assert used < SHARE, used
