"""The adapter `files` on real directories: the contract, and what the contract does not ask of every adapter."""

import asyncio
import gzip
import io
import json
import os
import shutil
import stat
import tarfile
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from rollbackd import boundary
from rollbackd.adapter import AdapterError, Difference, Snapshot, SnapshotProblem, Snapshots
from rollbackd.model import Progress, Release
from rollbackd.testing import KEY, AdapterContract, World, finish, perform, place, planned
from rollbackd_adapters.files import Files, FilesSettings, jobs, scan
from rollbackd_adapters.files.batch import Batch
from rollbackd_adapters.traces import safe_name
from tests.contract.worlds import script

SAVED = f"before-{safe_name(KEY)}"


def layer(path: Path, **settings: Any) -> Files:
    """A layer on `path/conf`, unless the settings say otherwise."""
    given = {"adapter": "files", "paths": [str(path / "conf")], "room": 0, **settings}
    return Files(FilesSettings.model_validate(given), place(path))


def content(directory: Path) -> dict[str, str]:
    """What is in a directory, by relative path: text, `-> target` or `/`, each with its mode."""
    found = {}
    for path in sorted(directory.rglob("*")):
        what = f"-> {path.readlink()}" if path.is_symlink() else "/" if path.is_dir() else path.read_text()
        mode = "" if path.is_symlink() else f" {stat.S_IMODE(path.lstat().st_mode):o}"
        found[str(path.relative_to(directory))] = what + mode
    return found


def fill(directory: Path, version: int) -> None:
    """One of three contents of a configuration."""
    shutil.rmtree(directory, ignore_errors=True)
    (directory / "conf.d").mkdir(parents=True)
    (directory / "app.json").write_text(json.dumps({"version": version}))
    (directory / ".env").write_text(f"VERSION={version}\nTOKEN=secret-{version}\n")
    (directory / ".env").chmod(0o600)
    (directory / "conf.d" / f"only-{version}").write_text(f"{version}\n")
    (directory / "current").symlink_to(f"conf.d/only-{version}")


class FilesWorld(World):
    def __init__(self, path: Path) -> None:
        self.path = path
        self.conf = path / "conf"
        self.conf.mkdir(parents=True)
        self.check = script(path / "check", 'test -s "$1"')
        self._timeout = "20s"
        self._ids: dict[int, str] = {}
        for version in (2, 3):
            fill(self.conf, version)
            self._ids[version] = finish(self.adapter().take(f"v{version}")).release
        self._contents = {3: content(self.conf)}

    def adapter(self) -> Files:
        syntax = [{"glob": "*.json", "command": [self.check, "{file}"]}]
        return layer(self.path, syntax=syntax, timeout=self._timeout, auto=False)

    def present(self) -> str:
        versions = [version for version in (1, 2, 3) if f'"version": {version}' in (self.conf / "app.json").read_text()]
        found = content(self.conf)
        for version in versions:
            fill(self.path / "other", version)
            if found == content(self.path / "other"):
                return self._ids.get(version, "of somebody else")
        return f"a mixture: {found}"

    def target(self) -> Release:
        return Release(self._ids[2])

    def moved_by_somebody(self) -> None:
        fill(self.conf, 1)

    def everything(self) -> object:
        snapshots = self.path / "scratch" / "store" / "snapshots"
        return content(self.conf), sorted(path.name for path in snapshots.iterdir())

    def break_it(self) -> None:
        shutil.rmtree(self.path / "scratch" / "store" / "blobs")

    def hang(self) -> None:
        script(Path(self.check), "sleep 1000")
        self._timeout = "500ms"


class TestFiles(AdapterContract):
    def make_world(self, path: Path) -> World:
        return FilesWorld(path)


# -- what a release is --------------------------------------------------------------------------
@pytest.fixture
def conf(tmp_path: Path) -> Path:
    fill(tmp_path / "conf", 1)
    return tmp_path / "conf"


def failure(work: Any) -> AdapterError:
    with pytest.raises(AdapterError) as failed:
        finish(work)
    return failed.value


def roll_back(ours: Files, target: Release, key: str = KEY) -> None:
    change = finish(planned(ours, target, key))
    finish(ours.apply(change))
    assert finish(ours.progress(change)) is Progress.DONE


def test_a_content_that_was_seen_twice_is_kept_by_itself(tmp_path: Path, conf: Path) -> None:
    ours = layer(tmp_path)
    assert finish(ours.releases()) == []
    first = finish(ours.current())
    assert finish(ours.releases()) == []
    second = finish(ours.current())
    assert first == second
    assert second.label.startswith("snapshot-auto-")
    assert [release.id for release in finish(ours.releases())] == [second.id]
    fill(conf, 2)
    assert finish(ours.current()) != second
    assert len(finish(ours.releases())) == 1, "seen once: it may be half of a deployment"
    finish(ours.current())
    assert len(finish(layer(tmp_path).releases())) == 2


def test_with_auto_off_nothing_is_kept_by_itself(tmp_path: Path, conf: Path) -> None:
    ours = layer(tmp_path, auto=False)
    for _ in range(3):
        finish(ours.current())
    assert finish(ours.releases()) == []
    assert "there is no snapshot yet" in finish(ours.ready())[0].text


