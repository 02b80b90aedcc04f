"""Downgrades tried on a copy beside the present: what each does, what all of them lose, and whether they can be undone.

First it is proved that the project's commands reach the copy: env.py may go where it likes. Each migration is run
twice, the first time abandoned at its end: what is left then a kill would leave, too. At last it is upgraded again.
"""

import hashlib
import json
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rollbackd.adapter import AdapterError
from rollbackd.system.boundary import boundary
from rollbackd.system.spawner import Lock
from rollbackd_adapters.alembic.graph import MigrationGraph, release_of
from rollbackd_adapters.alembic.project import MigrationFailedError, Project
from rollbackd_adapters.alembic.settings import AlembicSettings
from rollbackd_adapters.databases import OpenDatabase
from rollbackd_adapters.schemas import DatabaseSchema, Loss, Survey, differences, losses


class TornError(Exception):
    """A migration that was abandoned at its end left something: it commits midway."""

    def __init__(self, revision: str) -> None:
        super().__init__(revision)
        self.revision = revision


@dataclass(frozen=True, slots=True)
class Milestone:
    """Where the way back comes by: before the first migration, and after each."""

    revision: str
    """The migration that was taken back last; empty at the beginning."""
    release: str
    schema: str
    """A hash of the schema there."""


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What a rehearsal found."""

    stops: tuple[Milestone, ...]
    losses: tuple[Loss, ...] = ()
    does: tuple[str, ...] = ()
    """What each migration does, a sentence each."""
    torn: tuple[str, ...] = ()
    """The migrations that commit midway."""
    forward: str = ""
    """Why it cannot be upgraded again; empty: it can."""
    failed: str = ""
    """Why it cannot be done at all; empty: it can."""

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> "Rehearsal":
        """As `written` gave it. :raises KeyError, TypeError: it is none."""
        stops = tuple(Milestone(*one) for one in given["stops"])
        lost = tuple(Loss(*one) for one in given["losses"])
        return cls(stops, lost, tuple(given["does"]), tuple(given["torn"]), given["forward"], given["failed"])

    @property
    def written(self) -> dict[str, Any]:
        return {
            "stops": [[one.revision, one.release, one.schema] for one in self.stops],
            "losses": [[one.name, one.text] for one in self.losses],
            "does": list(self.does),
            "torn": list(self.torn),
            "forward": self.forward,
            "failed": self.failed,
        }

    def unasked(self, allowed: Collection[str]) -> tuple[str, ...]:
        """What people must be asked about, a sentence each.

        :param allowed: tables and columns that may be lost.
        """
        found = [one.text for one in self.losses if not {one.name, one.name.rpartition(".")[0]} & {*allowed}]
        found += [f"{one} commits midway: cut off there, only the copy has the database whole" for one in self.torn]
        return (*found, *([self.forward] if self.forward else []))


class Rehearsals:
    """The rehearsals of one layer."""

    def __init__(self, settings: AlembicSettings, project: Project) -> None:
        self._settings = settings
        self._project = project
        self._table = settings.version_table

    async def prove(self, trial: OpenDatabase, lock: Lock) -> None:
        """See that the project's commands reach the copy, by a revision that only it has.

        :raises AdapterError: permanent, they go elsewhere.
        """
        known, false = await trial.heads(self._table), f"rollbackd{secrets.token_hex(8)}"
        await trial.set_heads(self._table, [false])
        found = await self._project.heads(trial, lock)
        await trial.set_heads(self._table, known)
        if found != (false,):
            told = f"`{self._settings.url_env}`" if self._settings.url_env else "`sqlalchemy.url`"
            text = f"the project's commands do not reach the copy that {told} names: they found {release_of(found).id}"
            raise AdapterError(f"{text}; let env.py go by it, or correct `url_env` and `version_table`", permanent=True)

    async def run(
        self,
        trial: OpenDatabase,
        graph: MigrationGraph,
        way: Sequence[str],
        target: str,
        lock: Lock,
        known: Rehearsal | None = None,
        torn: Collection[str] = (),
    ) -> tuple[Rehearsal, Survey]:
        """Go the way back on a copy; what was found, and what the copy held at first.

        :param known: what an earlier one found, of the same migrations: only what depends on the data is tried again.
        :param torn: migrations that commit midway, which is known.
        :raises TornError: another one does; the copy is of no more use.
        :raises AdapterError: permanent, it cannot be done.
        """
        await self.prove(trial, lock)
        boundary("alembic.proved")
        first = before = await trial.survey(self._table)
        stops, does = [_stop("", first)], []
        for revision in way:
            if known is None and revision not in torn:
                await self._abandon(trial, revision, lock, before)
            try:
                await self._project.move(trial, lock, revision)
            except MigrationFailedError as error:
                text = f"{graph.name(revision)} cannot be taken back: {error}"
                raise MigrationFailedError(text, permanent=True) from error
            after = await trial.survey(self._table)
            stops.append(_stop(revision, after))
            does.append(f"{graph.name(revision)} {_done(before, after)}")
            before = after
        if stops[-1].release != target:
            text = f"the downgrades end at {stops[-1].release} and not at {target}"
            raise AdapterError(f"{text}; look at what they do to {self._table}", permanent=True)
        forward = known.forward if known is not None else await self._forward(trial, way, first.schema, lock)
        lost = losses(first.contents, before.contents)
        return Rehearsal(tuple(stops), lost, tuple(does), tuple(sorted(torn)), forward), first

    async def forward(self, trial: OpenDatabase, graph: MigrationGraph, way: Sequence[str], lock: Lock) -> Rehearsal:
        """Go the way forward on a copy.

        :raises AdapterError: it cannot be done, and nothing but the copy was touched.
        """
        await self.prove(trial, lock)
        before = await trial.survey(self._table)
        stops, does = [_stop("", before)], []
        for revision in way:
            try:
                await self._project.move(trial, lock, revision, up=True)
            except MigrationFailedError as error:
                text = f"{graph.name(revision)} fails on a copy: {error}; nothing else was touched"
                raise AdapterError(text, permanent=True) from error
            after = await trial.survey(self._table)
            stops.append(_stop(revision, after))
            does.append(f"{graph.name(revision)} {_done(before, after)}")
            before = after
        return Rehearsal(tuple(stops), does=tuple(does))

    async def _abandon(self, trial: OpenDatabase, revision: str, lock: Lock, before: Survey) -> None:
        try:
            await self._project.move(trial, lock, revision, abandon=True)
        except MigrationFailedError:
            return  # which it says again when it is not abandoned
        await trial.settle()
        if await trial.survey(self._table) != before:
            raise TornError(revision)

    async def _forward(self, trial: OpenDatabase, way: Sequence[str], began: DatabaseSchema, lock: Lock) -> str:
        """Why it cannot be upgraded again; empty: it can."""
        try:
            await self._project.move(trial, lock, *reversed(way), up=True)
        except MigrationFailedError as error:
            return f"it could not be upgraded again afterwards: {error}"
        if differ := differences(began, await trial.schema(self._table)):
            return f"upgraded again it would not be what it was: {', '.join(differ)}"
        return ""


def _stop(revision: str, found: Survey) -> Milestone:
    return Milestone(revision, release_of(found.heads).id, digest(found.schema))


def digest(schema: DatabaseSchema) -> str:
    return hashlib.sha256(json.dumps(schema.written, sort_keys=True).encode()).hexdigest()


def _done(before: Survey, after: Survey) -> str:
    """What one migration did, for people."""
    was, now = before.schema.tables, after.schema.tables
    changed = [*(f"drops table {name}" for name in was if name not in now)]
    changed += [f"adds table {name}" for name in now if name not in was]
    for name in was.keys() & now.keys():
        old, new = was[name].columns, now[name].columns
        changed += [f"drops {name}.{column}" for column in old if column not in new]
        changed += [f"adds {name}.{column}" for column in new if column not in old]
        if (rows := after.contents.rows.get(name, 0) - before.contents.rows.get(name, 0)) != 0:
            changed.append(f"{'adds' if rows > 0 else 'deletes'} {abs(rows)} rows of {name}")
    if changed:
        return ", ".join(sorted(changed))
    if differ := differences(before.schema, after.schema):
        return f"changes {', '.join(differ)}"
    return "changes values alone" if before.contents != after.contents else "does nothing"
