"""What would stop a rollback of a repository right now. Read only; every sentence says what to do."""

import asyncio
import os
import shutil
from pathlib import Path

from rollbackd.adapter import AdapterError, Place
from rollbackd.process import Spawner
from rollbackd_adapters.git.repo import Repo
from rollbackd_adapters.git.settings import GitSettings

_UNFINISHED = {
    "MERGE_HEAD": "a merge is unfinished; commit it or run `git merge --abort`",
    "rebase-merge": "a rebase is unfinished; finish it or run `git rebase --abort`",
    "rebase-apply": "a rebase or `git am` is unfinished; finish or abort it",
    "CHERRY_PICK_HEAD": "a cherry-pick is unfinished; commit it or run `git cherry-pick --abort`",
    "REVERT_HEAD": "a revert is unfinished; commit it or run `git revert --abort`",
}


async def of_any(repo: Repo, settings: GitSettings, place: Place) -> list[str]:
    """What both strategies need: the repository, room, and the programs of `then`."""
    if not repo.path.is_dir():
        return [f"{repo.path}: no such directory; correct `repo`, or clone it there"]
    if settings.repo.is_symlink() and not settings.repo.exists():
        return [f"{settings.repo}: a link that leads nowhere"]
    spawner: Spawner = place.spawner
    found = [
        f"{argv[0]}: no such program, or not executable; `then` needs it"
        for argv in settings.then
        if (argv[0].startswith("/") or "/" not in argv[0]) and spawner.which(argv[0]) is None
    ]
    found += [
        f"{path}: {free // 2**20} MiB free, wants {settings.room // 2**20} MiB (`room`); make room"
        for path in sorted({repo.path, _existing(place.scratch)})
        if (free := shutil.disk_usage(path).free) < settings.room
    ]
    if not os.access(_existing(place.scratch), os.W_OK | os.X_OK):
        found.append(f"{place.scratch}: rollbackd may not write there; give its user that right")
    return found


async def of_work_tree(repo: Repo) -> list[str]:
    """What `checkout` needs: a work tree that may be written to and that nobody is in the middle of something in."""
    try:
        answer, head = await asyncio.gather(
            repo.call("rev-parse", "--is-bare-repository", "--path-format=absolute", "--absolute-git-dir"),
            repo.one("HEAD"),
        )
        bare, directory = answer.splitlines()
    except AdapterError as error:
        return [f"{error}; is it a git repository?"]
    if bare == "true":
        return [f"{repo.path}: a bare repository has no work tree; use `strategy: revert`, or a clone with one"]
    if head is None:
        return [f"{repo.path}: HEAD names no commit; check one out"]
    found = [
        f"{path}: rollbackd may not write there; give its user that right, or make the file system writable"
        for path in (repo.path, Path(directory), Path(directory) / "objects")
        if path.exists() and not os.access(path, os.W_OK | os.X_OK)
    ]
    return found + [f"{repo.path}: {text}" for name, text in _UNFINISHED.items() if (Path(directory) / name).exists()]


def _existing(path: Path) -> Path:
    """The directory itself, or the nearest one above it that is there."""
    while not path.is_dir():
        path = path.parent
    return path
