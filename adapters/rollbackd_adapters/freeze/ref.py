"""A ref that CI looks at. It is made only where there is none, and deleted only while it is what we made.

Its commit is an empty tree that says in words who froze and for which incident.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from rollbackd.adapter import AdapterError, Place
from rollbackd.system.spawner import Lock, one_line
from rollbackd_adapters.base import LayerPart
from rollbackd_adapters.freeze.barrier import Whose
from rollbackd_adapters.freeze.settings import FreezeRef, FreezeSettings
from rollbackd_adapters.git.pushing import PUSH, rejection
from rollbackd_adapters.git.repo import OURSELVES, Repo, failure, identity
from rollbackd_adapters.git.settings import GitSettings
from rollbackd_adapters.ids import incident_of
from rollbackd_adapters.traces import Trace


class FrozenRef(LayerPart[FreezeSettings]):
    """One ref of a remote repository."""

    def __init__(self, ref: FreezeRef, settings: FreezeSettings, place: Place) -> None:
        super().__init__(settings, place)
        self._ref = ref
        self._own: Path = place.scratch / "freeze.git"
        """A repository of ours, for the commit that is pushed."""
        known = {"adapter": "git", "repo": self._own, "strategy": "revert", "timeout": settings.timeout}
        self._repo = Repo(GitSettings.model_validate(known), place)

    async def whose(self, _key: str, trace: Trace) -> Whose:
        found = await self._there()
        if not found:
            return Whose.NOBODY
        return Whose.OURS if found == trace.known.get("commit") else Whose.THEIRS

    async def _there(self) -> str:
        """The ref's commit, or "" when there is none."""
        await asyncio.to_thread(self._own.mkdir, mode=0o700, parents=True, exist_ok=True)
        asked = ("ls-remote", "--quiet", "--", self._ref.remote, self._ref.ref)
        answer = await self._repo.reach(*asked, timeout=self._settings.timeout)
        if not answer.ok:
            raise failure(Path(self._ref.remote), answer)
        rows = [line.split("\t") for line in answer.stdout.decode(errors="replace").splitlines()]
        return next((row[0] for row in rows if row[1:] == [self._ref.ref]), "")

    async def close(self, key: str, trace: Trace, lock: Lock) -> bool:
        commit = await self._commit(key, lock)
        trace.begin(commit=commit)  # before it is pushed, so that it is known as ours in the next life
        return await self._push(f"--force-with-lease={self._ref.ref}:", f"{commit}:{self._ref.ref}", lock)

    async def lift(self, _key: str, trace: Trace, lock: Lock) -> None:
        commit = str(trace.known["commit"])
        await self._push(f"--force-with-lease={self._ref.ref}:{commit}", f":{self._ref.ref}", lock)

    async def _push(self, lease: str, what: str, lock: Lock) -> bool:
        """False when somebody else was faster. :raises AdapterError: for everything else."""
        answer = await self._repo.reach(*PUSH, lease, self._ref.remote, what, lock=lock, timeout=self._settings.timeout)
        if answer.ok or b"(stale info)" in answer.stdout:
            return answer.ok
        if (no := rejection(answer)) is not None:
            raise AdapterError(
                f"{self._ref.remote} refused {self._ref.ref} ({one_line(no.why)}); let rollbackd's key push there",
                permanent=no.permanent,
                evidence=answer.tail,
            )
        raise failure(Path(self._ref.remote), answer)

    def _clear_locks(self) -> None:
        """Remove locks that a killed git left. The repository is ours alone, and we hold the layer."""
        for leftover in self._own.glob("*.lock"):
            leftover.unlink(missing_ok=True)

    async def _commit(self, key: str, lock: Lock) -> str:
        await asyncio.to_thread(self._clear_locks)
        await self._repo.call("init", "--quiet", "--bare", str(self._own), lock=lock)
        tree = (await self._repo.call("mktree", lock=lock)).strip()
        why = f"{self._place.service} is being rolled back; do not deploy."
        message = f"Frozen by rollbackd\n\n{why}\n\nIncident: {incident_of(key)}\n"
        who = identity(*OURSELVES, date=f"{int(self._clock.now().timestamp())} +0000")
        made = await self._repo.call("commit-tree", "-F", "-", tree, stdin=message.encode(), env=who, lock=lock)
        return made.strip()

    async def problems(self) -> Sequence[str]:
        try:
            await self._there()
        except AdapterError as error:
            return [f"{error}; is it reachable, and may rollbackd push there?"]
        return []
