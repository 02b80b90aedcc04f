"""Whether a work tree is the release that it was taken to: what git passes over, is seen here, and written again.

Git writes only what it believes to differ. It compares contents as they are committed, and not what its attributes make
of them on disk: line ends, encodings, filters. So a release with another `.gitattributes` can leave files as the last
one had them, and `git status` says that nothing differs.
"""

import asyncio
import os
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rollbackd.adapter import AdapterError
from rollbackd.system import log
from rollbackd.system.spawner import Lock
from rollbackd_adapters.git.repo import Repo, RepoState
from rollbackd_adapters.git.side_effects import told
from rollbackd_adapters.threads import in_thread

_MATTER = frozenset({"text", "crlf", "eol", "ident", "filter", "working-tree-encoding"})
"""Attributes that make something else of a content on its way to the disk."""
_AT_ONCE = 20_000
_CHUNK = 2**20

Environment = Mapping[str, str] | None
"""Names another index than the repository's own."""
Attributes = dict[str, list[str]]
"""By name, what of it matters."""


async def refresh(repo: Repo, lock: Lock, env: Environment = None) -> None:
    """Have git look at the contents of files that seem to have changed, so that it leaves alone those that have not."""
    answer = await repo.ask("update-index", "-q", "--unmerged", "--refresh", lock=lock, env=env, timeout=repo.timeout)
    if answer.timed_out:
        raise AdapterError(f"git status in {repo.path} {answer.ending}; make `timeout` longer", permanent=False)


async def touched(repo: Repo, commit: str, env: Environment = None) -> dict[str, int]:
    """What a checkout of the commit writes, with the modes that git gives them, or removes: 0. Read only."""
    rows = iter(
        await repo.names(
            *("diff-index", "--raw", "-z", "--no-renames", "--ignore-submodules=all", commit, "--"),
            *repo.settings.paths,
            env=env,
            timeout=repo.timeout,
        )
    )
    return {name: int(about[1:7], 8) for about, name in zip(rows, rows, strict=False)}


async def tracked(repo: Repo, env: Environment = None) -> list[str]:
    """The files that the index knows and has on disk: not those that a sparse checkout leaves out. Read only."""
    rows = await repo.names("ls-files", "-t", "-z", env=env, timeout=repo.timeout)
    return [row[2:] for row in rows if row[0] != "S"]


async def attributes(repo: Repo, names: Sequence[str], env: Environment = None) -> Attributes:
    """What git's attributes say of files as the work tree is now. Read only."""
    found: Attributes = {}
    for at in range(0, len(names), _AT_ONCE):
        stdin = os.fsencode("\0".join(names[at : at + _AT_ONCE]))
        texts = iter(
            await repo.names("check-attr", "--all", "-z", "--stdin", stdin=stdin, env=env, timeout=repo.timeout)
        )
        for name, attribute, value in zip(texts, texts, texts, strict=False):
            if attribute in _MATTER:
                found.setdefault(name, []).append(f"{attribute}={value}")
    return found


async def attributes_of(repo: Repo, look: RepoState, commit: str, names: Sequence[str], scratch: Path) -> Attributes:
    """What they will say once the commit is there. Touches nothing but scratch."""
    index, nothing = scratch / "attributes-index", scratch / "nothing"
    await asyncio.to_thread(nothing.mkdir, mode=0o700, parents=True, exist_ok=True)
    # they are looked for in the work tree first: in an empty one they are those of the index
    env = {"GIT_DIR": str(look.directory), "GIT_WORK_TREE": str(nothing), "GIT_INDEX_FILE": str(index)}
    try:
        await repo.call("read-tree", commit, env=env)
        return await attributes(repo, names, env)
    finally:
        await asyncio.to_thread(index.unlink, missing_ok=True)


def respelled(before: Attributes, after: Attributes) -> list[str]:
    """Files that are otherwise on disk though their content may be the same."""
    return sorted(name for name in {*before, *after} if before.get(name) != after.get(name))


def differ(names: Mapping[str, int]) -> bool:
    """Whether attributes may differ, by the names that do."""
    return any(name.rpartition("/")[2] == ".gitattributes" for name in names)


