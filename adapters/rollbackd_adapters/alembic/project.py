"""Sends jobs to the project's own interpreter: what its migrations are, what its commands reach, and to take one.

No job has a secret: where a password is, its environment says.
"""

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rollbackd.adapter import AdapterError
from rollbackd.system.spawner import Lock, one_line
from rollbackd_adapters.alembic import migrations
from rollbackd_adapters.alembic.graph import MigrationGraph
from rollbackd_adapters.alembic.settings import AlembicSettings
from rollbackd_adapters.base import LayerPart
from rollbackd_adapters.databases import OpenDatabase
from rollbackd_adapters.failures import as_adapter_errors
from rollbackd_adapters.threads import in_thread
from rollbackd_adapters.traces import Trace


class MigrationFailedError(AdapterError):
    """What the project's own code raised."""


class Project(LayerPart[AlembicSettings]):
    """The project's migrations, as the code that is there has them."""

    _known: tuple[Mapping[str, Any], MigrationGraph] | None = None
    """The graph, and the files that it was read from as they were then."""

    async def graph(self) -> MigrationGraph:
        """:raises AdapterError: the project does not say."""
        if self._known is not None and await in_thread(_stamps, self._known[0]) == self._known[0]:
            return self._known[1]
        answer = await self._ask(self._command("graph"), self._own)
        try:
            graph = MigrationGraph.read(answer)
            self._known = await in_thread(_stamps, answer["files"]), graph
        except (KeyError, TypeError, AttributeError) as error:
            raise AdapterError(
                f"{self._place.layer}: the graph of migrations has no {error}", permanent=True
            ) from error
        return graph

    async def heads(self, database: OpenDatabase, lock: Lock) -> tuple[str, ...]:
        """What the project's commands find in the version table, wherever they look."""
        async with database.reached() as environment:
            answer = await self._ask(self._command("heads", database), self._told(database, environment), lock)
        return tuple(map(str, answer.get("heads", ())))

    async def move(
        self, database: OpenDatabase, lock: Lock, *revisions: str, up: bool = False, abandon: bool = False
    ) -> None:
        """Take migrations, one after the other. It ends with us.

        :param abandon: take the last one back at its end, as a kill there would.
        """
        argv = self._command("move", database, revisions=revisions, up=up, abandon=abandon)
        async with database.reached() as environment:
            await self._ask(argv, self._told(database, environment), lock)

    async def move_recorded(
        self, database: OpenDatabase, lock: Lock, trace: Trace, revision: str, *, up: bool = False
    ) -> None:
        """Take one migration, once for a change; it goes on when we are killed."""
        argv = self._command("move", database, revisions=(revision,), up=up, abandon=False)
        async with database.reached() as environment:
            with as_adapter_errors():
                ended = await self._spawner.run_recorded(
                    argv,
                    record=trace.record(f"{'up' if up else 'down'}-{revision}"),
                    lock=lock,
                    timeout=self._settings.timeout,
                    cwd=self._settings.directory,
                    env=self._told(database, environment),
                    user=self._settings.run_as,
                )
        self._answer(ended.tail, ended.ending, ok=ended.ok)

    def _command(self, what: str, database: OpenDatabase | None = None, **job: Any) -> list[str]:
        settings = self._settings
        job |= {"do": what, "config": str(settings.config), "section": settings.section}
        if database is not None:
            job["url"] = database.url(settings.dialect)
        return [str(settings.python), migrations.__file__, json.dumps(job)]

    def _told(self, database: OpenDatabase, environment: Mapping[str, str]) -> Mapping[str, str]:
        name = self._settings.url_env
        where = {name: database.url(self._settings.dialect)} if name else {}
        return {**self._own, **where, **environment}

    @property
    def _own(self) -> Mapping[str, str]:
        """What each of its commands is told; the project's directory stays as it is."""
        return {"PYTHONDONTWRITEBYTECODE": "1", **self._settings.env}

    async def _ask(self, argv: Sequence[str], environment: Mapping[str, str], lock: Lock | None = None) -> Any:
        settings = self._settings
        with as_adapter_errors():
            ended = await self._spawner.run(
                argv,
                timeout=settings.timeout,
                cwd=settings.directory,
                env=environment,
                lock=lock,
                user=settings.run_as,
            )
        said = ended.stdout.decode(errors="replace")
        return self._answer(said, "took longer than `timeout`" if ended.timed_out else ended.ending, ok=ended.ok)

    def _answer(self, said: str, ending: str, *, ok: bool) -> Mapping[str, Any]:
        lines = [line for line in said.splitlines() if line.startswith(migrations.ANSWER)]
        try:
            answer = json.loads(lines[-1].removeprefix(migrations.ANSWER))
            error = answer.get("error")
        except (IndexError, ValueError, AttributeError) as fault:
            text = f"{self._place.layer}: {self._settings.python} broke off: {ending}"
            raise AdapterError(text, permanent=False) from fault
        if error is not None or not ok:
            text = f"{self._place.layer}: {one_line(self._spawner.clean(str(error or ending)))}"
            if answer.get("lost"):
                raise AdapterError(f"{text}; the database went away meanwhile", permanent=False)
            raise MigrationFailedError(text, permanent=False)
        return dict(answer)


def _stamps(files: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """What changes when a file does, or what a directory has."""
    found: dict[str, tuple[int, ...]] = {}
    for file in files:
        with contextlib.suppress(OSError):
            status = Path(file).stat()
            found[file] = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return found
