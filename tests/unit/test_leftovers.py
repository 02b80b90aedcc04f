"""What a test left mounted is seen, and what is mounted elsewhere is not its own."""

import subprocess
from pathlib import Path

import pytest

from tests.leftovers import mounted_below


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