def test_what_cannot_be_kept_is_no_failure_of_looking_and_ready_says_so(tmp_path: Path, conf: Path) -> None:
    (tmp_path / "file").write_text("")
    ours = layer(tmp_path, store=str(tmp_path / "file" / "store"))
    assert finish(ours.current()) == finish(ours.current())
    texts = [problem.text for problem in finish(ours.ready())]
    assert any("could not be kept" in text for text in texts)


def test_names_of_snapshots_can_mark_a_release_as_good(tmp_path: Path, conf: Path) -> None:
    ours = layer(tmp_path, good="checkpoint-*")
    finish(ours.take("checkpoint-1"))
    assert finish(ours.current()).good
    assert finish(ours.current()).label == "checkpoint-1"


def test_an_unchanged_file_is_not_read_again_by_this_life_or_the_next(
    tmp_path: Path, conf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "SLACK_NS", -(10**12))  # as if all of it were old
    read: list[int] = []
    original = Batch.digest

    def counted(batch: Batch, fd: int, size: int) -> tuple[str, int]:
        read.append(size)
        return original(batch, fd, size)

    monkeypatch.setattr(Batch, "digest", counted)
    ours = layer(tmp_path)
    finish(ours.take("first"))
    assert len(read) == 3
    finish(ours.take("second"))
    finish(layer(tmp_path).take("third"))
    assert len(read) == 3
    (conf / "app.json").write_text("changed")
    finish(layer(tmp_path).take("fourth"))
    assert len(read) == 4
    shutil.rmtree(tmp_path / "scratch/store/blobs")
    finish(ours.take("fifth"))
    assert len(read) == 7, "what is not in the store is read, however unchanged"


def test_a_file_that_could_change_again_unseen_is_not_trusted(tmp_path: Path, conf: Path) -> None:
    """Times are coarse: what is written twice in one tick of the clock has the same times both times."""
    file = conf / "app.json"
    rules = scan.Rules.of(FilesSettings(adapter="files", paths=(str(file),)))
    written = file.stat().st_ctime_ns

    def seen(stamp: int | None) -> object:
        look = scan.Scan(rules, scan.Hashing(lambda: None), {}, stamp, lambda: None)
        return look.run().entries[str(file)].seen

    assert seen(None) is None
    assert seen(written + 2 * 10**9) is None, "as coarse as any file system is"
    assert seen(written + 2 * 10**9 + 1) == (file.stat().st_dev, file.stat().st_ino, written)


