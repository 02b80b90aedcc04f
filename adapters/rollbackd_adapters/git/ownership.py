"""Gives files that root wrote into somebody else's repository to its owner, whose git must be able to write there."""

import os
from collections.abc import Iterator
from pathlib import Path

from rollbackd.adapter import AdapterError
from rollbackd.system import log
from rollbackd.system.spawner import Lock
from rollbackd_adapters.git.repo import Repo, RepoState
from rollbackd_adapters.threads import in_thread


async def give_back(repo: Repo, lock: Lock) -> None:
    """Root's files in the repository, and those in the work tree that git knows, become its owner's.

    It is a help: what cannot be given is logged, and a rollback goes on.
    """
    if os.geteuid() or not repo.path.stat().st_uid:
        return
    look = await repo.look()
    try:
        names = await repo.names("ls-files", "-z", lock=lock, timeout=repo.timeout)
        await in_thread(_give, repo.path, look, names)
    except (AdapterError, OSError) as error:
        log.get("git").warning("files of root's could not be given away", repo=str(repo.path), error=str(error))


def _give(root: Path, look: RepoState, names: list[str]) -> None:
    owner = look.common.stat()
    for path in (*_below(look.common), *_below(look.directory), *_known(root, names)):
        try:
            if path.lstat().st_uid == 0:
                os.lchown(path, owner.st_uid, owner.st_gid)
        except FileNotFoundError:
            continue


def _known(root: Path, names: list[str]) -> set[Path]:
    """Files and the directories that they are in."""
    files = {root / name for name in names}
    return files | {parent for path in files for parent in path.parents if parent.is_relative_to(root)}


def _below(directory: Path) -> Iterator[Path]:
    for top, directories, files in os.walk(directory):
        yield from (Path(top, name) for name in (*directories, *files))
