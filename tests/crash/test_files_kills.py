"""Snapshots and restores of files, killed: each file is old or new at any instant, and no snapshot is ever half a one."""

import asyncio
import os
import random
import shutil
import time
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path

import pytest

from rollbackd.model import Change, Progress, Release
from rollbackd.testing import KEY, finish, kill, killed_at, perform, place, planned
from rollbackd_adapters.files import FilesAdapter, FilesSettings
from rollbackd_adapters.traces import safe_name

SAVED = f"before-{safe_name(KEY)}"
KILLS = 20
LARGE = 3 * 2**20
"""Bytes; so that a kill can hit the middle of a file."""


def layer(path: Path) -> FilesAdapter:
    keep = {"last": 1, "daily": 0, "weekly": 0, "saved": "0s"}
    given = {
        "adapter": "files",
        "paths": [str(path / "conf")],
        "variables": [{"file": str(path / "env"), "names": "A"}],
    }
    return FilesAdapter(FilesSettings.model_validate({**given, "room": 0, "keep": keep, "auto": False}), place(path))


def fill(path: Path, version: str, size: int = 20) -> None:
    """Contents that differ in every file, in which directories there are, and in what is a file and what is not."""
    conf = path / "conf"
    shutil.rmtree(conf, ignore_errors=True)
    (conf / f"only-{version}" / "deep").mkdir(parents=True)
    (conf / f"only-{version}" / "deep" / "file").write_text(version * size)
    for number in range(2):
        (conf / f"file{number}").write_text(f"{number}{version}" * size)
    (conf / "link").symlink_to(version)
    if version == "old":
        (conf / "changes").mkdir()
        (conf / "changes" / "below").write_text("old" * size)
        (conf / "back").write_text("old" * size)
    else:
        (conf / "changes").write_text("new" * size)
        (conf / "back").mkdir()
        (conf / "back" / "below").write_text("new" * size)
    (path / "env").write_text(f"REST=1\nA={version}\n")


def content(path: Path) -> dict[str, str]:
    """All that is there; files that a kill left beside others are no part of it."""
    found = {"env": (path / "env").read_text()}
    for one in sorted((path / "conf").rglob("*")):
        what = f"-> {one.readlink()}" if one.is_symlink() else "/" if one.is_dir() else one.read_text()
        if not one.name.startswith(".rollbackd-"):
            found[str(one.relative_to(path))] = what
    return found


def make(path: Path, size: int = 20) -> tuple[dict[str, str], dict[str, str], Change]:
    """A world that stands at `old` and can go to `new`."""
    path.mkdir(parents=True)
    fill(path, "new", size)
    target = finish(layer(path).take("good"))
    new = content(path)
    fill(path, "old", size)
    return content(path), new, finish(planned(layer(path), Release(target.release)))


def check_between(path: Path, old: dict[str, str], new: dict[str, str]) -> None:
    """Each path is as it was or as it will be; only what changes between file and directory may be missing a moment."""
    now = content(path)
    for name in {*old, *new, *now}:
        wanted = {old.get(name), new.get(name)}
        if name in {"conf/changes", "conf/back"}:
            wanted.add(None)
        assert now.get(name) in wanted, name


def leftovers(path: Path) -> list[Path]:
    return [one for one in path.rglob(".*") if one.name.startswith(".rollbackd")]


def test_a_restore_killed_at_each_boundary_leaves_each_file_old_or_new_and_is_finished(tmp_path: Path) -> None:
    for n in count(1):
        path = tmp_path / str(n)
        old, new, change = make(path)
        survived = not killed_at(n, lambda p=path, c=change: perform(layer(p), c), descending=False)  # type: ignore[misc]
        check_between(path, old, new)
        assert finish(perform(layer(path), change)) is Progress.DONE, f"killed at boundary {n}"
        assert content(path) == new
        assert leftovers(path) == []
        finish(layer(path).restore(SAVED, "back"))
        assert content(path) == old, f"what was there is saved; killed at boundary {n}"
        if survived:
            assert n > 25, "there are as many boundaries as effects"
            break


def test_a_restore_that_is_killed_and_then_touched_by_somebody_is_theirs(tmp_path: Path) -> None:
    _, _, change = make(tmp_path / "w")
    path = tmp_path / "w"
    n = 12
    assert killed_at(n, lambda: perform(layer(path), change), descending=False)
    (path / "conf" / "file1").write_text("mended at three in the morning")
    assert finish(layer(path).progress(change)) is Progress.SUPERSEDED
    assert (path / "conf" / "file1").read_text() == "mended at three in the morning"


