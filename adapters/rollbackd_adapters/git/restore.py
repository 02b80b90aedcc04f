"""A work tree that is damaged or gone is cloned anew beside its place, then swapped in by two renames.

Nothing of the old one is lost: it stays beside as `<repo>.damaged-<utc>`. What git ignores in it (local settings,
installed packages, data) is linked into the new one, since a service that runs there may need it; uncommitted work
that git does not ignore is only in the old one. Files keep the owners, modes and attributes that they had there.
"""

import asyncio
import contextlib
import os
import shutil
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path, PurePosixPath

from pydantic import TypeAdapter

from rollbackd.adapter import AdapterError
from rollbackd.model import Change
from rollbackd.system import log
from rollbackd.system.boundary import boundary
from rollbackd.system.spawner import Lock, sync_directory, write_durably
from rollbackd_adapters.base import LayerPart
from rollbackd_adapters.git import lfs
from rollbackd_adapters.git.dress import Dress, Dresses, Wardrobe, put_on
from rollbackd_adapters.git.repo import CHECKOUT, Commit, Repo, failure
from rollbackd_adapters.git.settings import GitSettings, is_address
from rollbackd_adapters.threads import in_thread
from rollbackd_adapters.traces import Trace


@dataclass(frozen=True, slots=True)
class _Known:
    address: str
    commits: tuple[Commit, ...] = ()


_FACTS: TypeAdapter[_Known] = TypeAdapter(_Known)


class KnownCommits:
    """What was known while the repository was well: its commits and where its remote is. Kept in scratch."""

    def __init__(self, repo: Repo) -> None:
        self._repo = repo
        self._restore_from = repo.settings.restore_from
        self._path: Path = repo.place.scratch / "known.json"
        self._written = b""

    async def keep(self, commits: Sequence[Commit]) -> None:
        """Remember them; only for `restore_from`, and nothing is written when nothing changed."""
        if not self._restore_from:
            return
        answer = await self._repo.ask("remote", "get-url", self._restore_from)
        address = answer.stdout.decode().strip() if answer.ok else self._restore_from
        data = _FACTS.dump_json(_Known(address, tuple(commits)))
        if data != self._written:
            await asyncio.to_thread(self._write, data)
            self._written = data

    def _write(self, data: bytes) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_durably(self._path, data)

    async def commits(self) -> Sequence[Commit]:
        """The commits that were known; none when the repository was never seen well."""
        return (await asyncio.to_thread(self._read)).commits

    async def address(self) -> str:
        """Where to clone from. :raises AdapterError: permanent, for a remote's name that was never looked up."""
        address = (await asyncio.to_thread(self._read)).address
        if not is_address(address):
            raise AdapterError(
                f"remote {address} of {self._repo.settings.repo} was not known before the damage; write its address "
                "into `restore_from`",
                permanent=True,
            )
        return address

    def _read(self) -> _Known:
        try:
            return _FACTS.validate_json(self._path.read_bytes())
        except (FileNotFoundError, ValueError):
            return _Known(self._restore_from)


