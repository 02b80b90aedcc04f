"""Saves what is uncommitted in a work tree, before it is overwritten. Touches neither index, HEAD nor work tree.

The result is a commit like those of `git stash`: its tree is the work tree with all files that are not ignored, and
those ignored ones that the target would overwrite; its first parent is HEAD and its second the index as it was.
"""

import asyncio
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from rollbackd.adapter import AdapterError
from rollbackd.process import Lock
from rollbackd_adapters.git.repo import Look, Repo, failure
from rollbackd_adapters.git.settings import GitSettings

_WHO = {
    "GIT_AUTHOR_NAME": "rollbackd",
    "GIT_AUTHOR_EMAIL": "rollbackd@localhost",
    "GIT_COMMITTER_NAME": "rollbackd",
    "GIT_COMMITTER_EMAIL": "rollbackd@localhost",
}


async def dirty(repo: Repo, paths: Sequence[str] = ()) -> int:
    """How many files are changed or untracked; a directory that is untracked counts once."""
    answer = await repo.call("status", "--porcelain", "-z", "--no-renames", "--untracked-files=normal", "--", *paths)
    return answer.count("\0")


def copy_index(look: Look, index: Path) -> None:
    """Make a temporary index that begins as the real one.

    It has the time of the real one: by that git sees which files may have changed in the very second in which they were
    recorded, and compares their content. With a later time, work of that second would be taken for unchanged, and lost.
    """
    for leftover in (index, index.with_name(f"{index.name}.lock")):
        leftover.unlink(missing_ok=True)
    if (look.directory / "index").exists():
        shutil.copyfile(look.directory / "index", index)
        shutil.copystat(look.directory / "index", index)


async def save(repo: Repo, settings: GitSettings, look: Look, target: str, ref: str, scratch: Path, lock: Lock) -> str:
    """Put all that moving to commit `target` could destroy under `ref`; its commit, or "" when there is nothing.

    :raises AdapterError: it cannot be saved; nothing was touched.
    """
    if commit := await stash(repo, settings, look, target, scratch, lock):
        await repo.call("update-ref", ref, commit, lock=lock)
    return commit


async def stash(repo: Repo, settings: GitSettings, look: Look, target: str, scratch: Path, lock: Lock) -> str:
    """Make a commit of all that is uncommitted, which no ref names yet; "" when there is nothing.

    :param target: the commit it makes room for; empty when nothing is moved: then no ignored file is in the way.
    :param scratch: a directory for a temporary index.
    :raises AdapterError: it cannot be saved; nothing was touched.
    """
    in_the_way = await _ignored_in_the_way(repo, look, target, settings.paths) if target else []
    if not in_the_way and not await dirty(repo, settings.paths):
        return ""
    index = scratch / "index"
    await asyncio.to_thread(copy_index, look, index)
    env = {"GIT_INDEX_FILE": str(index)}
    staged = await repo.ask("write-tree", env=env, lock=lock)  # fails in the middle of a merge: then it has no tree
    staged_tree = staged.stdout.decode().strip() if staged.ok else look.tree
    await _add(repo, settings, env, lock, "--all")  # the whole tree also for `paths`: a stash is of one moment
    if in_the_way:
        paths = b"\0".join(map(os.fsencode, in_the_way))
        await _add(repo, settings, env, lock, "--force", "--pathspec-from-file=-", "--pathspec-file-nul", stdin=paths)
    tree = (await repo.call("write-tree", env=env, lock=lock, timeout=settings.timeout)).strip()
    index.unlink(missing_ok=True)
    message = f"uncommitted work in {repo.path}, saved by rollbackd".encode()
    base = ("commit-tree", "-p", look.commit, "-F", "-")
    second = (await repo.call(*base, staged_tree, stdin=b"index: " + message, env=_WHO, lock=lock)).strip()
    return (await repo.call(*base, "-p", second, tree, stdin=message, env=_WHO, lock=lock)).strip()


async def _add(
    repo: Repo, settings: GitSettings, env: dict[str, str], lock: Lock, *options: str, stdin: bytes = b""
) -> None:
    finished = await repo.ask("add", *options, env=env, stdin=stdin, lock=lock, timeout=settings.timeout)
    if not finished.ok:
        error = failure(repo.path, finished)
        raise AdapterError(
            f"what is uncommitted cannot be saved, so nothing was touched: {error}",
            permanent=False,
            evidence=error.evidence,
        )


async def _ignored_in_the_way(repo: Repo, look: Look, target: str, paths: Sequence[str]) -> list[str]:
    """Paths on disk that HEAD does not have and the target would put a file in place of."""
    finished = await repo.ask(
        "diff-tree", "-r", "-z", "--name-only", "--no-renames", "--diff-filter=A", look.tree, target, "--", *paths
    )
    if not finished.ok or finished.truncated:
        raise failure(repo.path, finished)
    added = [Path(os.fsdecode(raw)) for raw in finished.stdout.split(b"\0") if raw]
    return await asyncio.to_thread(_on_disk, repo.path, added)


def _on_disk(root: Path, paths: Sequence[Path]) -> list[str]:
    """Those of the paths that exist, or the file that stands where a directory above them must be."""
    found = set()
    for path in paths:
        for part in (*reversed(path.parents[:-1]), path):
            on_disk = root / part
            if not os.path.lexists(on_disk):
                break
            if part == path or on_disk.is_symlink() or not on_disk.is_dir():
                found.add(str(part))
                break
    return sorted(found)
