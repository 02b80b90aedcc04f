"""Drops saved uncommitted work that is older than `keep_saved`. The newest five are never dropped."""

from datetime import UTC, datetime

from rollbackd.adapter import AdapterError
from rollbackd.system import log
from rollbackd.system.clock import Clock
from rollbackd.system.spawner import Lock
from rollbackd_adapters.git.repo import SAVED, Repo
from rollbackd_adapters.git.settings import GitSettings

SPARED = 5


async def prune_saved(repo: Repo, settings: GitSettings, clock: Clock, lock: Lock) -> None:
    """Drop old saved work when a step is done. A failure is logged, and tried again after the next step."""
    try:
        answer = await repo.call(
            "for-each-ref",
            "--sort=-committerdate",
            "--format=%(objectname) %(committerdate:unix) %(refname)",
            SAVED,
        )
        oldest = clock.now() - settings.keep_saved
        for row in answer.splitlines()[SPARED:]:
            commit, at, ref = row.split(" ", 2)
            if datetime.fromtimestamp(int(at), UTC) < oldest:
                await repo.call("update-ref", "-d", ref, commit, lock=lock)
    except AdapterError as error:
        log.get("git").warning("old saved work could not be dropped", repo=str(repo.path), error=str(error))
