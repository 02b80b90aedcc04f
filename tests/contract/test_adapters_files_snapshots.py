"""Snapshots of adapter `files`: rehearsed, shown without secrets, pruned, and carried to other hosts."""

import gzip
import io
import os
import shutil
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from rollbackd.adapter import AdapterError, Difference, SnapshotProblem, Snapshots
from rollbackd.execution.layers import resolve
from rollbackd.model import Progress, Release
from rollbackd.system import boundary
from rollbackd.testing import finish, perform, planned
from tests.contract.files_worlds import at, content, failure, fill, layer


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


def test_a_release_goes_by_the_names_of_all_its_snapshots(tmp_path: Path, conf: Path) -> None:
    ours = layer(tmp_path)
    finish(ours.take("before-the-summer"))
    finish(ours.take("hourly"))
    fill(conf, 2)
    finish(ours.take("after-it"))
    releases = finish(ours.releases())
    assert [release.names for release in releases] == [("after-it",), ("hourly", "before-the-summer")]
    summer = resolve("config", "before-the-summer", releases)
    assert (summer.id, summer.label) == (releases[1].id, "hourly")


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


def test_wherever_one_bit_of_an_archive_is_another_it_is_refused_or_the_same(tmp_path: Path, conf: Path) -> None:
    """What is said of the whole snapshot too, such as when it was taken. The rest are bits that mean nothing."""
    ours, file = layer(tmp_path), tmp_path / "v1.tar.gz"
    taken = finish(ours.take("v1"))
    finish(ours.export_to("v1", str(file)))
    whole = file.read_bytes()

    def taken_in(body: bytes) -> tuple[object, ...] | None:
        """Anew; None where it is refused for good."""
        file.write_bytes(body)
        shutil.rmtree(tmp_path / "scratch", ignore_errors=True)
        other = layer(tmp_path)
        try:
            found = finish(other.import_from(str(file)))
        except AdapterError as refused:
            if not refused.permanent:
                raise
            return None
        return found.name, found.release, found.created, list(finish(other.verify("v1")))

    wanted: tuple[object, ...] = (taken.name, taken.release, taken.created, [])
    assert taken_in(whole) == wanted
    for place in range(0, len(whole), max(1, len(whole) // 300)):
        flipped = bytes([*whole[:place], whole[place] ^ 1 << place % 8, *whole[place + 1 :]])
        assert taken_in(flipped) in (None, wanted), f"byte {place} of {len(whole)}"
    assert taken_in(whole + gzip.compress(bytes(2**25))) is None, "what follows it is not read without end"
