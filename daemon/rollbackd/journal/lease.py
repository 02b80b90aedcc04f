"""Who drives a journal on PostgreSQL: a row that its holder renews each second, and that another takes once it stands.

No wall clock is compared. The holder counts from before its last good renewal was sent, and begins nothing after 3.5 s;
another one counts from after it first saw that renewal, and takes the row after 5 s. Each holder has its own epoch,
which every transaction that writes compares, so that one who froze in between writes nothing any more.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from random import random
from threading import Event, Thread

from rollbackd.journal.contract import JournalInUse, JournalRefused, JournalTaken, JournalUnavailable
from rollbackd.journal.database import scalar
from rollbackd.journal.postgres import DRIVING, TIMELINE, PostgresConnection, PostgresServer
from rollbackd.system import log
from rollbackd.system.clock import boot_seconds

RENEWAL = 1.0
"""Seconds."""
_OURS = 3.5
"""Seconds that the holder relies on a renewal."""
_THEIRS = 5.0
"""Seconds without a renewal after which another one takes it."""
_ROW = "SELECT epoch, renewal, process, host FROM driver"
_TAKEN = f"""
    UPDATE driver SET renewal = 0, process = ?, host = ?,
        epoch = greatest(epoch, (SELECT seq FROM cursors WHERE name = 'epoch'), {TIMELINE} << 32) + 1
    WHERE epoch = ? AND renewal = ? AND process = ? RETURNING epoch
"""
"""The timeline leads, so that a failover which lost the last epochs gives none of them again."""
_REMEMBERED = """
    INSERT INTO cursors (name, seq) VALUES ('epoch', ?) ON CONFLICT (name) DO UPDATE SET seq = excluded.seq
