"""A service whose releases are a real git repository, and whose visitors are arithmetic."""

import json
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

GOOD = 0.0
BAD = 0.3
"""Shares of requests that fail."""
REQUESTS = 50.0
"""A shop's visitors, a second."""
_GIT = ("git", "-c", "user.name=Shop", "-c", "user.email=shop@example.com", "-c", "gc.auto=0")


@dataclass
class Shop:
    """One service."""

    name: str
    repo: Path
    cause: float = 0.0
    """A share of requests that fails whatever release runs: a broken network, not anybody's release."""
    served: float = 0.0
    failed: float = 0.0
    counted: float = field(default_factory=time.monotonic)

    def git(self, *arguments: str) -> str:
        done = subprocess.run(
            [*_GIT, *arguments], cwd=self.repo, capture_output=True, text=True, check=True, timeout=60
        )
        return done.stdout.strip()

    def deploy(self, tag: str, errors: float = GOOD) -> None:
        """What a team's deploy script does: a commit with a tag, checked out at once under that name."""
        parents: tuple[str, ...] = ("-p", "HEAD")
        if not self.repo.exists():
            self.repo.mkdir(parents=True)
            self.git("init", "-q", "-b", "main")
            parents = ()
        part = self.repo / "release.json.new"
        part.write_text(json.dumps({"release": tag, "errors": errors}) + "\n")
        part.replace(self.repo / "release.json")
        self.git("add", "-A")
        commit = self.git("commit-tree", self.git("write-tree"), *parents, "-m", f"Release {tag}")
        self.git("tag", tag, commit)  # before it runs: what looks meanwhile sees no release without its name
        self.git("update-ref", "HEAD", commit)

    def release(self) -> dict[str, Any]:
        """What the work tree says; while a checkout replaces it the shop is down."""
        try:
            return dict(json.loads((self.repo / "release.json").read_text()))
        except (OSError, ValueError):
            return {"release": "none", "errors": 1.0}

    def running(self) -> str:
        return str(self.release()["release"])

    def count(self) -> None:
        """Let the visitors come that came since the last look."""
        now = time.monotonic()
        visitors = (now - self.counted) * REQUESTS
        self.counted = now
        share = max(self.cause, float(self.release()["errors"]))
        self.failed += visitors * share
        self.served += visitors * (1 - share)
