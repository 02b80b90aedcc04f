"""Snapshots as annotated tags: their names, how they are written, how they are read back. Nothing here decides.

A tag that rollbackd made says so by trailers in its message; those alone it ever deletes.
"""

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from rollbackd.adapter import AdapterError, Snapshot
from rollbackd.system.spawner import Lock, one_line
from rollbackd_adapters.git.repo import Repo, failure, identity, moment
from rollbackd_adapters.ids import SNAPSHOT

WHY, FILES, SIZE = "Rollbackd-Why", "Rollbackd-Files", "Rollbackd-Size"
LOOKED_FOR = ("checkpoint-*", "rollback-*", "snapshot-*")
"""Tags of these names are snapshots whoever made them."""

_FIELDS = (
    *("refname:strip=2", "objectname", "objecttype", "*objecttype", "*objectname", "*tree", "tree", "creatordate:unix"),
    f"contents:trailers:key={WHY},key={FILES},key={SIZE},unfold",
)
_LONGEST_NUMBER = 18
"""Digits of what a tag, which anybody may have pushed, says of its size."""
_AT_ONCE = 4096
"""Names on one command line."""


@dataclass(frozen=True, slots=True)
class Tag:
    """A tag that leads to a commit."""

    name: str
    object: str
    """What the ref names: the tag itself, or the commit of a light one."""
    commit: str
    tree: str
    at: datetime
    why: str
    files: int
    size: int

    @property
    def ours(self) -> bool:
        return bool(self.why)

    def snapshot(self, release: str) -> Snapshot:
        return Snapshot(self.name, release, self.at, self.why or "manual", self.size, self.files)


def check_name(name: str) -> str:
    """:raises AdapterError: permanent, for a name that cannot be a tag's."""
    if SNAPSHOT.fullmatch(name) is None or ".." in name or name.endswith((".", ".lock")):
        raise AdapterError(
            f"{one_line(name)!r} cannot be the name of a tag: letters, digits and ._- only, 120 at most", permanent=True
        )
    return name


def built_name(layer: str, why: str, now: datetime) -> str:
    """`checkpoint-<layer>-<why>-<utc>`, or `rollback-<why>-<utc>` for what is kept before a rollback."""
    utc = now.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    word = re.sub(r"[^A-Za-z0-9_-]+", "-", why)[:40].strip("-") or "manual"
    return f"rollback-{word}-{utc}" if word == "before" else check_name(f"checkpoint-{layer}-{word}-{utc}")


def saved_ref(name: str) -> str:
    """Where a snapshot's uncommitted work is: a stash, kept as long as its tag. Pruning by age does not see it."""
    return f"refs/rollbackd/snapshots/{name}/work"


async def tags(repo: Repo) -> list[Tag]:
    """All snapshots, newest first; without what cannot be read."""
    rows = await _rows(repo, ["refs/tags"])
    if rows is None:  # a tag leads to what is lost, and git tells of none
        names = [f"refs/tags/{name}" for same in (await repo.tagged()).values() for name in same]
        names = [name for name in names if SNAPSHOT.fullmatch(name.removeprefix("refs/tags/"))]
        parts = [await _rows(repo, names[at : at + _AT_ONCE]) for at in range(0, len(names), _AT_ONCE)]
        rows = [row for part in parts for row in part or ()]
    found = [tag for row in rows if (tag := _tag(*row)) is not None]
    ours = [tag for tag in found if tag.ours or any(fnmatch.fnmatchcase(tag.name, glob) for glob in LOOKED_FOR)]
    return sorted(ours, key=lambda tag: (tag.at, tag.name), reverse=True)


async def _rows(repo: Repo, patterns: Sequence[str]) -> list[tuple[str, ...]] | None:
    """What git says of tags; None: of none of these, since one is damaged."""
    form = "".join(f"%({field})%00" for field in _FIELDS)
    answer = await repo.ask("for-each-ref", f"--format={form}", *patterns)
    if answer.truncated or answer.timed_out:
        raise failure(repo.path, answer)
    texts = [text.strip() for text in answer.stdout.decode(errors="replace").split("\0")]
    return list(zip(*[iter(texts)] * len(_FIELDS), strict=False)) if answer.ok else None


def _tag(
    name: str, own: str, kind: str, leads_to: str, commit: str, its_tree: str, tree: str, at: str, trailers: str
) -> Tag | None:
    if kind == "commit":
        commit, its_tree, leads_to = own, tree, "commit"
    if leads_to != "commit" or SNAPSHOT.fullmatch(name) is None:
        return None
    said = dict(line.split(": ", 1) for line in trailers.splitlines() if ": " in line)
    told = (said.get(key, "") for key in (FILES, SIZE))
    files, size = (int(text) if text.isdecimal() and len(text) <= _LONGEST_NUMBER else 0 for text in told)
    why = one_line(said.get(WHY, ""))
    return Tag(name, own, commit, its_tree, moment(at), why, files, size)


async def make(repo: Repo, name: str, commit: str, why: str, lock: Lock) -> None:
    """Write an annotated tag, which must not be there yet."""
    listed = await repo.names("ls-tree", "-r", "-l", "-z", commit, timeout=repo.timeout)
    sizes = [row.split("\t")[0].split()[3] for row in listed]
    total = sum(int(size) for size in sizes if size.isdigit())
    message = f"Snapshot by rollbackd\n\n{WHY}: {one_line(why) or 'manual'}\n{FILES}: {len(sizes)}\n{SIZE}: {total}\n"
    await repo.call(
        *("tag", "--annotate", "--no-sign", "--cleanup=verbatim", "--file=-", name, commit),
        stdin=message.encode(),
        env=identity(*repo.settings.committer),
        lock=lock,
    )
