"""What the configuration says about a layer of adapter `http`. No I/O."""

import re
from datetime import timedelta
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from rollbackd.adapter import Settings
from rollbackd.syntax.json_path import JsonPath
from rollbackd.syntax.units import Duration, Spec, show
from rollbackd_adapters import web

_OF_A_CHANGE = re.compile(r"\{(?:before|after|key|incident)\}")
_HEADER = r"^[A-Za-z][A-Za-z0-9-]*$"


def _texts(value: object) -> object:
    """One or many; what YAML makes of `true` or `200` is compared as JSON writes it."""
    many = value if isinstance(value, (list, tuple)) else (value,)
    return tuple(str(each).lower() if isinstance(each, (bool, int, float)) else each for each in many)


Texts = Annotated[tuple[str, ...], BeforeValidator(_texts)]


class Fields(Spec):
    """Where in a release that is an object its parts are; one that is a text or a number is its own id."""

    id: JsonPath = "id"
    label: JsonPath = "label"
    """What people call it; need not be there."""
    created: JsonPath = "created"
    """RFC 3339, or seconds since 1970; need not be there."""


class Reading(web.Question):
    """Where a release, or a list of them, is told. The URL may have `{service}` and `{layer}`."""

    json_at: JsonPath = Field(default="", alias="json")
    """Where in the document; empty: the document itself."""
    fields: Fields = Field(default=Fields(), alias="fields")

    @model_validator(mode="after")
    def _of_no_change(self) -> Self:
        if found := _OF_A_CHANGE.search(self.url):
            raise ValueError(f"{found[0]} is known only while something changes; {{service}} and {{layer}} are always")
        return self


class ProgressReading(web.Question):
    """Where the work that `apply` began says how far it is. 404 means that it was not begun."""

    json_at: JsonPath = Field(alias="json")
    """Where in the document the word is."""
    done: Texts = Field(min_length=1)
    """Words that say: done, and well."""
    failed: Texts = Field(min_length=1)
    """Words that say: ended without success; it is begun anew."""
    running: Texts = ()
    """Words that say: not yet. Any other word is an error."""

    @model_validator(mode="after")
    def _apart(self) -> Self:
        words = [*self.done, *self.failed, *self.running]
        for word in words:
            if words.count(word) > 1:
                raise ValueError(f"{show(word)} stands in two of `done`, `failed` and `running`; write it in one")
        return self


class HttpSettings(Settings):
    """A layer of adapter `http`."""

    current: Reading | None = None
    """Tells the present release."""
    releases: Reading | None = None
    """Tells what can be gone back to, newest first. Together with `current`; a layer with neither has no releases."""
    apply: web.Call
    """Goes to `{after}`. Any 2xx means that it is taken; it may be done later."""
    progress: ProgressReading | None = None
    """Asked until it is done; best about `{key}`. Without it `current` is compared."""
    idempotency_header: str = Field(default="Idempotency-Key", pattern=_HEADER)
    """Has the change's key, the same when `apply` is sent again for want of an answer."""
    timeout: Duration = timedelta(minutes=10)
    """From `apply` until it must be done."""
    request_timeout: Duration = timedelta(seconds=10)
    """For each request."""
    every: Duration = timedelta(seconds=2)
    """Between two looks at how far it is."""
    resource: str = ""
    """What this layer shares with others that must not move at the same time; by default it shares nothing."""
    holds_data: bool = False
    """A plan goes back in it only by name."""
    irreversible: bool = False
    """Going back cannot be undone."""
    fenced: bool = False
    """The service refuses `apply` when Rollbackd-Epoch is lower than one that it was given before."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.current is None) != (self.releases is None):
            text = "`current` and `releases` belong together; give both, or none for a layer without releases"
            raise ValueError(text)
        if self.current is None and self.progress is None:
            raise ValueError("nothing tells whether `apply` worked; give `progress`, or `current` and `releases`")
        if self.current is not None and "{after}" not in f"{self.apply.url} {self.apply.headers} {self.apply.body}":
            raise ValueError("`apply` does not say where to go; write {after} into its url or its body")
        return self
