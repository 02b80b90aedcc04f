"""Every call of the `git` program, and what its answers mean. Nothing here decides."""

import asyncio
import contextlib
import fnmatch
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TypedDict, Unpack

from rollbackd.adapter import AdapterError, Place
from rollbackd.model import Release
from rollbackd.system.spawner import Finished, Lock, Spawner, one_line
from rollbackd_adapters.failures import as_adapter_errors
from rollbackd_adapters.git.settings import GitSettings
from rollbackd_adapters.ids import check_own

LOOK_TIMEOUT = timedelta(seconds=30)
"""For calls that only read this host's disk."""

CHECKOUT = ("checkout", "--force", "--quiet", "--no-recurse-submodules")
SAVED = "refs/rollbackd/*/saved*"
"""What was uncommitted before a change, by its key. Under a name of its own so that it can be dropped by age."""
OURSELVES = ("rollbackd", "rollbackd@localhost")
_ID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_FIELDS = ("%H", "%T", "%P", "%ct", "%s", "%D")
_SETTINGS = {
    "core.hooksPath": os.devnull,  # a hook is code of the release that is rolled back, without a limit
    "core.fsmonitor": "false",  # starts a daemon that would keep our lock
    "core.fsync": "committed,reference",  # saved work must be on the disk before what it saves is overwritten
    "core.fsyncMethod": "batch",
    "core.safecrlf": "false",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "log.showSignature": "false",
    "advice.detachedHead": "false",
    "protocol.ext.allow": "never",
    "credential.interactive": "false",
}
_ENVIRONMENT = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "false",  # nobody is there to be asked; credentials come from git's own helpers
    "SSH_ASKPASS": "false",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_LITERAL_PATHSPECS": "1",
    "LC_ALL": "C",
}
_SSH = "ssh -oBatchMode=yes"
_SAY_NOTHING = (
    "could not read from remote repository",
    "please make sure you have the correct access rights",
    "and the repository exists",
    "the remote end hung up unexpectedly",
    "adding files failed",
    "failed to push some refs to",
)
"""Sentences of git that follow the one that says why."""


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit, as `git log` tells it."""

    sha: str
    tree: str
    parents: tuple[str, ...]
    at: datetime
    subject: str
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RepoState:
    """Where a repository stands."""

    directory: Path
    """Of this work tree: HEAD, index and their locks."""
    common: Path
    """Of all work trees of the repository: refs and objects."""
    commit: str
    tree: str
    on: str
    """The branch that HEAD is on, as a ref; "" when it is on none."""


def resource_of(settings: GitSettings) -> str:
    """What is locked, so that two steps never share it: the repository, however it is reached."""
    return f"git:{os.path.realpath(settings.repo)}"


def check_id(release: Release) -> str:
    """A tree's id, safe as an argument. :raises AdapterError: permanent, for anything else."""
    return check_own(release, _ID, "a tree; `rollbackd plan` lists them")


class How(TypedDict, total=False):
    """How git is called; what is not given is as `Repo.ask` has it."""

    lock: Lock | None
    env: Mapping[str, str] | None
    stdin: bytes
    timeout: timedelta
    cwd: Path | None


