"""What a host needs beside its backups: directories, and credentials, which no backup holds. Harmless when repeated.

Usage: setup.py apply | progress CREDENTIALS HOME. CREDENTIALS is a directory that only the daemon's user may read;
`progress` prints `done` when all of it is in place, else `not_started`.
"""

import sys
from pathlib import Path

DIRECTORIES = (".config/workstation", ".local/state/workstation", "inbox")


def lacking(credentials: Path, home: Path) -> list[Path]:
    """The secrets that are not in their place, or not as they should be."""
    return [secret for secret in sorted(credentials.iterdir()) if not there(secret, place(secret, home))]


def place(secret: Path, home: Path) -> Path:
    return home / ".credentials" / secret.name


def there(secret: Path, path: Path) -> bool:
    return path.exists() and not path.stat().st_mode & 0o077 and path.read_bytes() == secret.read_bytes()


def put(secret: Path, path: Path) -> None:
    """Old or new at any instant, and closed to others from its first byte on."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    new.touch(mode=0o600)
    new.write_bytes(secret.read_bytes())
    new.replace(path)


def main(what: str, credentials: Path, home: Path) -> None:
    directories = [home / name for name in DIRECTORIES]
    if what == "apply":
        for directory in directories:
            directory.mkdir(parents=True, exist_ok=True)
        for secret in lacking(credentials, home):
            put(secret, place(secret, home))
    elif what == "progress":
        whole = all(directory.is_dir() for directory in directories) and not lacking(credentials, home)
        print("done" if whole else "not_started")
    else:
        sys.exit(f"{what}: neither apply nor progress")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
