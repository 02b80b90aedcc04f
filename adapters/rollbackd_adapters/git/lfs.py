"""Git LFS: the content of a release's files is fetched before a work tree moves, and must lie in it afterwards.

Such files go through the filters that git's own configuration names, as in every checkout; no other program is started
for them. Where nothing but pointers lay before, pointers may lie afterwards.

https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
"""

import asyncio
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from rollbackd.adapter import AdapterError
from rollbackd.system.spawner import Lock, one_line
from rollbackd_adapters.git.repo import Repo, RepoState, failure
from rollbackd_adapters.lacks import missing_programs

SKIP = {"GIT_LFS_SKIP_SMUDGE": "1"}
"""Has git-lfs leave pointers, where only what git itself has is looked at."""

_POINTER = b"version https://git-lfs.github.com/spec/v1\n"
_LONGEST = 1024
"""Bytes; a pointer is shorter."""
_FILES = ("ls-files", "-z", "--stage", "--", ":(attr:filter=lfs)")
_MAGIC = {"GIT_LITERAL_PATHSPECS": "0"}
_HASH = re.compile("([0-9a-f]{10})[0-9a-f]{54}")
_SHOWN = 3


def may_be_used(path: Path) -> bool:
    """Whether a work tree may have to do with LFS; without a process, since most have not."""
    try:
        return (path / ".git" / "lfs").is_dir() or b"filter=lfs" in (path / ".gitattributes").read_bytes()
    except OSError:
        return False


def is_pointer(path: Path) -> bool | None:
    """Whether a pointer lies there; None when no file does."""
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            return None
        with path.open("rb") as file:
            return status.st_size < _LONGEST and file.read(len(_POINTER)) == _POINTER
    except OSError:
        return None


async def expected(repo: Repo) -> bool:
    """Whether contents are wanted in this work tree: not where pointers lie, and nothing else."""
    if not await asyncio.to_thread(may_be_used, repo.path):
        return False
    names = await _names(repo)
    return not names or len(await asyncio.to_thread(_pointers, repo.path, names)) < len(names)


async def pointers(repo: Repo) -> list[str]:
    """Files whose pointers lie in the work tree, unless git-lfs is told to leave some."""
    found = await asyncio.to_thread(_pointers, repo.path, await _names(repo))
    return [] if found and await _some_are_left_out(repo) else found


def lay_there(names: Sequence[str], old: Path) -> bool:
    """Whether the content of any of them lies in another work tree."""
    return any(is_pointer(old / name) is False for name in names)


async def check(repo: Repo) -> None:
    """:raises AdapterError: permanent, when pointers lie where contents belong."""
    if left := await pointers(repo):
        shown = one_line(", ".join(left[:_SHOWN])) + (", …" if len(left) > _SHOWN else "")
        raise AdapterError(
            f"{repo.path}: of {len(left)} file(s) in Git LFS only the pointers are there ({shown}); set git-lfs up for "
            "rollbackd's user (`git lfs install --system`), or put [git, lfs, pull] into `then`",
            permanent=True,
        )


async def fetch(repo: Repo, look: RepoState, commit: str, scratch: Path, lock: Lock, *, since: str = "") -> None:
    """Run the filters over `commit` and throw the result away, so that missing content is fetched, or told, now.

    A checkout that finds out in the middle leaves a tree that is neither.

    :param since: only what differs from this tree.
    :raises AdapterError: not permanent; nothing was touched.
    """
    index, nothing = scratch / "lfs-index", scratch / "nothing"
    await asyncio.to_thread(nothing.mkdir, mode=0o700, exist_ok=True)
    # attributes are looked for in the work tree first: in an empty one they are those of the target
    env = {"GIT_DIR": str(look.directory), "GIT_WORK_TREE": str(nothing), "GIT_INDEX_FILE": str(index), **_MAGIC}
    await repo.call("read-tree", commit, env=env, lock=lock)
    rows = await _rows(repo, env)
    if since:
        differ = ("diff-tree", "-r", "-z", "--name-only", "--no-renames", "--diff-filter=AMT", since, commit)
        changed = {*await repo.names(*differ, lock=lock)}
        rows = [row for row in rows if row[1] in changed]
    wanted = "".join(f"{blob} {name}\n" for blob, name in rows if "\n" not in name)
    if wanted:
        made = ("cat-file", "--batch", "--filters")
        finished = await repo.reach(*made, env=env, stdin=os.fsencode(wanted), lock=lock, timeout=repo.timeout)
        if not finished.ok:
            errors = [line for line in finished.stderr.splitlines() if line.startswith("Error downloading object")]
            said = one_line(_HASH.sub(r"\1", errors[0])) if errors else str(failure(repo.path, finished))
            raise AdapterError(
                f"what {commit[:10]} keeps in Git LFS cannot be had, so it is not checked out: {said}; is the LFS "
                "server there, and may rollbackd read from it?",
                permanent=False,
                evidence=finished.stderr,
            )
    await asyncio.to_thread(index.unlink, missing_ok=True)


async def problems(repo: Repo) -> list[str]:
    """Reasons why a rollback would put pointers in place of contents."""
    if not await asyncio.to_thread(may_be_used, repo.path):
        return []
    if not await asyncio.to_thread(lay_there, await _names(repo), repo.path):
        return []
    answer = await repo.ask("config", "--get-regexp", r"^filter\.lfs\.(process|smudge)$")
    if not any(" " in line for line in answer.stdout.decode(errors="replace").splitlines()):
        why = "since git has no filter for them as rollbackd's user; run `git lfs install --system`"
        return [f"{repo.path}: its files in Git LFS would become pointers, {why}"]
    return missing_programs(repo.spawner, ["git-lfs"])


async def _names(repo: Repo) -> list[str]:
    return [name for _, name in await _rows(repo, _MAGIC)]


async def _rows(repo: Repo, env: dict[str, str]) -> list[tuple[str, str]]:
    """Blob and name of each file of an index that is in LFS."""
    paths = repo.settings.paths
    rows = [row.split("\t", 1) for row in await repo.names(*_FILES, env=env)]
    return [
        (about.split()[1], name)
        for about, name in rows
        if not paths or any(PurePosixPath(name).is_relative_to(path) for path in paths)
    ]


def _pointers(root: Path, names: Sequence[str]) -> list[str]:
    return [name for name in names if is_pointer(root / name)]


async def _some_are_left_out(repo: Repo) -> bool:
    """Whether git-lfs was told to fetch only some, by git's configuration or by the release itself."""
    asked = ("--get-regexp", r"^lfs\.fetch(include|exclude)$")
    for source in ((), ("--file", str(repo.path / ".lfsconfig"))):
        if (await repo.ask("config", *source, *asked)).ok:
            return True
    return False
