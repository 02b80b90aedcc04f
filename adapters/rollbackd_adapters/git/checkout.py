"""`strategy: checkout`: a work tree goes to a release. What is uncommitted in it is saved first, and never lost."""

import asyncio
import os
import shlex
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from rollbackd.adapter import AdapterError, Place
from rollbackd.model import NO_RELEASE, Change, Progress, Release
from rollbackd.system.clock import Clock
from rollbackd.system.spawner import Lock, one_line
from rollbackd_adapters.base import StepAdapter
from rollbackd_adapters.git import lfs, obstacles, promised, ready, submodules
from rollbackd_adapters.git.branches import Branches
from rollbackd_adapters.git.comparing import attributes, attributes_of, differ, respelled, touched, tracked
from rollbackd_adapters.git.damage import DAMAGED, damage_of, missing, unreadable
from rollbackd_adapters.git.dress import Wardrobe
from rollbackd_adapters.git.overlooked import Beside, beside, giving_way
from rollbackd_adapters.git.ownership import begin, give_back
from rollbackd_adapters.git.repo import Commit, Repo, RepoState, check_id, newest_first, resource_of, users
from rollbackd_adapters.git.restore import KnownCommits, Recloner
from rollbackd_adapters.git.saving import dirty, in_the_way, prune_saved, stash
from rollbackd_adapters.git.scope import PathScope, Scope
from rollbackd_adapters.git.settings import GitSettings
from rollbackd_adapters.git.side_effects import SideEffects
from rollbackd_adapters.then import Then
from rollbackd_adapters.threads import in_thread
from rollbackd_adapters.traces import Trace, last_done, progress_of

_STALE = timedelta(minutes=1)
"""A lock file that no visible process has open counts as left behind after this."""


