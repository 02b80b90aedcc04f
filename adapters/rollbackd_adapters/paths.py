"""Paths and users in the settings of layers. No I/O."""

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from rollbackd.syntax.units import show


def _whole(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError(f"{show(str(path))} depends on where the daemon was started; write the whole path")
    return path


def _user(name: str) -> str:
    if name and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}", name) is None:
        raise ValueError(f"{show(name)} cannot be the name of a user; write the name of its login")
    return name


UserName = Annotated[str, AfterValidator(_user)]
"""A user's name, or nothing."""
WholePath = Annotated[Path, AfterValidator(_whole)]
"""A path that begins with a slash."""
