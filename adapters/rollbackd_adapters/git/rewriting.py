"""A checkout that leaves the work tree as the commit has it, and owners and modes of its files as they were.

What is to be put on again is on disk before git writes the first file, so that the next life finds it.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rollbackd.system import log
from rollbackd.system.spawner import Lock
from rollbackd_adapters.git.comparing import (
    Comparison,
    Environment,
    attributes,
    differ,
    refresh,
    respelled,
    touched,
    tracked,
)
from rollbackd_adapters.git.dress import Wardrobe, loaded, put_on
from rollbackd_adapters.git.repo import Repo
from rollbackd_adapters.threads import in_thread
from rollbackd_adapters.traces import write_facts


class Rewriting:
    """One checkout, before it and after it."""

    def __init__(self, repo: Repo, commit: str, scratch: Path, lock: Lock, env: Environment = None) -> None:
        """:param env: names the index that git checks out with, if it is not the repository's own."""
        self._repo = repo
        self._commit = commit
        self._scratch = scratch
        self._lock = lock
        self._env = env
        self._record = scratch / "written.json"

    async def prepare(self) -> None:
        """Note what each file has that git is about to write; in the first life alone, while all is as it was."""
        if self._env is None:  # another one is new, and knows what lies there
            await refresh(self._repo, self._lock)
        if not await in_thread(self._record.exists):
            names = await touched(self._repo, self._commit, self._env)
            known = await tracked(self._repo, self._env) if names else []
            dresses = await in_thread(Wardrobe(str(self._repo.path), known, names).look)
            before = await attributes(self._repo, known, self._env) if differ(names) else None
            await in_thread(write_facts, self._record, {**asdict(dresses), "attributes": before})

    async def settle(self, spared: Sequence[str]) -> None:
        """Write again what git passed over, and put on what was noted.

        :param spared: what people told git to overlook.
        """
        record: dict[str, Any] = json.loads(await in_thread(self._record.read_bytes))
        suspects: list[str] = []
        if record["attributes"] is not None:
            known = await tracked(self._repo, self._env)
            now = await attributes(self._repo, known, self._env)
            suspects = sorted({*known} & {*respelled(record["attributes"], now)})
        await Comparison(self._repo, self._commit, self._scratch, self._lock, self._env).settle(suspects, spared)
        changed, refused = await in_thread(put_on, str(self._repo.path), loaded(record))
        if refused:
            what = "owners and modes could not be given to files that were written anew"
            log.get("git").warning(what, repo=str(self._repo.path), files=refused[:20])
        if changed and self._env is None:
            await refresh(self._repo, self._lock)
