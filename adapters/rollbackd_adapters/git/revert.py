"""`strategy: revert`: one commit with the target's tree on top of the remote branch, pushed. No work tree is touched.

The commit is the same whenever it is made (its dates are those of the intent), and its message ends with the change's
key. So a push that was cut off is recognised, whether it arrived or not.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from rollbackd.adapter import AdapterError, Place
from rollbackd.model import Change, Progress, Release
from rollbackd.system import log
from rollbackd.system.spawner import Finished, Lock, one_line
from rollbackd_adapters.base import StepAdapter
from rollbackd_adapters.git import branches, ready
from rollbackd_adapters.git.ownership import begin, give_back
from rollbackd_adapters.git.pushing import PUSH, rejection
from rollbackd_adapters.git.repo import Commit, Repo, check_id, failure, identity, newest_first, resource_of
from rollbackd_adapters.git.saving import prune_saved
from rollbackd_adapters.git.settings import GitSettings
from rollbackd_adapters.then import Then, run_then
from rollbackd_adapters.traces import Trace

TRAILER = "Rollbackd-Change"
_TRIES = 3
"""Pushes, when somebody else pushes the same content at the same time."""
_WORDS = 3
"""Lines of what a remote says about a refusal."""
_LOOK_BACK = 50
"""Commits from the tip in which our own is looked for."""


@dataclass(frozen=True, slots=True)
class _Branch:
    """The remote branch, and whether this change has been pushed to it."""

    tip: Commit
    ours: str
    """Our own commit for the change, or empty."""

    def progress(self, change: Change) -> Progress:
        """How far the change is; NOT_STARTED also when only `then` is missing."""
        wanted = change.after if self.ours else change.before
        return Progress.NOT_STARTED if self.tip.tree == wanted.id else Progress.SUPERSEDED


class Revert(StepAdapter[GitSettings]):
    """One branch of a remote repository."""

    def __init__(self, settings: GitSettings, place: Place) -> None:
        super().__init__(settings, place)
        self.resource = resource_of(settings)
        self._repo = Repo(settings, place)
        self._branch = f"refs/heads/{settings.branch}"
        digest = hashlib.sha256(f"{settings.remote}\0{settings.branch}".encode()).hexdigest()[:12]
        self._kept = f"refs/rollbackd/remote/{digest}"
        """Where we keep the tip that we fetched; the clone's own refs are left alone."""

    async def current(self) -> Release:
        return self._repo.release(await self._tip())

    async def tree_of(self, release: Release) -> str:
        """What a release is of, as git names it."""
        return release.id

    async def releases(self) -> Sequence[Release]:
        return self._repo.releases(await self._commits(await self._tip()))

    async def standing(self) -> str:
        return (await self._tip()).sha

    async def _commits(self, tip: Commit) -> list[Commit]:
        branch, remote = self._settings.branch, self._settings.remote
        return await self._repo.walked(tip.sha, f"refs/remotes/{remote}/{branch}", f"refs/heads/{branch}")

    async def plan(self, target: Release) -> Change:
        check_id(target)
        tip = await self._tip()
        same = [commit for commit in newest_first(await self._commits(tip)) if commit.tree == target.id]
        if not same:
            raise AdapterError(
                f"{one_line(target.name)} cannot be reached from {self._where} or a tag; tag a commit that has it",
                permanent=True,
            )
        risks = (f"everybody who pulls {self._settings.branch} gets the content of {same[0].sha[:10]}",)
        return Change(self._place.layer, self._repo.release(tip), self._repo.release(*same), risks=risks)

    async def progress(self, change: Change) -> Progress:
        progress = await super().progress(change)
        if progress is Progress.DONE:
            return Progress.DONE if (await self._tip()).tree == change.after.id else Progress.SUPERSEDED
        return (await self._look(change)).progress(change) if progress is Progress.NOT_STARTED else progress

    async def _progress(self, _change: Change, trace: Trace) -> Progress:
        return Progress.NOT_STARTED if trace.done is None else Progress.DONE

    async def _move(self, change: Change, trace: Trace, lock: Lock) -> None:
        trace.make()
        begin(trace.directory)
        await self._push(change, trace, lock)
        await self._leave_branch(change, trace, lock)

    async def _finish(self, change: Change, trace: Trace, lock: Lock) -> None:
        # `then` is run here and not by the base: until it succeeds, each attempt looks at the remote branch again
        then = Then(self._settings.then, self._repo.path, self._settings.timeout, self._settings.run_as)
        await run_then(then, self._place, change, trace, lock)
        await prune_saved(self._repo, self._clock, lock)
        await give_back(self._repo, begin(trace.directory))
        await super()._finish(change, trace, lock)

    def _check(self, change: Change) -> None:
        check_id(change.after)

    async def _leave_branch(self, change: Change, trace: Trace, lock: Lock) -> None:
        """Leave a branch at the old tip, to mend the code on. A rollback does not fail when it cannot be made."""
        tip = str(trace.known.get("tip", ""))
        name = branches.name_of(self._settings.emergency, branches.EMERGENCY, change)
        if not name or not tip:
            return
        ref = f"refs/heads/{name}"
        answer = await self._network(*self._push_of(f"{tip}:{ref}", f"--force-with-lease={ref}:"), lock=lock)  # if new
        if not answer.ok:
            _, there = await self._there(ref, lock)
            if there != tip:
                log.get("git").warning("no branch could be left", branch=name, commit=tip, said=answer.tail)

    async def _push(self, change: Change, trace: Trace, lock: Lock) -> None:
        """Bring our commit to the remote branch, unless it is there."""
        refused: AdapterError | None = None
        for _ in range(_TRIES):
            branch = await self._look(change, lock)
            if branch.progress(change) is Progress.SUPERSEDED:
                raise AdapterError(
                    f"{self._where} is at {branch.tip.sha[:10]}, which is not where this rollback began: somebody else "
                    "pushed, and it is left to them",
                    permanent=True,
                )
            if branch.ours:
                return
            trace.intend(tip=branch.tip.sha)
            commit = await self._commit(change, branch.tip, lock)
            refused = await self._push_once(commit, branch.tip, lock)
            if refused is None:
                return
        raise refused or AdapterError(f"{self._where}: not pushed", permanent=False)

    async def _push_once(self, commit: str, tip: Commit, lock: Lock) -> AdapterError | None:
        """None when it arrived; the error when somebody else was faster. :raises AdapterError: for everything else."""
        options = self._push_of(f"{commit}:{self._branch}", f"--force-with-lease={self._branch}:{tip.sha}")
        finished = await self._network(*options, lock=lock)
        if finished.ok:
            return None
        said = finished.stdout.decode(errors="replace")
        if "(stale info)" in said or "(fetch first)" in said or "(non-fast-forward)" in said:
            return failure(self._repo.path, finished)
        if (no := rejection(finished)) is not None:
            told = [line.removeprefix("remote:").strip() for line in finished.stderr.splitlines() if "remote:" in line]
            words = ": ".join((no.why, " ".join([line for line in told if line][:_WORDS])))
            raise AdapterError(
                f"{self._where} refused our commit: {one_line(self._spawner.clean(words))}; let rollbackd's key push "
                "there",
                permanent=no.permanent,
                evidence=finished.tail,
            )
        raise failure(self._repo.path, finished)

    async def _commit(self, change: Change, tip: Commit, lock: Lock) -> str:
        """The commit that restores the target; the same one however often it is made."""
        at: datetime = change.intended or tip.at
        who = identity(*self._settings.committer, date=f"{int(at.timestamp())} +0000")
        message = (
            f"Roll back to {one_line(change.after.label) or change.after.id[:10]}\n\n"
            f"The content is that of tree {change.after.id}; before it was {change.before.id}.\n\n"
            f"{TRAILER}: {one_line(change.key)}\n"
        )
        made = ("commit-tree", "-p", tip.sha, "-F", "-", change.after.id)
        return (await self._repo.call(*made, stdin=message.encode(), env=who, lock=lock)).strip()

    async def _look(self, change: Change, lock: Lock | None = None) -> _Branch:
        tip = await self._tip(lock)
        wanted = one_line(change.key)
        last = await self._repo.call("rev-list", f"--max-count={_LOOK_BACK}", tip.sha, "--")
        # only of those that have the key at all: others may have megabytes to say
        form = f"--format=tformat:%H %(trailers:key={TRAILER},valueonly)"
        having = ("--no-walk=unsorted", "--fixed-strings", f"--grep={TRAILER}: {wanted}", "--stdin")
        answer = await self._repo.call("log", "-z", form, *having, "--", stdin=last.encode())
        ours = (sha for sha, _, key in (row.partition(" ") for row in answer.split("\0")) if key.strip() == wanted)
        return _Branch(tip, next(ours, ""))

    async def _tip(self, lock: Lock | None = None) -> Commit:
        """The remote branch's newest commit: asked for, and fetched when it is not here yet."""
        answer, sha = await self._there(self._branch, lock)
        if not answer.ok:
            raise failure(self._repo.path, answer)
        if not sha:
            raise AdapterError(f"{self._where} does not exist; correct `branch`", permanent=True)
        if (known := await self._repo.one(sha)) is not None:
            return known
        what = (self._settings.remote, f"+{self._branch}:{self._kept}")
        options = ("--quiet", "--no-write-fetch-head", "--no-recurse-submodules")
        fetched = await self._network("fetch", *options, *what, lock=lock)
        if not fetched.ok:
            raise failure(self._repo.path, fetched)
        if (known := await self._repo.one(sha) or await self._repo.one(self._kept)) is None:
            raise AdapterError(f"{self._where} moves while it is looked at", permanent=False)
        return known

    async def _there(self, ref: str, lock: Lock | None) -> tuple[Finished, str]:
        """What the remote has at a ref, "" for nothing. It also tells of refs whose names only end alike."""
        answer = await self._network("ls-remote", self._settings.remote, ref, lock=lock)
        rows = [row.split("\t") for row in answer.stdout.decode(errors="replace").splitlines()]
        return answer, next((row[0] for row in rows if row[1:] == [ref]), "")

    def _push_of(self, what: str, *options: str) -> tuple[str, ...]:
        """The arguments of a push of one ref. A clone that was made with --mirror would else push everything."""
        remote = self._settings.remote
        return ("-c", f"remote.{remote}.mirror=false", *PUSH, *options, remote, what)

    async def _network(self, *arguments: str, lock: Lock | None = None) -> Finished:
        return await self._repo.reach(*arguments, lock=lock, timeout=self._settings.timeout)

    @property
    def _where(self) -> str:
        return f"{self._settings.remote}/{self._settings.branch}"

    async def _problems(self) -> list[str]:
        texts = await ready.of_any(self._repo)
        if not texts:
            try:
                tip = await self._tip()
                answer = await self._network(*self._push_of(f"{tip.sha}:{self._branch}", "--dry-run"))
                if not answer.ok:
                    raise failure(self._repo.path, answer)
            except AdapterError as error:
                texts = [f"{self._where}: {error}; is it reachable, and may rollbackd push there?"]
        return texts
