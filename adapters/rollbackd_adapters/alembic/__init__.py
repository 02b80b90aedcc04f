"""Migrations of a database by Alembic: its schema goes back one downgrade at a time, rehearsed on a copy before.

A release is the set of heads in the version table, which is read here; the database is a layer of its own, which also
makes the copies. The downgrades are those of the code that is there now, and the project's own interpreter runs them.
Nothing is moved before a verified copy of the present lies in the database's store and the whole way was gone on it.

https://alembic.sqlalchemy.org/
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from rollbackd.adapter import AdapterError, Needs, Place
from rollbackd.model import Change, Progress, Release, Traits
from rollbackd.syntax.units import writable
from rollbackd.system.boundary import boundary
from rollbackd.system.spawner import Lock, one_line
from rollbackd_adapters import lacks
from rollbackd_adapters.alembic.graph import MigrationGraph, heads_of, release_of
from rollbackd_adapters.alembic.project import MigrationFailedError, Project
from rollbackd_adapters.alembic.rehearsal import Rehearsal, Rehearsals, TornError, digest
from rollbackd_adapters.alembic.settings import AlembicSettings
from rollbackd_adapters.base import StepAdapter
from rollbackd_adapters.copies import BEFORE
from rollbackd_adapters.databases import PATIENCE, DatabaseAdapter, OpenDatabase
from rollbackd_adapters.failures import holding
from rollbackd_adapters.ids import check_own
from rollbackd_adapters.schemas import DatabaseSchema, Survey, mismatches
from rollbackd_adapters.threads import in_thread
from rollbackd_adapters.traces import Trace, cut_off, write_facts

_HEAD = r"[A-Za-z0-9_.]{1,64}"
_FAILED_FOR = timedelta(minutes=10)
"""How long a rehearsal that failed is believed."""
_RELEASE = re.compile(rf"(?!\.+(\+|$)){_HEAD}(\+{_HEAD}){{0,15}}")


class AlembicAdapter(StepAdapter[AlembicSettings]):
    """The schema of a database."""

    settings_model = AlembicSettings
    traits = Traits(data=True, local=True)

    def __init__(self, settings: AlembicSettings, place: Place) -> None:
        super().__init__(settings, place)
        self.resource = f"alembic:{place.service}/{settings.database}"
        self._project = Project(settings, place)
        self._rehearsals = Rehearsals(settings, self._project)

    needs = Needs()

    @property
    def rests_on(self) -> Sequence[Path]:
        """What its steps need as it is now: the code with the downgrades."""
        given = (self._settings.config, self._settings.python)
        return (*given, *(Path(os.path.realpath(path)) for path in given))

    @property
    def part_of(self) -> str:
        """The database, which goes back with its schema."""
        return self._settings.database

    def misfit(self) -> str:
        """What is wrong with the layer that it names; empty: nothing."""
        try:
            self._found()
        except ValueError as error:
            return str(error)
        return ""

    def _found(self) -> DatabaseAdapter[Any]:
        found = self._place.other(self._settings.database)
        if not isinstance(found, DatabaseAdapter):
            raise ValueError(f'layer "{self._settings.database}" is no database; name one of sqlite or postgres')  # noqa: TRY004
        return found

    @property
    def _database(self) -> DatabaseAdapter[Any]:
        try:
            return self._found()
        except ValueError as error:
            raise AdapterError(f"{self._place.layer}: {error}", permanent=True) from error

    # -- releases -------------------------------------------------------------------------------
    async def _heads(self) -> tuple[str, ...]:
        return await self._database.opened.heads(self._settings.version_table)

    async def current(self) -> Release:
        present = release_of(await self._heads())
        self._check_id(present)
        if not self._kept(present.id).exists():
            await self._keep(present)
        return present

    async def releases(self) -> Sequence[Release]:
        heads = await self._heads()
        try:
            return (await self._project.graph()).releases(heads)
        except AdapterError as error:
            if not error.permanent:
                raise
            return [release_of(heads)]  # `plan` and `ready` say why there is no way

    def _check_id(self, release: Release) -> None:
        check_own(release, _RELEASE, "a set of heads of migrations")

    async def plan(self, target: Release) -> Change:
        self._check_id(target)
        before = await self.current()
        layer = self._place.layer
        if target.id == before.id:
            return Change(layer, before, before)
        graph = await self._project.graph()
        way = graph.way(heads_of(before.id), heads_of(target.id))
        found = await self._rehearsed(graph, way, target)
        if found.failed:
            raise AdapterError(f"{found.failed}; {await self._instead(target)}", permanent=True)
        asked = found.unasked(self._settings.allow)
        risks = [*found.does, *asked, *([await self._instead(target)] if asked else [])]
        said = f"a copy of {self._settings.database} is taken first, and nobody may write until the last step is done"
        return Change(layer, before, Release(target.id), reversible=not asked, risks=(*map(writable, risks), said))

    async def _instead(self, target: Release) -> str:
        """What takes the data back instead."""
        database = self._settings.database
        copy = await in_thread(self._database.has_revision, heads_of(target.id))
        if copy is None:
            return f"no copy of {database} has this schema, so data cannot go back to it either"
        told = f"`rollbackd rollback {self._place.service} --to {database}={copy.name}`"
        return f"instead {told} brings back the data of {copy.created:%Y-%m-%d %H:%M:%S} UTC, which has this schema"

    # -- rehearsals -----------------------------------------------------------------------------
    async def _rehearsed(self, graph: MigrationGraph, way: Sequence[str], target: Release) -> Rehearsal:
        """What a rehearsal found that fits what is there, or what a new one finds."""
        async with holding(self._spawner, f"alembic-rehearsal:{self._place.scratch}", PATIENCE) as lock:
            schema = await self._database.opened.schema(self._settings.version_table)
            named = json.dumps([graph.digest, digest(schema), way, target.id, self._settings.version_table])
            path = self._place.scratch / "rehearsals" / f"{hashlib.sha256(named.encode()).hexdigest()}.json"
            if (found := await in_thread(self._read_rehearsal, path)) is None:
                try:
                    found, _ = await self._tried(self._apart_now, graph, way, target.id, lock)
                except MigrationFailedError as error:
                    if not error.permanent:  # env.py itself, or the way to the copy
                        raise
                    found = Rehearsal((), failed=str(error))
                await in_thread(self._keep_rehearsal, path, found)
            return found

    def _keep_rehearsal(self, path: Path, found: Rehearsal) -> None:
        """Write it down; those that are too old to be gone by are removed."""
        for old in path.parent.glob("*.json"):
            if self._read_rehearsal(old) is None:
                old.unlink(missing_ok=True)
        write_facts(path, {"at": self._clock.now().isoformat(), "found": found.written})

    def _read_rehearsal(self, path: Path) -> Rehearsal | None:
        """A rehearsal that is not too old; None: there is none, or it cannot be read."""
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            facts = json.loads(path.read_bytes())
            found, age = Rehearsal.read(facts["found"]), self._clock.now() - datetime.fromisoformat(facts["at"])
            if age < (_FAILED_FOR if found.failed else self._settings.rehearse_every):
                return found
        return None

    def _apart_now(self) -> AbstractAsyncContextManager[OpenDatabase]:
        return self._database.apart_now(self._settings.run_as)

    async def _tried(
        self,
        apart: Callable[[], AbstractAsyncContextManager[OpenDatabase]],
        graph: MigrationGraph,
        way: Sequence[str],
        target: str,
        lock: Lock,
        known: Rehearsal | None = None,
    ) -> tuple[Rehearsal, Survey]:
        """Go the way on a copy, and on a new one where a migration commits midway."""
        torn = {*(known.torn if known is not None else ())}
        while True:
            async with apart() as trial:
                try:
                    return await self._rehearsals.run(trial, graph, way, target, lock, known, torn)
                except TornError as error:
                    torn.add(error.revision)

    # -- the step -------------------------------------------------------------------------------
    async def _move(self, change: Change, trace: Trace, lock: Lock) -> None:
        database = self._database
        async with holding(self._spawner, database.resource, PATIENCE):
            live = database.opened
            await live.settle()
            if "rehearsal" not in trace.known:
                await self._prepare(change, trace, live, lock)
            await self._go(live, trace, lock)

    async def _go(self, live: OpenDatabase, trace: Trace, lock: Lock, *, up: bool = False) -> None:
        """Go the way that was rehearsed, from wherever on it the database is."""
        found = Rehearsal.read(trace.known["rehearsal"])
        while (at := await self._stop(found, live, trace)) + 1 < len(found.stops):
            coming = found.stops[at + 1]
            await self._project.move_recorded(live, lock, trace, coming.revision, up=up)
            boundary("alembic.moved")
            if release_of(await live.heads(self._settings.version_table)).id != coming.release:
                done = "applied" if up else "taken back"
                text = f"{coming.revision} was {done}, and the version table does not say so; {self._copied(trace)}"
                raise AdapterError(text, permanent=True)

    async def _prepare(self, change: Change, trace: Trace, live: OpenDatabase, lock: Lock) -> None:
        """Take a copy and go the whole way on it. Nothing of what runs is touched before that went well."""
        database, user = self._database, self._settings.run_as
        graph = await self._project.graph()
        way = graph.way(heads_of(change.before.id), heads_of(change.after.id))
        told = await self._rehearsed(graph, way, change.after)
        copy = await database.take(why=BEFORE)
        boundary("alembic.kept")
        found, held = await self._tried(
            lambda: database.apart(copy.name, user), graph, way, change.after.id, lock, None if told.failed else told
        )
        asked = found.unasked(self._settings.allow)
        if change.reversible and asked:
            text = f"{'; '.join(asked)}: which was not so when it was planned"
            raise AdapterError(f"{writable(text)}; nothing was touched; plan it again", permanent=True)
        if (await live.survey(self._settings.version_table)).contents != held.contents:
            text = f"somebody wrote to {self._settings.database} since it was copied"
            raise AdapterError(
                f"{text}; nothing was touched; stop who writes by a bracket of the plan", permanent=False
            )
        trace.intend(copy=copy.name, rehearsal=found.written)
        boundary("alembic.rehearsed")

    async def _stop(self, found: Rehearsal, live: OpenDatabase, trace: Trace) -> int:
        """Where on its way the database is.

        :raises AdapterError: permanent, it is not on it, or between two stops.
        """
        release = release_of(await live.heads(self._settings.version_table)).id
        at = next((n for n, stop in enumerate(found.stops) if stop.release == release), None)
        if at is None:
            raise await self._superseded()
        if digest(await live.schema(self._settings.version_table)) != found.stops[at].schema:
            text = f"the version table says {release}, and the schema is not what it is there: a migration broke off"
            raise AdapterError(f"{text}; {self._copied(trace)}", permanent=True)
        return at

    def _copied(self, trace: Trace) -> str:
        where = f"{self._place.service} {self._settings.database} {trace.known['copy']}"
        return f"the present from before is whole: `rollbackd snapshot restore {where}`"

    async def _progress(self, change: Change, trace: Trace) -> Progress:
        present = release_of(await self._heads()).id
        if trace.done is not None:
            return Progress.DONE if present == change.after.id else Progress.SUPERSEDED
        stops = trace.known.get("rehearsal", {}).get("stops", ())
        expected = {change.before.id, *(stop[1] for stop in stops)}
        return Progress.NOT_STARTED if present in expected else Progress.SUPERSEDED

    async def _elsewhere(self) -> str:
        return f"{self._place.layer} is not at a revision of this way: somebody else migrated it"

    # -- forward --------------------------------------------------------------------------------
    async def forward(self, to: str = "") -> Change:
        layer, heads = self._place.layer, await self._heads()
        if (begun := await self._cut_off(heads)) is not None:
            if to not in {"", begun["after"]}:
                text = f"an upgrade to {begun['after']} was cut off at {release_of(heads).id}"
                raise AdapterError(f"{layer}: {text}; finish that first: leave `--to` out", permanent=True)
            return Change(layer, Release(begun["before"]), Release(begun["after"]), key=begun["key"])
        graph = await self._project.graph()
        after, way = graph.forward(heads, heads_of(to) if to else ())
        key = f"upgrade-{self._clock.now():%Y%m%dT%H%M%S.%fZ}"
        return Change(layer, release_of(heads), release_of(after), risks=tuple(map(graph.name, way)), key=key)

    async def _cut_off(self, heads: Sequence[str]) -> dict[str, Any] | None:
        """What was written of an upgrade that a crash cut off, while the database is still on its way."""
        begun = await in_thread(cut_off, self._place.scratch)
        stops = Rehearsal.read(begun["rehearsal"]).stops if begun.get("up") else ()
        return begun if release_of(heads).id in {stop.release for stop in stops} else None

    async def stands_midway(self) -> str:
        heads = await self._heads()
        if (begun := await self._cut_off(heads)) is None:
            return ""
        service, layer = self._place.service, self._place.layer
        text = f"{service}/{layer}: an upgrade to {begun['after']} was cut off at {release_of(heads).id}"
        again = f"`rollbackd layer upgrade {service} {layer}` goes on with it"
        return f"{text}; {again}, and copy {begun['copy']} of {self._settings.database} has what was there before"

    async def upgrade(self, change: Change) -> str:
        self._check(change)
        trace, database = Trace(self._place.scratch, change), self._database
        async with holding(self._spawner, self.resource) as lock, holding(self._spawner, database.resource, PATIENCE):
            live = database.opened
            await live.settle()
            if "rehearsal" not in trace.known:
                await self._prepare_upgrade(change, trace, live, lock)
            try:
                await self._go(live, trace, lock, up=True)
            except MigrationFailedError as error:
                trace.finish(failed=str(error))  # so that the next order begins anew
                text = f"{error}; it is at {release_of(await self._heads()).id} now, and {self._copied(trace)}"
                raise AdapterError(text, permanent=True) from error
            trace.finish(after=change.after.id)
        return str(trace.known["copy"])

    async def _prepare_upgrade(self, change: Change, trace: Trace, live: OpenDatabase, lock: Lock) -> None:
        """Take a copy, and go the whole way on it."""
        database, graph = self._database, await self._project.graph()
        before = heads_of(change.before.id)
        if await live.heads(self._settings.version_table) != before:
            raise await self._superseded()
        _, way = graph.forward(before, heads_of(change.after.id))
        copy = await database.take(why=BEFORE)
        boundary("alembic.kept")
        async with database.apart(copy.name, self._settings.run_as) as trial:
            found = await self._rehearsals.forward(trial, graph, way, lock)
        trace.intend(copy=copy.name, rehearsal=found.written, up=True)
        boundary("alembic.rehearsed")

    # -- readiness ------------------------------------------------------------------------------
    async def _problems(self) -> list[str]:
        settings, spawner = self._settings, self._spawner
        texts = [*lacks.not_somebody_else(settings.run_as), *lacks.missing_programs(spawner, [str(settings.python)])]
        if not settings.config.is_file():
            texts.append(f"{settings.config}: there is no such file; correct `config`")
        if texts:
            return texts
        try:
            heads, graph = await self._heads(), await self._project.graph()
            graph.behind(heads)
        except AdapterError as error:
            return [str(error)]
        if not heads:
            return [f"{settings.version_table} has no revision; correct `version_table`, or migrate the database first"]
        return [problem.text for problem in await self._database.ready()]

    # -- what good states knew ------------------------------------------------------------------
    def _kept(self, release: str) -> Path:
        return self._place.scratch / "schemas" / f"{hashlib.sha256(release.encode()).hexdigest()}.json"

    async def _keep(self, present: Release) -> None:
        """Remember the schema that a release has, for code that goes back to it alone."""
        schema = await self._database.opened.schema(self._settings.version_table)
        if release_of(await self._heads()) == present:
            await in_thread(write_facts, self._kept(present.id), schema.written)

    @property
    def named_in(self) -> Path | None:
        return self._settings.revision_file

    def named(self, text: str) -> Release:
        heads = text.replace("+", " ").split()
        if not heads or _RELEASE.fullmatch(found := release_of(heads).id) is None:
            raise AdapterError(f"{one_line(text)[:80]!r} is no revision; write the one that it needs", permanent=True)
        return Release(found)

    async def carried_by(self, release: Release) -> Release | None:
        heads = await self._database.heads_of(release.id, self._settings.version_table)
        return None if heads is None else release_of(heads)

    async def unfit(self, release: Release) -> Sequence[str]:
        self._check_id(release)
        if release.id == release_of(await self._heads()).id:
            return ()
        try:
            known = DatabaseSchema.read(json.loads(await in_thread(self._kept(release.id).read_bytes)))
        except FileNotFoundError:
            return (f"what schema {release.id} had is not known here",)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            return (f"what schema {release.id} had cannot be read: {one_line(str(error))}",)
        return tuple(map(writable, mismatches(known, await self._database.opened.schema(self._settings.version_table))))
