"""Checks a snapshot out into a repository of its own in scratch, from the very file that an export writes.

A shallow clone can write none, since it has not all of its history: then from its own objects.
The repository, its work tree and its index are not touched. What a kill left of an earlier one is taken away first.
"""

import asyncio
import shutil
from pathlib import Path

from rollbackd.adapter import AdapterError
from rollbackd.system.spawner import Lock
from rollbackd_adapters.git import bundles, lfs
from rollbackd_adapters.git.repo import Repo, failure, quoted
from rollbackd_adapters.git.tags import Tag

_SHOWN = 20
"""Files that are told."""


async def problems(repo: Repo, tag: Tag, lock: Lock) -> list[str]:
    """What is wrong with it once it is checked out. :raises AdapterError: it could not be tried."""
    root: Path = repo.place.scratch / "rehearsal"
    await asyncio.to_thread(_empty, root)
    try:
        await asyncio.to_thread(root.mkdir, mode=0o700, parents=True)
        work = repo.at(root / "work")
        found = await _made(repo, work, root / "snapshot", tag, lock) or await _checked_out(work, tag, lock)
        return found or await _without_contents(repo, root, tag, lock)
    except OSError as error:
        raise AdapterError(f"{root}: {error.strerror}; look at its disk", permanent=False) from error
    finally:
        await asyncio.to_thread(_empty, root)


async def _made(repo: Repo, copy: Repo, bundle: Path, tag: Tag, lock: Lock) -> list[str]:
    """Make the repository, with the snapshot in it and nothing checked out."""
    made = await _run(copy, "init", "--quiet", "--template=", str(copy.path), cwd=copy.path.parent, lock=lock)
    if made or await bundles.is_shallow(repo):
        common = (await repo.look()).common
        return made or await asyncio.to_thread(_borrow, common, copy.path / ".git")
    try:
        await bundles.write(repo, tag, str(bundle), lock)
    except AdapterError as error:
        return [str(error)]
    ref = f"refs/tags/{tag.name}"
    options = ("--quiet", "--no-tags", "--no-recurse-submodules")
    return await _run(copy, "fetch", *options, "--", str(bundle), f"{ref}:{ref}", cwd=copy.path, lock=lock)


def _borrow(common: Path, own: Path) -> list[str]:
    """Have the objects of a shallow clone, and know where its history ends."""
    (own / "objects" / "info" / "alternates").write_text(f"{quoted(common / 'objects')}\n")
    shutil.copyfile(common / "shallow", own / "shallow")
    return []


async def _run(copy: Repo, *arguments: str, cwd: Path, lock: Lock) -> list[str]:
    done = await copy.ask(*arguments, env=lfs.SKIP, lock=lock, timeout=copy.timeout, cwd=cwd)
    return [] if done.ok else [str(failure(cwd, done))]


async def _checked_out(copy: Repo, tag: Tag, lock: Lock) -> list[str]:
    wrong = await _run(
        copy, "checkout", "--quiet", "--force", "--detach", f"{tag.commit}^{{commit}}", cwd=copy.path, lock=lock
    )
    if wrong:
        return wrong
    if (tree := (await copy.call("rev-parse", "HEAD^{tree}")).strip()) != tag.tree:
        return [f"checked out, its tree is {tree} and not {tag.tree}"]
    differs = await copy.call("status", "--porcelain", "-z", "--ignore-submodules=all", timeout=copy.timeout)
    return [f"checked out, it differs: {row}" for row in differs.split("\0") if row][:_SHOWN]


async def _without_contents(repo: Repo, root: Path, tag: Tag, lock: Lock) -> list[str]:
    """Problems with the snapshot's content in LFS: it is not in the file, but in the repository or on the server."""
    if not await lfs.expected(repo):
        return []
    try:
        await lfs.fetch(repo, await repo.look(), tag.commit, root, lock)
    except AdapterError as error:
        return [str(error)]
    return []


def _empty(root: Path) -> None:
    if root.exists():
        shutil.rmtree(root)