def killed_everywhere(tmp_path: Path, begin: Callable[[Path], None], life: Callable[[Path], Awaitable[object]]) -> int:
    """Live it in a world of its own for each boundary; afterwards every snapshot is whole. How many boundaries."""
    for n in count(1):
        path = tmp_path / str(n)
        path.mkdir()
        begin(path)
        survived = not killed_at(n, lambda p=path: life(p), descending=False)  # type: ignore[misc]
        check_store(path)
        finish(as_work(life(path)))
        check_store(path)
        if survived:
            return n - 1
    raise AssertionError


async def as_work(work: Awaitable[object]) -> object:
    return await work


def check_store(path: Path) -> None:
    ours = layer(path)
    for one in finish(ours.snapshots()):
        assert one.restorable, one
        assert finish(ours.verify(one.name)) == [], one


def test_taking_a_snapshot_killed_at_each_boundary_leaves_none_or_a_whole_one(tmp_path: Path) -> None:
    boundaries = killed_everywhere(tmp_path, lambda path: fill(path, "new"), lambda path: layer(path).take("one"))
    assert boundaries >= 4


def three(path: Path) -> None:
    for number, version in enumerate(("old", "new", "other"), 1):
        fill(path, version)
        finish(layer(path).take(f"v{number}"))


def test_pruning_killed_at_each_boundary_takes_nothing_that_a_snapshot_needs(tmp_path: Path) -> None:
    assert killed_everywhere(tmp_path, three, lambda path: layer(path).prune()) >= 6
    kept = [one.name for one in finish(layer(tmp_path / "1").snapshots())]
    assert kept == ["v3"]
    blobs = [path for path in (tmp_path / "1/scratch/store/blobs").rglob("*") if path.is_file()]
    assert len(blobs) == 4, "what no snapshot names is gone, also what the killed one left"


def exported(path: Path) -> None:
    fill(path, "new")
    finish(layer(path).take("one"))
    finish(layer(path).export_to("one", str(path / "one.tar.gz")))
    shutil.rmtree(path / "scratch")


def test_importing_killed_at_each_boundary_leaves_nothing_or_all_of_it(tmp_path: Path) -> None:
    assert killed_everywhere(tmp_path, exported, lambda path: layer(path).import_from(str(path / "one.tar.gz"))) >= 4


def test_exporting_killed_at_each_boundary_leaves_no_half_file(tmp_path: Path) -> None:
    def begin(path: Path) -> None:
        fill(path, "new")
        finish(layer(path).take("one"))

    async def life(path: Path) -> None:
        target = path / "one.tar.gz"
        if target.exists():
            await layer(path).import_from(str(target))  # it appeared, so it is whole
        await layer(path).export_to("one", str(target))

    assert killed_everywhere(tmp_path, begin, life) >= 2
    assert leftovers(tmp_path) == []


@pytest.mark.timeout(120)
def test_a_restore_killed_at_random_instants_never_leaves_half_a_file(tmp_path: Path) -> None:
    seed = int(os.environ.get("ROLLBACKD_SEED", "0")) or random.randrange(1, 10**9)
    print(f"seed: ROLLBACKD_SEED={seed}")
    chance = random.Random(seed)
    path = tmp_path / "world"
    old, new, change = make(path, LARGE // 4)
    lengths = []
    for key in ("shop-a/0/layer", "shop-b/0/layer", "shop-c/0/layer"):  # the disk may stall in one of them
        fill(path, "old", LARGE // 4)
        change = finish(planned(layer(path), change.after, key))
        begun = time.monotonic()
        assert finish(perform(layer(path), change)) is Progress.DONE
        lengths.append(time.monotonic() - begun)
    whole = min(lengths)
    kills = 0
    for round_ in count(1):
        if kills >= KILLS:
            break
        key = f"shop-{round_}/0/layer"
        fill(path, "old", LARGE // 4)
        change = finish(planned(layer(path), change.after, key))
        for _ in range(5):
            child = os.fork()
            if child == 0:
                status = 3
                try:
                    status = 0 if asyncio.run(perform(layer(path), change)) is Progress.DONE else 4
                finally:
                    os._exit(status)
            time.sleep(chance.uniform(0, whole))
            kill(child, descending=True)
            _, status = os.waitpid(child, 0)
            ended = os.waitstatus_to_exitcode(status)
            assert ended in {0, -9}
            check_between(path, old, new)
            if ended == 0:
                break  # done before it could be killed; another life would find nothing to do
            kills += 1
        assert finish(perform(layer(path), change)) is Progress.DONE
        assert content(path) == new
        finish(layer(path).prune([change.after.id]))
    check_store(path)
    print(f"{kills} kills in {round_ - 1} restores of {whole:.2f} s")
