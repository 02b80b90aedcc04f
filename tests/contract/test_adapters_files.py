"""The adapter `files` on real directories: the contract, what a release is, and what it says of itself."""

import asyncio
import os
import shutil
import stat
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from rollbackd.adapter import AdapterError, Snapshot
from rollbackd.model import Release
from rollbackd.testing import AdapterContract, World, finish
from rollbackd_adapters.files import FilesSettings, jobs, scan
from rollbackd_adapters.files.batch import Batch
from tests.contract.files_worlds import FilesWorld, fill, layer, roll_back


class TestFiles(AdapterContract):
    def make_world(self, path: Path) -> World:
        return FilesWorld(path)


# -- what a release is --------------------------------------------------------------------------
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


def test_looks_of_several_processes_are_looks_too(tmp_path: Path, conf: Path) -> None:
    """As on another host, where each question has a process of its own."""
    first, second = (finish(layer(tmp_path).current()) for _ in range(2))
    assert (first.label, second.label[:14]) == ("", "snapshot-auto-")
    fill(conf, 2)
    (tmp_path / "file").write_text("")
    for _ in range(2):
        assert finish(layer(tmp_path, store=str(tmp_path / "file" / "store")).current()).label == ""
    texts = [problem.text for problem in finish(layer(tmp_path, store=str(tmp_path / "file" / "store")).ready())]
    assert any("could not be kept" in text for text in texts)
    assert finish(layer(tmp_path).current()).label.startswith("snapshot-auto-")
    assert not any("could not be kept" in problem.text for problem in finish(layer(tmp_path).ready()))


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
    rules = scan.ScanRules.of(FilesSettings(adapter="files", paths=(str(file),)))
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
