"""What tests leave behind: a process that works in a directory of theirs, or was started with one; a mount in one; a
file in the directory for temporary ones, which is this process's own, so that nobody else's is taken for a test's.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests import endings
from tests.servers import wait_until


def working_below(directory: Path) -> list[str]:
    """The processes that work, write or were started with something below the directory, each by its number."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            said = (
                f"{process.name} {(process / 'cmdline').read_bytes().replace(bytes(1), b' ').decode(errors='replace')}"
            )
            places = f"{(process / 'cwd').readlink()} {(process / 'fd/1').readlink()}"
            if int(process.name) != os.getpid() and str(directory) in f"{said} {places}":
                found.append(said)
    return found


def mounted_below(directory: Path) -> list[str]:
    """Where something is mounted below the directory."""
    places = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [place for place in places if place.startswith(f"{directory}/")]


@pytest.fixture(scope="package", autouse=True)
def no_mount_is_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Of any test of this package, once all of them have run."""
    yield
    assert mounted_below(tmp_path_factory.getbasetemp()) == []


@pytest.fixture(scope="package", autouse=True)
def no_process_is_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Of any story of this package, once all of them have been told."""
    yield
    base = tmp_path_factory.getbasetemp()
    left: list[str] = []

    def gone() -> bool:
        left[:] = working_below(base)
        return not left

    with suppress(AssertionError):
        wait_until(gone, "nothing is left", 10)
    assert left == []


# -- temporary files ------------------------------------------------------------------------------
class TemporaryFiles:
    """A directory for temporary files of this process and all that it starts, and who left what in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: dict[str, str] = {}

    def note(self, who: str) -> None:
        """Whoever ran last is to blame for what is new."""
        for name in os.listdir(self.path):
            self._seen.setdefault(name, who)

    def left(self) -> dict[str, str]:
        """What is left, with who left it."""
        self.note("the end")
        return {name: self._seen[name] for name in sorted(os.listdir(self.path))}


@contextmanager
def own_temporary_files() -> Iterator[TemporaryFiles]:
    """From now on; short, since paths of sockets are, and open to servers of other users."""
    place = Path(tempfile.mkdtemp(prefix="t-", dir="/tmp"))
    place.chmod(0o1777)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TMPDIR", str(place))
        patched.setattr(tempfile, "tempdir", str(place))
        yield TemporaryFiles(place)
    shutil.rmtree(place)


@pytest.fixture(scope="session", autouse=True)
def temporary_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TemporaryFiles]:
    """No file, directory, socket or pipe is left in it by any test of this process, once all of them have run."""
    tmp_path_factory.getbasetemp()  # pytest's own, which it keeps and clears itself, is elsewhere
    with own_temporary_files() as files:
        yield files
        endings.run()
        left = files.left()
    assert left == {}, left


@pytest.fixture(scope="module", autouse=True)
def who_left_temporary_files(temporary_files: TemporaryFiles, request: pytest.FixtureRequest) -> Iterator[None]:
    """Names the module whose tests, and servers of its own, are over."""
    yield
    temporary_files.note(request.node.nodeid)
