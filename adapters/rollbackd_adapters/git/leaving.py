"""What leaves a work tree when it goes to a release, as a plan tells it. No I/O."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rollbackd.system.spawner import one_line

_SHOWN = 20
"""Names that are told."""


@dataclass(frozen=True, slots=True)
class Leaving:
    """Names relative to the work tree."""

    uncommitted: Sequence[str] = ()
    ignored: Sequence[str] = ()
    """What git ignores, and lies where the release has something of another kind, or of its own."""
    overlooked: Sequence[str] = ()
    """What git was told to overlook, and the release has another content of."""

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
        return "; ".join(found)


def told(names: Sequence[str]) -> str:
    """Names for people."""
    shown = ", ".join(one_line(name) for name in names[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown
