"""Submodules stay as they are: what that means for a plan, and what of theirs would be overwritten. Reads only."""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from rollbackd.adapter import AdapterError
from rollbackd_adapters.git.repo import Repo, failure

_LINK = "160000"
"""The mode of a submodule in a tree."""


async def risks(repo: Repo, before: str, after: str) -> AsyncIterator[str]:
    """A sentence for each submodule that is to be at another commit in tree `after` than in `before`."""
    if not await asyncio.to_thread(_are_used, repo.path):
        return
    parts = iter(await repo.names("diff-tree", "-r", "-z", "--raw", "--no-abbrev", "--no-renames", before, after))
    for about, name in zip(parts, parts, strict=False):
        _, mode, _, wanted, _ = about.split()
        if mode == _LINK:
            yield (
                f"{name} is a submodule, which git leaves as it is; this release has {wanted[:10]} there: let `then` "
                "run [git, submodule, update, --init]"
            )


def _are_used(path: Path) -> bool:
    """Whether the repository has submodules, found without a process, since most have none."""
    return os.path.lexists(path / ".gitmodules") or (path / ".git" / "modules").is_dir()


async def check_unharmed(repo: Repo, inside: Mapping[Path, Sequence[Path]]) -> None:
    """Files of the target lie where a submodule is checked out: only what the submodule itself has may be overwritten.

    :param inside: for each repository in the work tree, relative to it, the paths in it that are to be written.
    :raises AdapterError: permanent, when uncommitted work would be lost; git cannot save what lies in a submodule.
    """
    for module, paths in inside.items():
        place = repo.path / module
        answer = await repo.ask(
            *("-c", f"safe.directory={place}", "status", "--porcelain", "-z", "--ignored", "--untracked-files=all"),
            *("--", *map(os.fspath, paths)),
            cwd=place,
            env={"GIT_CEILING_DIRECTORIES": str(place.parent)},
        )
        if not answer.ok:
            raise failure(place, answer)
        if answer.stdout:
            raise AdapterError(
                f"{place} is a submodule with uncommitted work where this release has files, so nothing was touched; "
                "commit it there, or remove it",
                permanent=True,
            )