class Repo:
    """One repository."""

    def __init__(self, settings: GitSettings, place: Place, path: Path | None = None) -> None:
        self.path = Path(os.path.realpath(path or settings.repo))
        self.timeout = settings.timeout
        self.settings = settings
        self.place = place
        self.spawner: Spawner = place.spawner
        given = {"safe.directory": str(self.path), **_SETTINGS}
        options = [part for name, value in given.items() for part in ("-c", f"{name}={value}")]
        self._git = ("git", *options)
        self._environment = {**_ENVIRONMENT, "GIT_CEILING_DIRECTORIES": str(self.path.parent)}

    async def ask(
        self,
        *arguments: str,
        lock: Lock | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        timeout: timedelta = LOOK_TIMEOUT,
        cwd: Path | None = None,
    ) -> Finished:
        """Call git; its answer, whatever it is. :raises AdapterError: when it cannot be called."""
        with as_adapter_errors():
            return await self.spawner.run(
                (*self._git, *arguments),
                cwd=cwd or self.path,
                env={**self._environment, **(env or {})},
                stdin=stdin,
                lock=lock,
                timeout=timeout,
            )

    def at(self, path: Path) -> "Repo":
        """Another repository of the layer, such as a new clone."""
        return Repo(self.settings, self.place, path)

    async def call(self, *arguments: str, **how: Unpack[How]) -> str:
        """Call git; what it printed. :raises AdapterError: not permanent, when it fails."""
        return (await self._printed(*arguments, **how)).decode(errors="replace")

    async def names(self, *arguments: str, **how: Unpack[How]) -> list[str]:
        """Call git with `-z`; the names, or whole rows, that it printed. :raises AdapterError: as `call`."""
        return [os.fsdecode(name) for name in (await self._printed(*arguments, **how)).split(b"\0") if name]

    async def _printed(self, *arguments: str, **how: Unpack[How]) -> bytes:
        finished = await self.ask(*arguments, **how)
        if not finished.ok or finished.truncated:
            raise failure(self.path, finished)
        return finished.stdout

    async def resolve(self, revision: str) -> str:
        """The id of the object that a revision names, or "" when there is none."""
        answer = await self.ask("rev-parse", "--verify", "--quiet", revision)
        return answer.stdout.decode().strip() if answer.ok else ""

    async def reach(self, *arguments: str, **how: Unpack[How]) -> Finished:
        """Call git for something that may ask another host: no prompt, whichever way it goes there."""
        own = await self.ask("config", "--get", "core.sshCommand", cwd=how.get("cwd"))
        if not own.ok:
            how["env"] = {"GIT_SSH_COMMAND": _SSH, **(how.get("env") or {})}
        return await self.ask(*arguments, **how)

    async def look(self) -> RepoState:
        """The state of the repository, by one call."""
        answer = await self.call(
            *("rev-parse", "--path-format=absolute", "--absolute-git-dir", "--git-common-dir", "HEAD", "HEAD^{tree}"),
            *("--symbolic-full-name", "HEAD"),
        )
        directory, common, commit, tree, on = answer.splitlines()
        return RepoState(Path(directory), Path(common), commit, tree, "" if on == "HEAD" else on)

    async def history(
        self, *revisions: str, reflog: bool = False, count: int | None = None, paths: Sequence[str] = ()
    ) -> list[Commit]:
        """Commits reachable from there, newest first, as many as `keep_looking`; missing revisions do not matter.

        With `reflog`, only those that the revisions' reflogs name; with `paths`, only those that changed them.
        """
        answer = await self.ask(
            *("log", "--walk-reflogs" if reflog else "--ignore-missing", *(["--full-history"] if paths else [])),
            *(f"--max-count={count or self.settings.keep_looking}", "-z", "--encoding=UTF-8"),
            *("--decorate=full", "--decorate-refs=refs/tags/*", f"--format=tformat:{'%x00'.join(_FIELDS)}"),
            *(*revisions, "--", *paths),
        )
        if not answer.ok or answer.truncated:
            if reflog:  # a bare repository, or a new one, has none
                return []
            raise failure(self.path, answer)
        texts = answer.stdout.decode(errors="replace").split("\0")
        rows = zip(*[iter(texts)] * len(_FIELDS), strict=False)
        return [_commit(*row) for row in rows]

    async def one(self, revision: str) -> Commit | None:
        """One commit, or None when it is not here."""
        found = await self.history(revision, count=1)
        return found[0] if found else None

    async def known(self) -> list[Commit]:
        """All that a work tree can be taken to: what branch, remote branch, tags, HEAD and where HEAD was lead to.

        With `paths` also what was uncommitted there and is saved: it is all of its release.
        """
        branch, remote = self.settings.branch, self.settings.remote
        refs = ("HEAD", f"refs/heads/{branch}", f"refs/remotes/{remote}/{branch}")
        paths = self.settings.paths
        found = await asyncio.gather(
            self.walked(*refs),
            self.history("HEAD", reflog=True),
            self.history("--no-walk=unsorted", "HEAD", *([f"--glob={SAVED}"] if paths else [])),
            *([self.history(*refs, "--tags", paths=paths)] if paths else []),
        )
        return list({commit.sha: commit for commits in found for commit in commits}.values())

    async def walked(self, *revisions: str) -> list[Commit]:
        """The newest commits that are reachable from there and from tags; tags however many came after them."""
        found = await self.history(*revisions, "--tags")
        if len(found) >= self.settings.keep_looking:
            found += await self.history("--no-walk", "--tags")
        return list({commit.sha: commit for commit in found}.values())

    async def contents(self, revisions: Sequence[str], env: Mapping[str, str] | None = None) -> list[str]:
        """What each revision has at `paths`, as a hash over the ids that git has for it; "" where it has nothing there.

        Of a file that is named itself the content counts, not the mode.
        """
        paths = self.settings.paths
        names = "".join(f"{revision}:{path}\n" for revision in revisions for path in paths)
        answer = await self.call("cat-file", "--batch-check=%(objectname) %(objecttype)", stdin=names.encode(), env=env)
        lines = ["" if line.endswith(" missing") else line for line in answer.splitlines()]
        return [_content(lines[at : at + len(paths)], paths) for at in range(0, len(lines), len(paths))]

    def release(self, *commits: Commit, content: str = "") -> Release:
        """The release that commits with one content are, the newest first; the content is their tree if not given."""
        tags = [tag for commit in commits for tag in commit.tags]
        newest = commits[0]
        good = self.settings.good
        return Release(
            id=content or newest.tree,
            label=one_line(tags[0] if tags else f"{newest.sha[:10]} {newest.subject}"),
            created=newest.at,
            good=bool(good) and any(fnmatch.fnmatchcase(tag, good) for tag in tags),
        )

    def releases(self, commits: Sequence[Commit], contents: Mapping[str, str] | None = None) -> list[Release]:
        """One release for each content, newest first; it can be asked for by all its tags and commits."""
        groups: dict[str, list[Commit]] = {}
        for commit in newest_first(commits):
            if content := commit.tree if contents is None else contents[commit.sha]:
                groups.setdefault(content, []).append(commit)
        return [
            replace(
                self.release(*same, content=content),
                names=tuple(name for commit in same for name in (*commit.tags, commit.sha)),
            )
            for content, same in groups.items()
        ]


