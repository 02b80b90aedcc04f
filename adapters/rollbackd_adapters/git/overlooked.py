"""Files in a work tree that git does not look at: those that it does not know, and those it was told to overlook.

People mark by `update-index --assume-unchanged` or `--skip-worktree` what they edit for one host alone. Git neither
tells of such edits nor overwrites them.
"""

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rollbackd.system.spawner import Lock
from rollbackd_adapters.git.repo import Repo, failure


@dataclass(frozen=True, slots=True)
class Beside:
    """Names relative to the work tree, as bytes."""

    unknown: tuple[bytes, ...]
    """Neither in the index nor ignored; a repository that lies in the tree has a slash at the end."""
    marked: tuple[bytes, ...]
    """To be overlooked, and there; of a sparse checkout most are not."""


async def beside(repo: Repo, paths: Sequence[str] = ()) -> Beside:
    """Ask git once. :raises AdapterError: it cannot tell."""
    options = ("-v", "-z", "--cached", "--others", "--exclude-standard")
    answer = await repo.ask("ls-files", *options, "--", *paths, timeout=repo.timeout)
    if not answer.ok or answer.truncated:
        raise failure(repo.path, answer)
    rows = answer.stdout.split(b"\0")
    marked = [row[2:] for row in rows if row[:1] == b"S" or row[:1].islower()]
    root = os.fsencode(repo.path)
    there = await asyncio.to_thread(lambda: [name for name in marked if os.path.lexists(b"%b/%b" % (root, name))])
    return Beside(tuple(row[2:] for row in rows if row[:1] == b"?"), tuple(there))


async def look_again(repo: Repo, names: Sequence[bytes], lock: Lock, env: Mapping[str, str] | None = None) -> None:
    """Take both marks away from these, in the index that `env` names."""
    if not names:
        return
    for mark in ("--no-assume-unchanged", "--no-skip-worktree"):
        await repo.call("update-index", mark, "-z", "--stdin", stdin=b"\0".join(names), env=env, lock=lock)


async def make_way(repo: Repo, marked: Sequence[bytes], commit: str, lock: Lock) -> list[bytes]:
    """Take the marks away where the commit has something else than the index, so that it can be checked out."""
    if not marked:
        return []
    answer = await repo.ask("diff-index", "--cached", "-z", "--name-only", "--no-renames", commit, "--")
    if not answer.ok or answer.truncated:
        raise failure(repo.path, answer)
    found = sorted(set(marked) & set(answer.stdout.split(b"\0")))
    await look_again(repo, found, lock)
    return found
