"""A photograph of a part of the world, and what changed between two of them: for the law that `plan` tells all that
`apply` touches.

How an adapter's test uses it, on any world that it likes to make:

    before = photograph(root)                       # all below: the layer's files, their neighbours, what is mounted
    change = finish(planned(adapter, target))
    assert photograph(root) == before               # a plan only reads
    finish(adapter.apply(change))
    after = photograph(root)
    assert_told(before, after, change, moved=[...], own=[adapter's scratch])

`moved` are the paths in which the two releases differ: the plan tells those by the names of the releases. `own` is the
layer's own bookkeeping: its scratch, a store, `.git`. What else changed must stand in a sentence of the plan, by its
path or by that of a directory above it; but not by that of one that is photographed, or is given as `whole`, such as a
repository: its name in a sentence tells nothing of what is in it. A drill that went there and back (`there` and `back` are the two changes):

    assert_as_before(before, photograph(root), there, moved=[...], own=[...])

All is as it was, but for the inodes of what `moved`; or `there.aside` said of it that it would not be.
Where the rest is no matter, `differences(before, after)` has each path that changed, with what changed of it.
"""

import hashlib
import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from rollbackd.model import Change

_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "link",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}


@dataclass(frozen=True, slots=True)
class Sight:
    """One thing in a photograph; its times are left out, since looking changes them too."""

    kind: str
    content: str = ""
    """The hash of a file, where a link leads, a device's number."""
    mode: int = 0
    """All twelve bits: setuid, setgid and the sticky one too."""
    owner: int = 0
    group: int = 0
    attributes: tuple[tuple[str, bytes], ...] = ()
    """Access lists, capabilities, labels."""
    inode: tuple[int, int] = (0, 0)
    """Device and inode: another one was put in its place, or something was mounted over it."""
    names: int = 1
    """How many hard links it has; a directory's are not counted."""


Photograph = Mapping[str, Sight]
"""By absolute path; what is mounted has the path `mount:…`."""


def photograph(*roots: Path, without: Collection[Path] = ()) -> Photograph:
    """All below the roots, and they themselves; what is not there is not in it.

    :param without: paths that are left out, with all below them.
    """
    left_out = {str(path) for path in without}
    found = {path: _sight(path) for root in roots for path in _below(str(root), left_out)}
    return found | dict(_mounts([str(root) for root in roots]))


def differences(before: Photograph, after: Photograph) -> dict[str, tuple[str, ...]]:
    """Each path that is not as it was: `new`, `gone`, or which of its properties changed."""
    found: dict[str, tuple[str, ...]] = {}
    for path in sorted({*before, *after}):
        old, now = before.get(path), after.get(path)
        if old is None or now is None:
            found[path] = ("new" if old is None else "gone",)
        elif old != now:
            names = [each.name for each in fields(Sight)]
            found[path] = tuple(name for name in names if getattr(old, name) != getattr(now, name))
    return found


def assert_told(
    before: Photograph,
    after: Photograph,
    change: Change,
    *,
    moved: Collection[Path] = (),
    own: Collection[Path] = (),
    whole: Collection[Path] = (),
) -> None:
    """All that changed was named by the plan."""
    texts, above = (*change.risks, change.aside), _roots(before) | {str(path) for path in whole}
    untold = {
        path: what
        for path, what in differences(before, after).items()
        if not _within(path, own) and path not in _with_ways(moved) and not is_named(texts, path, above)
    }
    assert not untold, f"changed, and the plan did not tell it ({texts}): {untold}"


def assert_as_before(
    before: Photograph,
    back: Photograph,
    there: Change,
    *,
    moved: Collection[Path] = (),
    own: Collection[Path] = (),
    whole: Collection[Path] = (),
) -> None:
    """After a way there and back all is where it was, or the plan of the way there said that it would not be."""
    ways, above = _with_ways(moved), _roots(before) | {str(path) for path in whole}

    def is_told(path: str) -> bool:
        """A directory goes without a word of its own when all that was in it is told to."""
        inside = [each for each in before if each.startswith(f"{path}/")]
        return is_named([there.aside], path, above) or (bool(inside) and all(map(is_told, inside)))

    lost = {
        path: what
        for path, what in differences(before, back).items()
        if not _within(path, own)
        and not (path in ways and {*what} <= {"inode"})
        and not (is_told(path) if what == ("gone",) else is_named([there.aside], path, above))
    }
    assert not lost, f"not as it was before, and the plan did not tell it ({there.aside!r}): {lost}"


def is_named(texts: Collection[str], path: str, above: Collection[str]) -> bool:
    """Whether a text has the path or a directory between it and `above`, whole or its end, as a word of its own."""
    while path not in above and "/" in path:
        for word in _ends(path):
            if any(re.search(rf"(?<![\w./-]){re.escape(word)}(?![\w-]|[./]\w)", text) for text in texts):
                return True
        path = path.rpartition("/")[0]
    return False


def _ends(path: str) -> Iterator[str]:
    """The path, and what is left of it relative to each directory above it."""
    yield path
    rest = path.removeprefix("mount:").lstrip("/")
    while rest:
        yield rest
        rest = rest.partition("/")[2]


def _roots(seen: Photograph) -> set[str]:
    return {path for path in seen if path.rpartition("/")[0] not in seen}


def _with_ways(moved: Collection[Path]) -> set[str]:
    """Paths, and the directories above them: they come and go with what is in them."""
    return {str(each) for path in moved for each in (path, *path.parents)}


def _within(path: str, own: Collection[Path]) -> bool:
    return any(path == str(each) or path.startswith(f"{each}/") for each in own)


def _below(path: str, without: Collection[str]) -> Iterator[str]:
    if path in without or not os.path.lexists(path):
        return
    yield path
    if stat.S_ISDIR(os.lstat(path).st_mode):
        for name in sorted(os.listdir(path)):
            yield from _below(f"{path.rstrip('/')}/{name}", without)


def _sight(path: str) -> Sight:
    status = os.lstat(path)
    kind = _KINDS[stat.S_IFMT(status.st_mode)]
    return Sight(
        kind,
        _content(path, kind, status),
        stat.S_IMODE(status.st_mode),
        status.st_uid,
        status.st_gid,
        tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in _attributes(path)),
        (status.st_dev, status.st_ino),
        1 if kind == "directory" else status.st_nlink,
    )


def _content(path: str, kind: str, status: os.stat_result) -> str:
    if kind == "file":
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    if kind == "link":
        return str(Path(path).readlink())
    return str(status.st_rdev) if kind == "device" else ""


def _attributes(path: str) -> list[str]:
    try:
        return sorted(os.listxattr(path, follow_symlinks=False))
    except OSError:  # the file system has none
        return []


def _mounts(roots: Collection[str]) -> Iterator[tuple[str, Sight]]:
    """https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html"""
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        number, _, device, root, point = line.split()[:5]
        path = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), point)
        if any(path == each or path.startswith(f"{each}/") for each in roots):
            yield f"mount:{path}", Sight("mount", f"{number} {device} {root}")
