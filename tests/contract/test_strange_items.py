"""One strange item never hides the others: over every adapter that lists releases, and every way to be strange."""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rollbackd.adapter import Adapter, AdapterError
from rollbackd.execution.layers import Layers, resolve
from rollbackd.model import Progress
from rollbackd.remote import wire
from rollbackd.testing import finish, perform, planned
from rollbackd_adapters.copies import CopyStore, DataCopy
from rollbackd_adapters.kubernetes.workload import Workload
from rollbackd_adapters.postgres.backup_repository import _usable
from rollbackd_adapters.traces import named
from tests.contract.kubernetes_worlds import template
from tests.contract.test_adapters_env import EnvWorld
from tests.contract.test_adapters_http import HttpWorld
from tests.contract.test_adapters_releases import ReleasesWorld
from tests.contract.test_adapters_sqlite import SqliteWorld
from tests.contract.worlds import CommandWorld, GitCheckoutWorld, git, script
from tests.fakes.switchboard import Switchboard, switchboard

HERE = {"command", "http", "env", "releases", "remote", "sqlite", "postgres", "kubernetes", "git"}
"""Adapters with a list that others write into, whose strange items are below."""
ELSEWHERE = {
    "files": "tests/contract/test_files_forged.py and tests/contract/test_files_trouble.py",
    "alembic": "its releases are the scripts of the project, which is read as a whole or not",
    "canary": "its releases are the share that it is and none",
    **dict.fromkeys(("blue_green", "nginx"), "its releases are the choices of its configuration"),
    **dict.fromkeys(("systemd", "redis"), "it has no releases"),
    **dict.fromkeys(("scale", "pgbouncer", "freeze", "drain"), "a bracket, without releases"),
}
"""The others, and where theirs are or why there are none."""
HUGE = "x" * 300_000
TOLD: Mapping[str, Any] = {
    "no object": 17.5,
    "null": None,
    "a list": [[["v9"]]],
    "without an id": {"label": "v9"},
    "an id that is an object": {"id": {"a": 1}},
    "an option": {"id": "--upload-pack=x"},
    "a path": {"id": "../../etc"},
    "two lines": {"id": "a\nb"},
    "nothing": {"id": ""},
    "a huge id": {"id": HUGE},
    "a huge label": {"id": "v9", "label": HUGE},
    "a label with half a character": {"id": "v9", "label": "\ud800\x1b[2J"},
    "a label that is a number": {"id": "v9", "label": 10**300},
    "a year that no calendar has": {"id": "v9", "created": 99999999999999999},
    "a time in words": {"id": "v9", "created": "soon"},
    "a time without a zone": {"id": "v9", "created": "2024-01-01T00:00:00"},
    "the last second of all": {"id": "v9", "created": "9999-12-31T23:59:59-23:59"},
    "undated": {"id": "v9", "created": None},
    "a duplicate": {"id": "v1", "label": "again"},
}
"""By what is strange about it, an item that somebody tells between v2 and v1."""


def test_every_adapter_is_named_here() -> None:
    assert {one.name for one in entry_points(group="rollbackd.adapters")} == HERE | ELSEWHERE.keys()
    assert not HERE & ELSEWHERE.keys()


def well(adapter: Adapter, *known: str) -> str:
    """All is as if the item were not there, or were one more release; what the plan for v1 says about it."""
    found = finish(adapter.releases())
    told = [name for release in found for name in known if name in {release.id, release.label}]
    assert told == list(known)
    assert len({release.id for release in found}) == len(found)
    for release in found:
        assert len(release.label) <= 200
        assert json.dumps(release.label).isascii()
        release.label.encode()
        assert release.created is None or release.created.tzinfo is not None
    sorted(found, key=lambda release: release.created.timestamp() if release.created else 0)
    layers = Layers(cast("Any", SimpleNamespace(layers={"layer": None})), {"layer": adapter})
    assert finish(layers.ready(["layer"])) == ()
    change = finish(planned(adapter, resolve("layer", known[-1], found)))
    assert finish(perform(adapter, change)) is Progress.DONE
    return " ".join(change.risks)


@pytest.mark.parametrize("strange", TOLD)
def test_a_command_tells_something_strange(tmp_path: Path, strange: str) -> None:
    world = CommandWorld(tmp_path)
    items = ["v3", {"id": "v2", "created": "2024-01-01T00:00:00Z"}, TOLD[strange], "v1"]
    (tmp_path / "told").write_text(json.dumps(items))
    script(Path(world.programs["releases"]), f"cat {tmp_path}/told")
    adapter = world.adapter()
    there = len(finish(adapter.releases()))
    said = well(adapter, "v3", "v2", "v1")
    assert ("1 of the releases are passed over" in said) == (there == 3 and strange not in {"a duplicate", "null"})


@pytest.fixture(scope="module")
def board() -> Iterator[Switchboard]:
    with switchboard() as running:
        yield running


