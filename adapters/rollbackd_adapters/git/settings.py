"""What the configuration says about a layer of adapter `git`. No I/O."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from rollbackd.adapter import Settings
from rollbackd.units import Duration, Size, show

Command = Annotated[tuple[str, ...], Field(min_length=1)]
_REF = r"^[A-Za-z0-9][A-Za-z0-9._/-]*$"


class GitSettings(Settings):
    """A layer of adapter `git`."""

    repo: Path
    """The repository: for `checkout` a work tree that rollbackd may change; for `revert` any clone, bare too."""
    strategy: Literal["checkout", "revert"] = "checkout"
    remote: str = Field(default="origin", pattern=_REF)
    """For `revert`, where the branch is pushed."""
    branch: str = Field(default="main", pattern=_REF)
    """For `revert`, what is taken back; for both, where releases are looked for."""
    then: tuple[Command, ...] = ()
    """Argument vectors that run in `repo` afterwards, in order; all must exit 0."""
    timeout: Duration = timedelta(minutes=10)
    """For each git call and for each command of `then`."""
    good: str = ""
    """Tags that mark a release as good, with wildcards: `checkpoint-*`."""
    keep_looking: int = Field(default=200, ge=1, le=10_000)
    """How many commits, newest first, are looked through for releases."""
    room: Size = 256 * 2**20
    """Free space, in bytes, below which a rollback is not begun."""
    author: str = Field(default="rollbackd <rollbackd@localhost>", pattern=r"^[^<>\n]+ <[^<>\s]+>$")
    """Who commits for `revert`."""

    @field_validator("repo")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        if not path.is_absolute():
            raise ValueError(f"{show(str(path))} depends on where the daemon was started; write the whole path")
        return path

    @field_validator("remote", "branch")
    @classmethod
    def _a_ref(cls, name: str) -> str:
        if ".." in name or "//" in name or name.endswith(("/", ".", ".lock")):
            raise ValueError(f"{show(name)} cannot be the name of a branch or a remote")
        return name