def test_globs_choose_what_is_watched(tmp_path: Path) -> None:
    root = tmp_path / "srv"
    for name in (".env", ".env.local", "other", "a/limits/max", "b/limits/max", "b/limits/min", "deep/x/y/z.json"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    ours = layer(tmp_path, paths=[f"{root}/.env*", f"{root}/*/limits/max", f"{root}/deep/**/*.json"])
    taken = finish(ours.take("all"))
    assert taken.files == 5
    shutil.rmtree(root / "a")
    shutil.rmtree(root / "deep")
    (root / ".env").write_text("changed")
    (root / ".env.new").write_text("extra")
    (root / "other").write_text("not watched")
    (root / "b/limits/min").unlink()
    roll_back(ours, Release(taken.release))
    assert (root / "a/limits/max").read_text() == "a/limits/max"
    assert (root / "deep/x/y/z.json").read_text() == "deep/x/y/z.json"
    assert (root / ".env").read_text() == ".env"
    assert not (root / ".env.new").exists()
    assert (root / "other").read_text() == "not watched"
    assert not (root / "b/limits/min").exists()


# -- restores -----------------------------------------------------------------------------------
def test_a_plan_says_what_it_will_do(tmp_path: Path, conf: Path) -> None:
    ours = layer(tmp_path)
    target = finish(ours.take("v1"))
    fill(conf, 2)
    (conf / "conf.d" / "only-1").write_text("1\n")
    (conf / "app.json").unlink()
    change = finish(ours.plan(Release(target.release)))
    assert change.after.label == "v1"
    (risk,) = change.risks
    assert risk.startswith("2 file(s) changed, 1 added, 1 removed, such as ")
    finish(ours.take("now"))
    assert finish(ours.plan(finish(ours.current()))).risks == ()


def test_what_is_there_is_saved_first_and_comes_back(tmp_path: Path, conf: Path) -> None:
    ours = layer(tmp_path)
    target = finish(ours.take("v1"))
    fill(conf, 2)
    here = content(conf)
    roll_back(ours, Release(target.release))
    assert content(conf) != here
    saved = next(one for one in finish(ours.snapshots()) if one.name == SAVED)
    assert saved.why == "before"
    finish(ours.restore(SAVED, "back"))
    assert content(conf) == here


def test_what_a_kill_left_beside_a_file_is_no_part_of_a_release_and_goes_with_the_next_restore(
    tmp_path: Path, conf: Path
) -> None:
    ours = layer(tmp_path)
    target = finish(ours.take("v1"))
    stray = conf / "conf.d" / ".rollbackd-0123456789abcdef"
    stray.write_text("half a fi")
    assert finish(ours.current()).id == target.release
    (conf / "app.json").write_text("changed")
    roll_back(ours, Release(target.release))
    assert not stray.exists()


def test_what_is_volatile_is_kept_and_is_no_change(tmp_path: Path, conf: Path) -> None:
    (conf / "app.log").write_text("old")
    (conf / "cache").mkdir()
    (conf / "cache" / "x").write_text("old")
    ours = layer(tmp_path, volatile=["*.log", "cache"])
    target = finish(ours.take("v1"))
    (conf / "app.log").write_text("new")
    (conf / "cache" / "x").unlink()
    (conf / "cache" / "y").write_text("new")
    assert finish(ours.current()).id == target.release
    (conf / "app.json").write_text("{}")
    roll_back(ours, Release(target.release))
    assert (conf / "app.log").read_text() == "new"
    assert (conf / "cache" / "x").read_text() == "old"
    assert (conf / "cache" / "y").read_text() == "new"


def test_syntax_is_tried_on_what_is_about_to_be_put_and_on_nothing_else(tmp_path: Path, conf: Path) -> None:
    (conf / "same.json").write_text("not JSON, and it stays")
    (conf / "app.json").write_text("{broken")
    python = script(tmp_path / "json", 'python3 -m json.tool "$1" > /dev/null', f'echo "$1" >> {tmp_path}/tried')
    ours = layer(tmp_path, syntax=[{"glob": "*.json", "command": [python, "{file}"]}])
    broken = finish(ours.take("broken"))
    (conf / "app.json").write_text('{"fine": 1}')
    fine = finish(ours.take("fine"))
    here = content(conf)
    change = finish(planned(ours, Release(broken.release)))
    refused = failure(ours.apply(change))
    assert refused.permanent
    assert "app.json as snapshot broken has it is not accepted by" in str(refused)
    assert "nothing was touched" in str(refused)
    assert content(conf) == here
    assert finish(ours.progress(change)) is Progress.NOT_STARTED
    (conf / "app.json").unlink()
    roll_back(ours, Release(fine.release), "contract-2/0/layer")
    (tried,) = (tmp_path / "tried").read_text().splitlines()
    assert tried.endswith("/app.json"), "it sees the file's own name"
    assert not Path(tried).exists()


def test_modes_are_those_of_the_configuration_whatever_was_saved(tmp_path: Path, conf: Path) -> None:
    (conf / ".env").chmod(0o644)
    ours = layer(tmp_path, modes={".env*": "600"})
    target = finish(ours.take("v1"))
    (conf / ".env").write_text("changed")
    roll_back(ours, Release(target.release))
    assert stat.S_IMODE((conf / ".env").stat().st_mode) == 0o600
    assert finish(ours.current()).id == target.release


def test_variables_are_watched_and_restored_without_the_rest_of_the_file(tmp_path: Path) -> None:
    env = tmp_path / ".env"
    env.write_text("# ours\nexport A='1 # one'\nOTHER=x\nB=2\n")
    env.chmod(0o600)
    ours = layer(tmp_path, paths=[], variables={"file": str(env), "names": ["A", "B", "C"]})
    target = finish(ours.take("v1"))
    env.write_text("# ours\nexport A=changed\nOTHER=y\nC=new\n")
    assert finish(ours.current()).id != target.release
    roll_back(ours, Release(target.release))
    assert env.read_text() == "# ours\nexport A='1 # one'\nOTHER=y\nB=2\n"
    assert stat.S_IMODE(env.stat().st_mode) == 0o600


def test_files_and_variables_can_be_restored_separately(tmp_path: Path, conf: Path) -> None:
    env = tmp_path / "env"
    env.write_text("A=1\n")
    ours = layer(tmp_path, variables=[{"file": str(env), "names": "A"}])
    finish(ours.take("v1"))
    (conf / "app.json").write_text("changed")
    env.write_text("A=2\n")
    finish(ours.restore("v1", "only variables", ["variables"]))
    assert (env.read_text(), (conf / "app.json").read_text()) == ("A=1\n", "changed")
    env.write_text("A=2\n")
    finish(ours.restore("v1", "only files", ["files"]))
    assert env.read_text() == "A=2\n"
    assert (conf / "app.json").read_text() == '{"version": 1}'
    assert "no part 'x' can be restored; there are files, variables" in str(failure(ours.restore("v1", "k", ["x"])))


def test_a_restore_of_one_key_is_done_once(tmp_path: Path, conf: Path) -> None:
    ours = layer(tmp_path)
    finish(ours.take("v1"))
    fill(conf, 2)
    saved = finish(ours.restore("v1", "key"))
    fill(conf, 3)
    assert finish(ours.restore("v1", "key")) == saved
    assert '"version": 3' in (conf / "app.json").read_text()
    finish(ours.take("v3"))
    assert failure(ours.restore("nothing", "other")).permanent
    assert failure(ours.restore("../v1", "other")).permanent
    assert failure(ours.restore("v1", "")).permanent


def test_an_older_watch_list_removes_nothing_that_it_did_not_know(tmp_path: Path, conf: Path) -> None:
    finish(layer(tmp_path).take("v1"))
    fill(conf, 2)
    more = tmp_path / "more"
    more.mkdir()
    (more / "new").write_text("watched since today")
    ours = layer(tmp_path, paths=[str(conf), str(more)])
    assert finish(ours.releases()) == [], "it is no release of this watch list"
    finish(ours.restore("v1", "by a person"))
    assert '"version": 1' in (conf / "app.json").read_text()
    assert (more / "new").read_text() == "watched since today"


def test_what_is_not_on_the_watch_list_any_more_is_not_written(tmp_path: Path, conf: Path) -> None:
    finish(layer(tmp_path).take("v1"))
    fill(conf, 2)
    here = content(conf)
    ours = layer(tmp_path, paths=[str(conf / "conf.d")])
    refused = failure(ours.restore("v1", "by a person"))
    assert "is not on the watch list now, so it is not written" in str(refused)
    assert content(conf) == here


# -- failures in the middle ---------------------------------------------------------------------
def at(name: str, times: int, act: Callable[[], None]) -> None:
    """Do something at the n-th boundary of a name."""
    left = [times]

    def hook(reached: str) -> None:
        if reached == name:
            left[0] -= 1
            if left[0] == 0:
                act()

    boundary.hook = hook


def test_a_restore_that_fails_midway_is_put_back(tmp_path: Path, conf: Path) -> None:
    ours = layer(tmp_path)
    target = finish(ours.take("v1"))
    fill(conf, 2)
    here = content(conf)
    change = finish(planned(ours, Release(target.release)))

    def full() -> None:
        raise OSError(28, "No space left on device")

    at("files.put", 2, full)
    failed = failure(ours.apply(change))
    boundary.hook = lambda _name: None
    assert not failed.permanent
    assert "everything was put back" in str(failed)
    assert content(conf) == here
    assert finish(ours.progress(change)) is Progress.NOT_STARTED
    finish(ours.apply(change))
    assert finish(ours.progress(change)) is Progress.DONE


def test_what_somebody_changes_meanwhile_is_not_overwritten_and_the_rest_is_put_back(
    tmp_path: Path, conf: Path
) -> None:
    ours = layer(tmp_path)
    target = finish(ours.take("v1"))
    fill(conf, 2)
    change = finish(planned(ours, Release(target.release)))
    mended = conf / "app.json"

    def mend() -> None:
        mended.write_text("mended by somebody")

    at("files.put", 1, mend)
    failed = failure(ours.apply(change))
    boundary.hook = lambda _name: None
    assert "was changed while it was restored, so it is left as it is" in str(failed)
    assert "put back but for" in str(failed)
    assert mended.read_text() == "mended by somebody"
    assert (conf / ".env").read_text() == "VERSION=2\nTOKEN=secret-2\n"
    assert finish(ours.progress(change)) is Progress.SUPERSEDED


def test_a_damaged_content_is_found_before_the_first_file_is_touched_and_the_next_snapshot_is_used(
    tmp_path: Path, conf: Path
) -> None:
    ours = layer(tmp_path)
    first = finish(ours.take("older"))
    (conf / "app.json").write_text("2")
    second = finish(ours.take("newer"))
    fill(conf, 3)
    here = content(conf)
    blob = next(
        path for path in (tmp_path / "scratch/store/blobs").rglob("*") if path.is_file() and path.read_text() == "2"
    )
    change = finish(planned(ours, Release(second.release)))
    blob.write_text("X")
    assert "nothing was touched" in str(failure(ours.apply(change)))
    assert content(conf) == here
    assert [release.id for release in finish(ours.releases())] == [first.release]
    (problem,) = finish(ours.verify("newer"))
    assert problem.path == str(conf / "app.json")
    assert finish(ours.verify("older")) == []
    assert [one.restorable for one in finish(ours.snapshots())] == [False, True]
    (conf / "app.json").write_text("2")
    finish(ours.take("again"))
    assert finish(ours.verify("newer")) == [], "the same content came again and healed it"


def test_a_plan_reads_what_it_would_put_so_that_a_damaged_snapshot_is_no_release_any_more(
    tmp_path: Path, conf: Path
) -> None:
    ours = layer(tmp_path)
    older = finish(ours.take("older"))
    (conf / "app.json").write_text("2")
    newer = finish(ours.take("newer"))
    fill(conf, 3)
    (blob,) = [
        path for path in (tmp_path / "scratch/store/blobs").rglob("*") if path.is_file() and path.read_text() == "2"
    ]
    blob.write_text("X")
    assert [release.id for release in finish(ours.releases())] == [newer.release, older.release]
    assert "use another snapshot" in str(failure(ours.plan(Release(newer.release))))
    assert [release.id for release in finish(ours.releases())] == [older.release]
    assert finish(ours.plan(Release(older.release))).after.id == older.release


# -- rehearsals ---------------------------------------------------------------------------------
def test_a_rehearsal_puts_a_snapshot_together_beside_what_is_live_and_leaves_nothing(
    tmp_path: Path, conf: Path
) -> None:
    (conf / "closed").mkdir(mode=0o500)
    (conf / "empty").mkdir()
    (tmp_path / "shop.env").write_text("A=1\n")
    ours = layer(
        tmp_path,
        paths=[str(conf), str(tmp_path / "deep/**/*.conf")],
        variables=[{"file": str(tmp_path / "shop.env"), "names": ["A"]}],
        volatile=["*.log"],
    )
    (tmp_path / "deep/er").mkdir(parents=True)
    (tmp_path / "deep/er/x.conf").write_text("x")
    (conf / "app.log").write_text("a line")
    finish(ours.take("whole"))
    fill(conf, 2)
    here, kept = content(conf), sorted(os.listdir(tmp_path / "scratch"))
    seen: list[dict[str, str]] = []

    def look(name: str) -> None:
        if name == "files.rehearsed":
            seen.append(content(Path(f"{tmp_path}/scratch/rehearsal{conf}")))

    boundary.hook = look
    try:
        assert finish(ours.rehearse("whole")) == []
    finally:
        boundary.hook = lambda _name: None
    (rehearsed,) = seen
    assert rehearsed["app.json"] == '{"version": 1} 644'
    assert (rehearsed[".env"].rpartition(" ")[2], rehearsed["closed"], rehearsed["empty"]) == ("600", "/ 500", "/ 755")
    assert (rehearsed["current"], rehearsed["app.log"]) == ("-> conf.d/only-1", "a line 644")
    assert content(conf) == here
    assert sorted(os.listdir(tmp_path / "scratch")) == kept


def test_a_rehearsal_says_what_could_not_be_put_together(tmp_path: Path, conf: Path) -> None:
    ours = layer(tmp_path)
    finish(ours.take("harmed"))
    blob = next(
        p for p in (tmp_path / "scratch/store/blobs").rglob("*") if p.is_file() and b"secret-1" in p.read_bytes()
    )
    blob.write_bytes(b"X" * blob.stat().st_size)
    (problem,) = finish(ours.rehearse("harmed"))
    assert (problem.snapshot, "damaged in the store" in problem.text) == ("harmed", True)
    assert f"{conf}/.env" in problem.text
    assert "/scratch/" not in problem.text
    assert failure(ours.rehearse("nothing")).permanent
    assert not (tmp_path / "scratch/rehearsal").exists()


def test_a_rehearsal_needs_room_and_takes_away_what_a_kill_left_of_the_last(tmp_path: Path, conf: Path) -> None:
    ours = layer(tmp_path)
    finish(ours.take("one"))
    left = tmp_path / "scratch/rehearsal/half"
    left.mkdir(parents=True)
    (left / "file").write_text("x")
    left.chmod(0)
    assert finish(ours.rehearse("one")) == []
    assert not left.parent.exists()
    assert "make room" in str(failure(layer(tmp_path, room=2**60).rehearse("one")))


def test_a_damaged_manifest_is_shown_and_nothing_is_thrown_away(tmp_path: Path, conf: Path) -> None:
    ours = layer(tmp_path, keep={"last": 1, "daily": 0, "weekly": 0})
    finish(ours.take("v1"))
    (conf / "app.json").write_text("2")
    finish(ours.take("v2"))
    manifest = tmp_path / "scratch/store/snapshots/v1.json"
    manifest.write_bytes(manifest.read_bytes()[:-20])
    assert [(one.name, one.restorable) for one in finish(ours.snapshots())] == [("v2", True), ("v1", False)]
    assert "its list of files is not the one that was written" in str(failure(ours.restore("v1", "k")))
    manifest.write_bytes(b"{}\n")
    assert "manifest is damaged" in finish(ours.verify("v1"))[0].text
    blobs = set((tmp_path / "scratch/store/blobs").rglob("*"))
    finish(ours.prune())
    assert set((tmp_path / "scratch/store/blobs").rglob("*")) == blobs
    assert manifest.exists()


# -- links and races ----------------------------------------------------------------------------
def test_a_directory_that_became_a_link_is_not_followed(tmp_path: Path, conf: Path) -> None:
    ours = layer(tmp_path)
    target = finish(ours.take("v1"))
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "only-1").write_text("not ours")
    shutil.rmtree(conf / "conf.d")
    (conf / "conf.d").symlink_to(outside)
    roll_back(ours, Release(target.release))
    assert (outside / "only-1").read_text() == "not ours"
    assert not (conf / "conf.d").is_symlink()
    assert (conf / "conf.d" / "only-1").read_text() == "1\n"


