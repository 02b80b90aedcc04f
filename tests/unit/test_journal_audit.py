"""The audit finds every way of editing a journal by hand that leaves the hashes as they were."""

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from rollbackd.facts import Applied
from rollbackd.journal import Entry, open_journal
from rollbackd.journal.chain import link
from rollbackd.system.clock import SystemClock

TRIGGERS = "DROP TRIGGER facts_are_never_changed; DROP TRIGGER facts_are_never_deleted;"
NO_TRIGGERS = (
    "the trigger facts_are_never_changed is missing: somebody has opened the journal to edit it",
    "the trigger facts_are_never_deleted is missing: somebody has opened the journal to edit it",
)
WRONG = "is not what was written, or it was written in another place"


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    """Facts 1, 3, 5 of stream `x`; 2, 4, 6 of `y`."""
    path = tmp_path / "journal.db"
    journal = await open_journal(f"sqlite:///{path}", SystemClock())
    for number in range(1, 4):
        await journal.append(Entry("x", Applied(f"x{number}")), Entry("y", Applied(f"y{number}")))
    await journal.close()
    return path


def edit(path: Path, script: str) -> None:
    connection = sqlite3.connect(path)
    connection.executescript(script)
    connection.close()


async def audited(path: Path) -> tuple[str, ...]:
    journal = await open_journal(f"sqlite:///{path}", SystemClock())
    report = await journal.audit()
    await journal.close()
    return report.broken


async def test_an_honest_journal_has_nothing_to_say(path: Path) -> None:
    journal = await open_journal(f"sqlite:///{path}", SystemClock())
    report = await journal.audit()
    assert (report.streams, report.facts, report.broken) == (2, 6, ())
    await journal.close()


@pytest.mark.parametrize("statement", ["UPDATE facts SET actor = 'me' WHERE seq = 1", "DELETE FROM facts"])
async def test_sqlite_itself_refuses_to_change_or_delete_a_fact(path: Path, statement: str) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="a fact is never"):
        edit(path, statement)
    assert await audited(path) == ()


@pytest.mark.parametrize(
    "change",
    [
        'body = \'{"layer":"x7"}\'',
        "body = CAST(x'fffe' AS TEXT)",
        "at = '2031-01-01T00:00:00.000000+00:00'",
        "actor = 'unix:root'",
        "kind = 'Left'",
        "hash = x'00'",
        "seq = 70",
    ],
)
async def test_a_changed_field_is_found_at_its_fact(path: Path, change: str) -> None:
    edit(path, f"{TRIGGERS} UPDATE facts SET {change} WHERE stream = 'x' AND n = 2;")
    broken = await audited(path)
    assert any(text.startswith("x: #2 (") and text.endswith(WRONG) for text in broken)
    assert set(NO_TRIGGERS) <= set(broken)
    assert not any(text.startswith("y:") for text in broken)


