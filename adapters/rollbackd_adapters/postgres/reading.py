"""Reads the data files of a dump as wholes: `python -I reading.py DIRECTORY JOBS`, and so the answer as JSON.

A program of its own, so that a read of hours ends at once when it must, and nothing else waits for it. Of each file it
gives the sha256, and of what it decompresses to the number of lines and whether it ends as COPY ends. In a line of
COPY's text a line feed of the data is escaped, so lines are rows. `pg_restore` takes an emptied file for no rows.

https://www.postgresql.org/docs/15/sql-copy.html
"""

import hashlib
import json
import os
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

CHUNK = 2**20
END = b"\\.\n"
_TAIL = 8


def read_file(path: Path) -> dict[str, Any]:
    """What one file is; `harm` says what is wrong with it by itself."""
    hashed, lines, size, tail, harm = hashlib.sha256(), 0, 0, b"", ""
    compressed = path.suffix == ".gz"
    inflate = zlib.decompressobj(31)
    with path.open("rb") as file:
        while data := file.read(CHUNK):
            hashed.update(data)
            size += len(data)
            if harm or not compressed:
                lines, tail = lines + data.count(b"\n"), (tail + data)[-_TAIL:]
                continue
            try:
                while data:
                    plain = inflate.decompress(data, 16 * CHUNK)
                    lines, tail = lines + plain.count(b"\n"), (tail + plain)[-_TAIL:]
                    data = inflate.unconsumed_tail
                if inflate.unused_data:
                    harm = "it goes on after its end"
            except zlib.error as error:
                harm = f"it cannot be decompressed: {error}"
    if compressed and not harm:
        plain = inflate.flush()
        lines, tail = lines + plain.count(b"\n"), (tail + plain)[-_TAIL:]
    if compressed and not harm and not inflate.eof:
        harm = "it is cut off" if size else "it is empty"
    ended = tail.rstrip(b"\n").endswith(b"\\.") and tail.endswith(b"\n")
    rows = lines - (len(tail) - len(tail.rstrip(b"\n"))) if ended else -1
    return {"sha256": hashed.hexdigest(), "size": size, "rows": rows, "harm": harm}


def read(directory: Path, jobs: int) -> dict[str, Any]:
    """All files of a dump, by name."""
    paths = sorted(path for path in directory.iterdir() if path.is_file())
    with ThreadPoolExecutor(jobs) as pool:
        return {path.name: found for path, found in zip(paths, pool.map(read_file, paths), strict=True)}


def main(arguments: list[str]) -> int:
    try:
        answer = read(Path(arguments[0]), min(int(arguments[1]), os.cpu_count() or 1))
    except OSError as error:
        answer = {"error": f"{error.filename}: {error.strerror}"}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 1 if "error" in answer else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
