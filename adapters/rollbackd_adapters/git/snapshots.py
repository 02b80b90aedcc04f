"""The past of a repository, kept as tags: made, listed, verified, compared, restored, dropped.

A snapshot is an annotated tag at the commit that is there. Uncommitted work is kept beside it as a stash, under
`refs/rollbackd/snapshots/<name>/work`. With `paths` the tag is at that stash, so that what was there can be gone back
to, committed or not. Only names and sizes are ever shown of what differs, never contents.
"""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import replace

from rollbackd.adapter import AdapterError, Difference, Place, Snapshot, SnapshotProblem
from rollbackd.model import Release
from rollbackd.system.spawner import Lock
from rollbackd_adapters.base import ChoosingAdapter
from rollbackd_adapters.failures import holding
from rollbackd_adapters.git import bundles, rehearsal
from rollbackd_adapters.git.checkout import Checkout
from rollbackd_adapters.git.damage import unreadable
from rollbackd_adapters.git.ownership import begin, give_back
from rollbackd_adapters.git.repo import Repo, resource_of
from rollbackd_adapters.git.revert import Revert
from rollbackd_adapters.git.saving import stash
from rollbackd_adapters.git.settings import GitSettings
from rollbackd_adapters.git.tags import Tag, built_name, check_name, make, saved_ref, tags
from rollbackd_adapters.ids import free_name
from rollbackd_adapters.traces import Trace, safe_name

_SHOWN = 10_000
"""Differences that are told."""
_KINDS = {"A": "added", "D": "removed"}


