"""A SQLite file that is looked into, and that an application's own programs can be sent to."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from rollbackd_adapters.databases import OpenDatabase
from rollbackd_adapters.schemas import DatabaseSchema, Survey
from rollbackd_adapters.sqlite.jobs import SqliteJobs


class SqliteFile(OpenDatabase):
    """One file, opened only by the worker."""

    def __init__(self, file: Path, jobs: SqliteJobs) -> None:
        self._file = file
        self._jobs = jobs

    def url(self, dialect: str) -> str:
        return f"{dialect or 'sqlite'}:///{self._file}"

    @asynccontextmanager
    async def reached(self) -> AsyncIterator[Mapping[str, str]]:
        yield {}

    async def heads(self, table: str) -> tuple[str, ...]:
        return tuple((await self._ask("heads", table=table))["heads"])

    async def set_heads(self, table: str, heads: Sequence[str]) -> None:
        await self._ask("set_heads", table=table, heads=list(heads))

    async def schema(self, table: str) -> DatabaseSchema:
        return DatabaseSchema.read(await self._ask("schema")).without(table)

    async def survey(self, table: str) -> Survey:
        return Survey.read(await self._ask("survey", table=table), table)

    async def settle(self) -> None:
        """Nothing is left: locks end with their process."""

    async def _ask(self, what: str, **job: Any) -> dict[str, Any]:
        return await self._jobs.run(what, file=str(self._file), **job)
