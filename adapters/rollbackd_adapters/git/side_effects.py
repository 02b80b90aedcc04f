"""What a checkout does to a work tree besides going to the release, as a plan tells it. No I/O."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rollbackd.system.spawner import one_line

_SHOWN = 20
"""Names that are told."""


@dataclass(frozen=True, slots=True)
class SideEffects:
    """Names relative to the work tree."""

    uncommitted: Sequence[str] = ()
    ignored: Sequence[str] = ()
    """What git ignores, and lies where the release has something of another kind, or of its own."""
    overlooked: Sequence[str] = ()
    """What git was told to overlook, and the release has another content of."""
    respelled: Sequence[str] = ()
    """What the release's attributes make something else of on disk."""
    undressed: Sequence[str] = ()
    """What goes, or is written anew, and would have another owner or mode when it comes back."""
    linked: Sequence[str] = ()
    """Files with further names."""

    def risks(self, path: Path) -> Iterator[str]:
        saved = "saved under refs/rollbackd/"
        if self.uncommitted:
            text = f"{len(self.uncommitted)} uncommitted change(s) in {path} leave it"
            yield f"{text}; they are {saved}: {told(self.uncommitted)}"
        if self.ignored:
            text = f"{len(self.ignored)} path(s) in {path} that git ignores make room for this release"
            yield f"{text}; what lies there is {saved}: {told(self.ignored)}"
        if self.overlooked:
            text = f"{len(self.overlooked)} file(s) in {path} that git was told to overlook become this release's"
            yield f"{text}; what they hold is {saved}: {told(self.overlooked)}"
        if self.respelled:
            text = f"{len(self.respelled)} file(s) get other line ends, encodings or filters by its .gitattributes"
            yield f"{text}: {told(self.respelled)}"
        if self.undressed:
            text = f"owners, modes or access lists of {len(self.undressed)} path(s) in {path} are lost"
            yield f"{text}, since git does not keep them: {told(self.undressed)}"
        if self.linked:
            text = f"{len(self.linked)} file(s) in {path} have further names, hard links, which keep what they hold now"
            yield f"{text}: {told(self.linked)}"

    def aside(self, path: Path, *, uncommitted: bool) -> str:
        """What would not come back by itself, and what to do.

        :param uncommitted: also what is uncommitted.
        """
        found = []
        if self.uncommitted and uncommitted:
            text = f"{len(self.uncommitted)} uncommitted change(s) in {path} would not come back by themselves"
            found.append(f"{text}; commit or remove them first")
        if moved := (*self.ignored, *self.overlooked):
            found.append(f"{told(moved)} in {path} would not come back by themselves; move them elsewhere first")
        if self.undressed:
            found.append(
                f"{told(self.undressed)} in {path} would come back with another owner or mode; note what they have"
            )
        if self.linked:
            found.append(f"{told(self.linked)} in {path} would come back without further names; link them anew")
        return "; ".join(found)


def told(names: Sequence[str]) -> str:
    """Names for people."""
    shown = ", ".join(one_line(name) for name in names[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown
