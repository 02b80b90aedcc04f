"""`strategy: checkout`: a work tree goes to a release. What is uncommitted in it is saved first, and never lost."""

import asyncio
import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from rollbackd.adapter import AdapterError, Place
from rollbackd.clock import Clock
from rollbackd.model import Change, Problem, Progress, Release
from rollbackd.process import Lock, Spawner, one_line
from rollbackd_adapters.failures import as_adapter_errors
from rollbackd_adapters.git import ready
from rollbackd_adapters.git.repo import Commit, Look, Repo, check_id, newest_first, resource_of, users
from rollbackd_adapters.git.saving import dirty, save
from rollbackd_adapters.git.settings import GitSettings
from rollbackd_adapters.then import run_then
from rollbackd_adapters.traces import Trace

_STALE = timedelta(minutes=1)
"""A lock file that no visible process has open counts as left behind after this."""


class Checkout:
    """One work tree."""

    def __init__(self, settings: GitSettings, place: Place) -> None:
        self._settings = settings
        self._place = place
        self._spawner: Spawner = place.spawner
        self._clock: Clock = place.clock
        self._repo = Repo(settings, place)

    async def current(self) -> Release:
        head = await self._repo.one("HEAD")
        if head is None:
            raise AdapterError(f"{self._repo.path}: HEAD names no commit; check one out", permanent=False)
        return self._repo.release(head)

    async def releases(self) -> Sequence[Release]:
        return self._repo.releases(await self._commits())

    async def _commits(self) -> list[Commit]:
        branch, remote = self._settings.branch, self._settings.remote
        refs = ("HEAD", f"refs/heads/{branch}", f"refs/remotes/{remote}/{branch}", "--tags")
        reached, visited, head = await asyncio.gather(
            self._repo.history(*refs), self._repo.history("HEAD", reflog=True), self._repo.one("HEAD")
        )
        by_sha = {commit.sha: commit for commit in (*reached, *visited, *([head] if head else []))}
        return list(by_sha.values())

    async def plan(self, target: Release) -> Change:
        check_id(target)
        before, commits = await asyncio.gather(self.current(), self._commits())
        same = [commit for commit in newest_first(commits) if commit.tree == target.id]
        if not same:
            raise _gone(target, self._repo.path)
        risks = []
        if count := await dirty(self._repo):
            risks.append(
                f"{count} uncommitted change(s) in {self._repo.path} leave it; they are saved under refs/rollbackd/"
            )
        return Change(self._place.layer, before, self._repo.release(*same), risks=tuple(risks))

    async def progress(self, change: Change) -> Progress:
        trace = Trace(self._place.scratch, change)
        if self._spawner.held(resource_of(self._settings)):
            return Progress.RUNNING
        return _progress(change, trace, (await self._repo.look()).tree)

    async def apply(self, change: Change) -> None:
        target = check_id(change.after)
        trace = Trace(self._place.scratch, change)
        with as_adapter_errors():
            async with self._spawner.hold(resource_of(self._settings)) as lock:
                look = await self._repo.look()
                progress = _progress(change, trace, look.tree)
                if progress is Progress.DONE:
                    return
                if progress is Progress.SUPERSEDED:
                    raise AdapterError(
                        f"{self._repo.path} is at {look.commit[:10]}, which is neither where this rollback began nor "
                        "where it goes: somebody else moved it, and it is left to them",
                        permanent=True,
                    )
                if not (trace.begun or {}).get("moved"):
                    await self._move(change, target, trace, look, lock)
                await run_then(
                    self._settings.then,
                    place=self._place,
                    change=change,
                    trace=trace,
                    lock=lock,
                    cwd=self._repo.path,
                    timeout=self._settings.timeout,
                )
                trace.finish(after=target)

    async def _move(self, change: Change, target: str, trace: Trace, look: Look, lock: Lock) -> None:
        """Save what is uncommitted and check the target out; or go on with what a crash cut off."""
        begun = trace.begun
        commit = str(begun["commit"]) if begun else await self._commit_of(change.after, target)
        await asyncio.to_thread(self._clear_locks, look, trace, cut_off=begun is not None)
        again = int(begun["again"]) + 1 if begun else 0
        saved = await self._save(trace, look, commit, again, lock)
        if begun is None:
            trace.begin(
                key=change.key,
                before=change.before.id,
                after=target,
                commit=commit,
                head=look.commit,
                saved=saved,
                again=0,
            )
        else:
            trace.begin(again=again)
        await self._repo.call(
            "checkout",
            "--force",
            "--detach",
            "--quiet",
            "--no-recurse-submodules",
            commit,
            "--",
            lock=lock,
            env={"GIT_REFLOG_ACTION": f"rollbackd {one_line(change.key)}"},
            timeout=self._settings.timeout,
        )
        if self._settings.then:  # what they make of the tree must not be checked out over
            trace.begin(moved=True)

    async def _save(self, trace: Trace, look: Look, commit: str, again: int, lock: Lock) -> str:
        """Save what was there at first, before the intent: until then nothing is touched.

        A tree that a checkout was cut off in is a mixture. It is saved too, since somebody may have mended something in
        it meanwhile, but beside the first and never over it.
        """
        trace.make()
        ref = f"refs/rollbackd/{trace.name}/saved" + (f"-{again + 1}" if again else "")
        return await save(self._repo, self._settings, look, commit, ref, trace.directory, lock)

    async def _commit_of(self, release: Release, tree: str) -> str:
        for commit in newest_first(await self._commits()):
            if commit.tree == tree:
                return commit.sha
        raise _gone(release, self._repo.path)

    def _clear_locks(self, look: Look, trace: Trace, *, cut_off: bool) -> None:
        """Remove the lock files that a killed git left. We hold the resource; a git of somebody else is left alone."""
        refs = look.common / "refs" / "rollbackd" / trace.name
        ours = list(refs.glob("*.lock"))
        for path in (look.directory / "index.lock", look.directory / "HEAD.lock", *ours):
            if not os.path.lexists(path):
                continue
            if blocker := blocked_by(path, self._clock, cut_off=cut_off or path in ours):
                raise AdapterError(blocker, permanent=False)
            path.unlink(missing_ok=True)

    async def ready(self) -> Sequence[Problem]:
        texts = await ready.of_any(self._repo, self._settings, self._place)
        if not texts:
            texts = await ready.of_work_tree(self._repo)
        if not texts:
            look = await self._repo.look()
            lock = await asyncio.to_thread(blocked_by, look.directory / "index.lock", self._clock, cut_off=False)
            texts = [lock] if lock else []
        return [Problem(self._place.layer, text) for text in texts]


def _progress(change: Change, trace: Trace, tree: str) -> Progress:
    """What the work tree's HEAD and our own traces say together."""
    if trace.done is not None:
        return Progress.DONE if tree == change.after.id else Progress.SUPERSEDED
    begun = trace.begun
    if begun is None:
        expected = {change.before.id}
    elif begun.get("moved"):
        expected = {change.after.id}
    else:
        expected = {change.before.id, change.after.id}
    return Progress.NOT_STARTED if tree in expected else Progress.SUPERSEDED


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


def _gone(release: Release, path: Path) -> AdapterError:
    return AdapterError(
        f"{one_line(release.name)} cannot be reached in {path}: no branch, tag or earlier HEAD has it; tag it",
        permanent=True,
    )