@pytest.mark.parametrize("strange", TOLD)
def test_a_service_tells_something_strange(board: Switchboard, tmp_path: Path, strange: str) -> None:
    world = HttpWorld(board, tmp_path)
    item = TOLD[strange]
    if isinstance(item, dict):
        words = {"id": "sha", "label": "title", "created": "at"}
        item = {words[name]: value for name, value in item.items()}
    world.desk.told = [{"sha": "v3"}, {"sha": "v2", "at": 1_700_000_000}, item, {"sha": "v1"}]
    well(world.adapter(), "v3", "v2", "v1")


def _dated(seconds: int) -> Callable[[Path], None]:
    def made(path: Path) -> None:
        path.mkdir()
        os.utime(path, (seconds, seconds))

    return made


def _revision(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def made(path: Path) -> None:
        path.mkdir()
        make(path / "REVISION")

    return made


DIRECTORIES: Mapping[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a loop": lambda path: path.symlink_to(path.name),
    "a date long ago": _dated(-10_000_000_000),
    "a date far away": _dated(2**40),
    "a revision that is a pipe": _revision(os.mkfifo),
    "a revision that is a directory": _revision(Path.mkdir),
    "a huge revision": _revision(lambda path: path.write_bytes(b"\xff" * 2**24)),
}


@pytest.mark.parametrize("order", ["name", "mtime"])
@pytest.mark.parametrize("strange", DIRECTORIES)
def test_a_directory_of_releases_has_something_strange(tmp_path: Path, strange: str, order: str) -> None:
    world = ReleasesWorld(tmp_path, order=order)
    for age, name in enumerate(("v3", "v2", "v1")):
        os.utime(world.directory / name, (2_000_000_000 - age, 2_000_000_000 - age))
    DIRECTORIES[strange](world.directory / "v9")
    well(world.adapter(), "v3", "v2", "v1")


@pytest.mark.parametrize("name", ["v\udcff", "a\nb", "-rf", "..x", "v" * 255, "$(id)", ".hidden"])
def test_a_directory_of_releases_has_something_oddly_named(tmp_path: Path, name: str) -> None:
    world = ReleasesWorld(tmp_path)
    (world.directory / name).mkdir()
    well(world.adapter(), "v3", "v2", "v1")


def test_a_release_that_cannot_be_looked_at_is_passed_over_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = ReleasesWorld(tmp_path)
    world.deploy("v9")
    real = os.open

    def denied(path: Any, *given: Any, **more: Any) -> int:
        if Path(path).name == "v9":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *given, **more)

    monkeypatch.setattr(os, "open", denied)
    said = well(world.adapter(), "v3", "v2", "v1")
    assert "1 of the releases are passed over" in said
    assert "v9: rollbackd's user may not do that" in said


MEMORIES = {
    "cut off": '{"content": {"MODE',
    "another shape": "[1, 2]",
    "no time": '{"content": {}, "seen": "x"}',
    "not a number": '{"content": CONTENT, "seen": NaN}',
    "never": '{"content": CONTENT, "seen": 1e400}',
    "a far year": '{"content": CONTENT, "seen": 99999999999999}',
    "deep": "[" * 100_000,
    "empty": "",
}


@pytest.mark.parametrize("strange", MEMORIES)
def test_what_is_remembered_of_a_file_is_damaged(tmp_path: Path, strange: str) -> None:
    world = EnvWorld(tmp_path)
    first = finish(world.adapter().current())
    world.switch("readonly", "shop-1/0/flags")
    directory = tmp_path / "scratch" / "contents"
    (known,) = (path for path in directory.iterdir() if path.stem == first.id)
    content = json.dumps(json.loads(known.read_text())["content"])
    (directory / "00.json").write_text(MEMORIES[strange].replace("CONTENT", content))
    (directory / "01.json").mkdir()
    found = finish(world.adapter().releases())
    assert first.id in {release.id for release in found}
    world.switch(first.id, "shop-2/0/flags")
    assert finish(world.adapter().current()).id == first.id


@pytest.mark.parametrize("strange", TOLD)
def test_another_host_tells_something_strange(strange: str) -> None:
    answered = [{"id": "v2"}, TOLD[strange], {"id": "v1"}]
    found = wire.method("releases").read_result(answered)
    assert [release.id for release in found if release.id in {"v2", "v1"} and release.label != "again"] == ["v2", "v1"]


def test_a_list_without_a_single_release_is_an_answer_of_another_shape(tmp_path: Path) -> None:
    world = CommandWorld(tmp_path)
    script(Path(world.programs["releases"]), "echo '[17, 18]'")
    with pytest.raises(AdapterError, match="is no release; print an id"):
        finish(world.adapter().releases())
    script(Path(world.programs["releases"]), "head -c 200000 /dev/zero | tr '\\0' '['")
    with pytest.raises(AdapterError, match="is not JSON"):
        finish(world.adapter().releases())


