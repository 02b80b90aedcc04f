"""What a restore of files changes is what its plan told; what is mounted below a watched path stays as it is."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rollbackd.adapter import AdapterError
from rollbackd.model import Release
from rollbackd.testing import finish
from rollbackd_adapters.files import FilesAdapter
from tests.contract.files_worlds import layer
from tests.photograph import differences, photograph

pytestmark = pytest.mark.needs("root")


@pytest.fixture
def conf(tmp_path: Path) -> Iterator[Path]:
    conf = tmp_path / "conf"
    (conf / "there").mkdir(parents=True)
    (conf / "app.yml").write_text("good\n")
    (conf / "app.env").write_text("MODE=fast\n")
    (conf / "plain").write_text("1\n")
    yield conf
    for point in sorted(conf.rglob("*"), reverse=True):
        if subprocess.run(["mountpoint", "-q", point], check=False).returncode == 0:
            subprocess.run(["umount", point], check=True)


def _mounted(place: Path) -> None:
    """A directory with files of its own, or a single file."""
    if place.suffix or place.name == "plain":
        other = place.parent.parent / "other"
        other.write_text("of another file system\n")
        subprocess.run(["mount", "--bind", other, place], check=True)
        return
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", place], check=True)
    for number in range(20):
        (place / f"f{number}").write_bytes(b"data" * number)


@pytest.mark.parametrize("where", ["new", "there", "plain", "app.env"])
def test_what_is_mounted_below_is_known_before_and_nothing_is_touched(tmp_path: Path, conf: Path, where: str) -> None:
    variables = [{"file": str(conf / "app.env"), "names": ["MODE"]}] if where == "app.env" else []
    paths = [] if variables else [str(conf)]

    def made() -> FilesAdapter:
        return layer(tmp_path, paths=paths, variables=variables, auto=False)

    good = finish(made().take("good")).release
    (conf / "app.yml").write_text("bad\n")
    _mounted(conf / where)
    before = photograph(conf)
    with pytest.raises(AdapterError, match=f"conf/{where} is mounted there, and would be replaced or emptied") as no:
        finish(made().plan(Release(good)))
    assert no.value.permanent
    with pytest.raises(AdapterError, match="is mounted there"):
        finish(made().restore("good", "case"))
    assert differences(before, photograph(conf)) == {}
    assert any("is mounted there" in problem.text for problem in finish(made().ready()))


def test_files_within_what_is_mounted_go_back(tmp_path: Path, conf: Path) -> None:
    _mounted(conf / "there")
    ours = layer(tmp_path, auto=False)
    good = finish(ours.take("good")).release
    (conf / "there" / "f3").write_text("bad\n")
    (conf / "there" / "more").write_text("bad\n")
    before = photograph(conf)
    change = finish(ours.plan(Release(good)))
    assert "1 file(s) changed, 0 added, 1 removed" in change.risks[0]
    finish(ours.restore("good", "case"))
    found = differences(before, photograph(conf))
    assert {*found} == {str(conf / "there" / "f3"), str(conf / "there" / "more")}
