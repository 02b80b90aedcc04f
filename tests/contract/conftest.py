"""What several contracts are tried on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.files_worlds import fill
from tests.fakes.gatehouse import Gatehouse


@pytest.fixture
def gate() -> Iterator[Gatehouse]:
    """A service that can be frozen and drained."""
    made = Gatehouse()
    yield made
    made.close()


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """A configuration of an application, in `tmp_path/conf`."""
    fill(tmp_path / "conf", 1)
    return tmp_path / "conf"
