"""What is PostgreSQL's own in this package: connections, its words of SQL, and what its errors are called.

Its tables are in `postgres_schema.py`. It needs the extra `postgres`.
"""

import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import lru_cache
from threading import Timer
from typing import Any, TypeVar, cast

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict

from rollbackd.journal.contract import JournalDamaged, JournalRefused, JournalTaken, JournalUnavailable
from rollbackd.journal.database import AMONG, Doubt, JournalConnection, JournalDatabase, Mode, Row, scalar
from rollbackd.journal.place import Access
from rollbackd.journal.unwritten import LostFacts, Unwritten
from rollbackd.system.redaction import one_line

T = TypeVar("T")
_OLDEST = 14
"""The first version that this is tested with."""
_CONNECTING: dict[str, Any] = {
    "connect_timeout": 3,
    "target_session_attrs": "read-write",
    "tcp_user_timeout": 5000,
    "keepalives_idle": 3,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "client_encoding": "UTF8",
}
_SESSION = {
    "idle_in_transaction_session_timeout": "5s",
    "lock_timeout": "5s",
    "tcp_user_timeout": "5s",
    "tcp_keepalives_idle": "3",
    "tcp_keepalives_interval": "1",
    "tcp_keepalives_count": "3",
}
"""So that the server, too, soon drops who is gone, or froze in the middle of a transaction, with all locks."""
_ARRAYS = {str: "text[]", bytes: "bytea[]", int: "bigint[]"}
_AT_ONCE = 2000
"""Rows in one `INSERT`."""
_COMMIT = 5.0
"""Seconds that a COMMIT waits for the standby."""
_NUMBERS = 0x726F6C6C
"""The advisory lock under which facts get their numbers."""
DRIVING = 0x64726976
"""The advisory lock that whoever writes shares, and that whoever takes the journal over has alone."""
_BEGIN = {
    "write": b"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE",
    "read": b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
}
TIMELINE = "('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint"
"""Each promotion of a standby leads to a higher one."""
_SERVER = f"""
    SELECT pg_backend_pid(), current_setting('server_version_num')::int / 10000, current_setting('server_encoding'),
        current_setting('synchronous_standby_names'), (SELECT system_identifier FROM pg_control_system()), {TIMELINE}
"""
_MISSING = """
    SELECT known.stream FROM unnest(?::text[], ?::bigint[], ?::bytea[]) AS known (stream, n, hash)
    WHERE NOT EXISTS (
        SELECT FROM facts WHERE facts.stream = known.stream AND facts.n = known.n AND facts.hash = known.hash
    )
    ORDER BY known.stream
"""
_STORED = """
    SELECT seq, n, convert_to(stream, 'UTF8'), convert_to(at, 'UTF8'), convert_to(actor, 'UTF8'),
        convert_to(kind, 'UTF8'), convert_to(body, 'UTF8'), hash
    FROM facts ORDER BY facts.stream, n
"""
_TRIGGERS = "SELECT tgname FROM pg_trigger WHERE tgrelid = 'facts'::regclass AND tgenabled != 'D'"
_UNIT = """
    INSERT INTO writers (name, unit) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET unit = excluded.unit
    RETURNING (SELECT epoch FROM driver)
"""
_LAST_UNIT = """
    INSERT INTO writers (name, unit) VALUES (?, 0) ON CONFLICT (name) DO UPDATE SET unit = writers.unit RETURNING unit
"""
"""It waits for whoever has the row in a transaction that has not ended; and it writes, so that its own COMMIT, and with
it every one before, is at the standby when it returns."""


