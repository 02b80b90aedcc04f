"""Branches that a rollback leaves behind. One that is there already is never moved: the next free name is taken."""

from itertools import count

from rollbackd.model import Change
from rollbackd.process import Lock
from rollbackd_adapters.git.repo import Repo, failure
from rollbackd_adapters.traces import safe_name

EMERGENCY = "emergency/{incident}"
ROLLBACK = "rollback/{incident}"
_LONGEST_SEARCH = 100


def name_of(setting: bool | str, default: str, change: Change) -> str:
    """The branch that a setting asks for, or "" for none."""
    pattern = setting if isinstance(setting, str) else default if setting else ""
    return pattern.replace("{incident}", safe_name(change.key.partition("/")[0]))


async def at(repo: Repo, name: str, commit: str, lock: Lock) -> str:
    """A branch of that name at the commit, made or found; its name. Called again after a crash it finds its own.

    :raises AdapterError: it cannot be made.
    """
    for number in count(1):
        branch = name if number == 1 else f"{name}-{number}"
        ref = f"refs/heads/{branch}"
        there = await repo.ask("rev-parse", "--verify", "--quiet", ref)
        if there.ok and there.stdout.decode().strip() == commit:
            return branch
        if there.ok and number < _LONGEST_SEARCH:
            continue
        made = await repo.ask("update-ref", "-m", "left by rollbackd", ref, commit, "0" * len(commit), lock=lock)
        if not made.ok:
            raise failure(repo.path, made)
        return branch
    raise AssertionError
