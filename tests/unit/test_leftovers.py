"""What a test left is seen, and what is elsewhere is not its own."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.leftovers import mounted_below, own_temporary_files


@pytest.mark.needs("root")
def test_a_mount_that_is_left_is_seen(tmp_path: Path) -> None:
    place, beside = tmp_path / "a/b", tmp_path / "a-too"
    for path in (place, beside):
        path.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", place], check=True)
    try:
        assert mounted_below(tmp_path / "a") == [str(place)]
        assert mounted_below(beside) == []
    finally:
        subprocess.run(["umount", place], check=True)
    assert mounted_below(tmp_path) == []


def test_what_is_left_of_temporary_files_is_seen_with_who_left_it() -> None:
    before = tempfile.gettempdir()
    with own_temporary_files() as files:
        os.mkfifo(files.path / "pipe")
        files.note("first")
        with tempfile.NamedTemporaryFile() as gone:
            assert Path(gone.name).parent == files.path
            files.note("second")
        Path(tempfile.mkdtemp(prefix="x")).joinpath("file").write_text("")
        make = "import tempfile; print(tempfile.mkdtemp())"
        made = subprocess.run([sys.executable, "-c", make], capture_output=True, text=True, check=True)
        left = files.left()
    assert left.pop("pipe") == "first"
    assert set(left.values()) == {"the end"}
    assert len(left) == 2
    assert Path(made.stdout.strip()).parent == files.path
    assert not files.path.exists()
    assert tempfile.gettempdir() == before
