"""What the configuration says about a layer of adapter `freeze`. No I/O."""

from datetime import timedelta
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from rollbackd.adapter import Settings
from rollbackd.syntax.json_path import JsonPath
from rollbackd.syntax.units import Duration, Spec, show
from rollbackd_adapters.git.settings import can_be_ref, check_address
from rollbackd_adapters.paths import WholePath
from rollbackd_adapters.web import Call, Question


class Asked(Question):
    """Whether deployments are frozen: without `json`, a 2xx says yes and a 404 no."""

    json_at: JsonPath = Field(default="", alias="json")
    """Where the answer is in a JSON document."""
    equals: Any = True
    """What stands there when they are frozen."""


class FreezeCalls(Spec):
    """A freeze that is behind URLs."""

    enter: Call
    leave: Call
    inside: Asked | None = None
    """Without it, our own note counts: somebody else's freeze cannot be seen then."""


class FreezeRef(Spec):
    """A freeze that is a ref in a repository: CI does not deploy while it is there."""

    remote: str = Field(pattern=r"^(/\S+|[A-Za-z][A-Za-z0-9+.-]*://\S+|[A-Za-z0-9_][^\s/:]*:\S+)$")
    """The repository: a path, a URL, or `user@host:path`. Credentials come from git's own helpers."""
    ref: str = Field(default="refs/heads/frozen", pattern=r"^refs/[A-Za-z0-9][A-Za-z0-9._/-]*$")

    @field_validator("remote")
    @classmethod
    def _no_password(cls, text: str) -> str:
        return check_address(text)

    @field_validator("ref")
    @classmethod
    def _a_ref(cls, ref: str) -> str:
        if not can_be_ref(ref):
            raise ValueError(f"{show(ref)} cannot be the name of a ref; write it like refs/heads/frozen")
        return ref


class FreezeSettings(Settings):
    """A layer of adapter `freeze`: exactly one of `file`, `git` and `http`."""

    leave: Literal["steps", "gate", "verified", "acknowledged"] = "verified"
    """After what deployments go on; `acknowledged`: after a person has looked."""
    file: WholePath | None = None
    """A lock file that deployments look for; it says who froze, for which incident, since when."""
    git: FreezeRef | None = None
    http: FreezeCalls | None = None
    timeout: Duration = timedelta(seconds=30)
    """For each request and each call of git."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(part is not None for part in (self.file, self.git, self.http)) != 1:
            raise ValueError("a freeze is a file, a ref or a URL; give exactly one of `file`, `git` and `http`")
        return self
