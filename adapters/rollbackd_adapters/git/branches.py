"""Branches that a rollback leaves behind, and the one that HEAD is on afterwards.

A branch that is there already is never moved: the next free name is taken. None of them is needed: a rollback goes on
when one cannot be made.
"""

from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

from rollbackd.adapter import AdapterError
from rollbackd.model import Change
from rollbackd.system import log
from rollbackd.system.spawner import Lock, one_line
from rollbackd_adapters.git.repo import Repo, RepoState
from rollbackd_adapters.ids import incident_of
from rollbackd_adapters.traces import safe_name

EMERGENCY = "emergency/{incident}"
ROLLBACK = "rollback/{incident}"
_LONGEST_SEARCH = 100


class Branches:
    """The branches of one work tree."""

    def __init__(self, repo: Repo) -> None:
        self._repo = repo
        self._settings = repo.settings

    def locks(self, look: RepoState, change: Change) -> list[Path]:
        """What a git that was killed may have left of the branches of this change, which are nobody else's."""
        names = (self._emergency(change), self._rollback(change))
        return [look.common / "refs" / "heads" / f"{name}.lock" for name in names if name]

    def _emergency(self, change: Change) -> str:
        return name_of(self._settings.emergency, EMERGENCY, change)

    def _rollback(self, change: Change) -> str:
        return name_of(self._settings.on_branch, ROLLBACK, change)

    def left(self, look: RepoState, last: Mapping[str, Any]) -> str:
        """The branch that the last change took HEAD from; none if HEAD moved since.

        :param last: what was written at its beginning.
        """
        return "" if self._settings.paths or last.get("commit") != look.commit else str(last.get("on", ""))

    async def leave(self, change: Change, commit: str, lock: Lock) -> None:
        """Leave the emergency branch at the commit that is left."""
        if name := self._emergency(change):
            try:
                branch = await at(self._repo, name, commit, lock)
                log.get("git").info("left a branch", repo=str(self._repo.path), branch=branch, commit=commit)
            except AdapterError as error:
                log.get("git").warning("no branch could be left", repo=str(self._repo.path), error=str(error))

    async def take_up(self, change: Change, commit: str, known: str, lock: Lock) -> None:
        """Put HEAD, which is at the commit already, on a branch there.

        :param known: the branch it was on when it was there before; it must not have moved.
        """
        try:
            ref = known if known and await self._repo.resolve(known) == commit else ""
            if not ref and (name := self._rollback(change)):
                ref = f"refs/heads/{await at(self._repo, name, commit, lock)}"
            if ref and (where := (await self._repo.call("for-each-ref", "--format=%(worktreepath)", ref)).strip()):
                raise AdapterError(f"{where} is on {ref}", permanent=True)  # noqa: TRY301  # one place says so
            if ref:
                reason = f"rollbackd {one_line(change.key)}"
                await self._repo.call("symbolic-ref", "-m", reason, "HEAD", ref, lock=lock)
        except AdapterError as error:
            log.get("git").warning("HEAD stays on no branch", repo=str(self._repo.path), error=str(error))


def name_of(setting: bool | str, default: str, change: Change) -> str:
    """The branch that a setting asks for, or "" for none."""
    pattern = setting if isinstance(setting, str) else default if setting else ""
    return pattern.replace("{incident}", safe_name(incident_of(change.key)))


async def at(repo: Repo, name: str, commit: str, lock: Lock) -> str:
    """The name of a branch at the commit, made or found. Called again after a crash it finds its own.

    :raises AdapterError: it cannot be made.
    """
    for number in count(1):
        branch = name if number == 1 else f"{name}-{number}"
        ref = f"refs/heads/{branch}"
        there = await repo.resolve(ref)
        if there == commit:
            return branch
        if there and number < _LONGEST_SEARCH:
            continue
        await repo.call("update-ref", "-m", "left by rollbackd", ref, commit, "0" * len(commit), lock=lock)
        return branch
    raise AssertionError