def test_a_directory_that_becomes_a_link_in_the_middle_is_not_followed(tmp_path: Path, conf: Path) -> None:
    for number in range(3):
        (conf / "conf.d" / f"file{number}").write_text("good")
    ours = layer(tmp_path)
    target = finish(ours.take("v1"))
    outside = tmp_path / "outside"
    outside.mkdir()
    for number in range(3):
        (conf / "conf.d" / f"file{number}").write_text("bad")
    change = finish(planned(ours, Release(target.release)))

    def swap() -> None:
        (conf / "conf.d").rename(tmp_path / "moved")
        (conf / "conf.d").symlink_to(outside)

    at("files.before_put", 1, swap)
    failed = failure(ours.apply(change))
    assert "is a link or a file now" in str(failed) or "changed" in str(failed)
    assert list(outside.iterdir()) == []


def test_pipes_and_sockets_are_left_alone(tmp_path: Path, conf: Path) -> None:
    os.mkfifo(conf / "pipe")
    ours = layer(tmp_path)
    target = finish(ours.take("v1"))
    fill_beside = conf / "app.json"
    fill_beside.write_text("changed")
    roll_back(ours, Release(target.release))
    assert (conf / "pipe").is_fifo()
    (conf / "app.json").unlink()
    os.mkfifo(conf / "app.json")
    change = finish(planned(ours, Release(target.release), "contract-2/0/layer"))
    assert "a socket, pipe or device is in the way; remove it" in str(failure(ours.apply(change)))


