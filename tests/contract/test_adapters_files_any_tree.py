"""A snapshot brings back what was there, bit for bit, whatever is there now; on real directories, in memory where it can."""

import asyncio
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rollbackd.testing import place
from rollbackd_adapters.files import FilesAdapter, FilesSettings
from rollbackd_adapters.files.jobs import Jobs, Stop

NAMES = st.sampled_from(["a", "b", "c", ".hidden", "d e\n", os.fsdecode(b"\xff\xc3")])
IDS = [0, 65534] if os.geteuid() == 0 else [os.geteuid()]
FILE = st.tuples(
    st.just("file"),
    st.binary(max_size=40),
    st.sampled_from([0o600, 0o644, 0o400, 0o4755]),
    st.sampled_from(IDS),
    st.integers(0, 2**31),
)
LINK = st.tuples(st.just("link"), st.sampled_from(["a", "../b", "/etc/passwd", "nowhere", "."]), st.sampled_from(IDS))
TREE = st.recursive(
    st.dictionaries(NAMES, st.one_of(FILE, LINK), max_size=4),
    lambda below: st.dictionaries(
        NAMES,
        st.one_of(
            FILE, LINK, st.tuples(st.just("dir"), below, st.sampled_from([0o700, 0o755, 0o2750]), st.sampled_from(IDS))
        ),
        max_size=4,
    ),
    max_leaves=8,
)
numbers = count()


@pytest.fixture(scope="module")
def memory() -> Iterator[Path]:
    """A directory in memory where there is one: thousands of files are put on disk here, and no disk is being tried."""
    shared = Path("/dev/shm")
    path = Path(tempfile.mkdtemp(prefix="rollbackd-test-", dir=shared if os.access(shared, os.W_OK) else None))
    yield path
    shutil.rmtree(path)


def make(directory: Path, tree: dict[str, Any]) -> None:
    for name, (kind, *what) in tree.items():
        path = directory / name
        match kind, *what:
            case "file", data, mode, owner, seconds:
                path.write_bytes(data)
                os.chown(path, owner, owner)
                path.chmod(mode)
                os.utime(path, ns=(1, seconds * 10**9 + 7))
            case "link", target, owner:
                path.symlink_to(target)
                os.lchown(path, owner, owner)
            case "dir", below, mode, owner:
                path.mkdir()
                make(path, below)
                os.chown(path, owner, owner)
                path.chmod(mode)


def seen(directory: Path) -> dict[str, tuple[object, ...]]:
    """All that there is to see of it, but for the times of directories."""
    found: dict[str, tuple[object, ...]] = {}
    for path in directory.rglob("*"):
        status = path.lstat()
        what: tuple[object, ...] = (
            stat.S_IFMT(status.st_mode),
            stat.S_IMODE(status.st_mode),
            status.st_uid,
            status.st_gid,
        )
        if path.is_symlink():
            what += (str(path.readlink()), status.st_mtime_ns)
        elif path.is_file():
            what += (path.read_bytes(), status.st_mtime_ns)
        found[str(path.relative_to(directory))] = what
    return found


def layer(path: Path, **given_settings: Any) -> FilesAdapter:
    values = {"adapter": "files", "paths": [str(path / "conf")], "room": 0, **given_settings}
    return FilesAdapter(FilesSettings.model_validate(values), place(path))


class AtOnce(Jobs):
    """Does the work where it is asked for: a thousand examples need no thread each."""

    async def run(self, work: Callable[[Stop], Any]) -> Any:
        return work(lambda: None)


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@given(before=TREE, damage=TREE, partly=st.booleans())
@settings(max_examples=1000, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_any_tree_survives_snapshot_damage_and_restore_bit_for_bit(
    memory: Path, loop: asyncio.Runner, before: dict[str, Any], damage: dict[str, Any], partly: bool
) -> None:
    path = memory / str(next(numbers))
    conf = path / "conf"
    conf.mkdir(parents=True)
    make(conf, before)
    ours = layer(path)
    ours._jobs = ours._mover._jobs = AtOnce("layer")
    taken = loop.run(ours.take("good"))
    good = seen(conf)
    kept = [name for name in before if partly and name not in damage]
    for name in before:
        if name not in kept:
            victim = conf / name
            shutil.rmtree(victim) if victim.is_dir() and not victim.is_symlink() else victim.unlink()
    make(conf, damage)
    bad = seen(conf)
    saved = loop.run(ours.restore("good", "first"))
    assert seen(conf) == good
    assert loop.run(ours.current()).id == taken.release
    loop.run(ours.restore(saved.name, "and back"))
    assert seen(conf) == bad
    shutil.rmtree(path)
