"""All that opens a SQLite database, in a process of its own: `python -I worker.py JOB`, a file of JSON; so its answer.

POSIX locks belong to a process: closing a file drops every lock of its process on that file. So the live database is
opened here by SQLite alone, and what must read its bytes is a process again. A broken database ends only this one.
Copies are opened read-only and immutable: nothing beside them is believed, and nothing of them can change.

https://www.sqlite.org/backup.html https://www.sqlite.org/howtocorrupt.html
"""

import contextlib
import gzip
import hashlib
import json
import os
import re
import shutil
import sqlite3
import sys
import tarfile
import time
import zlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rollbackd.system.boundary import boundary
from rollbackd.system.supervisor import sync_directory, write_durably
from rollbackd.system.whole_file import ours_alone, whole_file

VIEW = "rollbackd_lineage"
"""A view in the database says which restore it stems from; it is no part of the application's schema."""
MIGRATED = "alembic_version"
"""What a table is called by default that has the heads of migrations."""
FIRST = 512 * 2**10
"""How many bytes a restore writes at once: fewer than SQLite keeps in memory, so the file is untouched at first."""
CHUNK = 2**20
_SIDECARS = ("-journal", "-wal", "-shm")
_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_PAUSE = 0.002
_ATTEMPT = 0.25
"""Seconds that SQLite itself waits for others, keeping new ones out meanwhile. It looks ever more seldom, so among busy
writers many short attempts succeed where a long one starves."""
_LOOK = 15.0
"""Seconds that a look waits for those who write."""
_SHOWN = 5
_FOREIGN = re.compile(r"no such (?:collation sequence|module|function)|unknown function")
"""What SQLite says of what only the application has."""
_COLLATED = re.compile(r"\bCOLLATE\s+(?:[\"'\[`]([^\"'\]`]+)|(\w+))", re.IGNORECASE)
_OWN = frozenset({"BINARY", "NOCASE", "RTRIM"})
"""SQLite's own collations."""
Job = dict[str, Any]


class Failed(Exception):  # noqa: N818  # an answer
    """The sentence says what is broken, and what to do."""

    def __init__(self, message: str, *, permanent: bool) -> None:
        super().__init__(message)
        self.permanent = permanent


# -- opening --------------------------------------------------------------------------------------
def _uri(path: str, options: str) -> str:
    return f"file:{quote(path)}?{options}"


def _opened(path: str, options: str, timeout: float = _ATTEMPT) -> contextlib.closing[sqlite3.Connection]:
    return contextlib.closing(sqlite3.connect(_uri(path, options), timeout=timeout, isolation_level=None, uri=True))


def _frozen(path: str) -> contextlib.closing[sqlite3.Connection]:
    """A copy. :raises Failed: something lies beside it that SQLite would take for its own."""
    for suffix in _SIDECARS:
        if os.path.lexists(path + suffix):
            raise Failed(f"{path}{suffix} lies beside the copy: it was opened, and may have changed", permanent=True)
    return _opened(path, "mode=ro&immutable=1")


def _looked_at(path: str, *, recover: bool = False) -> contextlib.closing[sqlite3.Connection]:
    """The live database, to read. Without a `-wal` nobody has it open in that mode, and nothing need be made beside it.

    :param recover: finish what a killed restore of ours left, as the application would by opening it.
    """
    if not os.path.exists(path):
        raise Failed(f"{path}: there is no such database; put one there, or correct `file`", permanent=False)
    if recover and os.path.exists(f"{path}-journal"):
        return _opened(path, "mode=rw")
    return _opened(path, "mode=ro")


def _begin(live: sqlite3.Connection, within: float = _LOOK) -> None:
    """Begin to read: all that follows is of one instant."""
    end = time.monotonic() + within
    while True:
        try:
            live.execute("BEGIN")
            live.execute("SELECT count(*) FROM sqlite_schema").fetchall()
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _BUSY or time.monotonic() > end:
                raise
            if live.in_transaction:
                live.execute("ROLLBACK")
            time.sleep(_PAUSE)
        else:
            return


def _one(connection: sqlite3.Connection, sql: str) -> Any:
    row = connection.execute(sql).fetchone()
    return row[0] if row is not None else None


