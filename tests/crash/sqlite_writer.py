"""A writer or a reader of a database, as an application is: `sqlite_writer.py write|read FILE LOG NUMBER`.

A writer notes each commit in its own file once it was acknowledged. Both begin anew only where SQLite says `busy`;
anything else that a restore does to them ends them with a status of 1.
"""

import os
import sqlite3
import sys
import time

PAUSE = 0.003
"""Seconds; without any, one writer in rollback mode has the file for itself, and nobody else has a turn."""


def write(file: str, log: str, number: str) -> None:
    db = sqlite3.connect(file, timeout=30, isolation_level=None)
    noted = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    count = 0
    while True:
        count += 1
        name = f"{number}-{count}"
        try:
            db.execute("BEGIN IMMEDIATE")
            db.execute("INSERT INTO notes (text) VALUES (?)", (name,))
            db.execute("INSERT INTO pairs (text) VALUES (?)", (name,))
            db.execute("COMMIT")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
            if db.in_transaction:
                db.execute("ROLLBACK")
            continue
        os.write(noted, f"{name}\n".encode())
        time.sleep(PAUSE)


def read(file: str, _log: str, _number: str) -> None:
    """Both tables are written together and restored together, so no instant has more of one."""
    db = sqlite3.connect(file, timeout=30, isolation_level=None)
    while True:
        try:
            db.execute("BEGIN")
            first, second = (db.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in ("notes", "pairs"))
            db.execute("COMMIT")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
            if db.in_transaction:
                db.execute("ROLLBACK")
            continue
        if first != second:
            sys.exit(f"{first} and {second}: half of two")
        time.sleep(PAUSE)


if __name__ == "__main__":
    {"write": write, "read": read}[sys.argv[1]](*sys.argv[2:])