class PostgresConnection:
    """See `JournalConnection`."""

    def __init__(self, raw: psycopg.Connection[Row]) -> None:
        self.raw = raw
        self.warnings: list[str] = []
        self.heads: list[Row] = []
        """Stream, n and hash of the last fact of each stream that the transaction wrote to."""
        raw.add_notice_handler(self._noticed)

    def _noticed(self, notice: errors.Diagnostic) -> None:
        if notice.severity_nonlocalized == "WARNING":
            self.warnings.append(one_line(notice.message_primary or ""))

    def execute(self, statement: str, values: Sequence[object] = (), /) -> psycopg.Cursor[Row]:
        return self.raw.execute(_translated(statement), values)

    def close(self) -> None:
        self.raw.close()

    def listed(self, values: Iterable[str] | Iterable[int], /) -> list[object]:
        return list(values)

    def insert(self, into: str, rows: Sequence[Row], conflict: str = "") -> None:
        for _ in self._insert(into, rows, conflict):
            pass
        if into == "heads":
            self.heads = list(rows)

    def insert_new(self, into: str, rows: Sequence[Row]) -> dict[str, int]:
        added: dict[str, int] = {}
        for result in self._insert(into, rows, "ON CONFLICT (key) DO NOTHING RETURNING key, id"):
            added.update(cast("list[tuple[str, int]]", result.fetchall()))
        return added

    def _insert(self, into: str, rows: Sequence[Row], end: str) -> Iterator[psycopg.Cursor[Row]]:
        """By columns: a statement for each table, which stays prepared, whatever the number of rows."""
        for start in range(0, len(rows), _AT_ONCE):
            columns = [list(column) for column in zip(*rows[start : start + _AT_ONCE], strict=True)]
            arrays = ", ".join(f"?::{_array(column)}" for column in columns)
            yield self.execute(f"INSERT INTO {into} SELECT * FROM unnest({arrays}) {end}", columns)

    def hold_numbers(self) -> None:
        self.execute("SELECT pg_advisory_xact_lock(?)", (_NUMBERS,))

    def last_fact(self) -> int:
        return scalar(self, "SELECT seq FROM newest") or 0

    def stored_facts(self) -> Iterator[Row]:
        with self.raw.cursor(name="facts") as cursor:  # the server's, in portions
            yield from cursor.execute(_STORED.encode())

    def damages(self) -> Iterator[str]:
        return iter(())

    def triggers(self) -> set[str]:
        return {name for (name,) in self.execute(_TRIGGERS)}


def _array(column: list[Any]) -> str:
    """The type of a column, all of whose values are of one type or missing."""
    some = next((value for value in column if value is not None), "")
    return _ARRAYS[type(some)]


@lru_cache(maxsize=256)
def _translated(statement: str) -> bytes:
    return statement.replace(AMONG, "= ANY(?)").replace("?", "%s").encode()


