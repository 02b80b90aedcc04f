"""Where a journal is: its URL taken apart, and the files beside it."""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rollbackd.journal.contract import JournalDamaged, JournalRefused, JournalUnavailable
from rollbackd.system.supervisor import write_durably

_SCHEME = "sqlite:///"


@dataclass(frozen=True, slots=True)
class Access:
    """What one needs besides the URL of a journal on PostgreSQL; for one on SQLite it says nothing."""

    beside: Path = Path("/var/lib/rollbackd/layers")
    """The directory of this host for what lies beside a journal that is elsewhere."""
    password: Callable[[], str] | None = None
    """Reads it again for each connection. None: libpq's own ways, such as `.pgpass`."""
    replicated: bool = True
    """Whether what is written must be at a standby, too."""


DEFAULT_ACCESS = Access()


def is_postgres(url: str) -> bool:
    return url.startswith("postgresql://")


def path_of(url: str) -> Path:
    """The file that `sqlite:////var/lib/rollbackd/journal.db` names.

    :raises JournalRefused: it is not such a URL, or its directory is not there.
    """
    path = Path(url.removeprefix(_SCHEME))
    if not url.startswith(_SCHEME) or not path.is_absolute() or "?" in url:
        raise JournalRefused(
            f'daemon.journal: "{_without_secret(url)}" is not a journal; write it like '
            "sqlite:////var/lib/rollbackd/journal.db (four slashes: the path is absolute)"
        )
    if not path.parent.is_dir():
        raise JournalRefused(f"{path}: there is no directory {path.parent}; make it, owned by the user of rollbackd")
    if path.is_dir():
        raise JournalRefused(f"{path}: is a directory; name the file of the journal in it")
    return path


def local_path(url: str, access: Access) -> Path:
    """The journal's file, or on PostgreSQL a name for it on this host: what is beside it begins with that.

    Raises as `path_of` does.
    """
    return access.beside / "journal" if is_postgres(url) else path_of(url)


def checkpoint_of(url: str, access: Access = DEFAULT_ACCESS) -> Path:
    """The file beside the journal that the state is written to. Raises as `path_of` does."""
    path = local_path(url, access)
    return path.with_name(f"{path.name}.checkpoint")


def _without_secret(url: str) -> str:
    """A URL of another database may hold a password."""
    return f"{url.partition('://')[0]}://…" if "@" in url else url


class Mark:
    """The file beside a journal that remembers that there was one, and the newest fact's place when it was opened."""

    def __init__(self, journal: Path) -> None:
        self.path = journal.with_name(f"{journal.name}.newest")
        self._journal = journal

    def read(self) -> int | None:
        """The newest fact's place; None where there never was a journal, or one of an earlier version."""
        try:
            return int(self.path.read_text())
        except (OSError, ValueError):
            return None

    def write(self, newest: int) -> None:
        """Best effort: a full disk keeps nobody from opening the journal."""
        if self.read() != newest:
            with suppress(OSError):
                write_durably(self.path, b"%d\n" % newest)

    def gone(self) -> JournalDamaged:
        """That there is nothing where there was a journal."""
        return JournalDamaged(
            f"{self._journal}: the journal is empty, and there was one here; put back the last backup. To begin anew "
            f"without all that it knew, remove {self.path} and the files beside it that begin with {self._journal.name}"
        )


def create(path: Path) -> bool:
    """Make the file, closed to others, unless it is there; SQLite gives its companions the same mode.

    A file that is there is not even opened: closing any descriptor of it would drop SQLite's locks on it.

    :raises JournalUnavailable: it cannot be made.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return False
    except OSError as error:
        raise JournalUnavailable(f"{path}: cannot be made: {error.strerror}; see to the directory") from error
    return True
