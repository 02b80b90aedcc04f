"""Who acts in place of the daemon is who it would be: root becomes the user whose journal it is.

What root wrote into the journal's, the layers' and the repositories' directories the daemon could not touch afterwards.
"""

import os
import pwd
from contextlib import suppress
from pathlib import Path

from rollbackd.cli.locations import daemon_paths, journal_url, scratch_path
from rollbackd.config.load import ConfigErrors, load
from rollbackd.config.secrets import SecretError, reveal
from rollbackd.journal import JournalRefused
from rollbackd.journal.place import Access, local_path
from rollbackd.syntax.units import Secret

_SHOWN = 3
"""Secrets that are named."""


def become(config: Path) -> list[str]:
    """Give up being root, where the journal is somebody else's; what people should know of it.

    Also which secrets are not there: a person's shell has none of those that systemd gives the daemon.
    """
    said = []
    if os.geteuid() == 0 and (found := _owner(config)) is not None:
        said.append(f"going on as {_turn_into(found, config)}, whose journal it is")
    lacking = _lacking(config)
    if lacking:
        more = f" and {len(lacking) - _SHOWN} more" if len(lacking) > _SHOWN else ""
        said.append(f"without secrets of the daemon: {'; '.join(lacking[:_SHOWN])}{more}")
        said.append("what asks for one of them fails, and messages that need one go out when the daemon runs again")
    return said


def _owner(config: Path) -> os.stat_result | None:
    """Whose the journal is, or the directory where it will be, or where what belongs to one elsewhere is.

    None where that is root's or is not there.
    """
    try:
        path = local_path(journal_url(config), Access(scratch_path(config)))
        found = (path if path.exists() else path.parent).stat()
    except (JournalRefused, FileNotFoundError):  # which is told by what comes next
        return None
    return found if found.st_uid else None


def _turn_into(owner: os.stat_result, config: Path) -> str:
    """Its groups too, and the one that the unit gives it: that of the signal files. :return: the name."""
    more = []
    with suppress(OSError):
        more = [daemon_paths(config)[1].stat().st_gid]
    try:
        user = pwd.getpwuid(owner.st_uid)
    except KeyError:
        name, groups = f"user {owner.st_uid}", [owner.st_gid]
    else:
        name, groups = user.pw_name, os.getgrouplist(user.pw_name, user.pw_gid)
        os.environ["HOME"] = user.pw_dir  # where git and ssh look for what is this user's
    os.setgroups(sorted({*groups, *more}))
    os.setgid(groups[0])
    os.setuid(owner.st_uid)
    os.umask(0o022)
    return name


def _lacking(config: Path) -> list[str]:
    found: list[str] = []

    def look_for(secret: Secret) -> None:
        try:
            reveal(secret)
        except SecretError as error:
            found.append(str(error))

    with suppress(ConfigErrors):  # which are told by what comes next
        load(config, look_for=look_for)
    return found
