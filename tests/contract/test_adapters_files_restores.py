"""Restores of adapter `files`: done once, put back when they fail midway, and never through a link."""

import os
import shutil
import stat
from pathlib import Path

from rollbackd.model import Progress, Release
from rollbackd.system import boundary
from rollbackd.testing import finish, planned
from tests.contract.files_worlds import SAVED, at, content, failure, fill, layer, roll_back
from tests.contract.worlds import script


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
    for refused in (ours.plan(Release(target.release)), ours.restore("v1", "by a person")):
        assert "a socket, pipe or device is in the way; remove it" in str(failure(refused))


def test_a_link_in_place_of_an_environment_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("A=1\n")
    (tmp_path / "env").symlink_to(tmp_path / "real")
    ours = layer(tmp_path, paths=[], variables={"file": str(tmp_path / "env"), "names": ["A"]})
    assert "is a link" in str(failure(ours.current()))
