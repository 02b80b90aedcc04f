"""Checks a snapshot out into a repository of its own in scratch, from the very file that an export writes.

The repository, its work tree and its index are not touched. What a kill left of an earlier one is taken away first.
"""

import asyncio
import shutil
from pathlib import Path

from rollbackd.adapter import AdapterError, Place
from rollbackd.process import Lock
from rollbackd_adapters.git import bundles
from rollbackd_adapters.git.repo import Repo, failure
from rollbackd_adapters.git.settings import GitSettings
from rollbackd_adapters.git.tags import Tag

_SHOWN = 20
"""Files that are told."""


async def problems(repo: Repo, settings: GitSettings, place: Place, tag: Tag, lock: Lock) -> list[str]:
    """What is wrong with it once it is checked out. :raises AdapterError: it could not be tried."""
    root = place.scratch / "rehearsal"
    await asyncio.to_thread(_empty, root)
    try:
        await asyncio.to_thread(root.mkdir, mode=0o700, parents=True)
        bundle, work = root / "snapshot", root / "work"
        try:
            await bundles.write(repo, tag, str(bundle), lock)
        except AdapterError as error:
            return [str(error)]
        return await _checked_out(Repo(settings, place, work), bundle, tag, lock)
    except OSError as error:
        raise AdapterError(f"{root}: {error.strerror}; look at its disk", permanent=False) from error
    finally:
        await asyncio.to_thread(_empty, root)


async def _checked_out(copy: Repo, bundle: Path, tag: Tag, lock: Lock) -> list[str]:
    ref = f"refs/tags/{tag.name}"
    steps = (
        ("init", "--quiet", "--template=", str(copy.path)),
        ("fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--", str(bundle), f"{ref}:{ref}"),
        ("checkout", "--quiet", "--force", "--detach", tag.commit),
    )
    for step in steps:
        cwd = copy.path.parent if step[0] == "init" else copy.path
        done = await copy.ask(*step, lock=lock, timeout=copy.timeout, cwd=cwd)
        if not done.ok:
            return [str(failure(cwd, done))]
    if (tree := (await copy.call("rev-parse", "HEAD^{tree}")).strip()) != tag.tree:
        return [f"checked out, its tree is {tree} and not {tag.tree}"]
    differs = await copy.call("status", "--porcelain", "-z", "--ignore-submodules=all", timeout=copy.timeout)
    return [f"checked out, it differs: {row}" for row in differs.split("\0") if row][:_SHOWN]


def _empty(root: Path) -> None:
    if root.exists():
        shutil.rmtree(root)