# -- what a database is ---------------------------------------------------------------------------
def look(job: Job) -> Job:
    """The lineage, and what a restore must fit into: one query, and four words of the header."""
    path = job["file"]
    try:
        with _looked_at(path, recover=job.get("recover", False)) as live:
            _begin(live)
            lineage = _lineage(live)
            found = {
                "journal": _one(live, "PRAGMA journal_mode"),
                "page": _one(live, "PRAGMA page_size"),
                "encoding": _one(live, "PRAGMA encoding"),
                "unasked": [text for query in job.get("queries", ()) if (text := _unasked(live, query["sql"]))],
            }
    except sqlite3.DatabaseError as error:
        if _broken(error):
            lineage, found = {"id": "unreadable"}, {"journal": "", "page": 0, "encoding": "", "unasked": []}
        else:
            raise
    return {"lineage": lineage, "size": os.stat(path).st_size, **found}


def _broken(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}


def _lineage(connection: sqlite3.Connection) -> Job | None:
    known = connection.execute("SELECT 1 FROM sqlite_schema WHERE type = 'view' AND name = ?", (VIEW,)).fetchone()
    if known is None:
        return None
    row = connection.execute(f"SELECT id, since, was FROM {VIEW}").fetchone()  # noqa: S608  # the view's own name
    return {"id": str(row[0]), "since": str(row[1]), "was": str(row[2])}


def _described(connection: sqlite3.Connection) -> Job:
    """What a copy is verified by: its schema, the rows of each table, the violations of foreign keys that it has."""
    rows = connection.execute(
        "SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_schema WHERE name <> ? ORDER BY type, name", (VIEW,)
    ).fetchall()
    tables = [name for kind, name, _, sql in rows if kind == "table" and not sql.upper().startswith("CREATE VIRTUAL")]
    violations = sum(1 for _ in _checked(connection, "foreign_key_check"))
    _stand_in(connection)
    return {
        "schema": hashlib.sha256(json.dumps(rows).encode()).hexdigest(),
        "rows": {name: _one(connection, f"SELECT count(*) FROM {_quoted(name)}") for name in tables},  # noqa: S608
        "violations": violations,
        "encoding": _one(connection, "PRAGMA encoding"),
        "page": _one(connection, "PRAGMA page_size"),
        "pages": _one(connection, "PRAGMA page_count"),
    }