class Checkout(StepAdapter[GitSettings]):
    """One work tree."""

    def __init__(self, settings: GitSettings, place: Place) -> None:
        super().__init__(settings, place)
        self.resource = resource_of(settings)
        self._repo = Repo(settings, place)
        self._scope = PathScope(self._repo) if settings.paths else Scope(self._repo)
        self._branches = Branches(self._repo)
        self._memory = KnownCommits(self._repo)
        self._restoring = Recloner(self._repo, self._memory)

    async def current(self) -> Release:
        try:
            return await self._scope.current()
        except AdapterError:
            if why := await self._damage():
                return Release(DAMAGED, f"damaged: {why}")
            raise

    async def releases(self) -> Sequence[Release]:
        commits = await self._commits()
        return self._repo.releases(commits, await self._scope.contents(commits))

    async def standing(self) -> str:
        """The commit that is there now."""
        return (await self._repo.look()).commit

    async def note(self, key: str) -> str:
        """How the next deployment comes back to the branch that HEAD was on, and where uncommitted work was saved."""
        known = Trace(self._place.scratch, Change(self._place.layer, NO_RELEASE, NO_RELEASE, key=key)).known
        git = f"git -C {shlex.quote(str(self._repo.path))}"
        said = []
        if (was := str(known.get("on", ""))) and not self._settings.paths and not (await self._repo.look()).on:
            branch = shlex.quote(was.removeprefix("refs/heads/"))
            said.append(f"HEAD is on no branch; before the next deployment: `{git} checkout {branch}`")
        if saved := str(known.get("saved", "")):
            said.append(f"what was not committed is saved: `{git} stash apply {saved[:12]}`")
        return "; ".join(said)

    async def tree_of(self, release: Release) -> str:
        """What a release is of, as git names it: its tree, or with `paths` the newest commit that has it."""
        if not self._settings.paths:
            return release.id
        return next((commit.sha for commit in await self._having(check_id(release))), "")

    async def _damage(self) -> str:
        """What is damaged, where that can be restored; "" where it cannot, so that it is an error like any other."""
        return await damage_of(self._repo) if self._settings.restore_from else ""

    async def _commits(self) -> Sequence[Commit]:
        try:
            commits = await self._repo.known()
        except AdapterError:
            if await self._damage():
                return await self._memory.commits()
            raise
        if not commits and await self._damage():  # git passes over refs whose objects are gone
            return await self._memory.commits()
        await self._memory.keep(commits)
        return commits

    async def _having(self, content: str) -> list[Commit]:
        """The commits that are that release, newest first."""
        commits = await self._commits()
        contents = await self._scope.contents(commits)
        return [commit for commit in newest_first(commits) if contents[commit.sha] == content]

    async def plan(self, target: Release) -> Change:
        wanted = check_id(target)
        before, same = await asyncio.gather(self.current(), self._having(wanted))
        if not same:
            raise self._gone(target)
        damage = before.id == DAMAGED or bool(await self._damage())
        if not self._settings.restore_from and (gone := await missing(self._repo, same[0].sha)):
            text = f"{self._repo.path}: {gone}; fetch them again, or go to another release"
            raise AdapterError(text, permanent=True)
        lost = await self._side_effects(same[0].sha) if not damage else SideEffects()
        return Change(
            self._place.layer,
            before,
            self._repo.release(*same, content=wanted),
            risks=tuple([text async for text in self._risks(before, same[0], lost, damage=damage)]),
            aside=lost.aside(self._repo.path, uncommitted=not self._settings.paths),
        )

    async def _side_effects(self, commit: str) -> SideEffects:
        look = await self._repo.look()
        uncommitted, blocking, lies = await asyncio.gather(
            dirty(self._repo, look), in_the_way(self._repo, commit), beside(self._repo, self._settings.paths)
        )
        untracked = tuple(name for name in uncommitted if name.endswith("/"))
        ignored = [name for name in blocking if name not in uncommitted and not f"{name}/".startswith(untracked)]
        overlooked = await giving_way(self._repo, lies.marked, commit)
        names, known = await asyncio.gather(
            touched(self._repo, commit, await self._repo.index_of_looks(look)), tracked(self._repo)
        )
        await in_thread(obstacles.check, str(self._repo.path), (*names, *blocking))
        dresses = await in_thread(Wardrobe(str(self._repo.path), known, names).look)
        changed = await self._respelled(commit, known) if differ(names) else []
        others = [name for name in changed if name not in names]
        return SideEffects(uncommitted, ignored, overlooked, others, dresses.lost, dresses.linked)

    async def _respelled(self, commit: str, known: Sequence[str]) -> Sequence[str]:
        """The files that stay, and that the commit's attributes make something else of on disk."""
        now = await attributes(self._repo, known)
        scratch = self._place.scratch / "plan"
        then = await attributes_of(self._repo, await self._repo.look(), commit, known, scratch)
        return respelled(now, then)

    async def _risks(self, before: Release, target: Commit, lost: SideEffects, *, damage: bool) -> AsyncIterator[str]:
        path = self._repo.path
        if damage:
            yield (
                f"{path} is cloned anew from {self._settings.restore_from}; the damaged one, with what is uncommitted "
                f"in it, stays as {path.name}.damaged-…"
            )
            return
        for text in lost.risks(path):
            yield text
        if not self._settings.paths:
            async for text in submodules.risks(self._repo, before.id, target.tree):
                yield text

    async def _progress(self, change: Change, trace: Trace) -> Progress:
        """How far it is. A damaged work tree can always be restored, so it is nobody's. `paths` that were cut off may
        hold any mixture, which is saved before the change goes on.
        """
        present = await self._present_id()
        if trace.done is None and (present == DAMAGED or (self._settings.paths and trace.begun is not None)):
            return Progress.NOT_STARTED
        return progress_of(trace, change, present)

    async def _present_id(self) -> str:
        try:
            return await self._scope.present(await self._repo.look())
        except AdapterError:
            if await self._damage():
                return DAMAGED
            raise

    async def _elsewhere(self) -> str:
        present = await self._present_id()
        return (
            f"{self._repo.path} is at {present[:10]}, which is neither where this rollback began nor where it goes: "
            "somebody else moved it"
        )

    def _check(self, change: Change) -> None:
        check_id(change.after)  # and not `before`, which may be damage

    async def _move(self, change: Change, trace: Trace, lock: Lock) -> None:
        """Go to the target by a checkout, or by a new clone when the work tree is damaged."""
        begun = trace.known
        last = {} if begun else await asyncio.to_thread(last_done, self._place.scratch)
        commit = str(begun["commit"]) if begun else await self._commit_of(change.after, last)
        if begun.get("aside") or await self._damage():
            await self._restoring.run(change, commit, trace, lock)
            return
        try:
            await self._check_out(change, commit, last, trace, lock)
        except AdapterError:
            if not self._settings.restore_from or not await unreadable(self._repo, commit):
                raise
            await self._restoring.run(change, commit, trace, lock)

    async def _then(self, _change: Change) -> Then:
        return Then(self._settings.then, self._repo.path, self._settings.timeout, self._settings.run_as)

    async def _finish(self, change: Change, trace: Trace, lock: Lock) -> None:
        if trace.known.get("lfs"):
            await lfs.check(self._repo)
        if self._settings.paths and self._settings.then and await self._present_id() != change.after.id:
            raise AdapterError(
                f"{self._repo.path}: `then` changed what lies at `paths`, so that it is no release any more; let it "
                "write elsewhere, or into files that git ignores",
                permanent=True,
            )
        await prune_saved(self._repo, self._clock, lock)
        await super()._finish(change, trace, lock)

    async def _check_out(self, change: Change, commit: str, last: Mapping[str, Any], trace: Trace, lock: Lock) -> None:
        """Save what is uncommitted and check the target out; or go on with what a crash cut off."""
        begun = trace.begun
        trace.make()
        begin(trace.directory)
        look = await self._repo.look()
        ours = self._branches.locks(look, change)
        await asyncio.to_thread(self._clear_locks, look, trace, ours, cut_off=begun is not None)
        again = int(begun["again"]) + 1 if begun else 0
        await promised.fetch(self._repo, commit, lock)
        in_lfs = bool(begun.get("lfs")) if begun else await lfs.expected(self._repo)
        if in_lfs:
            trace.make()
            since = "" if self._settings.paths else look.tree  # with them HEAD does not say what lies there
            await lfs.fetch(self._repo, look, commit, trace.directory, lock, since=since)
        lies = await beside(self._repo)
        saved = await self._save(trace, look, lies, commit, again, lock)
        if begun is None:
            left = self._branches.left(look, last)
            trace.intend(commit=commit, head=look.commit, saved=saved, again=0, lfs=in_lfs, on=look.on, known=left)
        else:
            trace.begin(again=again)
        known = trace.known
        await self._branches.leave(change, str(known["head"]), lock)
        await self._scope.check_out(commit, look, change.key, trace.directory, lock, lies.marked)
        await self._branches.take_up(change, commit, str(known.get("known", "")), lock)
        await give_back(self._repo, begin(trace.directory))

    async def _save(self, trace: Trace, look: RepoState, lies: Beside, commit: str, again: int, lock: Lock) -> str:
        """Save what was there at first, before the intent: until then nothing is touched.

        A tree that a checkout was cut off in is a mixture. It is saved too, since somebody may have mended something in
        it meanwhile, but beside the first and never over it.
        """
        trace.make()
        ref = f"refs/rollbackd/{trace.name}/saved" + (f"-{again + 1}" if again else "")
        saved = await stash(self._repo, look, commit, trace.directory, lock, lies)
        if saved:
            await self._repo.call("update-ref", ref, saved, lock=lock)
        return saved

    async def _commit_of(self, release: Release, last: Mapping[str, Any]) -> str:
        """The newest commit that is this release, or the one that the last change left."""
        same = [commit.sha for commit in await self._having(release.id)]
        if not same:
            raise self._gone(release)
        return str(last["head"]) if last.get("head") in same else same[0]

    def _clear_locks(self, look: RepoState, trace: Trace, branches: Sequence[Path], *, cut_off: bool) -> None:
        """Remove the lock files that a killed git left, but not those of a git that somebody else runs."""
        refs = look.common / "refs" / "rollbackd" / trace.name
        ours = [*refs.glob("*.lock"), *branches]
        for path in (look.directory / "index.lock", look.directory / "HEAD.lock", *ours):
            if not os.path.lexists(path):
                continue
            if blocker := blocked_by(path, self._clock, cut_off=cut_off or path in ours):
                raise AdapterError(blocker, permanent=False)
            path.unlink(missing_ok=True)

    def _gone(self, release: Release) -> AdapterError:
        return AdapterError(
            f"{one_line(release.name)} is not among the newest {self._settings.keep_looking} commits, and no tag or "
            f"earlier HEAD has it in {self._repo.path}; tag it",
            permanent=True,
        )

    async def _problems(self) -> list[str]:
        broken = await self._damage()
        texts = await ready.of_any(self._repo, cloned_anew=bool(broken))
        if broken:
            return texts + await ready.of_restoring(self._repo, await self._memory.address())
        if not texts:
            texts = await ready.of_work_tree(self._repo)
        if not texts:
            texts = await lfs.problems(self._repo)
        if not texts:
            look = await self._repo.look()
            lock = await asyncio.to_thread(blocked_by, look.directory / "index.lock", self._clock, cut_off=False)
            texts = [lock] if lock else []
        return texts


def blocked_by(path: Path, clock: Clock, *, cut_off: bool) -> str:
    """Why a lock file of git must stay, or "" when nobody uses it any more."""
    try:
        age = clock.now().timestamp() - path.lstat().st_mtime
    except FileNotFoundError:
        return ""
    if who := users(path):
        return f"{path}: git (process {who[0]}) works in there; wait for it, or end it"
    if cut_off or age >= _STALE.total_seconds():
        return ""
    return f"{path}: somebody's git works in there, or was killed in the last minute; if none runs, remove the file"