class Comparison:
    """The work tree, against one commit."""

    def __init__(self, repo: Repo, commit: str, scratch: Path, lock: Lock, env: Environment = None) -> None:
        self._repo = repo
        self._commit = commit
        self._lock = lock
        self._env = env
        self._beside = scratch / "compared"
        self._fresh = {"GIT_INDEX_FILE": str(scratch / "compared-index")}
        """An index that knows nothing of what lies on disk: git writes whatever it is told to."""

    async def settle(self, suspects: Sequence[str], spared: Sequence[str]) -> None:
        """Write again what is not as the commit has it.

        :param suspects: besides what git itself sees to differ.
        :param spared: what people told git to overlook.
        :raises AdapterError: not permanent, when it differs all the same.
        """
        names = sorted({*suspects, *await self._seen_to_differ()} - {*spared})
        if not names:
            return
        try:
            await self._repo.call("read-tree", self._commit, env=self._fresh, lock=self._lock)
            known = {*await self._repo.names("ls-files", "-z", env=self._fresh, timeout=self._repo.timeout)}
            names = [name for name in names if name in known]
            if wrong := await self._wrong(names):
                log.get("git").warning("written again", repo=str(self._repo.path), files=wrong[:20])
                await self._write(wrong)
                await self._forget(wrong)
                wrong = await self._wrong(wrong)
                await refresh(self._repo, self._lock, self._env)
            if wrong and (left := sorted({*wrong} & {*await self._seen_to_differ()})):
                text = f"{self._repo.path}: {told(left)} differ from what {self._commit[:10]} has, though written again"
                raise AdapterError(f"{text}; a filter, or somebody else, changes them: look there", permanent=False)
        finally:
            await in_thread(self._clear)

    async def _seen_to_differ(self) -> list[str]:
        return await self._repo.names(
            *("diff-files", "-z", "--name-only", "--ignore-submodules=all", "--", *self._repo.settings.paths),
            env=self._env,
            timeout=self._repo.timeout,
        )

    async def _wrong(self, names: Sequence[str]) -> list[str]:
        """Those that are not what git writes for them now."""
        await in_thread(shutil.rmtree, self._beside, True)  # whatever a kill left there
        await self._write(names, f"--prefix={self._beside}/")
        return await in_thread(_different, self._beside, self._repo.path, names)

    async def _write(self, names: Sequence[str], *options: str) -> None:
        stdin = os.fsencode("\0".join(names))
        written = ("checkout-index", "--force", "--quiet", *options, "-z", "--stdin")
        await self._repo.call(*written, stdin=stdin, env=self._fresh, lock=self._lock, timeout=self._repo.timeout)

    async def _forget(self, names: Sequence[str]) -> None:
        """Have the index forget what it knows of them: of another length it would not even look at the content."""
        rows = await self._repo.names("ls-files", "--stage", "-z", env=self._fresh, timeout=self._repo.timeout)
        wanted = {*names}
        stdin = os.fsencode("".join(f"{row}\0" for row in rows if row.partition("\t")[2] in wanted))
        await self._repo.call("update-index", "-z", "--index-info", stdin=stdin, env=self._env, lock=self._lock)

    def _clear(self) -> None:
        shutil.rmtree(self._beside, ignore_errors=True)
        Path(self._fresh["GIT_INDEX_FILE"]).unlink(missing_ok=True)


def _different(wanted: Path, present: Path, names: Sequence[str]) -> list[str]:
    return [name for name in names if os.path.lexists(wanted / name) and not _same(wanted / name, present / name)]


def _same(wanted: Path, present: Path) -> bool:
    try:
        ours, theirs = wanted.lstat(), present.lstat()
    except OSError:
        return False
    if stat.S_IFMT(ours.st_mode) != stat.S_IFMT(theirs.st_mode):
        return False
    if stat.S_ISLNK(ours.st_mode):
        return wanted.readlink() == present.readlink()
    if not stat.S_ISREG(ours.st_mode):
        return True
    same = ours.st_size == theirs.st_size and (ours.st_mode ^ theirs.st_mode) & 0o100 == 0
    return same and all(one == other for one, other in zip(_chunks(wanted), _chunks(present), strict=False))


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while data := file.read(_CHUNK):
            yield data
