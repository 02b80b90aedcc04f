"""A list of files from elsewhere, as this host would have written it: what it says of itself is not believed.

Whether something is volatile is not a part of a release's id, and neither are owners, times, and modes of what is
volatile: whoever holds an archive may write there what he likes. So our own rules decide what is volatile; owners are
those that the release, or the path, has here; and nothing is setuid that was not so here.
"""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rollbackd.adapter import AdapterError
from rollbackd_adapters.files.jobs import Stop
from rollbackd_adapters.files.scan import ScanRules
from rollbackd_adapters.files.store import Head, Store
from rollbackd_adapters.files.tree import Tree, TreeEntry

_SET = stat.S_ISUID | stat.S_ISGID


@dataclass(frozen=True, slots=True)
class Vetting:
    """Of one import."""

    store: Store
    rules: ScanRules
    stop: Stop

    def of(self, head: Head, tree: Tree) -> Tree:
        """The list as it may be believed. :raises ValueError: it cannot be of the release that it says, or is hostile.

        A list of another watch list is no release here; of it owners and modes alone can be vetted.
        """
        ours = head.rules == self.rules.fingerprint
        known = self._known(head.release)
        entries = {}
        for path, entry in tree.entries.items():
            self.stop()
            entries[path] = self._vetted(path, entry, known.get(path), ours=ours)
        vetted = replace(tree, entries=entries)
        if vetted.release != head.release:
            raise ValueError("what it calls volatile is not volatile by the rules of this layer")
        return vetted

    def _known(self, release: str) -> Mapping[str, TreeEntry]:
        """What this host itself wrote down of the release, also where its contents are lost."""
        for head in self.store.heads():
            if head.release == release and head.why != "import":
                try:
                    return self.store.load(head.name)[1].entries
                except AdapterError:
                    continue
        return {}

    def _vetted(self, path: str, entry: TreeEntry, known: TreeEntry | None, *, ours: bool) -> TreeEntry:
        if ours:
            self._check_watched(path, entry)
            entry = entry._replace(volatile=entry.kind != "way" and self.rules.is_volatile(path))
        if known is not None and known.kind == entry.kind:
            owner, allowed = (known.uid, known.gid), known.mode & _SET if known.content == entry.content else 0
        else:
            there = _there(path)
            owner = (there.st_uid, there.st_gid)
            allowed = stat.S_IMODE(there.st_mode) & _SET if _is_at(path, there) else 0
        entry = entry._replace(uid=owner[0], gid=owner[1])
        extra = entry.mode & _SET & ~allowed
        if entry.kind != "file" or not extra:
            return entry
        if entry.counts:
            raise ValueError(
                f"{path!r:.200} is setuid or setgid in it, and was not so here; give that file the mode here first, if "
                "it is meant"
            )
        return entry._replace(mode=entry.mode & ~extra)

    def _check_watched(self, path: str, entry: TreeEntry) -> None:
        watch = self.rules.watch
        fits = any(pattern.leads(path) for pattern in watch.compiled) if entry.kind == "way" else watch.selects(path)
        if not fits:
            raise ValueError(f"{path!r:.200} is not on the watch list of this layer")


def _there(path: str) -> os.stat_result:
    """What is at a path now, or at the nearest one above it that is there; a link is not followed."""
    at = Path(path)
    while True:
        try:
            return at.lstat()
        except OSError:
            if at == at.parent:
                raise
            at = at.parent


def _is_at(path: str, found: os.stat_result) -> bool:
    """Whether that is a file at the path itself."""
    return stat.S_ISREG(found.st_mode) and os.path.lexists(path)