def test_a_link_in_place_of_an_environment_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("A=1\n")
    (tmp_path / "env").symlink_to(tmp_path / "real")
    ours = layer(tmp_path, paths=[], variables={"file": str(tmp_path / "env"), "names": ["A"]})
    assert "is a link" in str(failure(ours.current()))


# -- looking at snapshots -----------------------------------------------------------------------
def test_differences_are_shown_without_secrets(tmp_path: Path, conf: Path) -> None:
    ours = layer(tmp_path, variables={"file": str(conf / ".env"), "names": ["TOKEN"]})
    finish(ours.take("v1"))
    fill(conf, 2)
    (conf / "app.json").chmod(0o600)
    shown = {one.path.removeprefix(str(conf)): (one.kind, one.lines) for one in finish(ours.diff("v1"))}
    assert shown == {
        "/.env": ("changed", ("TOKEN=[secret] changed", "- VERSION=1", "+ VERSION=2")),
        "/.env TOKEN": ("changed", ("TOKEN=[secret] changed",)),
        "/app.json": ("changed", ("mode 0644 became 0600", '- {"version": 1}', '+ {"version": 2}')),
        "/conf.d/only-1": ("removed", ("a file of 2 bytes, mode 0644",)),
        "/conf.d/only-2": ("added", ("a file of 2 bytes, mode 0644",)),
        "/current": ("changed", ("- a link to conf.d/only-1", "+ a link to conf.d/only-2")),
    }
    finish(ours.take("v2"))
    assert {one.path.removeprefix(str(conf)): (one.kind, one.lines) for one in finish(ours.diff("v1", "v2"))} == shown
    assert "secret-" not in repr(shown)


