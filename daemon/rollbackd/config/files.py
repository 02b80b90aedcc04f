"""The files that make up a configuration: found, read whole, and never anything but regular text files."""

import stat
from dataclasses import dataclass
from pathlib import Path

from rollbackd.config.positions import ConfigFault, Document
from rollbackd.syntax.units import show

_LONGEST = 32 * 2**20
"""Bytes; 10,000 services are about 8 MiB."""


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """One file as it was read."""

    path: Path
    body: bytes
    document: Document


def read(path: Path) -> ConfigFile:
    """A file, read; what went wrong while reading it is among its document's faults."""
    body, problem = body_of(path)
    line = column = 1
    if not problem:
        try:
            return ConfigFile(path, body, Document(body.decode("utf-8-sig"), str(path)))
        except UnicodeDecodeError as error:
            line = body.count(b"\n", 0, error.start) + 1
            column = error.start - body.rfind(b"\n", 0, error.start)
            problem = "this is not UTF-8; save the file as UTF-8"
    return ConfigFile(path, body, Document.unread(str(path), ConfigFault(str(path), line, column, problem)))


def body_of(path: Path) -> tuple[bytes, str]:
    """The bytes of a regular file, or why there are none."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            return b"", "this is a directory; name the file in it"
        if not stat.S_ISREG(mode):  # before opening it: a pipe would wait for its writer
            return b"", "this is not a regular file; write the configuration into one"
        with path.open("rb") as file:
            body = file.read(_LONGEST + 1)
    except FileNotFoundError:
        return b"", "there is no such file; write one from config.example.yaml, or name another"
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        return b"", f"it cannot be read: {why.lower()}; let the daemon's user read it"
    if len(body) > _LONGEST:
        return b"", f"it is longer than {_LONGEST // 2**20} MiB; a configuration is not"
    return body, ""


def packs() -> Path:
    """The directory of the shipped rule packs: `rules/` of a checkout, so that edits count, else inside the package."""
    package = Path(__file__).parents[1]
    checkout = package.parent.parent / "rules"
    return checkout if package.parent.name == "daemon" and checkout.is_dir() else package / "packs"


def pack_names() -> list[str]:
    """The shipped packs by name."""
    return sorted(path.stem for path in packs().glob("*.yaml"))


def matching(pattern: str, base: Path) -> list[Path]:
    """Files that a pattern matches, relative to a directory, by name. :raises ValueError: it is no pattern."""
    root = Path(Path(pattern).anchor) if Path(pattern).is_absolute() else base
    try:
        return sorted(root.glob(str(Path(pattern).relative_to(root)) if root != base else pattern))
    except (ValueError, NotImplementedError, IndexError, OSError) as error:
        raise ValueError(f"{show(pattern)} is not a file's name or pattern; write it like rules.d/*.yaml") from error
