"""The names of PostgreSQL databases beside a layer's own, and what their comments say of them."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from rollbackd_adapters.copies import Lineage
from rollbackd_adapters.postgres.catalogue import Catalogue, Database, beside, read_database
from rollbackd_adapters.postgres.reading import read

NAMES = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=1).filter(
    lambda name: len(name.encode()) <= 63
)
IDS = st.from_regex(r"original|[0-9a-f]{12}(\.[1-9][0-9]{0,3})?", fullmatch=True)
TIMES = st.datetimes(timezones=st.just(UTC))


@given(NAMES, IDS, IDS)
def test_names_are_not_cut_off_by_the_server_and_differ(name: str, one: str, other: str) -> None:
    names = {beside(name, what, release) for what in ("new", "old") for release in (one, other)}
    assert len(names) == 2 * len({one, other})
    assert all(len(found.encode()) <= 63 for found in names)
    assert name not in names


@given(NAMES, st.text(), IDS, st.none() | TIMES, st.none() | TIMES, st.booleans())
def test_a_comment_says_what_was_written_into_it(
    name: str, comment: str, release: str, since: datetime | None, until: datetime | None, restored: bool
) -> None:
    made = Database(4711, name, "me", comment, Lineage(release, since, "original"), until, "c", restored)
    assert read_database(4711, name, "me", made.remark) == made
    copied = read_database(4712, name, "me", made.remark)
    assert copied.lineage == Lineage(), "a comment that was copied is of another database"
    assert copied.until is None


@given(st.none() | st.text() | st.text().map(lambda text: f"\nrollbackd: {text}"))
def test_what_others_write_into_a_comment_is_a_comment(remark: str | None) -> None:
    assert read_database(1, "shop", "me", remark).lineage == Lineage()


def test_the_release_of_a_copy_is_one_that_no_database_has() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    copy = "0123456789ab"
    present = Database(1, "shop", "me", lineage=Lineage(copy))
    old = Database(2, beside("shop", "old", f"{copy}.4"), "me", lineage=Lineage(f"{copy}.4"), until=now)
    assert Catalogue(present, [old]).release_of(copy) == f"{copy}.5"
    assert Catalogue(present, []).release_of("ba9876543210") == "ba9876543210"


def test_a_database_under_another_name_is_not_taken_for_a_replaced_one() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    mine = Database(2, "shop_rollbackd_old_original", "me", until=now)
    forged = Database(3, "accounts", "me", until=now)
    assert Catalogue(Database(1, "shop", "me"), [mine, forged]).replaced == [mine]


@given(st.lists(st.text(st.characters(blacklist_categories=["Cs"]), max_size=30), max_size=20))
def test_rows_of_a_data_file_are_counted(rows: list[str]) -> None:
    import gzip
    import tempfile

    escaped = [row.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r") for row in rows]
    text = "".join(f"{row}\n" for row in escaped) + "\\.\n\n\n"
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "1.dat.gz").write_bytes(gzip.compress(text.encode()))
        (Path(directory) / "2.dat").write_bytes(text.encode())
        (Path(directory) / "3.dat.gz").write_bytes(gzip.compress(text.encode())[:-9])
        found = read(Path(directory), 2)
    assert found["1.dat.gz"]["rows"] == found["2.dat"]["rows"] == len(rows)
    assert found["3.dat.gz"]["harm"] == "it is cut off"


def test_the_driver_is_imported_on_first_use_only() -> None:
    code = "import sys, rollbackd_adapters.postgres as it; sys.exit('psycopg' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