def test_the_capability_is_there_and_its_values_go_through_json(tmp_path: Path, conf: Path) -> None:
    ours = layer(tmp_path)
    assert isinstance(ours, Snapshots)
    for value in (finish(ours.take("v1")), SnapshotProblem("a", "/b", "c"), Difference("/a", "added", ("x",))):
        adapter: TypeAdapter[Any] = TypeAdapter(type(value))
        assert adapter.validate_json(adapter.dump_json(value)) == value


def test_taking_again_under_one_name_is_harmless_until_something_changed(tmp_path: Path, conf: Path) -> None:
    ours = layer(tmp_path)
    assert finish(ours.take("v1")) == finish(ours.take("v1"))
    fill(conf, 2)
    assert "is there already, of other content" in str(failure(ours.take("v1")))
    one, two = finish(ours.take(why="schedule")), finish(ours.take(why="schedule"))
    assert one.name.startswith("snapshot-schedule-20")
    assert one.name != two.name
    assert failure(ours.take("../x")).permanent
    assert failure(ours.take(why="a/b")).permanent


def test_pruning_keeps_what_is_spared_and_takes_away_what_nothing_names(tmp_path: Path, conf: Path) -> None:
    ours = layer(tmp_path, keep={"last": 1, "daily": 0, "weekly": 0})
    taken = []
    for version in (1, 2, 3):
        fill(conf, version)
        taken.append(finish(ours.take(f"v{version}")))
    assert finish(ours.prune(spare=[taken[0].release])) == ["v2"]
    assert [one.name for one in finish(ours.snapshots())] == ["v3", "v1"]
    for name in ("v1", "v3"):
        assert finish(ours.verify(name)) == []
    texts = {path.read_text() for path in (tmp_path / "scratch/store/blobs").rglob("*") if path.is_file()}
    assert "1\n" in texts
    assert "2\n" not in texts


def test_pruning_keeps_as_many_as_it_is_told(tmp_path: Path, conf: Path) -> None:
    ours = layer(tmp_path, keep={"last": 4, "daily": 0, "weekly": 0})
    for number in range(4):
        (conf / "app.json").write_text(str(number))
        finish(ours.take(f"n{number}"))
    assert finish(ours.prune()) == []
    assert finish(ours.prune(last=3)) == ["n0"]
    assert finish(ours.prune([finish(ours.snapshots())[-1].release], last=1)) == ["n2"]


def test_pruning_keeps_what_an_unfinished_restore_needs(tmp_path: Path, conf: Path) -> None:
    ours = layer(tmp_path, keep={"last": 1, "daily": 0, "weekly": 0, "saved": "0s"})
    target = finish(ours.take("v1"))
    fill(conf, 2)
    change = finish(planned(ours, Release(target.release)))

    def killed() -> None:
        raise KeyboardInterrupt

    at("files.put", 1, killed)
    with pytest.raises(KeyboardInterrupt):
        finish(ours.apply(change))
    boundary.hook = lambda _name: None
    finish(layer(tmp_path).take("later"))
    assert finish(ours.prune()) == []
    assert finish(perform(layer(tmp_path), change)) is Progress.DONE
    assert '"version": 1' in (conf / "app.json").read_text()


