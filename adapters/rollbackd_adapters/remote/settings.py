"""What the configuration says about a layer of adapter `remote`. No I/O."""

import re
from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from rollbackd.adapter import Settings
from rollbackd.model import Traits
from rollbackd.syntax.units import Duration, OneOrMany, show
from rollbackd_adapters.paths import WholePath

Trait = Literal["releases", "step", "bracket", "data", "snapshots"]

_DESTINATION = re.compile(
    r"(?:[A-Za-z0-9_][A-Za-z0-9._-]{0,63}@)?(?P<host>[A-Za-z0-9][A-Za-z0-9._-]{0,252}|[0-9A-Fa-f:]{2,45})"
)


def _destination(text: str) -> str:
    if _DESTINATION.fullmatch(text) is None:
        raise ValueError(f"{show(text)} is nothing to log in at; write it like deploy@web1, an address like deploy@::1")
    return text


Destination = Annotated[str, AfterValidator(_destination)]


def host_of(destination: str) -> str:
    """`web1` of `deploy@web1`."""
    return destination.rpartition("@")[2]


class RemoteSettings(Settings):
    """A layer of adapter `remote`: a layer of any other adapter, on another host or on several."""

    ssh: Destination | None = None
    """Where it is: `deploy@web1`, as for ssh."""
    hosts: tuple[Destination, ...] = ()
    """Instead of `ssh`, when the same layer is on several hosts: all of them go to one release."""
    layer: str = Field(default="", pattern=r"^[a-z0-9._-]{0,63}$")
    """What the other side calls it; by default as here."""
    traits: Annotated[tuple[Trait, ...], OneOrMany()] = ("releases", "step")
    """What it can be used for, as `rollbackd layer --list` says there."""
    port: int | None = Field(default=None, ge=1, le=65535)
    """For ssh; by default 22, or what `ssh_config` says."""
    identity: WholePath | None = None
    """The private key's file; by default the daemon's user's own."""
    known_hosts: WholePath | None = None
    """Where the hosts' keys are; by default ssh's own files. A key that is not there, or another, is refused always."""
    ssh_config: WholePath | None = None
    """A file for ssh (ssh_config(5)), for jump hosts and the like; by default none is read."""
    connect_within: Duration = timedelta(seconds=5)
    """How long a host may take to be reached; whole seconds."""
    timeout: Duration = timedelta(minutes=10)
    """For one effect on one host; a step has six times that for all of them."""
    parallel: int = Field(default=1, ge=1)
    """How many hosts at once."""
    between: tuple[str, ...] = ()
    """An argument vector that must exit 0 for each host that was done before the next begins; `{host}` in it is its
    name."""
    between_within: Duration = timedelta(minutes=1)
    """How long `between` is asked again before it is given up."""
    unreachable: Literal["fail", "skip"] = "fail"
    """`fail`: a host that cannot be reached stops it. `skip`: the others go on, and the step fails in the end."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.ssh is None) == (not self.hosts):
            raise ValueError(
                "nothing says where this layer is; give ssh: deploy@web1, or hosts: [deploy@web1, deploy@web2]"
            )
        if len(set(map(host_of, self.hosts))) < len(self.hosts):
            raise ValueError("a host is named twice in `hosts`; name it once, or write one layer for each user there")
        if "step" not in self.traits and "bracket" not in self.traits:
            raise ValueError("nothing can be done with this layer; give `traits` step, or bracket")
        for trait in ("bracket", "snapshots"):
            if trait in self.traits and len(self.hosts) > 1:
                raise ValueError(f"a layer on several hosts cannot have `{trait}`; write one layer for each host")
        if self.connect_within < timedelta(seconds=1):
            raise ValueError("`connect_within` is at least 1s; write it like 5s")
        return self

    @property
    def destinations(self) -> tuple[str, ...]:
        return self.hosts or ((self.ssh,) if self.ssh else ())

    @property
    def means(self) -> Traits:
        """`traits` as the core knows them."""
        given = self.traits
        return Traits(
            releases="releases" in given, step="step" in given, bracket="bracket" in given, data="data" in given
        )
