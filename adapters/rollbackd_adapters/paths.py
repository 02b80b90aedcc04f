"""Paths in the settings of layers. No I/O."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from rollbackd.syntax.units import show


def _whole(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError(f"{show(str(path))} depends on where the daemon was started; write the whole path")
    return path


WholePath = Annotated[Path, AfterValidator(_whole)]
"""A path that begins with a slash."""
