"""Small real worlds that the shipped adapters are tried on. Each is made in a directory of its own."""

import os
import subprocess
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from rollbackd.model import NO_RELEASE, Release
from rollbackd.system import boundary
from rollbackd.testing import KEY, BracketWorld, World, finish, place
from rollbackd_adapters.command import CommandAdapter, CommandSettings
from rollbackd_adapters.git import GitAdapter, GitSettings
from rollbackd_adapters.traces import safe_name

_IDENTITY = {
    "GIT_AUTHOR_NAME": "Ann",
    "GIT_AUTHOR_EMAIL": "ann@example.com",
    "GIT_COMMITTER_NAME": "Ann",
    "GIT_COMMITTER_EMAIL": "ann@example.com",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
}


def git(cwd: Path, *arguments: str, stdin: str | None = None) -> str:
    """Call git as a person would."""
    finished = subprocess.run(
        ["git", *arguments],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **_IDENTITY},
    )
    return finished.stdout.strip()


def commit(repo: Path, subject: str, at: int, **files: str) -> str:
    """Write files and commit them, `at` minutes after a fixed time; the commit."""
    for name, text in files.items():
        (repo / name).write_text(text)
    git(repo, "add", "--all")
    date = f"{1_700_000_000 + 60 * at} +0000"
    subprocess.run(
        ["git", "commit", "--quiet", "--message", subject],
        cwd=repo,
        check=True,
        env={**os.environ, **_IDENTITY, "GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date},
    )
    return git(repo, "rev-parse", "HEAD")


def cut_off_before_the_checkout(work: Coroutine[Any, Any, None], path: Path) -> None:
    """Do an `apply` of git until all is saved and the checkout is about to begin, and no further."""
    begun = path / "scratch" / "changes" / safe_name(KEY) / "begun.json"

    def hook(name: str) -> None:
        if name == "process.before" and begun.exists():
            raise KeyboardInterrupt

    boundary.hook = hook
    try:
        with pytest.raises(KeyboardInterrupt):
            finish(work)
    finally:
        boundary.hook = lambda _name: None


def new_repository(path: Path) -> Path:
    """Three releases: v1, v2, v3; `main` is at v3."""
    path.mkdir(parents=True)
    git(path, "init", "--quiet", "--initial-branch=main")
    stream = []
    for number in (1, 2, 3):
        who = f"Ann <ann@example.com> {1_700_000_000 + 60 * number} +0000"
        stream += [f"commit refs/heads/main\nmark :{number}\ncommitter {who}", *_data(f"release {number}")]
        for name, text in (("app", f"version {number}\n"), (f"file{number}", f"{number}\n")):
            stream += [f"M 644 inline {name}", *_data(text)]
        stream += [f"reset refs/tags/v{number}\nfrom :{number}\n"]
    git(path, "fast-import", "--quiet", stdin="\n".join(stream))
    git(path, "reset", "--quiet", "--hard")
    return path


def _data(text: str) -> list[str]:
    return [f"data {len(text)}", text]


def script(path: Path, *lines: str) -> str:
    """A program of a few lines of sh."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(("#!/bin/sh", "set -eu", *lines, "")))
    path.chmod(0o755)
    return str(path)


def tree(repo: Path, revision: str) -> str:
    return git(repo, "rev-parse", f"{revision}^{{tree}}")


class GitCheckoutWorld(World):
    def __init__(self, path: Path) -> None:
        self.path = path
        self.repo = new_repository(path / "repo")
        self.built = path / "built"
        self.build = script(path / "build", "sleep 0.2", f"echo built >> {self.built}")
        self._then = [[self.build]]
        self._timeout = "20s"

    def adapter(self) -> GitAdapter:
        settings = {"adapter": "git", "repo": self.repo, "then": self._then, "timeout": self._timeout, "good": "v1"}
        return GitAdapter(GitSettings.model_validate(settings), place(self.path))

    def present(self) -> str:
        return tree(self.repo, "HEAD")

    def target(self) -> Release:
        return Release(tree(self.repo, "v2"))

    def moved_by_somebody(self) -> None:
        git(self.repo, "checkout", "--quiet", "--force", "v1")

    def finished(self) -> int:
        return len(self.built.read_text().splitlines()) if self.built.exists() else 0

    def everything(self) -> object:
        refs = git(self.repo, "for-each-ref")
        return refs, git(self.repo, "status", "--porcelain"), git(self.repo, "rev-parse", "HEAD"), self.finished()

    def break_it(self) -> None:
        (self.repo / ".git" / "MERGE_HEAD").write_text(git(self.repo, "rev-parse", "v1"))

    def hang(self) -> None:
        script(Path(self.build), "sleep 1000")
        self._timeout = "500ms"


class GitRevertWorld(World):
    def __init__(self, path: Path) -> None:
        self.path = path
        self.origin = path / "origin.git"
        self.work = new_repository(path / "work")
        git(self.work, "clone", "--quiet", "--bare", str(self.work), str(self.origin))
        git(self.work, "remote", "add", "origin", str(self.origin))
        self.repo = path / "clone"
        git(path, "clone", "--quiet", str(self.origin), str(self.repo))
        self.built = path / "built"
        self.build = script(path / "build", "sleep 0.2", f"echo built >> {self.built}")
        self._timeout = "20s"

    def adapter(self) -> GitAdapter:
        settings = {
            "adapter": "git",
            "repo": self.repo,
            "strategy": "revert",
            "then": [[self.build]],
            "timeout": self._timeout,
        }
        return GitAdapter(GitSettings.model_validate(settings), place(self.path))

    def present(self) -> str:
        return tree(self.origin, "main")

    def target(self) -> Release:
        return Release(tree(self.origin, "v2"))

    def moved_by_somebody(self) -> None:
        git(self.work, "pull", "--quiet", "--ff-only", "origin", "main")
        commit(self.work, "a fix", 10, app="mended\n")
        git(self.work, "push", "--quiet", "origin", "HEAD:main")

    def finished(self) -> int:
        return len(self.built.read_text().splitlines()) if self.built.exists() else 0

    def everything(self) -> object:
        return git(self.origin, "for-each-ref"), git(self.repo, "status", "--porcelain", "--branch"), self.finished()

    def break_it(self) -> None:
        self.origin.rename(self.path / "elsewhere")

    def hang(self) -> None:
        script(Path(self.build), "sleep 1000")
        self._timeout = "500ms"


class CommandWorld(World):
    """A service whose release is the content of a file."""

    def __init__(self, path: Path, *, progress: bool = False) -> None:
        self.path = path
        self._progress = progress
        self._timeout = "20s"
        path.mkdir(parents=True, exist_ok=True)
        (path / "present").write_text("v3\n")
        self.log = path / "log"
        self.programs = {
            "current": script(path / "bin/current", f"cat {path}/present"),
            "releases": script(path / "bin/releases", "echo v3; echo v2; echo v1"),
            "apply": script(
                path / "bin/apply",
                "sleep 0.2",
                f'echo "$ROLLBACKD_AFTER" > {path}/present.new',
                f"mv {path}/present.new {path}/present",
                f'echo "$ROLLBACKD_SERVICE $ROLLBACKD_LAYER $ROLLBACKD_INCIDENT $ROLLBACKD_KEY" >> {self.log}',
            ),
        }
        if progress:
            self.programs["progress"] = script(
                path / "bin/progress",
                f"present=$(cat {path}/present)",
                f'if grep -qs "$ROLLBACKD_KEY" {self.log}; then wanted=$ROLLBACKD_AFTER word=done',
                "else wanted=$ROLLBACKD_BEFORE word=not_started; fi",
                'if [ "$present" = "$wanted" ]; then echo $word; else echo superseded; fi',
            )

    def adapter(self) -> CommandAdapter:
        settings = {"adapter": "command", "timeout": self._timeout}
        settings |= {name: [program] for name, program in self.programs.items()}  # type: ignore[misc]
        return CommandAdapter(CommandSettings.model_validate(settings), place(self.path))

    def present(self) -> str:
        return (self.path / "present").read_text().strip()

    def target(self) -> Release:
        return Release("v2")

    def moved_by_somebody(self) -> None:
        (self.path / "present").write_text("v1\n")

    def finished(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0

    def break_it(self) -> None:
        Path(self.programs["apply"]).unlink()

    def hang(self) -> None:
        script(Path(self.programs["apply"]), "sleep 1000")
        self._timeout = "500ms"


class RestartWorld(World):
    """A process that is restarted: a layer without releases."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = path / "log"
        self._apply = script(path / "bin/restart", "sleep 0.2", f'echo "$ROLLBACKD_KEY" >> {self.log}')
        self._progress = script(
            path / "bin/progress", f'if grep -qs "$ROLLBACKD_KEY" {self.log}; then echo done; else echo not_started; fi'
        )
        self._timeout = "20s"

    def adapter(self) -> CommandAdapter:
        settings = {"apply": [self._apply], "progress": [self._progress], "timeout": self._timeout}
        return CommandAdapter(CommandSettings.model_validate({"adapter": "command", **settings}), place(self.path))

    def present(self) -> str:
        return "-"

    def target(self) -> Release:
        return NO_RELEASE

    def finished(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0

    def everything(self) -> object:
        return self.finished()

    def break_it(self) -> None:
        Path(self._apply).chmod(0o644)

    def hang(self) -> None:
        script(Path(self._apply), "sleep 1000")
        self._timeout = "500ms"


class MaintenanceWorld(BracketWorld):
    """A maintenance page: on while a file is there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.flag = path / "maintenance"
        self.log = path / "log"
        self._vectors = {
            "inside": [script(path / "bin/inside", f"test -e {self.flag}")],
            "enter": [script(path / "bin/enter", f"touch {self.flag}", f"echo in >> {self.log}")],
            "leave": [script(path / "bin/leave", f"rm {self.flag}", f"echo out >> {self.log}")],
        }

    def adapter(self) -> CommandAdapter:
        return CommandAdapter(CommandSettings.model_validate({"adapter": "command", **self._vectors}), place(self.path))

    def inside(self) -> bool:
        return self.flag.exists()

    def crossings(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0
