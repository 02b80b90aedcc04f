"""The part of a work tree that goes back: all of it, and HEAD with it, or only `paths`. Changes are not known here.

For `paths` a release is what a commit has there, named by a hash of git's own ids. The present one is what lies in the
work tree, committed or not, without what is ignored. HEAD and the index stay as they are, so that `git status` and
`git diff` show what went back.
"""

import asyncio
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from rollbackd.adapter import AdapterError
from rollbackd.model import Release
from rollbackd.system import log
from rollbackd.system.spawner import Lock, one_line
from rollbackd_adapters.git.looking import copy_index
from rollbackd_adapters.git.overlooked import make_way
from rollbackd_adapters.git.repo import CHECKOUT, Commit, Repo, RepoState, newest_first, quoted
from rollbackd_adapters.git.rewriting import Rewriting
from rollbackd_adapters.git.saving import dirty

NOTHING = "0" * 64
"""Stands for a work tree that has nothing at `paths`. No commit is ever that release."""


class Scope:
    """The part of a work tree that goes back: the whole of it, and HEAD moves, last."""

    def __init__(self, repo: Repo) -> None:
        self._repo = repo
        self._paths = repo.settings.paths

    async def current(self) -> Release:
        """The release that is there."""
        head = await self._repo.one("HEAD")
        if head is None:
            raise AdapterError(f"{self._repo.path}: HEAD names no commit; check one out", permanent=False)
        return self._repo.release(head)

    async def present(self, look: RepoState) -> str:
        """The id of the release that is there."""
        return look.tree

    async def contents(self, commits: Sequence[Commit]) -> Mapping[str, str]:
        """The release id of each commit; empty for a commit that has none."""
        return {commit.sha: commit.tree for commit in commits}

    async def check_out(
        self, commit: str, _look: RepoState, key: str, scratch: Path, lock: Lock, marked: Sequence[str]
    ) -> None:
        """Check the commit out, over whatever is there. After a kill it can be called again.

        :param marked: files that git was told to overlook, which have to give way.
        """
        if given_up := await make_way(self._repo, marked, commit, lock):
            log.get("git").warning("marks of the index were taken away", repo=str(self._repo.path), files=given_up[:20])
        rewriting = Rewriting(self._repo, commit, scratch, lock)
        await rewriting.prepare()
        action = {"GIT_REFLOG_ACTION": f"rollbackd {one_line(key)}"}
        there = f"{commit}^{{commit}}"  # a branch may be called as the commit is, and would be meant
        await self._repo.call(*CHECKOUT, "--detach", there, "--", lock=lock, env=action, timeout=self._repo.timeout)
        await rewriting.settle([name for name in marked if name not in given_up])


class PathScope(Scope):
    """Only what lies at `paths`."""

    def __init__(self, repo: Repo) -> None:
        super().__init__(repo)
        self._known: dict[str, str] = {}
        """Commit to content: a commit never changes."""
        self._looking = asyncio.Lock()
        """The directory of a look is one."""

    async def current(self) -> Release:
        look, commits = await asyncio.gather(self._repo.look(), self._repo.known())
        present, contents = await self.present(look), await self.contents(commits)
        same = [commit for commit in newest_first(commits) if contents[commit.sha] == present]
        return self._repo.release(*same, content=present) if same else Release(present, "uncommitted")

    async def present(self, look: RepoState) -> str:
        if await dirty(self._repo, look):
            return await self._uncommitted(look) or NOTHING
        return await self._content(look.commit) or NOTHING

    async def _content(self, revision: str, env: Mapping[str, str] | None = None) -> str:
        (content,) = await self._repo.contents([revision], env)
        if content is None:
            text = f"{self._repo.path}: what {revision[:10]} has at `paths` cannot be read; look at it with `git fsck`"
            raise AdapterError(text, permanent=False)
        return content

    async def _uncommitted(self, look: RepoState) -> str:
        """What lies there, found with an index and objects of our own: a look writes nothing into the repository."""
        async with self._looking:
            directory: Path = self._repo.place.scratch / "look"
            await asyncio.to_thread(_fresh, directory)
            env = {
                "GIT_INDEX_FILE": str(directory / "index"),
                "GIT_OBJECT_DIRECTORY": str(directory / "objects"),
                "GIT_ALTERNATE_OBJECT_DIRECTORIES": quoted(look.common / "objects"),
            }
            try:
                compared = (await self._repo.index_of_looks(look)).get("GIT_INDEX_FILE", "")
                await self._stage(Path(compared or look.directory / "index"), directory / "index", env)
                tree = (await self._repo.call("write-tree", env=env)).strip()
                return await self._content(tree, env)
            finally:
                await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)

    async def _stage(self, real: Path, index: Path, env: Mapping[str, str], lock: Lock | None = None) -> None:
        """Make an index that knows all that lies at `paths`, beside what the real one knows."""
        await asyncio.to_thread(copy_index, real, index)
        there = await asyncio.to_thread(self._on_disk)
        if there:
            await self._repo.call("add", "--all", "--", *there, env=env, lock=lock, timeout=self._repo.timeout)
        if gone := [path for path in self._paths if path not in there]:
            options = ("-r", "--cached", "--quiet", "--force", "--ignore-unmatch")
            await self._repo.call("rm", *options, "--", *gone, env=env, lock=lock)

    def _on_disk(self) -> list[str]:
        """The `paths` that exist; git refuses the others."""
        return [path for path in self._paths if os.path.lexists(self._repo.path / path)]

    async def contents(self, commits: Sequence[Commit]) -> Mapping[str, str]:
        wanted = [commit.sha for commit in commits]
        missing = [sha for sha in wanted if sha not in self._known]
        if missing:
            known = [content or "" for content in await self._repo.contents(missing)]
            found = dict(zip(missing, known, strict=True))
            self._known = {sha: self._known[sha] for sha in wanted if sha in self._known} | found
        return self._known

    async def check_out(
        self, commit: str, look: RepoState, _key: str, scratch: Path, lock: Lock, _marked: Sequence[str]
    ) -> None:
        """With an index of our own that knows all that lies there, so that what the target has not is removed."""
        index = scratch / "index"
        env = {"GIT_INDEX_FILE": str(index)}
        await self._stage(look.directory / "index", index, env, lock)
        rewriting = Rewriting(self._repo, commit, scratch, lock, env)
        await rewriting.prepare()
        wanted = await self._repo.names("ls-tree", "-z", "--name-only", commit, "--", *self._paths)
        lying = await self._repo.names("ls-files", "-z", "--", *self._paths, env=env)
        names = [PurePosixPath(name) for name in (*wanted, *lying)]
        known = [path for path in self._paths if any(name.is_relative_to(path) for name in names)]
        if known:  # git stops at others
            what = ("--no-overlay", f"{commit}^{{commit}}", "--", *known)
            await self._repo.call(*CHECKOUT, *what, lock=lock, env=env, timeout=self._repo.timeout)
        await rewriting.settle(())
        index.unlink(missing_ok=True)


def _fresh(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    (directory / "objects").mkdir(mode=0o700, parents=True)
