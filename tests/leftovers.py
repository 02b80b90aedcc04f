"""What tests leave behind: a process that works in a directory of theirs, or was started with one; a mount in one."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

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
