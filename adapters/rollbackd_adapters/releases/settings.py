"""What the configuration says about a layer of adapter `releases`. No I/O."""

from datetime import timedelta
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from rollbackd.adapter import Settings
from rollbackd.syntax.units import Duration, Vector, show
from rollbackd_adapters.paths import UserName


class ReleasesSettings(Settings):
    """A layer of adapter `releases`."""

    directory: Path
    """Holds the releases, a directory each. Links, files and names with a dot in front are none."""
    link: Path
    """The link to the release that runs; not in `directory`."""
    names: str = "*"
    """Which directories there are releases, with wildcards: `20*`. All others are left alone."""
    order: Literal["name", "mtime"] = "name"
    """What newest means: the name, its numbers as numbers; or when the directory was last changed."""
    revision: str = Field(default="REVISION", pattern=r"^[A-Za-z0-9_.][A-Za-z0-9._-]*$")
    """A file in a release that tells one from another of the same name, such as a commit; need not be there."""
    good: str = Field(default="", pattern=r"^([A-Za-z0-9_.][A-Za-z0-9._-]*)?$")
    """A file in a release that marks it as good."""
    then: tuple[Vector, ...] = ()
    """Argument vectors that run in the release afterwards, in order; all must exit 0."""
    timeout: Duration = timedelta(minutes=10)
    """For each command of `then`."""
    run_as: UserName = ""
    """The user that `then` runs as, which is a release's own code; only root may name another. Empty: as rollbackd."""
    keep: int = Field(default=0, ge=0, le=10_000)
    """How many releases stay when old ones are removed at night; 0: all. What runs stays in any case, and so do good
    ones, those that a plan names, and those that the last rollbacks went from or to."""

    @field_validator("directory", "link")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        if not path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{show(str(path))} depends on where one stands; write the whole path, without ..")
        return path

    @model_validator(mode="after")
    def _apart(self) -> Self:
        if self.link.is_relative_to(self.directory):
            raise ValueError(f"{self.link} is inside of `directory`, among the releases; keep the link beside it")
        for name in (self.revision, self.good):
            if name in {".", ".."}:
                raise ValueError(f"{show(name)} is no file's name; write the name of a release's directory")
        return self
