"""What the configuration says about a layer of adapter `env`. No I/O."""

import re
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from rollbackd.adapter import Settings
from rollbackd.syntax.units import show
from rollbackd_adapters.env.text import Syntax
from rollbackd_adapters.paths import WholePath

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PRESET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def _text(value: object) -> object:
    """What YAML makes of `false` or `010` is not what a program would read."""
    if value is None or isinstance(value, str):
        return value
    raise ValueError(f'{show(value)} is not a text; write it in quotes, as the program reads it: "{value}"')


class EnvSettings(Settings):
    """A layer of adapter `env`."""

    file: WholePath
    """The file; not a link. A bare `NAME=value` a line, or what the `syntax` allows."""
    names: tuple[str, ...] = Field(min_length=1)
    """The variables that are this layer; all others in the file are left alone."""
    presets: dict[str, dict[str, Annotated[str | None, BeforeValidator(_text)]]] = {}
    """Named contents for steps such as `{flags: no-search}`. Each sets some of `names`, null takes one out of the file;
    the rest stay as they are."""
    syntax: Syntax = "shell"
    """Who reads the file: a shell (`. FILE`, dotenv), systemd (`EnvironmentFile=`), or docker (`--env-file`)."""
    keep: int = Field(default=100, ge=2, le=10_000)
    """How many contents are remembered, to go back to; the oldest are dropped at night. Good ones stay in any case."""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        for name in self.names:
            if _NAME.fullmatch(name) is None:
                raise ValueError(f"{show(name)} cannot be the name of a variable; write letters, digits and _")
        if len(set(self.names)) != len(self.names):
            raise ValueError("a name stands twice in `names`; write it once")
        for preset, values in self.presets.items():
            self._check(preset, values)
        return self

    def _check(self, preset: str, values: dict[str, str | None]) -> None:
        if _PRESET.fullmatch(preset) is None:
            raise ValueError(f"{show(preset)} cannot name a preset; write letters, digits, dots and dashes, 64 at most")
        if not values:
            raise ValueError(f"preset {preset} sets nothing; give it some of `names`")
        for name, value in values.items():
            if name not in self.names:
                raise ValueError(f"preset {preset} sets {show(name)}, which is not among `names`; add it there")
            if value is not None and _UNPRINTABLE.search(value):
                raise ValueError(
                    f"preset {preset}: the value of {name} has a line break or a control character; leave it out"
                )
