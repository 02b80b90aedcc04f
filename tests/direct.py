"""A program `ssh` without a network, for what does not depend on it: it hands over to the far side of a directory.

A host that no file of `hosts/` names refuses the connection, as one does that is down; where the file is empty it lets
nobody in.
"""

import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import forks
from tests.contract.worlds import script
from tests.sshd import HAND_OVER


@dataclass
class Direct:
    """Hosts that are directories."""

    directory: Path

    def serve(self, host: str, path: Path, layers: Mapping[str, Any]) -> None:
        """Serve layers below `path` to whoever connects to `host`."""
        path.mkdir(parents=True, exist_ok=True)
        config = path / "layers.yaml"
        config.write_text(yaml.safe_dump({"scratch": str(path / "scratch"), "layers": dict(layers)}))
        self.file(host).write_text(str(config))

    def file(self, host: str) -> Path:
        """What makes it a host."""
        return self.directory / "hosts" / host


@contextmanager
def direct(directory: Path) -> Iterator[Direct]:
    """Every `ssh` is this one, until the end of the block."""
    (directory / "hosts").mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        hand_over = shlex.join([sys.executable, "-I", "-S", str(HAND_OVER), forks.server()])
        script(
            directory / "bin" / "ssh",
            "for part; do destination=${command:-}; command=$part; done",
            f'host={directory}/hosts/${{destination#*@}}; port="port 22"',
            'test -e "$host" || { echo "ssh: connect to host ${destination#*@} $port: Connection refused" >&2; exit 255; }',
            'test -s "$host" || { echo "Permission denied (publickey)." >&2; exit 255; }',
            f'exec {hand_over} "$(cat "$host")"',
        )
        patch.setenv("PATH", f"{directory / 'bin'}{os.pathsep}{os.environ['PATH']}")
        yield Direct(directory)