CUTS: Sequence[tuple[str, str, tuple[str, ...]]] = (
    (
        "a fact in the middle",
        "DELETE FROM facts WHERE stream = 'x' AND n = 2;",
        ("x: #2 is missing", "of all streams, #3 is missing"),
    ),
    (
        "a fact in the middle, and its followers moved up",
        "DELETE FROM facts WHERE stream = 'x' AND n = 2; UPDATE facts SET n = 2 WHERE stream = 'x' AND n = 3;",
        ("x: #2 (", "x: #3 at its end is missing", "of all streams, #3 is missing"),
    ),
    (
        "the tail of a stream",
        "DELETE FROM facts WHERE stream = 'x' AND n > 1;",
        ("x: #2 to #3 at its end are missing", "of all streams, #3 is missing", "of all streams, #5 is missing"),
    ),
    (
        "the tail of a stream with its head put back",
        (
            "DELETE FROM facts WHERE stream = 'x' AND n = 3;"
            "UPDATE heads SET n = 2, hash = (SELECT hash FROM facts WHERE stream = 'x' AND n = 2) WHERE stream = 'x';"
        ),
        ("of all streams, #5 is missing",),
    ),
    (
        "the newest fact of all with its head put back",
        (
            "DELETE FROM facts WHERE stream = 'y' AND n = 3;"
            "UPDATE heads SET n = 2, hash = (SELECT hash FROM facts WHERE stream = 'y' AND n = 2) WHERE stream = 'y';"
        ),
        ("of all streams, #6 is missing",),
    ),
    (
        "a whole stream and its head",
        "DELETE FROM facts WHERE stream = 'x'; DELETE FROM heads WHERE stream = 'x';",
        ("of all streams, #1 is missing", "of all streams, #3 is missing", "of all streams, #5 is missing"),
    ),
    (
        "everything",
        "DELETE FROM facts; DELETE FROM heads;",
        ("of all streams, #1 to #6 are missing",),
    ),
    (
        "two streams that changed places",
        (
            "UPDATE facts SET stream = 'z' WHERE stream = 'x'; UPDATE facts SET stream = 'x' WHERE stream = 'y';"
            "UPDATE facts SET stream = 'y' WHERE stream = 'z';"
        ),
        ("x: #1 (", "x: #2 (", "x: #3 (", "y: #1 (", "y: #2 (", "y: #3 ("),
    ),
    (
        "a head",
        "UPDATE heads SET hash = x'01' WHERE stream = 'y';",
        ("y: its last fact #3 is not the one that was written last (#3)",),
    ),
    ("a lost head", "DELETE FROM heads WHERE stream = 'y';", ("y: has facts, but its head is missing",)),
)


@pytest.mark.parametrize(("script", "wanted"), [cut[1:] for cut in CUTS], ids=[cut[0] for cut in CUTS])
async def test_what_was_cut_or_moved_is_found(path: Path, script: str, wanted: tuple[str, ...]) -> None:
    edit(path, TRIGGERS + script)
    broken = await audited(path)
    assert broken[-2:] == NO_TRIGGERS
    for sentence in wanted:
        assert any(text.startswith(sentence) for text in broken), f"{sentence!r} not in {broken}"


async def test_a_fact_that_was_slipped_in_is_found(path: Path) -> None:
    edit(path, "INSERT INTO facts SELECT 7, stream, 4, at, actor, kind, body, hash FROM facts WHERE seq = 5;")
    broken = await audited(path)
    assert broken[0].startswith("x: #4 (Applied of ")
    assert broken[0].endswith(WRONG)
    assert broken[1] == "x: its last fact #4 is not the one that was written last (#3)"


async def test_writing_on_after_an_edit_does_not_hide_it(path: Path) -> None:
    edit(path, f"{TRIGGERS} DELETE FROM facts WHERE stream = 'y' AND n = 3;")
    journal = await open_journal(f"sqlite:///{path}", SystemClock())
    await journal.append(Entry("y", Applied("y4")), Entry("x", Applied("x4")))
    broken = (await journal.audit()).broken
    assert broken[0] == "y: #3 is missing"
    assert "of all streams, #6 is missing" in broken
    await journal.close()


@pytest.mark.parametrize(
    "shift",
    [
        lambda fields: (fields[0], b"ab", b"c", *fields[3:]),
        lambda fields: (fields[0], b"a", b"bc:", *fields[3:]),
        lambda fields: (fields[0], b"", b"abc", *fields[3:]),
    ],
)
def test_nothing_can_be_moved_from_one_field_into_the_next(
    shift: Callable[[tuple[bytes, ...]], tuple[bytes, ...]],
) -> None:
    def linked(fields: tuple[bytes, ...]) -> bytes:
        stream, at, actor, kind, body = fields
        return link(b"", 1, stream, 1, at, actor, kind, body)

    fields = (b"s", b"a", b"bc", b"d", b"e")
    assert linked(fields) != linked(shift(fields))
