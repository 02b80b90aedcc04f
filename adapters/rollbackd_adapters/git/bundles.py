"""Snapshots as single files: git's own bundles, with all history that a tag needs. Every object's hash is compared."""

import asyncio
import os
import re
from pathlib import Path

from rollbackd.adapter import AdapterError
from rollbackd.system.spawner import Lock, one_line, sync_directory
from rollbackd_adapters.git.repo import Repo, failure
from rollbackd_adapters.git.tags import Tag, check_name, saved_ref

_TAG = "refs/tags/"
_REF = re.compile(r"refs/[A-Za-z0-9][A-Za-z0-9._/-]*")


async def write(repo: Repo, tag: Tag, path: str, lock: Lock) -> None:
    """Write a snapshot to a file, which appears whole or not at all; a file that is there is replaced."""
    goal = _absolute(path)
    if not await asyncio.to_thread(goal.parent.is_dir):
        raise AdapterError(f"{goal.parent}: no such directory; make it first", permanent=True)
    if await is_shallow(repo):
        text = f"{repo.path}: a shallow clone has not all of its history; run `git fetch --unshallow` in it first"
        raise AdapterError(text, permanent=True)
    half = goal.with_name(f".{goal.name}.{tag.object[:12]}.half")
    refs = [f"{_TAG}{tag.name}"]
    if await repo.resolve(saved_ref(tag.name)):
        refs.append(saved_ref(tag.name))
    try:
        await repo.call("bundle", "create", "--quiet", str(half), *refs, lock=lock, timeout=repo.timeout)
        await asyncio.to_thread(_put, half, goal)
    except OSError as error:
        raise AdapterError(f"{goal}: cannot be written: {error.strerror}; make room there", permanent=False) from error
    finally:
        await asyncio.to_thread(half.unlink, missing_ok=True)


async def is_shallow(repo: Repo) -> bool:
    """Whether older commits were left out when it was cloned."""
    return (await repo.call("rev-parse", "--is-shallow-repository")).strip() == "true"


def _put(half: Path, goal: Path) -> None:
    with half.open("rb") as file:
        os.fsync(file.fileno())
    half.rename(goal)
    sync_directory(goal.parent)


async def read(repo: Repo, path: str, lock: Lock) -> str:
    """Take the tag in; its name. :raises AdapterError: permanent, when it is damaged or no such file."""
    source = _absolute(path)
    if not await asyncio.to_thread(source.is_file):
        raise AdapterError(f"{source}: no such file", permanent=True)
    refs = await _refs(repo, source)
    names = [ref.removeprefix(_TAG) for ref in refs if ref.startswith(_TAG)]
    if len(names) != 1 or not set(refs) <= {f"{_TAG}{names[0]}", saved_ref(check_name(names[0]))}:
        raise AdapterError(f"{source}: not one snapshot, as `rollbackd snapshot export` writes it", permanent=True)
    (name,) = names
    if await repo.resolve(f"{_TAG}{name}") not in {"", refs[f"{_TAG}{name}"]}:
        raise AdapterError(f"{name} is another snapshot already; rename or delete that tag first", permanent=True)
    options = ("fetch", "--quiet", "--atomic", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules")
    fetched = await repo.ask(
        *("-c", "fetch.fsckObjects=true", *options, "--", str(source), *(f"{ref}:{ref}" for ref in refs)),
        lock=lock,
        timeout=repo.timeout,
    )
    if not fetched.ok:
        raise failure(repo.path, fetched, permanent=not fetched.timed_out)
    return name


async def _refs(repo: Repo, source: Path) -> dict[str, str]:
    answer = await repo.ask("bundle", "list-heads", str(source))
    if not answer.ok or answer.truncated:
        raise AdapterError(f"{source}: not a bundle of git: {one_line(answer.stderr)}", permanent=True)
    rows = [line.partition(" ") for line in answer.stdout.decode(errors="replace").splitlines()]
    return {ref: object_id for object_id, _, ref in rows if _REF.fullmatch(ref)}


def _absolute(path: str) -> Path:
    goal = Path(path)
    if not goal.is_absolute() or "\0" in path:
        raise AdapterError(f"{one_line(path)!r} is not the whole path of a file; begin it with /", permanent=True)
    return goal
