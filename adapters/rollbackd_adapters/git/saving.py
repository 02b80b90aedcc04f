"""Saves what is uncommitted in a work tree, before it is overwritten. Touches neither index, HEAD nor work tree.

Saved work that is older than `keep_saved` is dropped.

The result is a commit like those of `git stash`: its tree is the work tree with all files that are not ignored, and
those ignored ones that the target would overwrite; its first parent is HEAD and its second the index as it was. Left
out is what git does not know, nobody overwrites, and cannot be taken in: repositories that lie in the tree, files that
rollbackd may not read, and dumps that git would read for longer than a rollback may take.
"""

import asyncio
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rollbackd.adapter import AdapterError
from rollbackd.system import log
from rollbackd.system.clock import Clock
from rollbackd.system.spawner import Lock, one_line
from rollbackd_adapters.git import submodules
from rollbackd_adapters.git.looking import copy_index
from rollbackd_adapters.git.overlooked import Beside, beside, look_again
from rollbackd_adapters.git.repo import OURSELVES, SAVED, Repo, RepoState, failure, identity, moment
from rollbackd_adapters.mounts import mounted_below

_SPARED = 5
"""Saved work that is kept however old it is."""
_LARGEST = 2**30
"""Bytes of a file that git does not know; a larger one stays where it lies."""


async def dirty(repo: Repo, look: RepoState) -> list[str]:
    """Files that are changed or untracked; a directory that is untracked is one of them, with a slash at the end."""
    options = ("--porcelain", "-z", "--no-renames", "--untracked-files=normal", "--ignore-submodules=dirty")
    index = await repo.index_of_looks(look)
    rows = await repo.names("status", *options, "--", *repo.settings.paths, env=index)
    return [row[3:] for row in rows]


async def stash(repo: Repo, look: RepoState, target: str, scratch: Path, lock: Lock, lies: Beside | None = None) -> str:
    """Make a commit of all that is uncommitted, which no ref names yet; "" when there is nothing.

    :param lies: what lies beside what git looks at, where that is known.
    :param target: the commit it makes room for; empty when nothing is moved: then no ignored file is in the way.
    :param scratch: a directory for a temporary index.
    :raises AdapterError: it cannot be saved; nothing was touched.
    """
    blocking = await in_the_way(repo, target) if target else []
    lies = lies or await beside(repo)
    if not blocking and not lies.marked and not await dirty(repo, look):
        return ""
    index = scratch / "index"
    await asyncio.to_thread(copy_index, look.directory / "index", index)
    env = {"GIT_INDEX_FILE": str(index)}
    await look_again(repo, lies.marked, lock, env)
    staged = await repo.ask("write-tree", env=env, lock=lock)  # fails in the middle of a merge: then it has no tree
    staged_tree = staged.stdout.decode().strip() if staged.ok else look.tree
    await _add_all(repo, lies, env, lock)  # the whole tree also for `paths`: a stash is of one moment
    if blocking:
        await _add(repo, env, lock, "--force", names=blocking)
    tree = (await repo.call("write-tree", env=env, lock=lock, timeout=repo.timeout)).strip()
    index.unlink(missing_ok=True)
    if tree == staged_tree == look.tree:
        return ""
    message = f"uncommitted work in {repo.path}, saved by rollbackd".encode()
    base, who = ("commit-tree", "-p", look.commit, "-F", "-"), identity(*OURSELVES)
    second = (await repo.call(*base, staged_tree, stdin=b"index: " + message, env=who, lock=lock)).strip()
    return (await repo.call(*base, "-p", second, tree, stdin=message, env=who, lock=lock)).strip()


async def _add_all(repo: Repo, lies: Beside, env: Mapping[str, str], lock: Lock) -> None:
    """The names without those that git cannot take in; their files stay where they lie."""
    left_out = await asyncio.to_thread(lambda: [name for name in lies.unknown if not _can_be_added(repo.path, name)])
    if not left_out:
        await _add(repo, env, lock, "--all")
        return
    log.get("git").warning("left where it is, and not saved", repo=str(repo.path), files=left_out[:20])
    magic = {**env, "GIT_LITERAL_PATHSPECS": "0"}
    await _add(repo, magic, lock, "--all", names=[".", *(f":(exclude,top,literal){one}" for one in left_out)])


def _can_be_added(root: Path, name: str) -> bool:
    """Not where a name is a repository in the tree: git ends such a name with a slash."""
    path = root / name
    try:
        status = path.lstat()
    except OSError:
        return False
    return not name.endswith("/") and (
        stat.S_ISLNK(status.st_mode) or (status.st_size <= _LARGEST and os.access(path, os.R_OK))
    )