COPIES: Mapping[str, Any] = {
    "deep": "[" * 100_000,
    "of no size": '{"id": "0123456789ab", "created": "2026-01-01T00:00:00Z", "why": "x", "lineage": null, "size": 1e400}',
    "of digits": '{"size": ' + "9" * 5000 + "}",
    "empty": "",
}


@pytest.mark.parametrize("strange", COPIES)
def test_a_copy_of_data_has_something_strange(tmp_path: Path, strange: str) -> None:
    world = SqliteWorld(tmp_path)
    finish(world.adapter().take("second"))
    store = CopyStore(tmp_path / "scratch" / "store")
    before = finish(world.adapter().releases())
    bad = store.directory / "strange"
    bad.mkdir()
    (bad / "manifest.json").write_text(COPIES[strange])
    (store.directory / "second" / "verified.json").write_text(COPIES[strange])
    adapter = world.adapter()
    assert finish(adapter.releases()) == before
    assert {"first", "second", "strange"} <= {one.name for one in finish(adapter.snapshots())}
    assert finish(adapter.as_of(datetime.now(UTC) + timedelta(seconds=5))) is not None
    assert "second" not in store.verified()
    assert store.unreadable() == ["strange"]


@pytest.mark.parametrize("created", ["9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00"])
def test_a_copy_of_the_end_of_all_time_can_be_reckoned_with(created: str) -> None:
    given: dict[str, Any] = {
        "id": "0123456789ab",
        "created": created,
        "why": "x",
        "lineage": None,
        "size": 1,
        "facts": {},
    }
    copy = DataCopy.read("copy", given)
    assert copy.created - timedelta(days=366) < copy.created.astimezone(UTC) < copy.created + timedelta(days=366)


NUMBERS = {"of 5,000 digits": "9" * 5000, "of other digits": "\N{ARABIC-INDIC DIGIT NINE}", "in words": "soon"}


@pytest.mark.parametrize("strange", NUMBERS)
async def test_a_replica_set_has_a_strange_revision(strange: str) -> None:
    def kept(name: str, number: str) -> dict[str, Any]:
        about = {"name": name, "uid": name, "annotations": {"deployment.kubernetes.io/revision": number}}
        owner = {"controller": True, "uid": "web"}
        return {"metadata": {**about, "ownerReferences": [owner]}, "spec": {"template": template(f"web:{name}")}}

    async def items(*_: Any, **__: Any) -> list[dict[str, Any]]:
        return [kept("1", "1"), kept("9", NUMBERS[strange]), kept("2", "2")]

    workload = Workload(cast("Any", SimpleNamespace(items=items)), "shop", "deployment/web")
    about = {"metadata": {"uid": "web"}, "spec": {"selector": {"matchLabels": {"app": "web"}}}}
    assert [each.number for each in await workload.revisions(about)] == [2, 1, 0]


@pytest.mark.needs("git")
def test_a_pushed_tag_says_something_strange(tmp_path: Path) -> None:
    world = GitCheckoutWorld(tmp_path)
    code = world.adapter()
    mine = finish(code.take("mine"))
    message = f"x\n\nRollbackd-Why: x\nRollbackd-Files: {'9' * 5000}\nRollbackd-Size: {'9' * 5000}\n"
    git(world.repo, "tag", "-a", "-m", message, "snapshot-strange", "v1")
    assert {one.name for one in finish(code.snapshots())} == {mine.name, "snapshot-strange"}


@pytest.mark.parametrize("damage", ["[" * 100_000, "9" * 5000, ""])
def test_a_trace_that_is_damaged_hides_no_other(tmp_path: Path, damage: str) -> None:
    for name, text in (("a", damage), ("b", '{"before": "v1"}')):
        (tmp_path / "changes" / name).mkdir(parents=True)
        (tmp_path / "changes" / name / "begun.json").write_text(text)
    assert named(tmp_path, "before") == {"v1"}


@pytest.mark.parametrize(
    "strange",
    [
        None,
        {},
        {"database": None},
        {"timestamp": {"stop": 10**30}},
        {"timestamp": {"stop": "soon"}},
        {"archive": {"stop": "x"}},
        {"lsn": {"start": "9" * 5000, "stop": "0/1"}},
        {"info": {"size": math.inf}},
    ],
)
def test_a_repository_of_backups_has_something_strange(strange: Any) -> None:
    sound = {
        "database": {"id": 1, "repo-key": 1},
        "label": "20260101-000000F",
        "lsn": {"start": "0/1", "stop": "0/2"},
        "timestamp": {"stop": 1_700_000_000},
        "archive": {"stop": "000000010000000000000001"},
        "info": {"size": 1},
    }
    damaged = {**sound, "label": "strange", **strange} if strange else strange
    assert [one.label for one in _usable([damaged, sound], (1, 1))] == ["20260101-000000F"]
    with pytest.raises(ValueError, match="in each backup"):
        _usable([damaged], (1, 1))
