"""The checkpoint: a start with it knows what a start without it knows, and in doubt it is passed over."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

import pytest

from bench import past
from rollbackd import facts
from rollbackd.journal import Entry, Journal, open_journal
from rollbackd.journal.place import checkpoint_of
from rollbackd.model import FLEET, Release, State, service_stream
from rollbackd.policy.ledger import ServiceLedger
from rollbackd.state import checkpoint as module
from rollbackd.state import read_model as reading
from rollbackd.state.checkpoint import Checkpoint
from rollbackd.state.projection import Projection
from rollbackd.state.read_model import ReadModel
from rollbackd.system.clock import SystemClock

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/journal.db"


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_WORTH_SAVING", 100)


@pytest.fixture
async def journal(url: str) -> AsyncIterator[Journal]:
    """A fleet's past: releases, marks, decisions, rollbacks, and what has keys of several parts."""
    made = await open_journal(url, SystemClock())
    await made.append(*islice(past.years(3, {}, NOW), 300))
    lifted = {"code": "0" * 40}
    await made.append(
        Entry(service_stream("s"), facts.Quarantined({"code": "bad", "front,end": 'b"ad'}, "s-1")),
        Entry(service_stream("s"), facts.QuarantineLifted(lifted, "mended")),
        Entry(
            service_stream("s"), facts.Drilled(("one", "two,three"), "ready", (), timedelta(seconds=9), execute=True)
        ),
        Entry(service_stream("s"), facts.Held("mending", NOW + timedelta(microseconds=1))),
        Entry(FLEET, facts.Held("all")),
    )
    yield made
    await made.close()


async def opened(journal: Journal, url: str) -> ReadModel:
    made = ReadModel(journal, Checkpoint(url))
    await made.open()
    return made


def known(model: ReadModel) -> Projection:
    return model._projection.copy()


async def test_a_start_with_it_knows_what_a_start_without_it_knows(journal: Journal, url: str) -> None:
    first = await opened(journal, url)
    await first.save()
    assert checkpoint_of(url).exists()
    await first.append(Entry(service_stream("s"), facts.MarkedGood(State({"code": Release("new")}), "by a person")))
    second = await opened(journal, url)
    assert known(second) == known(first)
    assert known(second).seq == first.seq


async def test_it_is_read_instead_of_the_facts(journal: Journal, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = await opened(journal, url)
    await first.save()
    asked: list[int] = []
    since = journal.since

    async def counting(seq: int, *rest: object, **more: object) -> list[facts.Record]:
        asked.append(seq)
        return await since(seq, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(journal, "since", counting)
    await opened(journal, url)
    assert asked == [first.seq]


async def test_few_new_facts_are_not_worth_another_one(journal: Journal, url: str) -> None:
    first = await opened(journal, url)
    await first.save()
    before = checkpoint_of(url).stat().st_ino
    await first.append(Entry(FLEET, facts.Notice("internal", "something")))
    await first.save()
    assert checkpoint_of(url).stat().st_ino == before


async def test_what_cannot_be_written_now_is_not_saved(
    journal: Journal, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    first = await opened(journal, url)
    monkeypatch.setattr(module, "write_durably", full)
    await first.save()
    assert not checkpoint_of(url).exists()


def _no_more(text: bytes) -> bytes:
    return text[:-200]


def _another_version(text: bytes) -> bytes:
    head, _, body = text.partition(b"\n")
    return json.dumps({**json.loads(head), "folding": "0" * 64}).encode() + b"\n" + body


def _another_journal(text: bytes) -> bytes:
    head, _, body = text.partition(b"\n")
    return json.dumps({**json.loads(head), "hash": "00" * 32}).encode() + b"\n" + body


def _beyond_the_end(text: bytes) -> bytes:
    head, _, body = text.partition(b"\n")
    return json.dumps({**json.loads(head), "seq": 10**9}).encode() + b"\n" + body


def _nonsense(_: bytes) -> bytes:
    return b"\x00\xff{[" * 1000


def _deep(_: bytes) -> bytes:
    return b"[" * 1_000_000


def _empty(_: bytes) -> bytes:
    return b""


@pytest.mark.parametrize(
    "damage", [_no_more, _another_version, _another_journal, _beyond_the_end, _nonsense, _deep, _empty]
)
async def test_in_doubt_it_is_passed_over(journal: Journal, url: str, damage: object) -> None:
    first = await opened(journal, url)
    await first.save()
    path = checkpoint_of(url)
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    second = await opened(journal, url)
    assert known(second) == known(first)


async def test_each_byte_counts(journal: Journal, url: str) -> None:
    first = await opened(journal, url)
    await first.save()
    path = checkpoint_of(url)
    whole = path.read_bytes()
    for place in range(0, len(whole), len(whole) // 50):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert known(await opened(journal, url)) == known(first), place


async def test_an_older_journal_that_was_put_back_is_read_whole(journal: Journal, url: str, tmp_path: Path) -> None:
    first = await opened(journal, url)
    await first.save()
    other_url = f"sqlite:///{tmp_path}/other.db"
    other = await open_journal(other_url, SystemClock())
    await other.append(Entry(FLEET, facts.Held("another")))
    checkpoint_of(other_url).write_bytes(checkpoint_of(url).read_bytes())
    model = await opened(other, other_url)
    assert model.seq == 1
    assert not known(model).services
    await other.close()


async def test_the_audit_finds_a_checkpoint_that_lies(
    journal: Journal, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await opened(journal, url)
    monkeypatch.setattr(reading, "_WORTH_SAVING", 0)
    await first.save()
    assert Checkpoint(url).misfits() == []
    assert await first.audit() == []
    first._projection.services["s"] = ServiceLedger()
    await first.save()
    found = Checkpoint(url).misfits()
    remedy = f"stop rollbackd and remove {checkpoint_of(url)}; the next start reads all facts"
    assert found == [f"the checkpoint and the facts disagree on s; {remedy}"]
    assert await first.audit() == found


async def test_what_is_folded_while_it_is_written_is_not_in_it(journal: Journal, url: str) -> None:
    first = await opened(journal, url)
    writing = asyncio.create_task(first.save())
    for number in range(20):
        await first.append(Entry(service_stream(f"n{number}"), facts.Held("busy")))
    await writing
    assert Checkpoint(url).misfits() == []
    assert known(await opened(journal, url)) == known(first)
