"""Gives what root's git wrote into somebody else's repository to its owner, whose git must be able to write there.

Files of the work tree are `dress.py`'s.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from rollbackd.adapter import AdapterError
from rollbackd.system import log
from rollbackd_adapters.git.repo import Repo, RepoState
from rollbackd_adapters.threads import in_thread


def begin(scratch: Path) -> Path:
    """Note that from now on files of root's are ours. The note: it is as old as the first life that made it."""
    note = scratch / "began"
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not note.exists():
        note.touch(mode=0o600)
    return note


async def give_back(repo: Repo, began: Path) -> None:
    """Root's files in the repository that were written since then become the owner's of the directory they are in.

    It is a help: what cannot be given is logged, and a rollback goes on.
    """
    if os.geteuid():
        return
    try:
        look = await repo.look()
        await in_thread(_give, look, began)
    except (AdapterError, OSError) as error:
        log.get("git").warning("files of root's could not be given away", repo=str(repo.path), error=str(error))


def _give(look: RepoState, began: Path) -> None:
    since = began.stat().st_mtime_ns
    for path in (*_below(look.common), *_below(look.directory)):
        try:
            status = path.lstat()
            if status.st_uid == 0 and status.st_ctime_ns >= since:
                owner = path.parent.stat()
                if (status.st_uid, status.st_gid) != (owner.st_uid, owner.st_gid):
                    os.lchown(path, owner.st_uid, owner.st_gid)
        except FileNotFoundError:
            continue


def _below(directory: Path) -> Iterator[Path]:
    """What is in it, a directory before what is in that."""
    for top, directories, files in os.walk(directory):
        yield from (Path(top, name) for name in (*directories, *files))
