"""What the configuration says about a layer of adapter `git`. No I/O."""

import re
from datetime import timedelta
from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from rollbackd.adapter import Settings
from rollbackd.syntax.units import Duration, Size, Vector, show
from rollbackd_adapters.paths import UserName, WholePath

_REF = r"^[A-Za-z0-9][A-Za-z0-9._/-]*$"
_BRANCH_OF = r"^[A-Za-z0-9][A-Za-z0-9._/-]*\{incident\}[A-Za-z0-9._/-]*$"
_REMOTE = re.compile(_REF)
_ADDRESS = re.compile(r"/[^\s]+|[A-Za-z][A-Za-z0-9+.-]*://[^\s]+|[A-Za-z0-9_][^\s/:]*:[^\s]+")
"""What git takes for a place: a path, a URL, or `user@host:path`."""


def can_be_ref(name: str) -> bool:
    """Whether git takes it as a ref's name, as far as the pattern of a setting does not tell."""
    return not any(
        not part or ".." in part or part[0] == "." or part.endswith((".", ".lock")) for part in name.split("/")
    )


def check_address(text: str) -> str:
    """:raises ValueError: an address with a password in it, with what to do instead."""
    host = text.partition("://")[2].partition("/")[0]
    if "@" in host and ":" in host.rpartition("@")[0]:
        raise ValueError("an address with a password in it is shown in messages; use a credential helper of git")
    return text


def is_address(place: str) -> bool:
    """Whether `restore_from` says where; else it is the name of a remote."""
    return place.startswith("/") or ":" in place


class GitSettings(Settings):
    """A layer of adapter `git`."""

    repo: WholePath
    """The repository: for `checkout` a work tree that rollbackd may change; for `revert` any clone, bare too."""
    strategy: Literal["checkout", "revert"] = "checkout"
    remote: str = Field(default="origin", pattern=_REF)
    """For `revert`, where the branch is pushed."""
    branch: str = Field(default="main", pattern=_REF)
    """For `revert`, what is taken back; for both, where releases are looked for."""
    then: tuple[Vector, ...] = ()
    """Argument vectors that run in `repo` afterwards, in order; all must exit 0."""
    run_as: UserName = ""
    """The user that `then` runs as, which is a release's own code; only root may name another. Empty: as rollbackd."""
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
    paths: tuple[str, ...] = ()
    """For `checkout`: only these files and directories, relative to `repo`, go back; HEAD and the rest stay."""
    emergency: bool | Annotated[str, Field(pattern=_BRANCH_OF)] = False
    """Leave a branch at the commit that is left, to mend it on: true for `emergency/{incident}`, or a name like it."""
    on_branch: bool | Annotated[str, Field(pattern=_BRANCH_OF)] = False
    """For `checkout`: be on a new branch at the target, not on a detached HEAD: true for `rollback/{incident}`."""
    restore_from: str = ""
    """For `checkout`: where a work tree that is damaged or gone is cloned from: a remote's name, or an address."""
    keep_snapshots: int = Field(default=30, ge=1)
    """How many snapshots, that is tags that rollbackd made, are kept; the present and good releases' always."""
    keep_saved: Duration = timedelta(days=30)
    """How long saved uncommitted work is kept under `refs/rollbackd/`; the newest five stay for ever."""

    @property
    def committer(self) -> tuple[str, str]:
        """Name and address of `author`."""
        name, _, address = self.author.rstrip(">").partition(" <")
        return name, address

    @field_validator("remote", "branch", "emergency", "on_branch")
    @classmethod
    def _a_ref(cls, name: str | bool) -> str | bool:
        if isinstance(name, str) and not can_be_ref(name):
            raise ValueError(f"{show(name)} cannot be the name of a branch or a remote; write it like main")
        return name

    @field_validator("paths")
    @classmethod
    def _inside(cls, paths: tuple[str, ...]) -> tuple[str, ...]:
        """As git names them: without a slash at the end."""
        named = [PurePosixPath(path) for path in paths]
        for text, path in zip(paths, named, strict=True):
            if not text.isprintable() or path.is_absolute() or not path.parts or {"..", ".git"} & set(path.parts):
                raise ValueError(
                    f"{show(text)} is not a path inside the repository; write it like config/ or app/x.yml"
                )
        for path in named:
            if any(other != path and path.is_relative_to(other) for other in named) or named.count(path) > 1:
                raise ValueError(f"{show(str(path))} is named twice in `paths`; once is enough")
        return tuple(str(path) for path in named)

    @field_validator("restore_from")
    @classmethod
    def _a_place(cls, text: str) -> str:
        if text and _REMOTE.fullmatch(text) is None and _ADDRESS.fullmatch(text) is None:
            raise ValueError(f"{show(text)} is neither a remote's name nor an address; write it like origin")
        return check_address(text)

    @model_validator(mode="after")
    def _for_its_strategy(self) -> Self:
        given = [name for name in ("paths", "on_branch", "emergency", "restore_from") if getattr(self, name)]
        for name in given:
            if self.strategy == "revert" and name != "emergency":
                raise ValueError(f"`{name}` is for a work tree; leave it out, or use `strategy: checkout`")
            if self.paths and name != "paths":
                raise ValueError(f"`{name}` moves HEAD, which `paths` leaves where it is; leave one of them out")
        return self
