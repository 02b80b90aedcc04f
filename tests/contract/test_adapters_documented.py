"""The adapter that docs/adapters.md shows keeps the contract as it stands there, and is as short as it says."""

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from rollbackd.adapter import Adapter
from rollbackd.model import Release
from rollbackd.testing import AdapterContract, World, place
from tests.contract.worlds import script

PAGE = Path(__file__).parents[2] / "docs/adapters.md"
SHOWN = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The module that the page shows."""
    path = tmp_path_factory.mktemp("shown") / "rollbackd_shown.py"
    path.write_text(SHOWN[0])
    spec = importlib.util.spec_from_file_location("rollbackd_shown", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["rollbackd_shown"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class ModelWorld(World):
    def __init__(self, path: Path) -> None:
        self.path = path
        self.models = path / "models"
        for name in ("2026-01", "2026-02", "2026-03"):
            (self.models / name).mkdir(parents=True)
        self.file = path / "current"
        self.file.write_text("2026-03\n")
        self.log = path / "log"
        self.load = script(path / "load", "sleep 0.2", f"echo loaded >> {self.log}")
        self._timeout = "20s"

    def adapter(self) -> Adapter:
        kind = sys.modules["rollbackd_shown"].ModelAdapter
        known = {"adapter": "model", "directory": self.models, "file": self.file}
        settings = known | {"then": [[self.load]], "timeout": self._timeout}
        return kind(kind.settings_model.model_validate(settings), place(self.path))  # type: ignore[no-any-return]

    def present(self) -> str:
        return self.file.read_text().strip()

    def target(self) -> Release:
        return Release("2026-02")

    def moved_by_somebody(self) -> None:
        self.file.write_text("2026-01\n")

    def finished(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0

    def break_it(self) -> None:
        self.file.unlink()

    def hang(self) -> None:
        script(Path(self.load), "sleep 1000")
        self._timeout = "500ms"


@pytest.mark.usefixtures("shown")
class TestTheAdapterThatIsShown(AdapterContract):
    def make_world(self, path: Path) -> World:
        return ModelWorld(path)


def test_it_is_shorter_than_60_lines() -> None:
    assert len(SHOWN) == 1
    assert len(SHOWN[0].splitlines()) < 60