"""
"""Which a journal takes along when it moves."""
_RENEWED = "UPDATE driver SET renewal = renewal + 1 WHERE epoch = ? AND process = ? RETURNING true"
_RELEASED = "UPDATE driver SET process = '' WHERE epoch = ? AND process = ?"
_NAMED = "SELECT process, seen FROM members WHERE host = ?"
_NAME_TAKEN = "UPDATE members SET process = ? WHERE host = ? AND process = ? AND seen = ?"


class _Row:
    """What is seen of a row that its owner changes each second."""

    def __init__(self) -> None:
        self.seen: tuple[object, ...] = ()
        """Empty: never, or the last look failed."""
        self.moves = False
        """Whether it changed between two looks."""
        self._since = 0.0
        """Since when it has not, by our clock."""

    def stands(self, row: tuple[object, ...], asked: float) -> bool:
        """Take in what a look saw that was begun then; whether its owner has been gone for long enough."""
        if row != self.seen:
            self.moves, self.seen, self._since = bool(self.seen), row, boot_seconds()
        return asked - self._since >= _THEIRS

    def unseen(self) -> None:
        self.seen = ()


class Lease:
    """First `look` until it is ours, then `keep`, in the end `release`; on a connection of its own."""

    def __init__(self, server: PostgresServer, process: str, host: str, member: str = "") -> None:
        """:param member: the name under which we are to be listed among those that share it; empty: we are not."""
        self.server = server
        self._member = member
        self._process = process
        self.host = host
        self.epoch = 0
        self.predecessor = ""
        """The host of who had it and did not give it back, when that is another one."""
        self.alive = False
        """Whether the holder renewed it between two looks."""
        self._row, self._listed = _Row(), _Row()
        self.named = not member
        """Whether nobody else goes by our name; until then we wait, and are nobody."""
        self._renewed = 0.0
        """When the last good renewal was sent."""
        self.away = ""
        """Why the last renewal failed; empty when it did not."""
        self.taken = ""
        """Who has it instead of us from now on, as a sentence; else empty."""
        self._stays = False
        self._ended = Event()
        self._thread = Thread(target=self._renew, name="journal-lease", daemon=True)
        self._log = log.get("journal")

    def look(self) -> str:
        """Take it, if nobody has it, or its holder stood still; else who has it. Blocks for seconds at most.

        :raises JournalInUse: another process goes by our name, and lives.
        :raises JournalRefused: JournalUnavailable: it cannot be looked at; then nothing was seen.
        """
        asked = boot_seconds()
        try:
            with self._connection() as connection:
                self.named = self.named or self._is_named(connection, asked)
                ((epoch, renewal, process, host),) = connection.execute(_ROW).fetchall()
                stands = self._row.stands((epoch, renewal, process), asked)
                self.alive = self._row.moves and bool(process)
                if self.named and (stands or process in {"", self._process}):
                    self._take(connection)
                    self.predecessor = host if process and host != self.host else ""
                return "" if self.epoch else f"{host}, process {process.rpartition('/')[2]}"
        except (JournalUnavailable, JournalRefused):
            self._row.unseen()
            self._listed.unseen()
            raise

    def _is_named(self, connection: PostgresConnection, asked: float) -> bool:
        """Whether the name is free, ours, or that of one that has stood still for so long."""
        for process, seen in connection.execute(_NAMED, (self._member,)):
            if process in {"", self._process}:
                return True
            stands = self._listed.stands((process, seen), asked)
            if self._listed.moves:
                raise JournalInUse(
                    f"{self.server.name}: another daemon is called {self._member} and lives, as process "
                    f"{process.rpartition('/')[2]} on its host; give each its own `daemon.host`, or end that one first"
                )
            taken = (self._process, self._member, process, seen)
            return stands and connection.execute(_NAME_TAKEN, taken).rowcount == 1
        return True

    def _take(self, connection: PostgresConnection) -> None:
        epoch, renewal, process = self._row.seen
        sent = boot_seconds()
        with self.server.transaction(connection, "write"):
            connection.execute("SELECT pg_advisory_xact_lock(?)", (DRIVING,))
            taken = scalar(connection, _TAKEN, self._process, self.host, epoch, renewal, process)
            if taken is not None:
                connection.execute(_REMEMBERED, (taken,))
                connection.execute("DELETE FROM writers")  # who is in doubt and is not ours is refused by its epoch
        if taken is not None:
            self.epoch, self._renewed = taken, sent

    def keep(self) -> None:
        """Renew it each second from now on."""
        self._thread.start()

    def stay(self) -> None:
        """Release nothing: this process executes itself anew, and takes it at once by its name."""
        self._stays = True

    @property
    def trouble(self) -> str:
        """Why we may not drive now; empty while we surely do."""
        if boot_seconds() - self._renewed < _OURS:
            return ""
        return self.away or f"{self.server.name}: whether another daemon drives is not known: it was not asked"

    def is_taken(self) -> bool:
        """Whether another one has it. :raises JournalRefused: JournalUnavailable: that cannot be seen."""
        with self._connection() as connection:
            return scalar(connection, "SELECT process FROM driver") not in {"", self._process}

    def release(self) -> None:
        """Let another one take it at once. Best effort: it would in 5 s."""
        self._ended.set()
        self._thread.join()
        if self._stays:
            return
        try:
            with self._connection() as connection:
                connection.execute(_RELEASED, (self.epoch, self._process))
        except (JournalUnavailable, JournalRefused) as error:
            self._log.warning("the journal was not given back; another daemon waits some seconds", reason=str(error))

    def _renew(self) -> None:
        """The thread ends with the lease, and the daemon with the thread."""
        pause = RENEWAL
        while not self._ended.wait(pause):
            sent = boot_seconds()
            try:
                with self._connection() as connection:
                    # Who takes over waits for the standby; a renewal that is lost with the primary is made again.
                    connection.execute("SET synchronous_commit TO local")
                    while self._is_renewed(connection):
                        self._renewed, self.away = sent, ""
                        if self._ended.wait(RENEWAL):
                            return
                        sent = boot_seconds()
                    holder = scalar(connection, "SELECT host FROM driver")
            except JournalTaken as error:
                self._renewed, self.taken = 0.0, str(error)
                return
            except (JournalUnavailable, JournalRefused) as error:
                self.away = str(error)
                pause = RENEWAL * (0.5 + random())  # noqa: S311  # so that not all daemons come back at once
            else:
                self._renewed, self.away = 0.0, f"{self.server.name}: {holder} drives it now"
                self.taken = self.away
                self._log.critical("another daemon drives the journal; this one ends", host=holder, epoch=self.epoch)
                return

    def _is_renewed(self, connection: PostgresConnection) -> bool:
        if self.server.lost:
            raise JournalTaken(self.server.lost)
        return scalar(connection, _RENEWED, self.epoch, self._process) is not None

    @contextmanager
    def _connection(self) -> Iterator[PostgresConnection]:
        with self.server.troubles(), closing(self.server.connect("write")) as connection:
            yield connection
