"""The release that the last look saw, and why it could not be kept; also when another process had that look.

`<scratch>/look`: the release's id, then the reason. Blocking, so it is run on threads.
"""

from contextlib import suppress
from pathlib import Path


class LastLook:
    """Kept in memory; the file is for the next process. Where it cannot be written `ready` says so by itself."""

    def __init__(self, scratch: Path) -> None:
        self._path = scratch / "look"
        self._known: tuple[str, str] | None = None

    def seen(self) -> tuple[str, str]:
        """The release of the last look, or "" when there was none; why it could not be kept, if that was tried."""
        if self._known is None:
            text = ""
            with suppress(OSError):
                text = self._path.read_text(errors="replace")
            release, _, unsaved = text.partition("\n")
            self._known = (release, unsaved)
        return self._known

    def note(self, release: str, unsaved: str) -> None:
        """Note a look as the last one."""
        if self.seen() == (release, unsaved):
            return
        self._known = (release, unsaved)
        with suppress(OSError):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._path.write_text(f"{release}\n{unsaved}")
