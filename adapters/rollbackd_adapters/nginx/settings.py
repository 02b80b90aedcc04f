"""What the configuration says about a layer of adapter `nginx`. No I/O."""

import os
from collections.abc import Sequence
from datetime import timedelta
from itertools import permutations
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from rollbackd.adapter import Settings
from rollbackd.syntax.units import Duration, Spec, Vector, show
from rollbackd_adapters.paths import WholePath
from rollbackd_adapters.web import Question, Url

_CHOICE = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


def _double(texts: Sequence[str]) -> str:
    """A text that is another one too, or a part of it: `release 1` is found in `release 10`."""
    pairs = permutations(texts, 2)
    return next((one for one, other in pairs if one in other), "")


Choice = Annotated[str, Field(pattern=_CHOICE)]


class Upstream(Spec):
    """A link to one of several files, each of which sends the traffic somewhere else."""

    link: WholePath
    """What nginx includes, such as /etc/nginx/upstreams/checkout.conf; only ever a link, made anew by rollbackd."""
    choices: Annotated[dict[Choice, WholePath], Field(min_length=2)]
    """What it may lead to, by name: these are the releases."""
    healthy: dict[Choice, Url] = {}
    """What must answer with 2xx, `times` in a row, before the traffic goes to that choice; else nothing is touched."""
    times: int = Field(default=5, ge=1, le=100)
    every: Duration = timedelta(seconds=1)
    """Between two of those questions."""
    says: dict[Choice, str] = {}
    """For `confirm`: a text that its answer has when that choice serves it, and with no other choice."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        for key, names in (("healthy", self.healthy), ("says", self.says)):
            if strange := sorted(set(names) - set(self.choices)):
                raise ValueError(f"`{key}` has {show(strange[0])}, which is not among `choices`; name one of them")
        files = [os.path.normpath(path) for path in self.choices.values()]
        if twice := next((path for path in files if files.count(path) > 1), ""):
            raise ValueError(f"two `choices` are {show(twice)}, so nothing would move; give each a file of its own")
        if twice := next((url for url in self.healthy.values() if [*self.healthy.values()].count(url) > 1), ""):
            raise ValueError(f"two in `healthy` ask {show(twice)}, which tells nothing of one; give each its own")
        if self.link in self.choices.values():
            raise ValueError("`link` is one of its own `choices`; give it a path of its own")
        return self


class NginxSettings(Settings):
    """A layer of adapter `nginx`: with `maintenance` a bracket, with `upstream` a step with its choices as releases."""

    maintenance: WholePath | None = None
    """The prepared configuration of the maintenance page; nginx must not include it by itself."""
    link: WholePath | None = None
    """Where nginx includes it while it is on, such as /etc/nginx/conf.d/00-maintenance.conf."""
    page: str = ""
    """For `confirm`: a text that its answer has while maintenance is on, and never else."""
    upstream: Upstream | None = None
    test: tuple[str, ...] = ("nginx", "-t")
    """Must exit 0 before a reload. Empty where only root could ask, and `reload` itself refuses what is wrong."""
    reload: Vector = ("nginx", "-s", "reload")
    """Also `[systemctl, reload, nginx.service]`, which a polkit rule can allow the daemon's user."""
    pid: WholePath = Path("/run/nginx.pid")
    """nginx's `pid` file: where its workers can be seen, a reload is done when all that take connections are new."""
    confirm: Question | None = None
    """What is asked after a reload, until its answer has the text of `page` or `says`."""
    timeout: Duration = timedelta(seconds=30)
    """For each command, and for a reload to be seen."""

    @model_validator(mode="after")
    def _one_use(self) -> Self:
        if (self.maintenance is None) == (self.upstream is None):
            raise ValueError("a layer of nginx has either `maintenance` or `upstream`; give one of them")
        if (self.maintenance is None) != (self.link is None):
            raise ValueError("`maintenance` and `link` belong together; give both, or `upstream`")
        if self.maintenance is not None and self.maintenance == self.link:
            raise ValueError("`link` is where the file `maintenance` is included; give it a path of its own")
        return self

    @model_validator(mode="after")
    def _confirmable(self) -> Self:
        told = self.upstream.says if self.upstream is not None else self.page
        if (self.confirm is None) != (not told):
            key = "page" if self.upstream is None else "upstream.says"
            raise ValueError(f"`confirm` and `{key}` belong together; say where to ask, and what is answered then")
        if self.upstream is not None and self.confirm is not None:
            if lacking := sorted(set(self.upstream.choices) - set(self.upstream.says)):
                raise ValueError(f"`says` lacks {show(lacking[0])}; give a text for each of `choices`")
            if double := _double(list(self.upstream.says.values())):
                raise ValueError(f"{show(double)} is in two texts of `says`, so it tells nothing; give each its own")
        return self
