"""Where the daemon's socket, signal files and configuration are, as far as whoever asks can see."""

import os
from pathlib import Path
from typing import Any

CONFIG = Path("/etc/rollbackd/config.yaml")
SOCKET = Path("/run/rollbackd/rollbackd.sock")
SIGNALS = Path("/var/lib/rollbackd/signals")
SCRATCH = Path("/var/lib/rollbackd/layers")
JOURNAL = "sqlite:////var/lib/rollbackd/journal.db"


def config_path(given: Path | None) -> Path:
    """`--config`, else `$ROLLBACKD_CONFIG`, else where packages put it."""
    return given or Path(os.environ.get("ROLLBACKD_CONFIG") or CONFIG)


def daemon_paths(config: Path) -> tuple[Path, Path]:
    """Socket and signals directory of a configuration.

    An operator need not be able to read it, and a broken file must not keep anybody from stopping a rollback: what
    cannot be found out is where packages put it.
    """
    settings = _daemon_settings(config)
    return Path(_text(settings, "socket") or SOCKET), Path(_text(settings, "signals") or SIGNALS)


def scratch_path(config: Path) -> Path:
    """The directory of what the daemon keeps beside its journal, found like the paths above."""
    return Path(_text(_daemon_settings(config), "scratch") or SCRATCH)


def journal_url(config: Path) -> str:
    """The journal of a configuration, found like the paths above."""
    return _text(_daemon_settings(config), "journal") or JOURNAL


def _daemon_settings(config: Path) -> dict[str, Any]:
    import yaml

    try:
        found = yaml.load(config.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
    except (OSError, yaml.YAMLError, ValueError, RecursionError):
        return {}
    daemon = found.get("daemon") if isinstance(found, dict) else None
    return daemon if isinstance(daemon, dict) else {}


def _text(settings: dict[str, Any], key: str) -> str:
    value = settings.get(key)
    return value if isinstance(value, str) else ""
