"""Copies of PostgreSQL databases as one file: nothing is left of one that failed, and nothing is believed of another."""

import gzip
import io
import json
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from rollbackd.testing import finish, place
from rollbackd_adapters.postgres.dump import Dumps
from rollbackd_adapters.postgres.export_file import main, pack, unpack
from rollbackd_adapters.postgres.server import DatabaseServer
from rollbackd_adapters.postgres.settings import PostgresSettings

MANIFEST = {"id": "0123456789ab"}


def a_copy(path: Path) -> Path:
    (path / "data").mkdir(parents=True)
    (path / "manifest.json").write_text(json.dumps(MANIFEST))
    (path / "schema.sql").write_text("SELECT 1;")
    (path / "data" / "toc.dat").write_bytes(b"toc")
    return path


def test_what_is_packed_is_unpacked(tmp_path: Path) -> None:
    pack(a_copy(tmp_path / "copy"), tmp_path / "file")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600
    (tmp_path / "into").mkdir()
    assert unpack(tmp_path / "file", tmp_path / "into", 2**20) == MANIFEST
    assert (tmp_path / "into/data/toc.dat").read_bytes() == b"toc"


def test_nothing_is_left_of_a_file_that_could_not_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = a_copy(tmp_path / "copy")
    (copy / "schema.sql").unlink()
    (tmp_path / "out").mkdir()
    assert main(["pack", str(copy), str(tmp_path / "out/file"), "0"]) == 1
    assert "schema.sql" in json.loads(capsys.readouterr().out)["error"]
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("packed", [bytes, gzip.compress], ids=["plain", "compressed"])
@pytest.mark.parametrize(
    "dump", [b"--\n-- PostgreSQL database dump\n--\n", b"PGDMP\1\16\0", b"\n--\n-- PostgreSQL database cluster dump"]
)
def test_a_dump_of_pg_dumps_own_is_refused_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], dump: bytes, packed: Callable[[bytes], bytes]
) -> None:
    (tmp_path / "dump").write_bytes(packed(dump))
    (tmp_path / "into").mkdir()
    assert main(["unpack", str(tmp_path / "into"), str(tmp_path / "dump"), "1000"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["permanent"]
    assert "restore it with psql or pg_restore into a database of its own" in said["error"]


def test_a_file_of_something_else_is_damaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_bytes(gzip.compress(b"x" * 2000))
    (tmp_path / "into").mkdir()
    assert main(["unpack", str(tmp_path / "into"), str(tmp_path / "file"), "1000"]) == 1
    assert "it is damaged, or no copy of a database" in json.loads(capsys.readouterr().out)["error"]


def test_a_manifest_without_end_is_not_read(tmp_path: Path) -> None:
    body = json.dumps(MANIFEST).encode() + b" " * 2**25
    with tarfile.open(tmp_path / "file", "w:gz") as tar:
        member = tarfile.TarInfo("rollbackd/manifest.json")
        member.size = len(body)
        tar.addfile(member, io.BytesIO(body))
    (tmp_path / "into").mkdir()
    with pytest.raises(ValueError, match="its manifest is too large"):
        unpack(tmp_path / "file", tmp_path / "into", 2**40)


def test_what_a_script_of_ours_writes_is_for_nobody_else_from_its_first_byte(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text('import json, os\nprint(json.dumps({"umask": os.umask(0)}))\n')
    settings = PostgresSettings.model_validate({"adapter": "postgres", "dsn": "host=/run dbname=shop"})
    here = place(tmp_path)
    dumps = Dumps(settings, here, DatabaseServer(settings, here))
    assert finish(dumps.answer("a script", str(script))) == {"umask": 0o077}
