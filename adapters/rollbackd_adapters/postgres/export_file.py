"""Writes a copy as one file, and reads such a file: `python -I export_file.py pack|unpack DIRECTORY FILE LARGEST`.

A program of its own, as `reading.py` is. The answer is JSON. The file is a tar in a gzip that compresses nothing, since
the data is compressed already; its checksum is at the end, and protects the manifest too.
"""

import gzip
import json
import os
import re
import shutil
import sys
import tarfile
import zlib
from pathlib import Path
from typing import Any

from rollbackd.system.whole_file import whole_file

CHUNK = 2**20
_MOST = 2**20
"""Files in one."""
_LONGEST = 2**25
"""Bytes of a manifest."""
_DUMPS = (b"PGDMP", b"--\n-- PostgreSQL database")
"""What files of pg_dump and pg_dumpall begin with."""
_OTHER = (
    "it is a dump of pg_dump's own, which has nothing to verify it by; restore it with psql or pg_restore into a"
    " database of its own, and take from there what is needed"
)
_NAMES = re.compile(r"rollbackd/(manifest\.json|schema\.sql|data/[A-Za-z0-9_]{1,60}(\.dat|\.toc)?(\.gz)?)")


def pack(directory: Path, file: Path) -> None:
    """Write a copy as one file, which appears whole or not at all."""
    with (
        whole_file(file) as raw,
        gzip.GzipFile("", "wb", 0, raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        first = [directory / "manifest.json", directory / "schema.sql"]
        for path in [*first, *sorted((directory / "data").iterdir())]:
            tar.add(path, f"rollbackd/{path.relative_to(directory)}", recursive=False)


def unpack(file: Path, directory: Path, largest: int) -> Any:
    """The manifest of such a file; all else of it is put into an empty directory. Nothing of it is believed.

    :raises ValueError: it is no such file.
    """
    manifest, left = None, largest
    (directory / "data").mkdir(mode=0o700)
    with gzip.open(file) as packed:
        with tarfile.open(fileobj=packed, mode="r|") as tar:
            for number, member in enumerate(tar):
                left -= member.size
                if not member.isreg() or _NAMES.fullmatch(member.name) is None or number > _MOST:
                    raise ValueError("it has something else in it")
                if left < 0:
                    raise ValueError("it is larger than `largest`")
                body = tar.extractfile(member)
                assert body is not None
                if member.name == "rollbackd/manifest.json":
                    if member.size > _LONGEST:
                        raise ValueError("its manifest is too large")
                    manifest = json.loads(body.read())
                    continue
                with (directory / member.name.removeprefix("rollbackd/")).open("xb") as new:
                    os.fchmod(new.fileno(), 0o600)
                    shutil.copyfileobj(body, new, CHUNK)
                    new.flush()
                    os.fsync(new.fileno())
        while part := packed.read(CHUNK):  # the checksum is behind it
            if part.strip(b"\0"):
                raise ValueError("it goes on after its end")
    if manifest is None:
        raise ValueError("it has no manifest")
    return manifest


def is_other_dump(file: Path) -> bool:
    """Whether it is plain SQL, or in a format that pg_dump has itself, perhaps compressed once more."""
    for opened in (open, gzip.open):
        try:
            with opened(file, "rb") as source:
                if source.read(100).lstrip().startswith(_DUMPS):
                    return True
        except (OSError, EOFError, zlib.error):  # what reads it says why
            continue
    return False


def main(arguments: list[str]) -> int:
    what, directory, file, largest = arguments
    try:
        if what == "pack":
            pack(Path(directory), Path(file))
            answer: dict[str, Any] = {}
        else:
            answer = {"manifest": unpack(Path(file), Path(directory), int(largest))}
    except (EOFError, tarfile.TarError, zlib.error, gzip.BadGzipFile, ValueError, RecursionError) as error:
        why = _OTHER if is_other_dump(Path(file)) else f"it is damaged, or no copy of a database: {error}"
        answer = {"error": f"{file}: {why}", "permanent": True}
    except OSError as error:
        answer = {"error": f"{error.filename or file}: {error.strerror or error}", "permanent": False}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 1 if "error" in answer else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
