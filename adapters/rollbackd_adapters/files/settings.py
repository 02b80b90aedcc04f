"""What the configuration says about a layer of adapter `files`. No I/O."""

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from rollbackd.adapter import Settings
from rollbackd.syntax.units import Duration, OneOrMany, Size, Spec, Vector, show
from rollbackd_adapters.files.globs import WatchList, check_pattern, is_plain, path_above

FILE = "{file}"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MODE = re.compile(r"0?[0-7]{3}|[0-7]{4}")


def check_part(text: str) -> str:
    """A pattern for names, or for whole paths when it has a slash. :raises ValueError: with what to write instead."""
    if "/" in text:
        return check_pattern(text)
    if text in {"", ".", "..", "**"} or "\0" in text:
        raise ValueError(f"{show(text)} matches no name, or all of them; write a name with * or ?, or a whole path")
    return text


def _checked(path: Path) -> Path:
    check_pattern(str(path))
    return path


PlainPath = Annotated[Path, AfterValidator(_checked)]


class Variables(Spec):
    """Variables of an environment file (`NAME=value` lines) that are watched whatever else is in it."""

    file: PlainPath
    names: Annotated[tuple[str, ...], OneOrMany(), Field(min_length=1)]

    @field_validator("names")
    @classmethod
    def _variables(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if _NAME.fullmatch(name) is None:
                raise ValueError(f"{show(name)} cannot be the name of a variable; use letters, digits and _")
        return names


class Syntax(Spec):
    """A command that must accept a file before it is put in place."""

    glob: Annotated[str, Field(min_length=1), AfterValidator(check_part)]
    """Which files: `*.json` by name, or a whole path with wildcards."""
    command: Vector
    """Its argument vector; the argument `{file}` becomes the path of a copy that has the file's own name."""

    @field_validator("command")
    @classmethod
    def _has_file(cls, command: tuple[str, ...]) -> tuple[str, ...]:
        if FILE not in command[1:]:
            text = f"nothing of it is {FILE}; write that as an argument of its own, where the file's path goes"
            raise ValueError(text)
        return command


class Keep(Spec):
    """Which snapshots are kept: the union of these."""

    last: int = Field(default=20, ge=1)
    """The newest ones."""
    daily: int = Field(default=14, ge=0)
    """The newest of a day, for so many days that have any; days are in UTC."""
    weekly: int = Field(default=8, ge=0)
    """The newest of a week, alike."""
    saved: Duration = timedelta(days=7)
    """What a restore replaced, at least for so long."""


class FilesSettings(Settings):
    """A layer of adapter `files`."""

    paths: Annotated[tuple[str, ...], OneOrMany()] = ()
    """Files and directories that are watched, absolute; `*` and `?` within a name, `**` for any directories. A
    directory counts with all that is in it."""
    variables: Annotated[tuple[Variables, ...], OneOrMany()] = ()
    """Single variables of environment files; they are restored without touching the rest of the file."""
    store: PlainPath | None = None
    """Where snapshots are kept, in a directory per service and layer; none: with the daemon's own `scratch`."""
    auto: bool = True
    """A content that was seen twice is kept by itself, so that each state the daemon knows can be gone back to."""
    volatile: Annotated[tuple[str, ...], OneOrMany()] = ()
    """What is kept but is no change: logs, caches. A restore puts it back only where it is missing."""
    syntax: tuple[Syntax, ...] = ()
    """Commands that must accept files before the first is put in place."""
    modes: dict[str, str] = Field(default_factory=dict)
    """Patterns of files and the mode that a restore gives them whatever was saved: `{".env*": "600"}`."""
    secret: tuple[str, ...] = ("*KEY*", "*TOKEN*", "*SECRET*", "*PASS*", "*CREDENTIAL*", "*AUTHORIZATION*", "*_DSN")
    """Names, with wildcards and in any case, whose values are never shown."""
    good: str = ""
    """Names of snapshots that mark a release as good, with wildcards: `checkpoint-*`."""
    keep: Keep = Keep()
    """Which snapshots pruning leaves."""
    timeout: Duration = timedelta(seconds=30)
    """For each syntax command."""
    room: Size = 256 * 2**20
    """Free space that must be left, in the store and where files are put."""
    largest: Size = 10 * 2**30
    """What an imported snapshot may hold at most, unpacked, and each file that is watched."""

    @property
    def written(self) -> tuple[Path, ...]:
        """Directories that a restore writes to: files, and whole directories that are gone, come back by rename."""
        watched = (Path(path_above(pattern)) for pattern in self.paths)
        files = (one.file.parent for one in self.variables)
        return (*watched, *files, *((self.store,) if self.store is not None else ()))

    @property
    def whole(self) -> tuple[Path, ...]:
        """What is watched and named without wildcards."""
        return tuple(Path(path) for path in self.paths if is_plain(path))

    @field_validator("paths")
    @classmethod
    def _patterns(cls, paths: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(check_pattern(path.rstrip("/") or path) for path in paths)

    @field_validator("volatile")
    @classmethod
    def _parts(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(check_part(text) for text in patterns)

    @field_validator("modes")
    @classmethod
    def _octal(cls, modes: dict[str, str]) -> dict[str, str]:
        for pattern, mode in modes.items():
            check_part(pattern)
            if _MODE.fullmatch(mode) is None:
                raise ValueError(f'{show(mode)} is not a mode; write it in quotes like "600" or "0644"')
        return modes

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.paths and not self.variables:
            raise ValueError("nothing is watched; give `paths`, or `variables`")
        if self.store is not None and WatchList(self.paths).selects(str(self.store)):
            raise ValueError(f"`store` {self.store} lies in what is watched; put it elsewhere")
        return self