# -- carrying snapshots -------------------------------------------------------------------------
def test_an_exported_snapshot_restores_on_another_store(tmp_path: Path, conf: Path) -> None:
    ours = layer(tmp_path)
    taken = finish(ours.take("v1"))
    here, file = content(conf), tmp_path / "v1.tar.gz"
    finish(ours.export_to("v1", str(file)))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with tarfile.open(file) as tar:
        assert tar.getnames()[0] == "rollbackd/manifest.json"
    first = file.read_bytes()
    finish(ours.export_to("v1", str(file)))
    assert file.read_bytes() == first
    shutil.rmtree(tmp_path / "scratch")
    fill(conf, 2)
    other = layer(tmp_path)
    for _ in range(2):
        assert finish(other.import_from(str(file))).release == taken.release
    assert finish(other.verify("v1")) == []
    finish(other.restore("v1", "key"))
    assert content(conf) == here
    assert finish(ours.import_from(str(file))).name == "v1"


def test_exporting_needs_a_whole_path_and_a_whole_snapshot(tmp_path: Path, conf: Path) -> None:
    ours = layer(tmp_path)
    finish(ours.take("v1"))
    assert "write the whole path" in str(failure(ours.export_to("v1", "v1.tar.gz")))
    assert "No such file or directory" in str(failure(ours.export_to("v1", str(tmp_path / "no" / "v1"))))
    next(path for path in (tmp_path / "scratch/store/blobs").rglob("*") if path.is_file()).unlink()
    assert "cannot be exported" in str(failure(ours.export_to("v1", str(tmp_path / "v1.tar.gz"))))
    assert [path.name for path in tmp_path.iterdir() if "tar.gz" in path.name] == []


