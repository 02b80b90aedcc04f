"""The library that sessions read. Usage: library.py sync INBOX LIBRARY | library.py check LIBRARY.

`sync` moves new documents in and writes the catalogue anew; `check` fails when a document is missing or damaged.
"""

import hashlib
import json
import sys
from pathlib import Path

CATALOGUE = "catalogue.json"


def documents(library: Path) -> dict[str, str]:
    """Each document's sha256, by name."""
    found = sorted(path for path in library.iterdir() if path.name != CATALOGUE and not path.name.startswith("."))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def sync(inbox: Path, library: Path) -> None:
    for path in sorted(inbox.iterdir()):
        path.replace(library / path.name)
    new = library / f".{CATALOGUE}.new"
    new.write_text(json.dumps(documents(library), indent=1) + "\n")
    new.replace(library / CATALOGUE)


def check(library: Path) -> None:
    if not (library / CATALOGUE).exists():
        sys.exit(f"{library}: no catalogue")
    wanted, found = json.loads((library / CATALOGUE).read_text()), documents(library)
    if wrong := sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name)):
        sys.exit(f"{library}: missing, damaged or unknown: {', '.join(wrong[:5])}")


if __name__ == "__main__":
    {"sync": sync, "check": check}[sys.argv[1]](*map(Path, sys.argv[2:]))
