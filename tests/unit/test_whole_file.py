"""A file that appears whole, or not at all: for us alone, and whatever lies where it is written."""

import stat
from pathlib import Path

import pytest

from rollbackd.system import boundary
from rollbackd.system.whole_file import whole_file


def test_it_is_there_when_the_block_has_ended_well_and_nobody_else_may_read_it(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("older")
    with whole_file(file) as sink:
        sink.write(b"newer")
        assert file.read_text() == "older"
    assert (file.read_text(), stat.S_IMODE(file.stat().st_mode)) == ("newer", 0o600)
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_is_left_of_one_that_broke_off(tmp_path: Path, error: type[BaseException]) -> None:
    def half() -> None:
        with whole_file(tmp_path / "file") as sink:
            sink.write(b"half")
            raise error

    with pytest.raises(error):
        half()
    assert list(tmp_path.iterdir()) == []


def test_what_a_kill_left_is_written_anew_and_a_link_in_its_place_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere, place = tmp_path / "elsewhere", tmp_path / "place"
    elsewhere.write_text("another's")
    place.mkdir()
    (place / "file").symlink_to(elsewhere)
    left = list[str]()

    def look(_name: str) -> None:
        left.extend(path.name for path in place.iterdir() if path.name != "file")

    monkeypatch.setattr(boundary, "hook", look)
    with whole_file(place / "file") as sink:
        sink.write(b"ours")
    (beside,) = left
    (place / beside).symlink_to(elsewhere)
    with whole_file(place / "file") as sink:
        sink.write(b"ours again")
    assert elsewhere.read_text() == "another's"
    assert (place / "file").read_text() == "ours again"
    assert not (place / "file").is_symlink()
