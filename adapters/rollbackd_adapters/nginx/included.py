"""Whether nginx would load a file, by what `nginx -T` prints of its whole configuration. No I/O but following links.

https://nginx.org/en/docs/ngx_core_module.html#include: a path that is not whole is beside the main configuration.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePath

_FILE = re.compile(r"^# configuration file (/.+):$", re.MULTILINE)
_INCLUDE = re.compile(r"(?:^|[;{}])\s*include\s+(\"[^\"]+\"|'[^']+'|[^;\s]+)\s*;", re.MULTILINE)


def includes(dump: str, path: Path) -> bool:
    """Whether a file of that name would be loaded; also True where the text does not tell."""
    main = _FILE.search(dump)
    if main is None:
        return True
    patterns = [Path(main[1]).parent / found.strip("\"'") for found in _INCLUDE.findall(dump)]
    return any(PurePath(name).match(each) for name in _spellings(path) for one in patterns for each in _spellings(one))


def loaded(dump: str) -> list[Path]:
    """The files that nginx would load."""
    return [Path(name) for name in _FILE.findall(dump)]


def _spellings(path: Path) -> Iterator[str]:
    """The path as it is written, and with the links followed that lead to its directory."""
    yield os.path.normpath(path)
    if not set(str(path.parent)) & set("*?["):
        yield str(path.parent.resolve() / path.name)