async def _add(repo: Repo, env: Mapping[str, str], lock: Lock, *options: str, names: Sequence[str] = ()) -> None:
    stdin = os.fsencode("\0".join(names))
    given = ("--pathspec-from-file=-", "--pathspec-file-nul") if names else ()
    finished = await repo.ask(
        "add", "--sparse", *options, *given, env=env, stdin=stdin, lock=lock, timeout=repo.timeout
    )
    if not finished.ok:
        text = f"what is uncommitted cannot be saved, so nothing was touched: {failure(repo.path, finished)}"
        raise AdapterError(text, permanent=False, evidence=finished.tail)


async def in_the_way(repo: Repo, target: str) -> list[str]:
    """Paths on disk that git does not know, and that the target would put a file in place of. Read only.

    :raises AdapterError: permanent, for what cannot be saved: the work of another repository, or what is mounted there.
    """
    wanted = await repo.names(
        *("diff-index", "--cached", "-z", "--name-only", "--no-renames", "--diff-filter=D"),
        *("--ignore-submodules=all", target, "--", *repo.settings.paths),
    )
    found = await asyncio.to_thread(_on_disk, repo.path, list(map(Path, wanted)))
    if found.replaced:
        raise AdapterError(
            f"{one_line(str(repo.path / found.replaced))} is a repository of its own where the target has a file, so "
            "nothing was touched; move it away",
            permanent=True,
        )
    await submodules.check_unharmed(repo, found.inside)
    await _check_mounts(repo, target, found.names)
    return found.names


async def _check_mounts(repo: Repo, target: str, going: Sequence[str]) -> None:
    """Nothing that is mounted is taken away: git would empty it first, and then fail."""
    points = [Path(point).relative_to(repo.path) for point in await asyncio.to_thread(mounted_below, str(repo.path))]
    if not points:
        return
    written = await repo.names(
        *("diff-index", "-z", "--name-only", "--no-renames", "--ignore-submodules=all", target, "--"),
        *repo.settings.paths,
        timeout=repo.timeout,
    )
    for point in points:
        if str(point) in written or any(point.is_relative_to(name) for name in going):
            text = f"{one_line(str(repo.path / point))} is mounted there, where this release has something else"
            raise AdapterError(f"{text}, so nothing was touched; unmount it", permanent=True)


@dataclass(slots=True)
class _Found:
    """The files that lie where the target has files."""

    names: list[str] = field(default_factory=list)
    """Of this repository: the file itself, or what stands where a directory above it must be."""
    inside: dict[Path, list[Path]] = field(default_factory=dict)
    """Of other repositories, each relative to the one that it lies in."""
    replaced: str = ""
    """Another repository, or a directory with one in it, that a file would take the place of."""


def _on_disk(root: Path, paths: Sequence[Path]) -> _Found:
    found, names = _Found(), set()
    for path in paths:
        for part in (*reversed(path.parents[:-1]), path):
            on_disk = root / part
            if not os.path.lexists(on_disk):
                break
            if part == path or on_disk.is_symlink() or not on_disk.is_dir():
                names.add(part)
                break
            if os.path.lexists(on_disk / ".git"):
                if os.path.lexists(root / path):
                    found.inside.setdefault(part, []).append(path.relative_to(part))
                break
    found.names = sorted(map(str, names))
    found.replaced = next((name for name in found.names if _has_a_repository(root / name)), "")
    return found


def _has_a_repository(path: Path) -> bool:
    if path.is_symlink() or not path.is_dir():
        return False
    return any(".git" in directories or ".git" in files for _, directories, files in os.walk(path))


async def prune_saved(repo: Repo, clock: Clock, lock: Lock) -> None:
    """Drop old saved work when a step is done. A failure is logged, and tried again after the next step."""
    try:
        form = "--format=%(objectname) %(committerdate:unix) %(refname)"
        answer = await repo.call("for-each-ref", "--sort=-committerdate", form, SAVED)
        oldest = clock.now() - repo.settings.keep_saved
        for row in answer.splitlines()[_SPARED:]:
            commit, at, ref = row.split(" ", 2)
            if moment(at) < oldest:
                await repo.call("update-ref", "-d", ref, commit, lock=lock)
    except AdapterError as error:
        log.get("git").warning("old saved work could not be dropped", repo=str(repo.path), error=str(error))