def _checked(connection: sqlite3.Connection, check: str) -> Iterator[Any]:
    """The rows of a check; where SQLite does not know all that it needs, those of the tables that it can check.

    It does not know what only the application has, nor which row a foreign key means whose parent is no key.
    """
    try:
        yield from connection.execute(f"PRAGMA {check}")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_ERROR:
            raise
    else:
        return
    for (table,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall():
        try:
            yield from connection.execute(f"PRAGMA {check}({_quoted(table)})")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_ERROR:
                raise


def _stand_in(connection: sqlite3.Connection) -> None:
    """Have something in place of the collations that only the application has, which is enough to read whole tables."""
    for (text,) in connection.execute("SELECT sql FROM sqlite_schema WHERE sql LIKE '%collate%'").fetchall():
        for name in map("".join, _COLLATED.findall(text)):
            if name.upper() not in _OWN:
                connection.create_collation(name, lambda one, other: (one > other) - (one < other))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def describe(job: Job) -> Job:
    """The same of the live database."""
    with _looked_at(job["file"]) as live:
        _begin(live)
        return _described(live)


def _harms(path: str, known: Job, *, whole: bool) -> list[str]:
    """What is wrong with a copy, a sentence each. An empty file passes the integrity check, so the rows are counted."""
    try:
        with _frozen(path) as copy:
            found = _checked(copy, "integrity_check") if whole else ()
            harms = [f"integrity_check: {text}" for (text,) in islice(found, _SHOWN) if text != "ok"]
            seen = _described(copy)
    except sqlite3.Error as error:
        return [f"it cannot be read: {error}"]
    if known.get("schema") not in {None, seen["schema"]}:
        harms.append("its schema is not the one that was copied")
    for table in sorted({*known.get("rows", {}), *seen["rows"]}) if "rows" in known else ():
        was, now = known["rows"].get(table), seen["rows"].get(table)
        if was != now:
            harms.append(f"table {table} has {now} rows, {was} were copied")
    if known.get("violations", seen["violations"]) != seen["violations"]:
        harms.append(f"foreign_key_check finds {seen['violations']}, {known['violations']} were copied")
    return harms


def _digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(job: Job) -> Job:
    """Read a copy as a whole."""
    path, known = job["copy"], job["facts"]
    try:
        with _frozen(path):
            pass
    except Failed as error:
        return {"harms": [str(error)]}
    if known.get("sha256") not in {None, found := _digest(path)}:
        return {"harms": ["its bytes are not those that were copied"]}
    harms = _harms(path, known, whole=True)
    if harms or "rows" in known:
        return {"harms": harms}
    with _frozen(path) as copy:  # what a restore kept is described once there is time
        return {"harms": [], "facts": {**known, **_described(copy), "sha256": found}}


# -- copies ---------------------------------------------------------------------------------------
def take(job: Job) -> Job:
    """Copy the live database as of one instant. Writers wait for it in rollback mode; in WAL mode nobody does."""
    with _looked_at(job["file"]) as live:
        _begin(live)
        lineage = _lineage(live)  # the read begins here, so a write meanwhile does not begin the copy anew
        began = time.monotonic()
        mode = _one(live, "PRAGMA journal_mode")
        _backup(live, job["into"], job["within"])
        facts = {"journal": mode, **_owner(job["file"])}
    boundary("sqlite.copied")
    with _opened(job["into"], "mode=rw") as copy:  # a restore puts it in place as it is
        _name(copy, {"id": job["id"], "since": "", "was": ""})
    _sync(job["into"])
    with _frozen(job["into"]) as copy:
        facts |= {**_described(copy), "named": True, "revisions": _heads(copy, MIGRATED)}
    facts["sha256"] = _digest(job["into"])
    age = time.monotonic() - began
    return {"lineage": lineage, "age": age, "facts": facts, "size": os.stat(job["into"]).st_size}


def _backup(source: sqlite3.Connection, into: str, within: float) -> None:
    """All of it into a new file, on disk when this returns. :raises Failed: it takes longer than `within` seconds."""
    descriptor = os.open(into, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    os.close(descriptor)
    with _opened(into, "mode=rw") as target:
        target.execute("PRAGMA synchronous = OFF")
        source.backup(target, pages=4096, progress=_bounded(within), sleep=_PAUSE)
    for suffix in _SIDECARS:
        Path(into + suffix).unlink(missing_ok=True)
    _sync(into)


def _bounded(within: float) -> Callable[[int, int, int], None]:
    """For `backup`, which by itself waits for a lock for ever."""
    end = time.monotonic() + within

    def progress(_status: int, _remaining: int, _total: int) -> None:
        if time.monotonic() > end:
            raise Failed(
                f"the copy took longer than {within:.0f} s: it is locked, or large; see `timeout`", permanent=False
            )

    return progress


def _owner(path: str) -> Job:
    status = os.stat(path)
    return {"mode": status.st_mode & 0o7777, "uid": status.st_uid, "gid": status.st_gid}


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def prepare(job: Job) -> Job:
    """Make what is put in place: the copy, read as a whole on the way, with its new lineage in it."""
    staged, known = job["staged"], job["facts"]
    for path in (staged, *(staged + suffix for suffix in _SIDECARS)):
        Path(path).unlink(missing_ok=True)
    if (read := _copied(job["copy"], staged)) != known.get("sha256", read):
        raise Failed("its bytes are not those that were copied; use another copy", permanent=True)
    if not (job.get("read") and "sha256" in known) and (harms := _harms(staged, known, whole=True)):
        raise Failed(f"{'; '.join(harms)}; use another copy", permanent=True)
    with _opened(staged, "mode=rw") as copy:
        _name(copy, job["lineage"])
        return _asked(copy, job)


def _name(copy: sqlite3.Connection, lineage: Job) -> None:
    """Write the lineage into a copy that nobody else has open; its journal mode becomes one without further files."""
    copy.execute("PRAGMA synchronous = OFF")
    copy.execute("PRAGMA journal_mode = DELETE")
    fields = ", ".join(f"'{lineage[name]}' AS {name}" for name in ("id", "since", "was"))
    copy.execute("BEGIN IMMEDIATE")
    copy.execute(f"DROP VIEW IF EXISTS {VIEW}")
    copy.execute(f"CREATE VIEW {VIEW} AS SELECT {fields}")
    copy.execute("COMMIT")


def approve(job: Job) -> Job:
    """Read a copy that is put in place as it is."""
    known = job["facts"]
    with _frozen(job["copy"]):
        pass
    if _digest(job["copy"]) != known["sha256"]:
        raise Failed("its bytes are not those that were copied; use another copy", permanent=True)
    if not job.get("read") and (harms := _harms(job["copy"], known, whole=True)):
        raise Failed(f"{'; '.join(harms)}; use another copy", permanent=True)
    with _frozen(job["copy"]) as copy:
        return _asked(copy, job)


def _asked(copy: sqlite3.Connection, job: Job) -> Job:
    """Ask the layer's own questions. :raises Failed: permanent, where an answer is wrong, or nothing is in it."""
    for query in job["integrity"]:
        _ask(copy, query)
    if _one(copy, "PRAGMA page_count") < 2:
        raise Failed("it holds no table; use another copy", permanent=True)
    return {}


def _copied(source: str, into: str) -> str:
    """Copy the bytes of a file that nobody writes; their sha256."""
    hashed = hashlib.sha256()
    with open(source, "rb") as old, open(into, "xb") as new:
        os.fchmod(new.fileno(), 0o600)
        while data := old.read(CHUNK):
            hashed.update(data)
            new.write(data)
    return hashed.hexdigest()


def _ask(copy: sqlite3.Connection, query: Job) -> None:
    try:
        value = _one(copy, query["sql"])
    except sqlite3.Error as error:
        if said := _unknown(query["sql"], error):
            raise Failed(said, permanent=False) from error
        raise Failed(f"`{query['sql']}` cannot be asked of it: {error}; use another copy", permanent=True) from error
    if not isinstance(value, int | float):
        raise Failed(f"`{query['sql']}` gives {value!r}, which is no number; use another copy", permanent=True)
    low, high = query["low"], query["high"]
    strict_low, strict_high = query["strict_low"], query["strict_high"]
    fits = (low is None or value > low or (value == low and not strict_low)) and (
        high is None or value < high or (value == high and not strict_high)
    )
    if not fits:
        raise Failed(f"`{query['sql']}` gives {value}, {query['wants']}; use another copy", permanent=True)


def _unasked(live: sqlite3.Connection, sql: str) -> str:
    """Why a query cannot be asked of any copy; empty: nothing speaks against it."""
    try:
        live.execute(f"EXPLAIN {sql}")
    except (sqlite3.Error, sqlite3.Warning) as error:
        return _unknown(sql, error)
    return ""


def _unknown(sql: str, error: Exception) -> str:
    """That a query needs what only the application has; empty: it does not."""
    return f"`{sql}` cannot be asked here: {error}; correct `integrity`" if _FOREIGN.match(str(error)) else ""


# -- restoring ------------------------------------------------------------------------------------
def restore(job: Job) -> Job:
    """Put what was prepared into the live file, in one write transaction: a kill leaves the old one whole, or the new.

    What is there is copied inside that transaction, after its lock is held and before it changes anything: no commit
    is lost between the copy and the restore.
    """
    path = os.path.realpath(job["file"])
    try:
        return _restored_into(path, job)
    except sqlite3.DatabaseError as error:
        if not _broken(error):
            raise
    return _replaced(path, job)


def _restored_into(path: str, job: Job) -> Job:
    end = time.monotonic() + job["lock_within"]
    with _opened(path, "mode=rw", min(_ATTEMPT, job["lock_within"])) as live, _frozen(job["staged"]) as source:
        _begin(live, job["lock_within"])  # what a kill left is rolled back by this
        live.execute("PRAGMA cache_size = -16384")  # room for the first step
        mode, own = str(_one(live, "PRAGMA journal_mode")), int(_one(live, "PRAGMA page_size"))
        live.execute("COMMIT")
        page, pages = int(_one(source, "PRAGMA page_size")), int(_one(source, "PRAGMA page_count"))
        wal = mode == "wal"
        if wal and page != own:
            _leave_wal(live, path, end)
        keeper = _Keeper(job, path, wal=wal and page == own)

        def progress(status: int, _remaining: int, _total: int) -> None:
            if status not in _BUSY:
                keeper.keep()
                boundary("sqlite.step")
            elif time.monotonic() > end:
                raise Failed(
                    f"{path} is held by {_who(path)}; end that, or give it more time (`lock_within`)", permanent=False
                )

        boundary("sqlite.locking")
        step = max(1, min(FIRST // page, pages - 1))  # the first step must not be the last one: it would commit
        source.backup(live, pages=step, progress=progress, sleep=_PAUSE)
        boundary("sqlite.committed")
        if wal and page != own:
            live.execute("PRAGMA journal_mode = WAL")
    return {"kept": keeper.name}


def _leave_wal(live: sqlite3.Connection, path: str, end: float) -> None:
    """Another page size cannot go in in WAL mode, and nobody may have it open while that is left."""
    while True:
        try:
            if _one(live, "PRAGMA journal_mode = DELETE") == "delete":
                return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in _BUSY:
                raise
        if time.monotonic() > end:
            held = f"{path} is open in {_who(path)}, and the copy's page size is another one"
            raise Failed(f"{held}: stop that first, by a bracket of the plan", permanent=False)
        time.sleep(_PAUSE)


class _Keeper:
    """Copies the present while the restore holds its lock."""

    def __init__(self, job: Job, path: str, *, wal: bool) -> None:
        self.name = ""
        self._job = job
        self._path = path
        self._wal = wal

    def keep(self) -> None:
        if self.name:
            return
        store, name, beside = self.begin()
        into = os.path.join(beside, self._job["data"])
        if self._wal:
            with _opened(self._path, "mode=ro") as present:
                _backup(present, into, self._job["within"])
        else:
            _apart(lambda: _cloned(self._path, into))
        boundary("sqlite.kept")
        _appear(self._job, store, name, beside, into, _owner(self._path))
        self.name = name
        boundary("sqlite.named")

    def begin(self) -> tuple[str, str, str]:
        """The store, the name of the copy, and an empty directory for it."""
        store, name = self._job["store"], self._job["keep"]
        beside = os.path.join(store, f".new-{name}")
        shutil.rmtree(beside, ignore_errors=True)
        os.makedirs(beside, 0o700)
        return store, name, beside


def _appear(job: Job, store: str, name: str, beside: str, into: str, facts: Job) -> None:
    """What was kept is a copy from here on, also after a kill."""
    given = {**job["manifest"], "size": os.stat(into).st_size}
    given["facts"] = {**given["facts"], **facts}
    write_durably(os.path.join(beside, "manifest.json"), json.dumps(given).encode())
    os.rename(beside, os.path.join(store, name))
    sync_directory(store)


def _apart(work: Callable[[], None]) -> None:
    """Do it in a process of its own: closing the live file here would drop our locks on it."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except OSError as error:
            os._exit(error.errno or 1)
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        raise Failed(f"what is there could not be kept: {os.strerror(abs(code))}; nothing was touched", permanent=False)


def _cloned(source: str, into: str) -> None:
    """Copy a file's bytes in the kernel, and put them on disk. :raises OSError: not all of them came."""
    old = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    new = os.open(into, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    size = os.fstat(old).st_size
    left = size
    while left and (count := os.sendfile(new, old, None, min(left, 2**30)) if left else 0):
        left -= count
    os.fsync(new)
    if left or os.fstat(new).st_size != size:
        raise OSError(5, "not all of it was copied")


# -- beside and rename ----------------------------------------------------------------------------
def _replaced(path: str, job: Job) -> Job:
    """Where the header is broken: the present and all beside it are kept as they are, and nobody may have it open."""
    _nobody_has(path)
    keeper = _Keeper(job, path, wal=False)
    store, name, beside = keeper.begin()
    into = os.path.join(beside, job["data"])
    _cloned(path, into)
    for suffix in _SIDECARS:
        if os.path.exists(path + suffix):
            _cloned(path + suffix, os.path.join(beside, f"present{suffix}"))
    _appear(job, store, name, beside, into, _owner(path))
    boundary("sqlite.named")
    owner, new = _owner(path), f"{path}.rollbackd-new"
    Path(new).unlink(missing_ok=True)
    _cloned(job["staged"], new)
    os.chmod(new, owner["mode"])
    if os.geteuid() == 0:
        os.chown(new, owner["uid"], owner["gid"])
        os.chmod(new, owner["mode"])
    if job["journal"] == "wal":
        with _opened(new, "mode=rw") as fresh:
            fresh.execute("PRAGMA journal_mode = WAL")
    _sync(new)
    _nobody_has(path)
    for suffix in _SIDECARS:  # before the rename: SQLite would take them for the new one's
        Path(path + suffix).unlink(missing_ok=True)
    boundary("sqlite.cleared")
    os.rename(new, path)
    sync_directory(os.path.dirname(path))
    boundary("sqlite.committed")
    return {"kept": name}


def _nobody_has(path: str) -> None:
    """:raises Failed: somebody has it open, or may have it: not seen is not gone."""
    found, unseen = openers(path)
    if found:
        raise Failed(
            f"{path} is broken, and open in {found[0]}: stop that first, by a bracket of the plan", permanent=False
        )
    if unseen and os.geteuid() != 0:
        text = f"{path} is broken, and it cannot be seen who has it open; run rollbackd as root, or as its user"
        raise Failed(text, permanent=False)


def openers(path: str) -> tuple[list[str], bool]:
    """The processes that have a file open, or its sidecars, without this one; and whether some cannot be seen."""
    wanted = {(status.st_dev, status.st_ino) for status in _statuses(path)}
    found, unseen = [], False
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if int(pid) == os.getpid():
            continue
        try:
            names = os.listdir(f"/proc/{pid}/fd")
        except PermissionError:
            unseen = True
            continue
        except OSError:
            continue
        for name in names:
            with contextlib.suppress(OSError):
                status = os.stat(f"/proc/{pid}/fd/{name}")
                if (status.st_dev, status.st_ino) in wanted:
                    found.append(_called(int(pid)))
                    break
    return found, unseen


def _statuses(path: str) -> Iterator[os.stat_result]:
    for each in (path, *(path + suffix for suffix in _SIDECARS)):
        with contextlib.suppress(OSError):
            yield os.stat(each)


def _called(pid: int) -> str:
    with contextlib.suppress(OSError):
        return f"{Path(f'/proc/{pid}/comm').read_text().strip()} (pid {pid})"
    return f"pid {pid}"


def _who(path: str) -> str:
    """Who holds a lock on the database, as the kernel knows it of every process."""
    inodes = {f"{os.major(one.st_dev):02x}:{os.minor(one.st_dev):02x}:{one.st_ino}" for one in _statuses(path)}
    pids = []
    with contextlib.suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.replace("->", "").split()
            if len(fields) >= 6 and fields[5] in inodes and fields[4].lstrip("-").isdigit() and int(fields[4]) > 0:
                pids.append(int(fields[4]))
    others = [_called(pid) for pid in dict.fromkeys(pids) if pid != os.getpid()]
    return ", ".join(others[:_SHOWN]) or "somebody"


def open_in(job: Job) -> Job:
    """Who has the database open."""
    found, unseen = openers(os.path.realpath(job["file"]))
    return {"open": found[:_SHOWN], "unseen": unseen and os.geteuid() != 0}


# -- migrations -----------------------------------------------------------------------------------
def heads(job: Job) -> Job:
    """What a version table has; nothing where there is none."""
    with _looked_at(job["file"]) as live:
        _begin(live)
        return {"heads": _heads(live, job["table"])}


def _heads(connection: sqlite3.Connection, table: str) -> list[str]:
    known = connection.execute("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?", (table,)).fetchone()
    if known is None:
        return []
    rows = connection.execute(f"SELECT version_num FROM {_quoted(table)} LIMIT 100")  # noqa: S608
    return sorted(str(row[0]) for row in rows)


def set_heads(job: Job) -> Job:
    """Write other heads into a scratch database."""
    table = _quoted(job["table"])
    with _opened(job["file"], "mode=rw") as scratch:
        scratch.execute("BEGIN IMMEDIATE")
        scratch.execute(f"CREATE TABLE IF NOT EXISTS {table} (version_num VARCHAR(32) PRIMARY KEY NOT NULL)")
        scratch.execute(f"DELETE FROM {table}")  # noqa: S608
        scratch.executemany(f"INSERT INTO {table} VALUES (?)", [(one,) for one in job["heads"]])  # noqa: S608
        scratch.execute("COMMIT")
    return {}


def schema(job: Job) -> Job:
    """The tables with their columns and rules, and the definitions of all else."""
    with _looked_at(job["file"]) as live:
        _begin(live)
        return _schema(live)


def _schema(live: sqlite3.Connection) -> Job:
    rows = live.execute(
        "SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_schema"
        " WHERE name <> ? AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY type, name",
        (VIEW,),
    ).fetchall()
    tables = {name: _table(live, name, sql) for kind, name, _, sql in rows if kind == "table"}
    others = {f"{kind} {name}": _spaced(sql) for kind, name, _, sql in rows if kind in {"view", "trigger"}}
    for table in tables:
        for index in live.execute(f"PRAGMA index_list({_quoted(table)})").fetchall():
            if not index[2]:
                others[f"index {index[1]}"] = f"{table} ({_indexed(live, index[1])})"
    return {"tables": tables, "others": others}


def _table(live: sqlite3.Connection, name: str, sql: str) -> Job:
    try:
        about = live.execute(f"PRAGMA table_xinfo({_quoted(name)})").fetchall()
    except sqlite3.OperationalError as error:
        if not _FOREIGN.match(str(error)):
            raise
        return {"columns": {}, "rules": [_spaced(sql)]}
    keys = sum(1 for row in about if row[5])
    columns = {}
    for _, column, kind, required, default, key, hidden in about:
        counted = bool(key) and keys == 1 and kind.upper() == "INTEGER"
        columns[column] = [kind.lower(), bool(required or key), default is not None or bool(hidden) or counted]
    rules = [f"CHECK {one}" for one in _checks(sql)]
    for index in live.execute(f"PRAGMA index_list({_quoted(name)})").fetchall():
        if index[2]:
            part = " of some rows" if index[4] else ""
            rules.append(f"UNIQUE ({_indexed(live, index[1])}){part}")
    foreign: dict[int, list[Any]] = {}
    for row in live.execute(f"PRAGMA foreign_key_list({_quoted(name)})").fetchall():
        foreign.setdefault(row[0], []).append(row)
    for parts in foreign.values():
        own, theirs = (", ".join(str(part[place]) for part in parts) for place in (3, 4))
        rules.append(f"FOREIGN KEY ({own}) REFERENCES {parts[0][2]} ({theirs})")
    return {"columns": columns, "rules": rules}


def _indexed(live: sqlite3.Connection, index: str) -> str:
    rows = live.execute(f"PRAGMA index_info({_quoted(index)})").fetchall()
    return ", ".join(row[2] or "an expression" for row in rows)


def _checks(sql: str) -> list[str]:
    """The conditions of CHECK in a table's definition, which no pragma tells."""
    found, rest = [], _spaced(sql)
    while (begin := re.search(r"\bCHECK \(", rest, re.IGNORECASE)) is not None:
        depth, end, quote_ = 0, begin.end() - 1, ""
        for end in range(begin.end() - 1, len(rest)):
            letter = rest[end]
            if quote_:
                quote_ = "" if letter == quote_ else quote_
            elif letter in {"'", '"'}:
                quote_ = letter
            else:
                depth += (letter == "(") - (letter == ")")
                if depth == 0:
                    break
        found.append(rest[begin.end() - 1 : end + 1])
        rest = rest[end + 1 :]
    return found


def _spaced(sql: str) -> str:
    return re.sub(r"\bCHECK\(", "CHECK (", " ".join(sql.split()), flags=re.IGNORECASE)


def survey(job: Job) -> Job:
    """The heads, the schema and what it holds, at one instant."""
    with _looked_at(job["file"]) as live:
        live.create_function("rollbackd_hash", 1, _hashed, deterministic=True)
        _begin(live)
        return {"heads": _heads(live, job["table"]), "schema": _schema(live), "contents": _contents(live)}


def _contents(live: sqlite3.Connection) -> Job:
    """How many rows each table has, and of each column how many values and a sum over their hashes."""
    named = live.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
        " AND sql NOT LIKE 'CREATE VIRTUAL%'"
    ).fetchall()
    _stand_in(live)
    rows, values = {}, {}
    for (table,) in named:
        columns = [row[1] for row in live.execute(f"PRAGMA table_xinfo({_quoted(table)})") if row[6] != 1]
        each = "count({0}), coalesce(sum(rollbackd_hash(CAST({0} AS BLOB))), 0)"
        counts = ", ".join(each.format(_quoted(column)) for column in columns)
        found = live.execute(f"SELECT count(*), {counts} FROM {_quoted(table)}").fetchone()  # noqa: S608
        rows[table] = found[0]
        values[table] = {column: list(found[1 + 2 * n : 3 + 2 * n]) for n, column in enumerate(columns)}
    return {"rows": rows, "values": values}


def _hashed(value: bytes | None) -> int | None:
    return None if value is None else zlib.crc32(value)


# -- trying and carrying --------------------------------------------------------------------------
def rehearse(job: Job) -> Job:
    """Restore a copy into an empty database, and compare that with what was copied."""
    prepare(job)
    scratch = job["scratch"]
    with _frozen(job["staged"]) as source:
        _backup(source, scratch, job["within"])
    return {"harms": _harms(scratch, job["facts"], whole=False)}


def export(job: Job) -> Job:
    """Write a copy as one file."""
    with (
        whole_file(Path(job["path"])) as raw,
        gzip.GzipFile("", "wb", 1, raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for name in ("manifest.json", job["data"]):
            tar.add(os.path.join(job["copy"], name), f"rollbackd/{name}", recursive=False)
    return {}


def unpack(job: Job) -> Job:
    """Read such a file: the manifest, and the data into a directory. Nothing else of it is believed."""
    try:
        with gzip.open(job["path"]) as packed, tarfile.open(fileobj=packed, mode="r|") as tar:
            manifest: Job = {}
            for member in tar:
                body = tar.extractfile(member)
                if body is None or not member.isreg():
                    break
                if member.name == "rollbackd/manifest.json" and member.size < CHUNK:
                    manifest = json.loads(body.read())
                elif member.name == f"rollbackd/{job['data']}" and manifest and member.size <= job["largest"]:
                    with open(job["into"], "xb", opener=ours_alone) as new:
                        shutil.copyfileobj(body, new, CHUNK)
                    _sync(job["into"])
                    _read_out(packed)
                    facts = dict(manifest["facts"])
                    if not {"sha256", "rows", "schema"} <= facts.keys():
                        raise Failed("its manifest does not say what it holds; export it again", permanent=True)
                    return {"manifest": manifest, **verify({"copy": job["into"], "facts": facts})}
    except (OSError, EOFError, tarfile.TarError, zlib.error, ValueError, KeyError, TypeError) as error:
        raise Failed(f"{job['path']}: it is damaged, or no copy of a database: {error}", permanent=True) from error
    raise Failed(f"{job['path']}: it is no copy of a database, or larger than `largest`", permanent=True)


def _read_out(packed: gzip.GzipFile) -> None:
    """Read what is left of such a file, whose checksum is at its end: the manifest has no other."""
    left = 0
    while part := packed.read(CHUNK):
        left += len(part)
        if left > CHUNK:
            raise ValueError("it goes on after the database")


_DO: dict[str, Callable[[Job], Job]] = {
    one.__name__: one
    for one in (
        look,
        describe,
        verify,
        take,
        approve,
        prepare,
        restore,
        open_in,
        rehearse,
        export,
        unpack,
        heads,
        set_heads,
        schema,
        survey,
    )
}


def main(arguments: list[str]) -> int:
    """Do one job; the answer is the last line of standard output."""
    with open(arguments[0], "rb") as file:
        job = json.load(file)
    try:
        answer = _DO[job["do"]](job)
    except Failed as error:
        answer = {"error": str(error), "permanent": error.permanent}
    except sqlite3.Error as error:
        path = str(job.get("file") or job.get("copy"))
        held = f" by {_who(os.path.realpath(path))}" if getattr(error, "sqlite_errorcode", 0) & 0xFF in _BUSY else ""
        answer = {"error": f"{path}: {error}{held}", "permanent": False}
    except OSError as error:
        answer = {"error": f"{error.filename or job.get('file')}: {error.strerror or error}", "permanent": False}
    sys.stdout.write(f"\n{json.dumps(answer)}\n")
    return 1 if "error" in answer else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
