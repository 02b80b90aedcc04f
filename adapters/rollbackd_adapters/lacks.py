"""What a host lacks for a layer, and why the system refused, in words that say what to do. Reads only."""

import errno
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from rollbackd.adapter import AdapterError
from rollbackd.system.spawner import Spawner
from rollbackd.system.users import UnknownUser, identity_of

INSTALL = "install it, or correct the configuration"


def missing_programs(spawner: Spawner, programs: Iterable[str], what_then: str = INSTALL) -> list[str]:
    """A sentence for each program that is not there, in order."""
    return [
        f"{program}: no such program, or not executable; {what_then}"
        for program in dict.fromkeys(programs)
        if spawner.which(program) is None
    ]


def missing_of_then(spawner: Spawner, commands: Iterable[Sequence[str]], run_as: str = "") -> list[str]:
    """The same for `then`, without programs inside the release: they are there only when the release is."""
    programs = (argv[0] for argv in commands)
    found_now = (program for program in programs if program.startswith("/") or "/" not in program)
    return [*not_somebody_else(run_as), *missing_programs(spawner, found_now, "`then` needs it")]


def not_somebody_else(run_as: str) -> list[str]:
    """Why programs cannot run as that user; nothing where they can, or are to run as we do."""
    try:
        if run_as:
            identity_of(run_as)
    except UnknownUser as error:
        return [str(error)]
    return []


def existing(path: Path) -> Path:
    """The directory itself, or the nearest one above it that is there."""
    while not path.is_dir():
        path = path.parent
    return path


def lacking_room(paths: Iterable[Path], wanted: int) -> list[str]:
    """A sentence for each place with fewer free bytes than the setting `room` wants."""
    return [
        f"{path}: {free // 2**20} MiB free, wants {wanted // 2**20} MiB (`room`); make room"
        for path in sorted(set(paths))
        if (free := shutil.disk_usage(path).free) < wanted
    ]


def need_room(path: Path, need: int, who: str = "") -> None:
    """:raises AdapterError: not permanent, when so many bytes are not free there; `who` wants them."""
    if (free := shutil.disk_usage(path).free) < need:
        text = f"{path}: {free // 2**20} MiB free, {who}wants {need // 2**20 + 1} MiB; make room"
        raise AdapterError(text, permanent=False)


def hint(error: OSError, **own: str) -> str:
    """Why the system refused, and what to do; `own` are the layer's words by the error's name (`ENOENT="…"`)."""
    hints = {
        "EACCES": "rollbackd's user may not do that; give it the right",
        "EPERM": "rollbackd's user may not do that; give it the right",
        "ENOSPC": "no space left; make room there",
        "EROFS": "the file system is read-only; add its directory to ReadWritePaths=",
    } | own
    name = errno.errorcode.get(error.errno or 0, "")
    return hints.get(name, (error.strerror or str(error)).lower())
