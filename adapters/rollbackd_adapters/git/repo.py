"""Every call of the `git` program, and what its answers mean. Nothing here decides."""

import asyncio
import contextlib
import fnmatch
import hashlib
import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TypedDict, Unpack

from rollbackd.adapter import AdapterError, Place
from rollbackd.model import Release
from rollbackd.system import log
from rollbackd.system.spawner import READ_LIMIT, Finished, Lock, Spawner, one_line
from rollbackd_adapters.failures import as_adapter_errors
from rollbackd_adapters.git.looking import LookingIndex
from rollbackd_adapters.git.settings import GitSettings
from rollbackd_adapters.ids import check_own

LOOK_TIMEOUT = timedelta(seconds=30)
"""For calls that only read this host's disk, at least: a short `timeout` is meant for what changes something."""

LISTED = 256 * 2**20
"""Bytes of names that are read, some millions of files; of other answers the spawner's own limit."""
CHECKOUT = ("checkout", "--force", "--quiet", "--no-recurse-submodules")
SAVED = "refs/rollbackd/*/saved*"
"""What was uncommitted before a change, by its key. Under a name of its own so that it can be dropped by age."""
OURSELVES = ("rollbackd", "rollbackd@localhost")
_ID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_FIELDS = ("%H", "%T", "%P", "%ct")
_SUBJECT = "%<(120,trunc)%s"
"""No more of it, since all of a message may be one line of megabytes."""
_TAGS = "refs/tags"
_LAST_DATE = 2**37
"""Seconds; the year 6325. Git takes dates that no calendar has."""
BEGINNING = datetime.fromtimestamp(0, UTC)
"""The date of what has none."""
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
    "GIT_NO_REPLACE_OBJECTS": "1",  # a release is what its id says; a replaced history can be its own ancestor
    "GIT_GRAFT_FILE": os.devnull,
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
    tags: tuple[str, ...] = ()


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
    timeout: timedelta | None
    cwd: Path | None
    limit: int


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
        self._said = set[str]()
        self._looking = LookingIndex(place.scratch) if path is None else None
        self._environment = {**_ENVIRONMENT, "GIT_CEILING_DIRECTORIES": str(self.path.parent)}

    async def ask(
        self,
        *arguments: str,
        lock: Lock | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        timeout: timedelta | None = None,
        cwd: Path | None = None,
        limit: int = 0,
    ) -> Finished:
        """Call git; its answer, whatever it is. :raises AdapterError: when it cannot be called.

        :param timeout: not given: the layer's, and `LOOK_TIMEOUT` at least, since any look may read all contents anew.
        """
        with as_adapter_errors():
            return await self.spawner.run(
                (*self._git, *arguments),
                cwd=cwd or self.path,
                env={**self._environment, **(env or {})},
                stdin=stdin,
                lock=lock,
                timeout=timeout or max(self.timeout, LOOK_TIMEOUT),
                umask=self._umask(),
                limit=limit or READ_LIMIT,
            )

    def _umask(self) -> int:
        """The one that gives git's new files the rights that the repository has, whatever login we were started by."""
        for path in (self.path / ".git", self.path, self.path.parent):
            with contextlib.suppress(OSError):
                if stat.S_ISDIR(mode := path.stat().st_mode):
                    return ~mode & 0o077
        return -1

    def at(self, path: Path) -> "Repo":
        """Another repository of the layer, such as a new clone."""
        return Repo(self.settings, self.place, path)

    async def call(self, *arguments: str, **how: Unpack[How]) -> str:
        """Call git; what it printed. :raises AdapterError: not permanent, when it fails."""
        return (await self._printed(*arguments, **how)).decode(errors="replace")

    async def names(self, *arguments: str, **how: Unpack[How]) -> list[str]:
        """Call git with `-z`; the names, or whole rows, that it printed. :raises AdapterError: as `call`."""
        how["limit"] = LISTED
        return [name for name in os.fsdecode(await self._printed(*arguments, **how)).split("\0") if name]

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

    async def index_of_looks(self, look: RepoState) -> Mapping[str, str]:
        """Has git note what it compares in an index of the layer's; nothing for another repository than its own."""
        return {} if self._looking is None else await self._looking.of(look.directory / "index")

    async def look(self) -> RepoState:
        """The state of the repository."""
        asked = ("--path-format=absolute", "--absolute-git-dir", "--git-common-dir", "HEAD", "HEAD^{tree}")
        lines = (await self.call("rev-parse", *asked, "--symbolic-full-name", "HEAD")).splitlines()
        if len(lines) == len(asked) - 1:  # a tag or branch is called HEAD, too, and git says nothing then
            lines.append((await self.ask("symbolic-ref", "--quiet", "HEAD")).stdout.decode(errors="replace").strip())
        directory, common, commit, tree, on = self.shaped(lines, len(asked), "rev-parse")
        return RepoState(Path(directory), Path(common), commit, tree, "" if on == "HEAD" else on)

    def shaped(self, parts: Sequence[str], count: int, command: str) -> Sequence[str]:
        """The parts of an answer. :raises AdapterError: not permanent, when they are not so many."""
        if len(parts) != count:
            shown = one_line(self.spawner.clean(" | ".join(parts)))[:200]
            text = f"git {command} in {self.path} answered {shown!r}, which is not understood; call it there by hand"
            raise AdapterError(text, permanent=False)
        return parts

    async def history(
        self,
        *revisions: str,
        tags: Mapping[str, Sequence[str]] | None = None,
        reflog: bool = False,
        count: int | None = None,
        paths: Sequence[str] = (),
    ) -> list[Commit]:
        """Commits reachable from there, newest first, as many as `keep_looking`; missing revisions do not matter.

        :param tags: commits that have tags; what is reachable from them is there, too.
        :param reflog: only those that the revisions' reflogs name.
        :param paths: only those that changed them.
        """
        options = ("--walk-reflogs" if reflog else "--ignore-missing", *(["--full-history"] if paths else []))
        options = (*options, f"--max-count={count or self.settings.keep_looking}")
        answer = await self._log((*options, *revisions), tags or {}, paths)
        if answer.ok and not answer.truncated:
            return _commits(answer)
        if reflog:  # a bare repository, or a new one, has none
            return []
        if not tags or answer.timed_out:
            raise failure(self.path, answer)
        found = await self.history(*revisions, count=count, paths=paths) if revisions else []
        alone = found if paths else found + await self._alone(sorted(tags))
        self._say(answer.tail, "what tags lead to is damaged, and is passed over")
        return alone

    async def _log(self, options: Sequence[str], more: Iterable[str], paths: Sequence[str]) -> Finished:
        """Call `git log`; without subjects when one of them is too long all the same, such as one without width."""
        stdin = "".join(f"{each}\n" for each in more).encode()
        given = ("--stdin", *options, "--no-decorate", "--encoding=UTF-8", "-z")
        for fields in ((*_FIELDS, _SUBJECT), (*_FIELDS, "")):
            answer = await self.ask("log", *given, f"--format=tformat:{'%x00'.join(fields)}", "--", *paths, stdin=stdin)
            if not answer.truncated:
                break
        return answer

    async def _alone(self, commits: Sequence[str]) -> list[Commit]:
        """These commits themselves, newest first; not those that cannot be read."""
        found, readable = [], await self.objects("%(objectname)", [f"{commit}^{{tree}}" for commit in commits])
        for commit, tree in zip(commits, readable, strict=True):
            if tree:
                found.append(commit)
        answer = await self._log((f"--max-count={self.settings.keep_looking}", "--no-walk"), found, ())
        return _commits(answer) if found and answer.ok and not answer.truncated else []

    async def objects(self, form: str, names: Sequence[str], env: Mapping[str, str] | None = None) -> list[str | None]:
        """What `git cat-file` says of each name; "" where there is no such object, None where it cannot be read.

        One that is damaged ends git, so the others are asked for without it. :raises AdapterError: it takes too long.
        """
        if not names:
            return []
        stdin = os.fsencode("".join(f"{name}\n" for name in names))
        answer = await self.ask("cat-file", f"--batch-check={form}", stdin=stdin, env=env)
        lines = answer.stdout.decode(errors="replace").splitlines()
        if answer.ok and len(lines) == len(names):
            return ["" if line.endswith((" missing", " ambiguous")) else line for line in lines]
        if answer.timed_out or answer.truncated:
            raise failure(self.path, answer)
        if len(names) == 1:
            self._say(answer.tail, "an object cannot be read, and is passed over")
            return [None]
        half = len(names) // 2
        return [line for part in (names[:half], names[half:]) for line in await self.objects(form, part, env)]

    def _say(self, what: str, event: str) -> None:
        """Log it, once."""
        if what not in self._said:
            self._said.add(what)
            log.get("git").warning(event, repo=str(self.path), said=one_line(what))

    async def one(self, revision: str) -> Commit | None:
        """One commit, or None when it is not here."""
        found = await self.history(revision, count=1)
        return self.with_tags(found[:1], await self.tagged())[0] if found else None

    async def tagged(self) -> dict[str, list[str]]:
        """The commits that tags lead to, with the tags' names; what leads elsewhere, or nowhere, is passed over."""
        kinds = "%(objecttype) %(objectname) %(*objecttype) %(*objectname)"
        answer = await self.ask("for-each-ref", f"--format={kinds} %(refname:strip=2)", _TAGS)
        lines = answer.stdout.decode(errors="replace").splitlines()
        if answer.truncated:
            self._say("too many tags", "there are more tags than can be read, and the last ones are passed over")
            lines = lines[:-1]
        rows = [row.split(" ") for row in lines]
        if answer.ok and not any(row[2] == "tag" for row in rows):
            named = [(row[1] if row[0] == "commit" else row[3] if row[2] == "commit" else "", row[4]) for row in rows]
        else:  # one leads to another tag, or to what is lost: then git does not tell of the others
            named = await self._tagged_one_by_one()
        found: dict[str, list[str]] = {}
        for commit, name in reversed(named):
            if commit:
                found.setdefault(commit, []).append(name)
        return found

    async def _tagged_one_by_one(self) -> list[tuple[str, str]]:
        rows = (await self.call("for-each-ref", "--format=%(objectname) %(refname:strip=2)", _TAGS)).splitlines()
        parts = [row.partition(" ") for row in rows]
        commits = await self.objects("%(objectname)", [f"{own}^{{commit}}" for own, _, _ in parts])
        return [(commit or "", name) for commit, (_, _, name) in zip(commits, parts, strict=True)]

    @staticmethod
    def with_tags(commits: Iterable[Commit], tags: Mapping[str, Sequence[str]]) -> list[Commit]:
        """The commits, each once, with the names of their tags."""
        return list({one.sha: replace(one, tags=tuple(tags.get(one.sha, ()))) for one in commits}.values())

    async def known(self) -> list[Commit]:
        """All that a work tree can be taken to: what branch, remote branch, tags, HEAD and where HEAD was lead to.

        With `paths` also what was uncommitted there and is saved: it is all of its release.
        """
        branch, remote = self.settings.branch, self.settings.remote
        refs = ("HEAD", f"refs/heads/{branch}", f"refs/remotes/{remote}/{branch}")
        paths = self.settings.paths
        tags = await self.tagged()
        found = await asyncio.gather(
            self.walked(*refs, tags=tags),
            self.history("HEAD", reflog=True),
            self.history("--no-walk=unsorted", "HEAD", *([f"--glob={SAVED}"] if paths else [])),
            *([self.history(*refs, tags=tags, paths=paths)] if paths else []),
        )
        return self.with_tags((commit for commits in found for commit in commits), tags)

    async def walked(self, *revisions: str, tags: Mapping[str, Sequence[str]] | None = None) -> list[Commit]:
        """The newest commits that are reachable from there and from tags; tags however many came after them."""
        tags = await self.tagged() if tags is None else tags
        found = await self.history(*revisions, tags=tags)
        if len(found) >= self.settings.keep_looking:
            found += await self.history("--no-walk", tags=tags)
        return self.with_tags(found, tags)

    async def contents(self, revisions: Sequence[str], env: Mapping[str, str] | None = None) -> list[str | None]:
        """What each revision has at `paths`, as a hash over the ids that git has for it.

        "" where it has nothing there, None where that cannot be read. Of a file that is named itself the content
        counts, not the mode.
        """
        paths = self.settings.paths
        names = [f"{revision}:{path}" for revision in revisions for path in paths]
        lines = await self.objects("%(objectname) %(objecttype)", names, env)
        parts = (lines[at : at + len(paths)] for at in range(0, len(lines), len(paths)))
        return [None if None in part else _content([line or "" for line in part], paths) for part in parts]

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
        why = "it printed more than can be read" + ("; make keep_looking smaller" if command == "log" else "")
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


def moment(text: str) -> datetime:
    """A date as git tells it, in seconds; `BEGINNING` for one that no calendar has, or none at all."""
    seconds = int(text) if text.isascii() and text.isdecimal() and len(text) < len(str(_LAST_DATE * 10)) else 0
    return datetime.fromtimestamp(seconds if seconds < _LAST_DATE else 0, UTC)


def _commits(answer: Finished) -> list[Commit]:
    texts = answer.stdout.decode(errors="replace").split("\0")
    rows = zip(*[iter(texts)] * (len(_FIELDS) + 1), strict=False)
    return [
        Commit(sha, tree, tuple(parents.split()), moment(at), subject.strip())
        for sha, tree, parents, at, subject in rows
    ]
