"""Whether a work tree's repository is damaged. Read only; missing rights or room are never taken for damage."""

import asyncio
import os
from pathlib import Path

from rollbackd.adapter import AdapterError
from rollbackd.system.spawner import Finished
from rollbackd_adapters.git.lfs import SKIP
from rollbackd_adapters.git.repo import Repo, failure

DAMAGED = "0" * 40
"""The id of the release that a damaged work tree is: it can be left, and nothing ever goes back to it."""

_NOT_DAMAGE = (
    "Permission denied",
    "dubious ownership",
    "Operation not permitted",
    "out of memory",
    "Cannot allocate memory",
    "Too many open files",
    "No space left",
    "cannot fork",
    "File exists",
)


async def damage_of(repo: Repo, commit: str = "HEAD") -> str:
    """What is damaged, or "" when HEAD, index and the trees and files of `commit` can be read.

    :raises AdapterError: it cannot be told, so it must not be taken for damage.
    """
    if said := await asyncio.to_thread(_on_disk, repo.path):
        return said
    questions = (
        ("HEAD cannot be read", ("rev-parse", "--verify", "--quiet", "HEAD^{tree}"), {0}),
        ("the index cannot be read", ("diff-index", "--cached", "--quiet", "HEAD", "--"), {0, 1}),
    )
    for what, arguments, fine in questions:
        if said := await _fails(repo, arguments, fine):
            return f"{what}{said}"
    return await missing(repo, commit)


async def missing(repo: Repo, commit: str) -> str:
    """What a commit's own trees and files lack, or "". What a partial clone fetches when it is wanted counts as there.

    :raises AdapterError: it cannot be told.
    """
    arguments = ("rev-list", "--objects", "--no-walk", "--quiet", "--missing=allow-promisor", commit)
    said = await _fails(repo, arguments, {0})
    return f"objects of {commit[:10]} are missing{said}" if said else ""


def _on_disk(path: Path) -> str:
    if not os.path.lexists(path):
        if not path.parent.is_dir():
            raise AdapterError(f"{path.parent}: no such directory; is it mounted?", permanent=False)
        return "the directory is gone"
    if not path.is_dir():
        return "it is not a directory"
    if not os.path.lexists(path / ".git"):
        return "it has no .git"
    if not os.access(path, os.R_OK | os.X_OK):
        raise AdapterError(f"{path}: rollbackd may not read it; give its user that right", permanent=False)
    return ""


async def unreadable(repo: Repo, commit: str) -> str:
    """What is damaged in a commit's own files, read to the last byte, or ""."""
    archive = ("archive", "--format=tar", f"--output={os.devnull}", commit)
    answer = await repo.ask(*archive, env=SKIP, timeout=repo.timeout)
    return f"files of {commit[:10]} cannot be read{_why(repo, answer)}" if not answer.ok else ""


async def _fails(repo: Repo, arguments: tuple[str, ...], fine: set[int]) -> str:
    answer = await repo.ask(*arguments)
    return "" if answer.code in fine and not answer.timed_out else _why(repo, answer)


def _why(repo: Repo, answer: Finished) -> str:
    """What git said, behind a colon. :raises AdapterError: when that is not about damage."""
    if answer.timed_out or answer.code < 0 or any(text in answer.stderr for text in _NOT_DAMAGE):
        raise failure(repo.path, answer)
    lines = [line for line in answer.stderr.splitlines() if line.strip()]
    return f": {lines[-1]}" if lines else ": it names nothing"