def members(data: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return [(member, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]


def packed(parts: list[tuple[tarfile.TarInfo, bytes]], form: int = tarfile.GNU_FORMAT) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz", format=form) as tar:
        for member, data in parts:
            tar.addfile(member, io.BytesIO(data))
    return made.getvalue()


def named(name: str, **changes: Any) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    for key, value in changes.items():
        setattr(made, key, value)
    return made


Parts = list[tuple[tarfile.TarInfo, bytes]]


def _manifest_changed(parts: Parts, old: bytes, new: bytes) -> Parts:
    member, data = parts[0]
    data = data.replace(old, new)
    member.size = len(data)
    return [(member, data), *parts[1:]]


HOSTILE_ARCHIVES: dict[str, Callable[[Parts], bytes]] = {
    "nothing": lambda _: b"",
    "no gzip": lambda _: b"PK\3\4" * 100,
    "no tar": lambda _: gzip.compress(b"x" * 5000),
    "cut off": lambda parts: packed(parts)[:-40],
    "empty": lambda _: packed([]),
    "a blob first": lambda parts: packed(parts[::-1]),
    "a device": lambda parts: packed([*parts, (named("rollbackd/blobs/x", type=tarfile.CHRTYPE), b"")]),
    "a link out": lambda parts: packed(
        [*parts, (named("rollbackd/blobs/x", type=tarfile.SYMTYPE, linkname="/etc"), b"")]
    ),
    "a hard link": lambda parts: packed(
        [parts[0], (named(parts[1][0].name, type=tarfile.LNKTYPE, linkname="/etc/passwd"), b"")]
    ),
    "an absolute name": lambda parts: packed([*parts, (named("/etc/cron.d/x", size=1), b"x")]),
    "a name above": lambda parts: packed([*parts, (named("rollbackd/blobs/../../x", size=1), b"x")]),
    "an unknown blob": lambda parts: packed([*parts, (named("rollbackd/blobs/" + "0" * 64, size=1), b"x")]),
    "a long name": lambda parts: packed([*parts, (named("rollbackd/blobs/" + "x" * 300, size=1), b"x")]),
    "an extended header": lambda parts: packed([(named("rollbackd/ä"), b""), *parts], tarfile.PAX_FORMAT),
    "a blob missing": lambda parts: packed(parts[:-1]),
    "a blob twice": lambda parts: packed([*parts, parts[-1]]),
    "another content": lambda parts: packed([*parts[:-1], (parts[-1][0], bytes(len(parts[-1][1])))]),
    "another size": lambda parts: packed([*parts[:-1], (named(parts[-1][0].name, size=1), b"x")]),
    "another list": lambda parts: packed(_manifest_changed(parts, b"app.json", b"app.jsoN")),
    "another name": lambda parts: packed(_manifest_changed(parts, b'"name": "v1"', b'"name": "../v1"')),
    "another format": lambda parts: packed(_manifest_changed(parts, b'"format": 1', b'"format": 2')),
}


@pytest.mark.parametrize("kind", HOSTILE_ARCHIVES)
def test_a_hostile_archive_is_refused_and_nothing_of_it_is_kept(tmp_path: Path, conf: Path, kind: str) -> None:
    ours = layer(tmp_path)
    finish(ours.take("v1"))
    file = tmp_path / "v1.tar.gz"
    finish(ours.export_to("v1", str(file)))
    file.write_bytes(HOSTILE_ARCHIVES[kind](members(file.read_bytes())))
    shutil.rmtree(tmp_path / "scratch")
    before = {path for path in tmp_path.rglob("*") if "scratch" not in path.parts}
    refused = failure(layer(tmp_path).import_from(str(file)))
    assert refused.permanent
    assert "not a snapshot that can be taken in: " in str(refused)
    assert finish(layer(tmp_path).snapshots()) == []
    assert {path for path in tmp_path.rglob("*") if "scratch" not in path.parts} == before


def test_an_archive_that_is_too_large_is_refused_before_it_is_unpacked(tmp_path: Path, conf: Path) -> None:
    (conf / "zeros").write_bytes(bytes(2**20))
    finish(layer(tmp_path).take("v1"))
    file = tmp_path / "v1.tar.gz"
    finish(layer(tmp_path).export_to("v1", str(file)))
    shutil.rmtree(tmp_path / "scratch")
    refused = failure(layer(tmp_path, largest="1MiB").import_from(str(file)))
    assert "more than the 1048576 of `largest`" in str(refused)
    assert not any((tmp_path / "scratch/store/blobs").rglob("*"))


def test_an_imported_list_says_nothing_about_the_files_of_this_host(tmp_path: Path, conf: Path) -> None:
    """A crafted inode and time must not make us believe that a file has the content that the list says."""
    ours = layer(tmp_path)
    finish(ours.take("v1"))
    file = tmp_path / "v1.tar.gz"
    finish(ours.export_to("v1", str(file)))
    shutil.rmtree(tmp_path / "scratch")
    other = layer(tmp_path)
    finish(other.import_from(str(file)))
    _, tree = other._present.store.load("v1")
    assert all(entry.seen is None for entry in tree.entries.values())


# -- ready and settings -------------------------------------------------------------------------
def test_ready_says_what_to_do(tmp_path: Path, conf: Path) -> None:
    def texts(**settings: Any) -> str:
        return "\n".join(problem.text for problem in finish(layer(tmp_path, **settings).ready()))

    assert texts() == ""
    assert "MiB free, wants 1125899906842624 MiB (`room`); make room" in texts(room=2**70)
    assert f"{tmp_path}/nowhere: no such directory; make it, or correct `paths`" in texts(
        paths=[f"{tmp_path}/nowhere/x"]
    )
    assert "no-such-program: no such program" in texts(syntax=[{"glob": "*", "command": ["no-such-program", "{file}"]}])
    (tmp_path / "link").symlink_to(conf)
    assert "the store lies in" in texts(store=str(tmp_path / "link" / "store"))
    (conf / "a").symlink_to("b")
    assert texts() == ""


def test_two_snapshots_of_one_store_share_contents(tmp_path: Path, conf: Path) -> None:
    ours = layer(tmp_path)
    finish(ours.take("v1"))
    blobs = {path for path in (tmp_path / "scratch/store/blobs").rglob("*") if path.is_file()}
    (conf / "copy.json").write_bytes((conf / "app.json").read_bytes())
    finish(ours.take("v2"))
    assert {path for path in (tmp_path / "scratch/store/blobs").rglob("*") if path.is_file()} == blobs


def test_stores_of_two_layers_in_one_directory_keep_apart(tmp_path: Path, conf: Path) -> None:
    ours = layer(tmp_path, store=str(tmp_path / "snapshots"))
    finish(ours.take("v1"))
    made = tmp_path / "snapshots/contract/layer"
    assert (made / "snapshots/v1.json").exists()
    assert stat.S_IMODE(made.stat().st_mode) == 0o700, "it holds secrets"


def test_a_look_does_not_wait_for_somebody_who_writes_to_the_store(tmp_path: Path, conf: Path) -> None:
    ours, free = layer(tmp_path), threading.Event()

    async def life() -> None:
        writing = asyncio.create_task(ours._mover.storing(lambda _stop: free.wait(20)))
        while not ours._mover.is_storing:
            await asyncio.sleep(0)
        for _ in range(2):
            assert not (await ours.current()).label
        free.set()
        await writing
        assert (await ours.current()).label

    finish(life())


def test_what_hangs_in_looking_is_given_up_and_said(
    tmp_path: Path, conf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "STOPPED_WITHIN", timedelta(milliseconds=50))
    free = threading.Event()
    work = jobs.Jobs("layer")

    async def life() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await work.run(lambda _stop: free.wait(20))
        with pytest.raises(AdapterError, match="a file operation hangs"):
            await work.run(lambda _stop: None)
        free.set()
        async with asyncio.timeout(10):
            while True:
                try:
                    return await work.run(lambda _stop: None)
                except AdapterError:
                    await asyncio.to_thread(free.wait, 0.01)

    finish(life())


@pytest.mark.needs("root")
def test_owners_come_back_where_we_may_set_them(tmp_path: Path, conf: Path) -> None:
    os.chown(conf / ".env", 65534, 65534)
    ours = layer(tmp_path)
    target = finish(ours.take("v1"))
    (conf / ".env").unlink()
    (conf / ".env").write_text("by root")
    roll_back(ours, Release(target.release))
    assert ((conf / ".env").stat().st_uid, (conf / ".env").stat().st_gid) == (65534, 65534)


def test_a_snapshot_says_what_it_is(tmp_path: Path, conf: Path) -> None:
    taken = finish(layer(tmp_path).take("v1"))
    assert (taken.files, taken.why, taken.restorable) == (3, "manual", True)
    assert isinstance(taken, Snapshot)
    assert finish(layer(tmp_path).snapshots()) == [taken]