class Recloner(LayerPart[GitSettings]):
    """Clones the repository anew, for one change."""

    def __init__(self, repo: Repo, memory: KnownCommits) -> None:
        super().__init__(repo.settings, repo.place)
        self._repo = repo
        self._memory = memory

    async def run(self, change: Change, commit: str, trace: Trace, lock: Lock) -> None:
        """Bring the place to the commit, or go on with what a crash cut off. `trace` has `moved` afterwards.

        :raises AdapterError: it cannot be cloned; then nothing was touched.
        """
        path = self._repo.path
        begun = trace.known
        if "aside" not in begun:
            known = {"key": change.key, "before": change.before.id, "after": change.after.id, "commit": commit}
            stamp = self._clock.now().astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
            trace.begin(**{"again": 0, "saved": "", **known, **begun}, aside=f"{path}.damaged-{stamp}")
        beside = path.with_name(f"{path.name}.new-{trace.name}")
        if not begun.get("cloned"):
            await self._clone(beside, commit, lock)
            trace.begin(cloned=True, lfs=await self._lay_in_lfs(beside))
        await in_thread(_swap, path, beside, Path(str(trace.known["aside"])))
        trace.begin(moved=True)

    async def _lay_in_lfs(self, beside: Path) -> bool:
        """Whether the old work tree had the content of a file of which the new one has only LFS's pointer."""
        if not await in_thread(lfs.may_be_used, beside):
            return False
        left = await lfs.pointers(self._repo.at(beside))
        return await in_thread(lfs.lay_there, left, self._repo.path)

    async def _clone(self, beside: Path, commit: str, lock: Lock) -> None:
        address = await self._memory.address()
        await in_thread(_remove, beside)
        origin = self._settings.remote if is_address(self._settings.restore_from) else self._settings.restore_from
        timeout = self._settings.timeout
        # not a local copy: what is read over git's own transport is verified
        clone = ("clone", "--quiet", "--no-local", "--no-checkout", "--no-recurse-submodules", f"--origin={origin}")
        where = ("--", address, str(beside))
        cloned = await self._repo.reach(*clone, *where, lock=lock, timeout=timeout, cwd=beside.parent)
        if not cloned.ok:
            await in_thread(_remove, beside)
            raise failure(beside.parent, cloned)
        new = self._repo.at(beside)
        known = ("cat-file", "-e", f"{commit}^{{commit}}")
        if not (await new.ask(*known)).ok:
            await new.reach("fetch", "--quiet", origin, commit, lock=lock, timeout=timeout)
        if not (await new.ask(*known)).ok:
            await in_thread(_remove, beside)
            raise AdapterError(
                f"{address} does not have {commit[:10]}, or not any more; go to a release that was pushed there",
                permanent=True,
            )
        await new.call(*CHECKOUT, "--detach", f"{commit}^{{commit}}", "--", lock=lock, timeout=timeout)
        ignored = await self._ignored(beside)
        rows = await new.names("ls-files", "--stage", "-z", timeout=timeout)
        modes = {name: int(about[:6], 8) for about, _, name in (row.partition("\t") for row in rows)}
        await in_thread(self._as_it_was, beside, modes, ignored)

    async def _ignored(self, beside: Path) -> list[str]:
        """What lies in the old work tree that git ignores; whole directories as one."""
        if not self._repo.path.is_dir():
            return []
        return await self._repo.names(
            *(f"--git-dir={beside / '.git'}", f"--work-tree={self._repo.path}", "ls-files", "-z"),
            *("--others", "--ignored", "--exclude-standard", "--directory"),
            timeout=self._settings.timeout,
        )

    def _as_it_was(self, beside: Path, modes: Mapping[str, int], ignored: Sequence[str]) -> None:
        """Give the new work tree what each file had in the old one, or the owner of all, and what git ignored there."""
        old = self._repo.path
        model = (old if old.is_dir() else old.parent).stat()
        if os.geteuid() == 0:
            for top, directories, files in os.walk(beside):
                for name in (*directories, *files):
                    os.lchown(os.path.join(top, name), model.st_uid, model.st_gid)  # noqa: PTH118  # a million times
            os.lchown(beside, model.st_uid, model.st_gid)
        if old.is_dir():
            beside.chmod(model.st_mode & 0o7777)
            put_on(str(beside), _dresses(old, modes))
        lost: list[str] = []
        for name in ignored:
            _carry(old / name, beside / name, lost)
        if lost:
            log.get("git").warning("ignored files could not be carried over", repo=str(old), files=lost[:20])
        os.sync()


def _dresses(old: Path, modes: Mapping[str, int]) -> Dresses:
    """What the files of a new tree are to have, as they or their neighbours had it in the old one."""
    found = Wardrobe(str(old), modes, modes).look()
    for directory in {str(above) for name in modes for above in PurePosixPath(name).parents[:-1]}:
        with contextlib.suppress(OSError):
            status = (old / directory).lstat()
            if stat.S_ISDIR(status.st_mode):
                found.directories[directory] = Dress(status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode))
    return found


def _remove(directory: Path) -> None:
    """Remove a clone of ours that is not whole."""
    shutil.rmtree(directory, ignore_errors=True)


def _carry(old: Path, new: Path, lost: list[str]) -> None:
    """Link a file, or all in a directory, to the same place in the new tree, where nothing is yet."""
    try:
        if old.is_dir() and not old.is_symlink():
            status = old.stat()
            new.mkdir(exist_ok=True, parents=True)
            if os.geteuid() == 0:
                os.lchown(new, status.st_uid, status.st_gid)
            new.chmod(status.st_mode & 0o7777)
            for child in old.iterdir():
                _carry(child, new / child.name, lost)
        elif not os.path.lexists(new):
            new.parent.mkdir(exist_ok=True, parents=True)
            os.link(old, new, follow_symlinks=False)
    except OSError:
        lost.append(str(old))


def _swap(path: Path, beside: Path, aside: Path) -> None:
    """Swap the two trees by two renames; called again after a crash between them it does the second."""
    try:
        if os.path.lexists(beside):
            if os.path.lexists(path):
                if os.path.lexists(aside):
                    raise AdapterError(
                        f"{path} came back while it was replaced; look at it and at {aside} and {beside}, then move "
                        "one of them to its place",
                        permanent=True,
                    )
                path.rename(aside)
                boundary("git.aside")
            beside.rename(path)
            boundary("git.swapped")
        sync_directory(path.parent)
    except OSError as error:
        raise AdapterError(
            f"{path}: cannot be replaced ({error.strerror}); is it a mount point, may rollbackd write to its parent?",
            permanent=False,
        ) from error