class PostgresServer(JournalDatabase):
    """A journal in a database of a server, or of several of which one is the primary."""

    def __init__(self, url: str, access: Access) -> None:
        """:raises JournalRefused: that is no address of a journal."""
        super().__init__(called(url))
        self._url = url
        self._access = access
        self._writer_name = uuid.uuid4().hex
        self._unit = 0
        """The number of the last unit that this writer tried to write."""
        self._epoch: int | None = None
        """That of our lease; None: nobody's, as while a journal is moved."""
        self._barred: Callable[[], str] = str
        self._written: list[Row] = []
        """The heads of the unit that is written, or in doubt."""
        self.unwritten = Unwritten.beside(url, access)
        self._cluster: tuple[int, int] | None = None
        """The system and the timeline of the server that we know."""
        self._heads: dict[str, Row] = {}
        """Of each stream, the head of which we said that it is written."""
        self._last: list[Row] = []
        """The heads that were written last: while these are there, all are, since a failover loses an end."""
        self.lost = ""
        """What a failover lost of that, as a sentence; empty: nothing. Then this process is to end."""

    # -- connections
    def connect(self, mode: Mode) -> PostgresConnection:
        try:
            password = self._access.password() if self._access.password is not None else None
            raw = psycopg.connect(
                self._url, password=password, autocommit=True, application_name=f"rollbackd {mode}", **_CONNECTING
            )
        except psycopg.OperationalError as error:
            raise JournalUnavailable(f"{self.name}: cannot be reached ({one_line(str(error))})") from error
        except ValueError as error:  # its sentence names the secret's place
            raise JournalUnavailable(f"daemon.journal_password: {error}") from error
        connection = PostgresConnection(raw)
        try:
            self._look_at(connection, mode)
        except BaseException:
            raw.close()
            raise
        return connection

    def _look_at(self, connection: PostgresConnection, mode: Mode) -> None:
        """:raises JournalRefused: it would not keep what is promised."""
        backend, version, encoding, standbys, system, timeline = cast("Row", connection.execute(_SERVER).fetchone())
        if backend != connection.raw.info.backend_pid:
            raise JournalRefused(
                f"{self.name}: a pooler stands between, and would share one session among several; name the server "
                "itself, by its own port"
            )
        if version < _OLDEST:
            raise JournalRefused(f"{self.name}: is PostgreSQL {version}; version {_OLDEST} is the oldest that will do")
        if encoding != "UTF8":
            raise JournalRefused(f"{self.name}: its encoding is {encoding}; make a database with ENCODING 'UTF8'")
        if mode == "write" and self._access.replicated and not standbys:
            raise JournalRefused(
                f"{self.name}: the primary waits for no standby (synchronous_standby_names is empty), so a failover "
                "may lose what was written; name a standby there, or say `durability: local` and bear it"
            )
        settings = {**_SESSION, "synchronous_commit": "on" if self._access.replicated else "local"}
        for name, value in settings.items():
            connection.execute("SELECT set_config(?, ?, false)", (name, value))
        self._compare(connection, system, timeline)

    def _compare(self, connection: PostgresConnection, system: int, timeline: int) -> None:
        """:raises JournalUnavailable: it is not the server that we know. JournalTaken: it has lost what we know."""
        known = self._cluster or (system, timeline)
        if system != known[0] or timeline < known[1]:
            raise JournalUnavailable(
                f"{self.name}: is another server than the one that had the journal, or a primary of before a failover "
                f"(system {system}, timeline {timeline}; it was system {known[0]}, timeline {known[1]}); end that one, "
                "or restart rollbackd to go on with it"
            )
        if lost := self._missing(connection, self._last) and self._missing(connection, list(self._heads.values())):
            self.lost = (
                f"{self.name}: a failover (timeline {known[1]} to {timeline}) lost what was written last of "
                f"{', '.join(lost)}"
            )
            self.unwritten.keep_loss(LostFacts(tuple(lost), self.lost))
        if self.lost:
            raise JournalTaken(f"{self.lost}; rollbackd ends, to be started anew")
        self._cluster = system, timeline

    @staticmethod
    def _missing(connection: PostgresConnection, heads: Sequence[Row]) -> list[str]:
        """The streams of those that are not there."""
        if not heads:
            return []
        return [stream for (stream,) in connection.execute(_MISSING, [list(one) for one in zip(*heads, strict=True)])]

    def drive(self, epoch: int, barred: Callable[[], str]) -> None:
        """Write from now on only while this is the epoch of who drives, and connect for that while nothing bars it.

        After the server was away the lease's is the first connection that writes; the others wait for it.
        """
        self._epoch = epoch
        self._barred = barred

    def _connected(self, mode: Mode) -> JournalConnection:
        if mode == "write" and (why := self._barred()):
            raise JournalUnavailable(why)
        return super()._connected(mode)

    def alter(self, work: Callable[[JournalConnection], None]) -> None:
        """Make or change tables, in one transaction, which nothing else writes beside."""
        with self.troubles(), closing(self.connect("write")) as connection, self.transaction(connection, "write"):
            connection.hold_numbers()
            work(connection)

    # -- reading and writing
    @contextmanager
    def transaction(self, connection: JournalConnection, mode: Mode) -> Iterator[None]:
        raw = cast("PostgresConnection", connection).raw
        raw.execute(_BEGIN[mode])
        try:
            yield
            raw.execute(b"COMMIT")
        except BaseException:
            with suppress(psycopg.Error):
                raw.execute(b"ROLLBACK")
            raise

    def read(self, question: Callable[..., T], *arguments: object) -> T:
        """A connection that the server ended while nobody used it is no trouble: a new one is asked."""
        waited = bool(self._idle)
        try:
            return super().read(question, *arguments)
        except JournalUnavailable:
            if not waited:
                raise
        return super().read(question, *arguments)

    def write(self, work: Callable[[JournalConnection], T]) -> T:
        self._unit += 1
        waited = self._writing is not None
        try:
            return self._write(work)
        except JournalUnavailable:  # nothing of it was written
            if not waited:
                raise
        return self._write(work)

    def _write(self, work: Callable[[JournalConnection], T]) -> T:
        with self.troubles():
            try:
                connection = cast("PostgresConnection", self.writer())
                connection.raw.execute(_BEGIN["write"])
                connection.execute("SELECT pg_advisory_xact_lock_shared(?)", (DRIVING,))
                connection.heads = []
                self._refuse_driven(scalar(connection, _UNIT, self._writer_name, self._unit))
                answer = work(connection)
                self._written = connection.heads
                self._commit(connection, answer)
            except Exception:
                self.disconnect()
                raise
        self._acknowledge()
        return answer

    def _acknowledge(self) -> None:
        if self._written:
            self._last = self._written
            self._heads.update((row[0], row) for row in self._written)

    def _refuse_driven(self, epoch: int) -> None:
        if self._epoch not in {None, epoch}:
            raise JournalTaken(f"{self.name}: another daemon drives it now; this one ends")

    def _commit(self, connection: PostgresConnection, answer: object) -> None:
        """:raises Doubt: the connection ended in it, or the standby does not say that it has it."""
        connection.warnings.clear()
        # The server's own limit on statements does not reach what COMMIT waits for.
        limit = Timer(_COMMIT, connection.raw.cancel)
        limit.daemon = True
        limit.start()
        try:
            ended = connection.raw.execute(b"COMMIT").statusmessage
        except psycopg.Error as error:
            if connection.raw.closed:
                raise Doubt(answer, one_line(str(error))) from error
            raise
        finally:
            limit.cancel()
        if ended != "COMMIT":
            raise JournalUnavailable(f"{self.name}: the transaction was taken back ({ended})")
        if connection.warnings:
            raise Doubt(answer, connection.warnings[-1])

    def settle(self, doubt: Doubt) -> bool:
        with self.troubles():
            try:
                connection = cast("PostgresConnection", self.writer())
                connection.raw.execute(_BEGIN["write"])
                written = scalar(connection, _LAST_UNIT, self._writer_name)
                self._commit(connection, None)
            except Doubt as again:
                self.disconnect()
                raise JournalUnavailable(f"{self.name}: what was written is not at a standby ({again})") from doubt
            except Exception:
                self.disconnect()
                raise
        if written == self._unit:
            self._acknowledge()
        return bool(written == self._unit)

    # -- errors
    @contextmanager
    def troubles(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            if (named := self._named(error)) is None:
                raise
            raise named from error

    def _named(self, error: psycopg.Error) -> JournalUnavailable | None:
        said = one_line(str(error)) or type(error).__name__
        state = error.sqlstate or ""
        match error:
            case errors.DiskFull():
                return JournalUnavailable(f"{self.name}: its disk is full; free some space ({said})", full=True)
            case errors.ReadOnlySqlTransaction():
                return JournalUnavailable(f"{self.name}: is read only; another server is the primary now ({said})")
            case errors.InsufficientPrivilege():
                return JournalUnavailable(f"{self.name}: permission denied ({said}); {ADVICE}")
            case errors.UndefinedTable() | errors.UndefinedColumn():
                return JournalDamaged(f"{self.name}: its tables are not those of a journal ({said}); {ADVICE}")
            case psycopg.OperationalError() | psycopg.InterfaceError():
                return JournalUnavailable(f"{self.name}: does not serve now ({said})")
            case psycopg.DataError() | psycopg.ProgrammingError():
                return None  # a fault of ours, or what cannot be stored
        return JournalDamaged(f"{self.name}: the journal is damaged ({state}: {said}); put back the last backup")


ADVICE = "`rollbackd journal migrate` makes them, and lets the daemon's role use them"


def called(url: str) -> str:
    """What sentences call the journal at a URL. :raises JournalRefused: it is no such URL, or has a password in it."""
    try:
        parts = conninfo_to_dict(url)
    except psycopg.ProgrammingError as error:
        # The error would repeat the address, which may have a password in it.
        raise JournalRefused("daemon.journal: is no address of PostgreSQL; write it like " + LIKE) from error
    if "password" in parts:
        raise JournalRefused("daemon.journal: has a password in it; give `journal_password`, or a .pgpass")
    return f"postgresql://{parts.get('host', '')}/{parts.get('dbname', '')}"


LIKE = "postgresql://rollbackd@db1,db2/rollbackd"
