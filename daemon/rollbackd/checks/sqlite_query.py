"""Asks a SQLite database for one value: a question of JSON comes in, an answer of JSON goes out. Standard library only.

Run as a file: closing a database drops every lock that its process has on it, so the daemon itself opens none.
"""

import json
import sqlite3
import sys
from contextlib import closing
from typing import Any
from urllib.parse import quote

_THEIRS = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
"""Errors that a user of the database would meet as well."""


def asked(question: dict[str, Any]) -> dict[str, Any]:
    """The value, or the error, and whether it is the database's own."""
    try:
        path = f"file:{quote(question['file'])}?mode=ro"
        with closing(sqlite3.connect(path, timeout=question["within"], isolation_level=None, uri=True)) as database:
            database.execute("PRAGMA query_only = 1")
            cursor = database.execute(question["sql"])
            row = cursor.fetchone()
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        return {"error": f"{question['file']}: {error}", "theirs": code in _THEIRS}
    if row is None or len(row) != 1 or isinstance(row[0], bytes):
        return {"error": "`sql` gives no row of one value; correct it", "theirs": False}
    return {"value": row[0]}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asked(json.load(sys.stdin))))
