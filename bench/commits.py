"""A commit under measurement: its files, the Python path on which its daemon is found, and a row of its own bench."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import leftovers
from bench.host import ROOT, BenchError, distribution

_ROW = Path(__file__).with_name("row.py")
_END_WITHIN = 60.0
_NUMBER = re.compile(r"(?<![\w.])[+-]?\d+(?:\.\d+)?")


@dataclass(frozen=True, slots=True)
class Commit:
    """What is measured."""

    name: str
    tree: Path
    directory: Path
    """Where the run puts everything."""
    database: int = 0
    """MiB of a database; 0: as promised."""

    def measure(self, row: str, rounds: int, *, tiny: bool) -> dict[str, Any]:
        """The fields of a row. :raises BenchError: it could not be measured; the sentence says why."""
        root = self.directory / "row"
        argv = [sys.executable, "-P", str(_ROW), row, str(root), str(rounds), str(self.database)]
        with _session([*argv, "--tiny"] if tiny else argv, self.tree, self._environment()) as process:
            leftovers.note(self.directory, process.pid)
            printed, complained = process.communicate("begin\n")
        leftovers.end_session(self.directory)
        shutil.rmtree(root, ignore_errors=True)
        if process.returncode:
            raise BenchError(complained.strip().rpartition("\n")[2] or f"the row ended with {process.returncode}")
        return dict(json.loads(printed.splitlines()[-1]))

    def _environment(self) -> dict[str, str]:
        """Its daemon, its adapters and its bench come before the ones that are installed, and so do its plugins."""
        project = tomllib.loads((self.tree / "pyproject.toml").read_text())["project"]
        installed = distribution(self.directory / f"installed-{self.tree.name}", "rollbackd", project["entry-points"])
        paths = [installed, self.tree, self.tree / "daemon", self.tree / "adapters"]
        return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}


@contextmanager
def _session(argv: list[str], tree: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A process that leads a session of its own; told to end, it ends what it has started."""
    with subprocess.Popen(
        argv,
        cwd=tree,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        except BaseException:
            process.terminate()
            try:
                process.wait(_END_WITHIN)
            except subprocess.TimeoutExpired:
                process.kill()
            raise


def here(directory: Path) -> Commit:
    """This checkout as it is; `+` says that it is not quite its last commit."""
    try:
        name = _git("describe", "--always", "--exclude=*", "--dirty=+").decode().strip()
    except BenchError:
        name = "here"
    return Commit(name, ROOT, directory)


def other(revision: str, directory: Path) -> Commit:
    """Another commit, its files put into the directory. :raises BenchError: there is none of this name."""
    name = _git("rev-parse", "--short", "--verify", "--end-of-options", f"{revision}^{{commit}}").decode().strip()
    tree = directory / f"commit-{name}"
    with tarfile.open(fileobj=io.BytesIO(_git("archive", "--format=tar", name))) as archive:
        archive.extractall(tree, filter="data")
    return Commit(name, tree, directory)


def same_bench(one: Commit) -> bool:
    """Whether the other commit's bench is this checkout's."""
    return not _git("diff", "--stat", one.name, "--", "bench/*.py")


def figure(measured: str) -> float:
    """The first number of what a row has measured, such as 3.5 of `p50 3.5 ms, p99 9.1 ms`."""
    found = _NUMBER.search(measured)
    if found is None:
        raise BenchError(f"no figure in: {measured}")
    return float(found[0])


def _git(*arguments: str) -> bytes:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, check=False, capture_output=True, timeout=60)
    except FileNotFoundError as error:
        raise BenchError("git is missing") from error
    if done.returncode:
        raise BenchError(f"git {arguments[0]}: {done.stderr.decode().strip()}")
    return done.stdout
