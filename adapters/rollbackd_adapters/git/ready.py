"""What would stop a rollback of a repository right now. Read only; every sentence says what to do."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from rollbackd.adapter import AdapterError
from rollbackd.system.spawner import one_line
from rollbackd_adapters.git.overlooked import beside
from rollbackd_adapters.git.repo import Repo, failure
from rollbackd_adapters.git.settings import is_address
from rollbackd_adapters.lacks import existing, lacking_room, missing_of_then

_SHOWN = 5
"""Problems of one kind that are told."""
_UNFINISHED = {
    "MERGE_HEAD": "a merge is unfinished; commit it or run `git merge --abort`",
    "rebase-merge": "a rebase is unfinished; finish it or run `git rebase --abort`",
    "rebase-apply": "a rebase or `git am` is unfinished; finish or abort it",
    "CHERRY_PICK_HEAD": "a cherry-pick is unfinished; commit it or run `git cherry-pick --abort`",
    "REVERT_HEAD": "a revert is unfinished; commit it or run `git revert --abort`",
}


async def of_any(repo: Repo, *, cloned_anew: bool = False) -> list[str]:
    """What both strategies need: the repository, unless it is cloned anew, room, and the programs of `then`."""
    settings, scratch = repo.settings, repo.place.scratch
    if not repo.path.is_dir() and not cloned_anew:
        return [f"{repo.path}: no such directory; correct `repo`, or clone it there"]
    if settings.repo.is_symlink() and not settings.repo.exists():
        return [f"{settings.repo}: a link that leads nowhere"]
    found = missing_of_then(repo.spawner, settings.then, settings.run_as)
    found += lacking_room((existing(repo.path), existing(scratch)), settings.room)
    if not os.access(existing(scratch), os.W_OK | os.X_OK):
        found.append(f"{scratch}: rollbackd may not write there; give its user that right")
    return found


async def of_restoring(repo: Repo, address: str) -> list[str]:
    """What a new clone needs: a place beside the old one, and the remote."""
    if found := await asyncio.to_thread(_beside, repo.path):
        return found
    answer = await repo.reach("ls-remote", "--quiet", "--", address, "HEAD", cwd=repo.path.parent)
    return [] if answer.ok else [f"{address}: cannot be reached to clone {repo.path}: {answer.ending}; mend that"]


def _beside(path: Path) -> list[str]:
    """Whether a directory can be swapped for another."""
    if not os.access(path.parent, os.W_OK | os.X_OK):
        return [f"{path.parent}: rollbackd may not write there, where {path.name} is cloned anew; give it that right"]
    if path.is_mount():
        remedy = f"leave out `restore_from`, or give the unit ReadWritePaths={path.parent} instead"
        return [f"{path} is a mount point, which cannot be swapped for a new clone; {remedy}"]
    return []


async def of_work_tree(repo: Repo) -> list[str]:
    """What `checkout` needs: a work tree that may be written to and that nobody is in the middle of something in."""
    try:
        asked = ("--is-bare-repository", "--path-format=absolute", "--absolute-git-dir", "--git-common-dir")
        answer, head = await asyncio.gather(repo.call("rev-parse", *asked), repo.one("HEAD"))
        bare, directory, common = repo.shaped(answer.splitlines(), 3, "rev-parse")
    except AdapterError as error:
        return [f"{error}; is it a git repository?"]
    if bare == "true":
        return [f"{repo.path}: a bare repository has no work tree; use `strategy: revert`, or a clone with one"]
    if head is None:
        return [f"{repo.path}: HEAD names no commit; check one out"]
    top = (await repo.call("rev-parse", "--show-toplevel")).rstrip("\n")
    if top != str(repo.path):
        return [f"{repo.path}: its files are elsewhere, in {one_line(top)} (core.worktree); name that one as `repo`"]
    needed = (repo.path, Path(directory), Path(common), Path(common) / "objects", Path(common) / "refs")
    found = [
        f"{path}: rollbackd may not write there; give its user that right, or make the file system writable"
        for path in await asyncio.to_thread(_closed, (*needed, *await _directories(repo)))
    ]
    found += [f"{repo.path}: {text}" for name, text in _UNFINISHED.items() if (Path(directory) / name).exists()]
    return found + await _of_paths(repo) + await _of_restore_from(repo)


async def _directories(repo: Repo) -> list[Path]:
    """Those that HEAD has files in: a checkout that may not write to one leaves a mixture."""
    listed = await repo.ask("ls-tree", "-r", "-d", "-z", "HEAD", "--", *repo.settings.paths)
    rows = [row.partition(b"\t") for row in listed.stdout.split(b"\0") if row]
    return [repo.path / os.fsdecode(name) for about, _, name in rows if b" tree " in about]


def _closed(paths: Sequence[Path]) -> list[Path]:
    """Those of the paths that may not be written to, a few of them."""
    found = [path for path in dict.fromkeys(paths) if path.exists() and not os.access(path, os.W_OK | os.X_OK)]
    return found[:_SHOWN]


async def _of_paths(repo: Repo) -> list[str]:
    paths = repo.settings.paths
    if not paths:
        return []
    staged = await repo.call("ls-files", "--stage", "-z", "--", *paths)
    inside = [row.partition("\t")[2] for row in staged.split("\0") if row.startswith("160000 ")]
    found = [f"{repo.path / path} is a submodule, which git leaves alone; name `paths` without it" for path in inside]
    for name in (await beside(repo, paths)).marked[:_SHOWN]:
        remedy = f"`git update-index --no-assume-unchanged --no-skip-worktree {one_line(name)}` takes that away"
        found.append(f"{one_line(str(repo.path / name))} is marked so that git overlooks its edits; {remedy}")
    literal = {"GIT_LITERAL_PATHSPECS": "0"}  # it knows no other, and stops when told so
    answer = await repo.ask("check-ignore", "-z", "--stdin", stdin="\0".join(paths).encode(), env=literal)
    if answer.code not in {0, 1}:
        raise failure(repo.path, answer)
    ignored = answer.stdout.decode(errors="replace")
    return found + [
        f"{repo.path / path} is ignored by git, so it has no releases; name `paths` without it"
        for path in ignored.split("\0")
        if path
    ]


async def _of_restore_from(repo: Repo) -> list[str]:
    name = repo.settings.restore_from
    if not name:
        return []
    if not is_address(name) and not (await repo.ask("remote", "get-url", name)).ok:
        return [f"{repo.path} has no remote {name}, which `restore_from` names; add it, or write an address"]
    return await asyncio.to_thread(_beside, repo.path)
