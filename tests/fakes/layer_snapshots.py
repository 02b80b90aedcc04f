"""A layer that keeps snapshots in memory, and commands that carry them, for the keeper's tests."""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

from rollbackd.adapter import AdapterError, Difference, Settings, Snapshot, SnapshotProblem
from rollbackd.model import Change, Problem, Progress, Release, Traits
from rollbackd.system.spawner import Finished
from tests.fakes.clock import ManualClock


@dataclass
class FakeKept:
    """What it does next is in its fields; `calls` says what was done to it."""

    clock: ManualClock
    present: str = "r1"
    kept: list[Snapshot] = field(default_factory=list)
    """Newest first."""
    harmed: set[str] = field(default_factory=set)
    """Names of snapshots that reading finds damaged."""
    unfit: set[str] = field(default_factory=set)
    """Names of those that cannot be put together, though every hash agrees."""
    errors: dict[str, list[Exception]] = field(default_factory=dict)
    """By method, what its next calls raise, one each."""
    calls: list[str] = field(default_factory=list)
    hold_up: asyncio.Event | None = None
    """Taking waits for it."""
    spared: frozenset[str] = frozenset()
    traits: Traits = field(default_factory=Traits)
    resource: str = "kept"
    settings_model: ClassVar[type[Settings]] = Settings

    def add(self, name: str, release: str, age: timedelta = timedelta(), **more: Any) -> Snapshot:
        """A snapshot that is there already."""
        one = Snapshot(name, release, self.clock.now() - age, **more)
        self.kept = sorted([*self.kept, one], key=lambda each: each.created, reverse=True)
        return one

    def _called(self, what: str) -> None:
        self.calls.append(what)
        if errors := self.errors.get(what.partition(" ")[0]):
            raise errors.pop(0)

    async def current(self) -> Release:
        self._called("current")
        return Release(self.present)

    async def releases(self) -> Sequence[Release]:
        return [Release(one.release) for one in self.kept if one.restorable]

    async def plan(self, target: Release) -> Change:
        return Change("config", Release(self.present), target)

    async def apply(self, change: Change) -> None:
        self.present = change.after.id

    async def progress(self, change: Change) -> Progress:
        return Progress.DONE

    async def ready(self) -> Sequence[Problem]:
        return []

    async def take(self, name: str = "", why: str = "manual") -> Snapshot:
        self._called(f"take {why}")
        if self.hold_up is not None:
            await self.hold_up.wait()
        return self.add(name or f"s{len(self.kept) + 1}", self.present, why=why)

    async def snapshots(self) -> Sequence[Snapshot]:
        self._called("snapshots")
        return list(self.kept)

    async def verify(self, name: str) -> Sequence[SnapshotProblem]:
        self._called(f"verify {name}")
        return [SnapshotProblem(name, "/etc/x", "its content is not what was saved")] if name in self.harmed else []

    async def rehearse(self, name: str) -> Sequence[SnapshotProblem]:
        self._called(f"rehearse {name}")
        return [SnapshotProblem(name, "", "no room for it")] if name in self.unfit else []

    async def diff(self, older: str, newer: str = "") -> Sequence[Difference]:
        self._called(f"diff {older} {newer}")
        return [Difference("/etc/x", "changed", ("- a", "+ b"))]

    async def restore(self, name: str, key: str, only: Sequence[str] = ()) -> Snapshot:
        self._called(f"restore {name}")
        saved = self.add(f"before-{key}", self.present, why="before")
        self.present = next(one.release for one in self.kept if one.name == name)
        return saved

    async def export_to(self, name: str, path: str) -> None:
        self._called(f"export {name}")
        Path(path).write_text(name)

    async def import_from(self, path: str) -> Snapshot:
        self._called("import")
        name, release = Path(path).read_text().split()
        self.kept = [one for one in self.kept if one.name != name]
        return self.add(name, release, why="import")

    async def prune(self, spare: Collection[str] = (), last: int = 0) -> Sequence[str]:
        self._called(f"prune {last}")
        self.spared = frozenset(spare)
        gone = [one for one in self.kept[last:] if one.release not in spare] if last else []
        self.kept = [one for one in self.kept if one not in gone]
        return [one.name for one in gone]


@dataclass
class FakeDatabase(FakeKept):
    """One that also keeps its schema alone."""

    schemas: list[Snapshot] = field(default_factory=list)
    """Newest first."""

    async def take_schema(self, why: str = "manual") -> Snapshot:
        self._called(f"take_schema {why}")
        name = f"schema{len(self.schemas)}"
        one = Snapshot(name, "", self.clock.now(), why, restorable=False, kind="schema")
        self.schemas.insert(0, one)
        return one

    async def prune_schemas(self, last: int = 0) -> Sequence[str]:
        self._called(f"prune_schemas {last}")
        gone, self.schemas = self.schemas[last:], self.schemas[:last]
        return [one.name for one in gone]

    async def snapshots(self) -> Sequence[Snapshot]:
        return sorted([*await super().snapshots(), *self.schemas], key=lambda one: one.created, reverse=True)


@dataclass
class FakeRemote:
    """A spawner whose commands carry files to a dictionary: `send FILE`, `list`, `fetch NAME DIRECTORY`."""

    files: dict[str, str] = field(default_factory=dict)
    """Name of each copy, to what `FakeKept.import_from` reads."""
    fails: str = ""
    """The program that exits 1."""
    loses: bool = False
    """What is sent does not arrive."""
    hangs: Callable[[Sequence[str]], bool] = lambda _argv: False
    """Which commands do nothing until their time is over."""
    clock: ManualClock | None = None
    """For those."""
    limits: dict[str, timedelta] = field(default_factory=dict)
    """By program, how long it was given last."""
    ran: list[tuple[str, ...]] = field(default_factory=list)

    async def run(self, argv: Sequence[str], *, timeout: timedelta, env: Mapping[str, str] | None = None) -> Finished:
        self.ran.append(tuple(argv))
        self.limits[argv[0]] = timeout
        done = Finished(tuple(argv), 0, b"", False, "", "", timedelta())
        if self.hangs(argv) and self.clock is not None:
            await self.clock.sleep(timeout)
            return replace(done, code=-9, timed_out=True)
        if argv[0] == self.fails:
            return replace(done, code=1, tail=f"{argv[0]}: no route to host\n")
        if argv[0] == "send" and not self.loses:
            self.files[Path(argv[1]).name] = Path(argv[1]).read_text()
        if argv[0] == "list":
            return replace(done, stdout="".join(f"{name}\n" for name in self.files).encode())
        if argv[0] == "fetch" and argv[1] in self.files:
            Path(argv[2], argv[1]).write_text(self.files[argv[1]])
        return done


def refused(text: str, *, permanent: bool = True) -> AdapterError:
    return AdapterError(text, permanent=permanent)