class TagSnapshots(ChoosingAdapter[GitSettings]):
    """The snapshots of a repository, beside the steps of its strategy."""

    def __init__(self, settings: GitSettings, place: Place) -> None:
        super().__init__(settings, place)
        self._strategy = (Checkout if settings.strategy == "checkout" else Revert)(settings, place)
        self._repo = Repo(settings, place)
        self._held = resource_of(settings)

    @property
    def _step(self) -> Checkout | Revert:
        return self._strategy

    async def take(self, name: str = "", why: str = "manual") -> Snapshot:
        if name:
            check_name(name)
        async with holding(self._spawner, self._held, self._settings.timeout) as lock:
            scratch = self._place.scratch / "take"
            (scratch / "began").unlink(missing_ok=True)
            began = begin(scratch)
            head = await self._step.standing()
            work = await self._work(lock)
            known = {tag.name: tag for tag in await tags(self._repo)}
            wanted = name or free_name(built_name(self._place.layer, why, self._clock.now()), known)
            commit = work if work and self._settings.paths else head
            if (found := known.get(wanted)) is not None:
                if await self._differs(found, commit, work):
                    raise AdapterError(f"{wanted} is another snapshot already; give another name", permanent=True)
            else:
                if work:
                    await self._repo.call("update-ref", saved_ref(wanted), work, lock=lock)
                await make(self._repo, wanted, commit, why, lock)
                await give_back(self._repo, began)
        return await self._snapshot(wanted)

    async def _work(self, lock: Lock) -> str:
        """What is uncommitted, as a commit that nothing names yet; "" for nothing, or without a work tree."""
        if self._settings.strategy == "revert":
            return ""
        return await stash(self._repo, await self._repo.look(), "", self._place.scratch / "take", lock)

    async def _differs(self, tag: Tag, commit: str, work: str) -> bool:
        """Whether a tag of that name keeps anything else than what is there now."""
        kept = await self._repo.resolve(f"{saved_ref(tag.name)}^{{tree}}")
        there = await self._repo.resolve(f"{work}^{{tree}}") if work else ""
        return kept != there or (not (work and self._settings.paths) and tag.commit != commit)

    async def snapshots(self) -> Sequence[Snapshot]:
        found = await tags(self._repo)
        releases = await self._releases(found)
        return [tag.snapshot(release) for tag, release in zip(found, releases, strict=True)]

    async def _releases(self, found: Sequence[Tag]) -> list[str]:
        if not self._settings.paths or not found:
            return [tag.tree for tag in found]
        return [content or "" for content in await self._repo.contents([tag.commit for tag in found])]

    async def _snapshot(self, name: str) -> Snapshot:
        tag = await self._tag(name)
        (release,) = await self._releases([tag])
        return tag.snapshot(release)

    async def _tag(self, name: str) -> Tag:
        for tag in await tags(self._repo):
            if tag.name == name:
                return tag
        raise AdapterError(f"there is no snapshot {check_name(name)} in {self._repo.path}", permanent=True)

    async def verify(self, name: str) -> Sequence[SnapshotProblem]:
        tag = await self._tag(name)
        answer = await self._repo.ask(
            *("fsck", "--connectivity-only", "--no-dangling", "--no-progress", "--no-reflogs", tag.object),
            timeout=self._settings.timeout,
        )
        if answer.timed_out or answer.truncated:
            raise AdapterError(f"{name}: reading all of it took too long; make `timeout` longer", permanent=False)
        said = f"{answer.stdout.decode(errors='replace')}\n{answer.stderr}".split("\n")
        problems = [] if answer.ok else [line for line in said if line][:20] or [f"git fsck: {answer.ending}"]
        if broken := await unreadable(self._repo, tag.commit):
            problems.append(broken)
        return [SnapshotProblem(name, "", self._spawner.clean(text)) for text in problems]

    async def diff(self, older: str, newer: str = "") -> Sequence[Difference]:
        revisions = [(await self._tag(name)).commit for name in (older, newer) if name]
        if not newer and self._settings.strategy == "revert":
            revisions.append(await self._step.standing())
        base = ("diff", "--no-renames", "--no-ext-diff", "--no-textconv", "--ignore-submodules=dirty", "-z")
        rest = (*revisions, "--", *self._settings.paths)
        limit = self._settings.timeout
        names, stats = await asyncio.gather(
            self._repo.call(*base, "--name-status", *rest, timeout=limit),
            self._repo.call(*base, "--numstat", *rest, timeout=limit),
        )
        sizes = {path: f"+{plus} -{minus}" for plus, minus, path in map(_numbers, filter(None, stats.split("\0")))}
        parts = iter(names.split("\0"))
        found = [
            Difference(path, _KINDS.get(kind[:1], "changed"), (f"{sizes.get(path, '+- -')} lines",))  # type: ignore[arg-type]
            for kind, path in zip(parts, parts, strict=False)
            if kind
        ]
        if len(revisions) == 1:
            options = ("-z", "--others", "--exclude-standard", "--directory", "--", *self._settings.paths)
            untracked = (await self._repo.call("ls-files", *options)).split("\0")
            found += [Difference(path, "added", ("not known to git",)) for path in untracked if path]
        return sorted(found, key=lambda one: one.path)[:_SHOWN]

    async def restore(self, name: str, key: str, only: Sequence[str] = ()) -> Snapshot:
        if only:
            raise AdapterError(
                "a repository is restored as a whole; `paths` in a layer of its own for a part", permanent=True
            )
        target = await self._snapshot(name)
        before = check_name(f"rollback-before-{safe_name(key)}"[:120])
        known = [tag.name for tag in await tags(self._repo)]
        kept = await (self._snapshot(before) if before in known else self.take(before, "before"))
        change = replace(await self._step.plan(Release(target.release)), key=key)
        begun = Trace(self._place.scratch, change).begun
        if begun is not None:
            change = replace(change, before=Release(str(begun["before"])))
        await self._step.apply(change)
        return kept

    async def export_to(self, name: str, path: str) -> None:
        tag = await self._tag(name)
        async with holding(self._spawner, self._held, self._settings.timeout) as lock:
            await bundles.write(self._repo, tag, path, lock)

    async def import_from(self, path: str) -> Snapshot:
        async with holding(self._spawner, self._held, self._settings.timeout) as lock:
            name = await bundles.read(self._repo, path, lock)
        return await self._snapshot(name)

    async def rehearse(self, name: str) -> Sequence[SnapshotProblem]:
        tag = await self._tag(name)
        apart = f"git-rehearsal:{self._place.scratch}"  # not the repository's lock: a rollback must not wait for it
        async with holding(self._spawner, apart, self._settings.timeout) as lock:
            problems = await rehearsal.problems(self._repo, tag, lock)
        return [SnapshotProblem(name, "", self._spawner.clean(text)) for text in problems]

    async def prune(self, spare: Collection[str] = (), last: int = 0) -> Sequence[str]:
        async with holding(self._spawner, self._held, self._settings.timeout) as lock:
            ours = [tag for tag in await tags(self._repo) if tag.ours]
            releases = dict(zip((tag.name for tag in ours), await self._releases(ours), strict=True))
            kept = {*spare, (await self._step.current()).id}
            old = [tag for tag in ours[last or self._settings.keep_snapshots :] if releases[tag.name] not in kept]
            for tag in old:
                await self._drop(tag, lock)
        return [tag.name for tag in old]

    async def _drop(self, tag: Tag, lock: Lock) -> None:
        """Delete the refs of a snapshot, the tag last: a snapshot that was cut off between them is found by its tag."""
        await self._repo.call("update-ref", "-d", saved_ref(tag.name), lock=lock)
        await self._repo.call("update-ref", "-d", f"refs/tags/{tag.name}", tag.object, lock=lock)


def _numbers(row: str) -> tuple[str, str, str]:
    plus, minus, path = row.split("\t", 2)
    return plus, minus, path
