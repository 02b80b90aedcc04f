"""What a database that was replaced has and the restored one has not: the rows that are newer than the copy.

By `loss` it is known which column of a table says when a row was written; the newest value that the copy has is in its
manifest. Of other tables only the numbers of rows can be compared. Rows go to files alone, never into a message.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rollbackd.adapter import AdapterError, Difference
from rollbackd_adapters import lacks
from rollbackd_adapters.copies import DataCopy
from rollbackd_adapters.postgres.catalogue import Database, counted, table_of
from rollbackd_adapters.postgres.server import DatabaseServer, literal, sql, value
from rollbackd_adapters.postgres.settings import PostgresSettings

if TYPE_CHECKING:
    from psycopg.sql import Composed

    from rollbackd_adapters.postgres.server import Connection


class Leftovers:
    """Looks into replaced databases of one layer."""

    def __init__(self, settings: PostgresSettings, server: DatabaseServer) -> None:
        self._settings = settings
        self._server = server

    async def of(self, old: Database, copy: DataCopy, into: Path | None) -> Sequence[Difference]:
        """What it has beyond a copy, a table each.

        :param into: a directory in which a CSV file for each table of `loss` is made; None: rows are only counted.
        :raises AdapterError: it cannot be asked, or a file cannot be written, or is there already.
        """
        found = []
        columns = self._settings.loss
        async with self._server.connect(old.name, "lost", self._settings.timeout) as connection:
            await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            named = {}
            for given, column in columns.items():
                table = await table_of(connection, given)
                named[table] = True
                newer = _newer(table, column, copy.facts.get("newest", {}).get(given))
                rows = await value(connection, sql("SELECT count(*) FROM ({}) newer", newer))
                if rows:
                    where = await self._export(connection, newer, into, ".".join(table)) if into is not None else ()
                    found.append(Difference(".".join(table), "removed", (f"rows {rows} newer than the copy", *where)))
            was = {tuple(table["table"]): table["rows"] for table in copy.facts["rows"]}
            for table_rows in await counted(connection):
                name = tuple(table_rows["table"])
                if name not in named and table_rows["rows"] != was.get(name, 0):
                    lines = (
                        f"rows {table_rows['rows']}, the copy has {was.get(name, 0)}; `loss` has no column for it",
                    )
                    found.append(Difference(".".join(name), "changed", lines))
        return found

    async def _export(self, connection: "Connection", newer: "Composed", into: Path, name: str) -> tuple[str, ...]:
        path = into / f"{name.replace('/', '_')}.csv"
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            said = lacks.hint(error, EEXIST="it is there already; name an empty directory")
            raise AdapterError(f"{path}: {said}", permanent=True) from error
        raw = connection.info.parameter_status("server_encoding") == "SQL_ASCII"  # whose bytes may be no text
        encoding = literal("SQL_ASCII" if raw else "UTF8")
        copying = sql("COPY ({}) TO STDOUT (FORMAT csv, HEADER, ENCODING {})", newer, encoding)
        with os.fdopen(descriptor, "wb") as file:
            async with connection.cursor() as cursor, cursor.copy(copying) as rows:
                async for data in rows:
                    file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return (f"written to {path}",)


def _newer(table: tuple[str, str], column: str, newest: object) -> "Composed":
    """The rows that were written after the newest one of a copy; all of them, where the copy has none."""
    if newest is None:
        return sql("SELECT * FROM {}", table)
    return sql("SELECT * FROM {} WHERE {} > {}", table, column, literal(newest))
