"""Files in a work tree that git does not look at: those that it does not know, and those it was told to overlook.

People mark by `update-index --assume-unchanged` or `--skip-worktree` what they edit for one host alone. Git neither
tells of such edits nor overwrites them.
"""

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rollbackd.system.spawner import Lock
from rollbackd_adapters.git.repo import Repo


@dataclass(frozen=True, slots=True)
class Beside:
    """Names relative to the work tree."""

    unknown: tuple[str, ...]
    """Neither in the index nor ignored; a repository that lies in the tree has a slash at the end."""
    marked: tuple[str, ...]
    """To be overlooked, and there; of a sparse checkout most are not."""


async def beside(repo: Repo, paths: Sequence[str] = ()) -> Beside:
    """Ask git once. :raises AdapterError: it cannot tell."""
    options = ("-v", "-z", "--cached", "--others", "--exclude-standard")
    rows = await repo.names("ls-files", *options, "--", *paths, timeout=repo.timeout)
    marked = [row[2:] for row in rows if row[0] == "S" or row[0].islower()]
    there = await asyncio.to_thread(lambda: [name for name in marked if os.path.lexists(f"{repo.path}/{name}")])
    return Beside(tuple(row[2:] for row in rows if row[0] == "?"), tuple(there))


async def look_again(repo: Repo, names: Sequence[str], lock: Lock, env: Mapping[str, str] | None = None) -> None:
    """Take both marks away from these, in the index that `env` names."""
    for mark in ("--no-assume-unchanged", "--no-skip-worktree") if names else ():
        listed = os.fsencode("\0".join(names))
        await repo.call("update-index", mark, "-z", "--stdin", stdin=listed, env=env, lock=lock)


async def make_way(repo: Repo, marked: Sequence[str], commit: str, lock: Lock) -> list[str]:
    """Take the marks away where the commit has something else than the index, so that it can be checked out."""
    found = await giving_way(repo, marked, commit)
    await look_again(repo, found, lock)
    return found


async def giving_way(repo: Repo, marked: Sequence[str], commit: str) -> list[str]:
    """The marked files of which the commit has something else than the index. Read only."""
    if not marked:
        return []
    differ = await repo.names("diff-index", "--cached", "-z", "--name-only", "--no-renames", commit, "--")
    return sorted({*marked} & {*differ})
