"""`rollbackd check` notes what a layer moves and is not there."""

import json
from pathlib import Path

from rollbackd.cli.check_report import summary
from rollbackd.config.load import load
from tests.unit.house import SERVICE


def test_a_repository_and_a_file_that_are_not_there_are_noted(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    layers = {
        "code": {"adapter": "git", "repo": str(tmp_path / "nowhere")},
        "site": {"adapter": "git", "repo": str(tmp_path / "there")},
        "flags": {"adapter": "env", "file": str(tmp_path / "none.env"), "names": ["A"], "presets": {"off": {"A": "1"}}},
    }
    service = {**SERVICE, "layers": layers, "plans": {"default": ["code"]}, "name": "shop"}
    daemon = {"mode": "act", "open_on_loopback": True, "scratch": str(tmp_path / "scratch")}
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps({"daemon": daemon, "services": [service]}))
    notes = [note for note in summary(load(path))["notes"] if "not there" in note]
    assert notes == [
        f"shop: what layer code moves is not there: {tmp_path}/nowhere",
        f"shop: what layer flags moves is not there: {tmp_path}/none.env",
    ]
