"""Killed with SIGKILL at any instant: what was answered is there, whole, and the chains are sound.

Run as a program, this file is the process that is killed.
"""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rollbackd.facts import Applied, ApplyStarted
from rollbackd.journal import Entry, Journal, Received, open_journal
from rollbackd.system import boundary
from rollbackd.system.clock import SystemClock

WRITERS = 8
FIRST = "a"
SECOND = "b"


# -- the process that is killed -----------------------------------------------------------------
def _say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


async def _write_one(journal: Journal, key: str) -> None:
    """Say `key` once the answer is there: two facts in two streams, and what they handle."""
    (arrived,) = (await journal.receive([Received(key, "alert", key.encode())])).new
    _say(f"received {key}")
    entries = (Entry(f"{FIRST}:{key}", ApplyStarted(key), follows=0), Entry(f"{SECOND}:{key}", Applied(key)))
    await journal.append(*entries, handled=[arrived.id])
    _say(f"appended {key}")


async def _load(url: str) -> None:
    journal = await open_journal(url, SystemClock())

    async def writer(name: int) -> None:
        for number in range(100_000):
            await _write_one(journal, f"{name}-{number}")

    await asyncio.gather(*map(writer, range(WRITERS)))


async def _until(url: str, name: str, count: int) -> None:
    """One after the other; the `count`-th time at the boundary is the last thing that happens."""
    journal = await open_journal(url, SystemClock())
    passed = 0

    def die(reached: str) -> None:
        nonlocal passed
        passed += reached == name
        if passed == count:
            os.kill(os.getpid(), signal.SIGKILL)

    boundary.hook = die
    for number in range(count):
        await journal.append(Entry(FIRST, ApplyStarted(str(number)), follows=number), Entry(SECOND, Applied("x")))
        _say(f"appended {number}")


# -- the tests ----------------------------------------------------------------------------------
@contextmanager
def child(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, __file__, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("after", [1, 40, 400, 1500])
async def test_every_answer_given_before_a_kill_under_load_is_on_disk(tmp_path: Path, after: int) -> None:
    url = f"sqlite:///{tmp_path}/journal.db"
    with child("load", url) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(after)]
        process.kill()
        said += process.stdout.readlines()
    assert process.returncode == -signal.SIGKILL
    words = [tuple(line.split()) for line in said if line.endswith("\n")]
    received = {key for what, key in words if what == "received"}
    appended = {key for what, key in words if what == "appended"}
    assert received

    journal = await open_journal(url, SystemClock())
    streams = {record.stream for record in await journal.since(0)}
    arrived = {item.key: item for item in await journal.arrived("alert", SystemClock().now().replace(year=2000))}
    open_keys = {item.key for item in await journal.unhandled()}
    assert received <= set(arrived)
    assert all(item.body == key.encode() for key, item in arrived.items())
    assert {f"{FIRST}:{key}" for key in appended} <= streams
    for key in arrived:
        whole = {f"{FIRST}:{key}" in streams, f"{SECOND}:{key}" in streams, key not in open_keys}
        assert len(whole) == 1, f"{key} was written in part"
    assert (await journal.audit()).broken == ()
    await journal.append(Entry("next life", Applied("x")))
    await journal.close()


@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize(("name", "kept"), [("journal.before", 0), ("journal.committed", 1)])
async def test_a_kill_at_a_boundary_leaves_the_unit_out_before_the_commit_and_in_after_it(
    tmp_path: Path, name: str, kept: int, count: int
) -> None:
    url = f"sqlite:///{tmp_path}/journal.db"
    with child("until", url, name, str(count)) as process:
        said, _ = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert said.split() == [word for number in range(count - 1) for word in ("appended", str(number))]

    journal = await open_journal(url, SystemClock())
    places = count - 1 + kept
    assert [record.n for record in await journal.read(FIRST)] == list(range(1, places + 1))
    assert [record.n for record in await journal.read(SECOND)] == list(range(1, places + 1))
    assert (await journal.audit()).broken == ()
    await journal.append(Entry(FIRST, ApplyStarted("next life"), follows=places))
    await journal.close()


async def test_each_unit_of_a_batch_passes_both_boundaries_once_and_a_conflict_none(tmp_path: Path) -> None:
    journal = await open_journal(f"sqlite:///{tmp_path}/journal.db", SystemClock())
    names: list[str] = []
    boundary.hook = names.append
    units = [journal.append(Entry(f"s{number}", Applied("x"))) for number in range(10)]
    lost = journal.append(Entry("s", ApplyStarted("x"), follows=3))
    await asyncio.gather(*units, lost, return_exceptions=True)
    assert sorted(names) == ["journal.before"] * 10 + ["journal.committed"] * 10
    await journal.close()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["load", url]:
            asyncio.run(_load(url))
        case ["until", url, name, count]:
            asyncio.run(_until(url, name, int(count)))