def identity(name: str, address: str, date: str = "") -> dict[str, str]:
    """What git's environment says of who commits, and when; without a date: now."""
    given = {"NAME": name, "EMAIL": address} | ({"DATE": date} if date else {})
    return {f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER") for what, value in given.items()}


def _content(lines: Sequence[str], paths: Sequence[str]) -> str:
    if not any(lines):
        return ""
    text = "".join(f"{path}\0{line}\n" for path, line in zip(paths, lines, strict=True))
    return hashlib.sha256(text.encode()).hexdigest()


def failure(path: Path, finished: Finished, *, permanent: bool = False) -> AdapterError:
    """What git complained about, in one sentence."""
    command = next((part for part in finished.argv[1:] if part != "-c" and "=" not in part), "git")
    said = _why(finished.stderr.splitlines())
    why = f"{finished.ending}: {said}" if said else finished.ending
    if finished.truncated:
        why = "it printed more than can be read; make keep_looking smaller"
    return AdapterError(f"git {command} in {path}: {why}", permanent=permanent, evidence=finished.tail)


def _why(lines: Sequence[str]) -> str:
    """The line that says why: git's own last one, unless that only says that something went wrong."""
    telling = [line for line in lines if line.strip() and not any(text in line.lower() for text in _SAY_NOTHING)]
    own = [line for line in telling if line.startswith(("fatal:", "error:", "!"))]
    return (own or telling or list(lines) or [""])[-1]


def users(path: Path) -> list[int]:
    """The processes that have a file open; those of other users are seen only by root."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):
                if any(fd.samefile(path) for fd in (process / "fd").iterdir() if fd.exists()):
                    found.append(int(process.name))
    return found


def quoted(path: Path) -> str:
    """A path as git reads it in a list of directories."""
    text = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def newest_first(commits: Sequence[Commit]) -> list[Commit]:
    """The commits, newest first: by date, and those of the same second by descent."""
    known = {commit.sha: commit for commit in commits}
    height: dict[str, int] = {}
    for sha in TopologicalSorter({commit.sha: commit.parents for commit in commits}).static_order():
        parents = known[sha].parents if sha in known else ()
        height[sha] = 1 + max((height[parent] for parent in parents if parent in known), default=0)
    return sorted(known.values(), key=lambda commit: (commit.at, height[commit.sha]), reverse=True)


def _commit(sha: str, tree: str, parents: str, at: str, subject: str, refs: str) -> Commit:
    tags = tuple(ref.removeprefix("tag: refs/tags/") for ref in refs.split(", ") if ref.startswith("tag: "))
    return Commit(sha, tree, tuple(parents.split()), datetime.fromtimestamp(int(at), UTC), subject, tags)
