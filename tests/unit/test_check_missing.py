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


def test_layers_that_cannot_refuse_a_daemon_that_lost_are_noted_where_another_may_take_over(tmp_path: Path) -> None:
    calls = {"apply": ["true"], "progress": ["true"]}
    layers = {
        "code": {"adapter": "command", **calls},
        "site": {"adapter": "command", **calls, "fenced": True},
        "far": {"adapter": "remote", "ssh": "deploy@web1"},
    }
    service = {**SERVICE, "layers": layers, "plans": {"default": ["code"]}, "name": "shop"}
    daemon = {"mode": "act", "open_on_loopback": True, "scratch": str(tmp_path / "scratch")}
    path, noted = tmp_path / "config.yaml", []
    elsewhere = {"journal": "postgresql://rollbackd@db1/x"}
    for more in ({}, elsewhere, {**elsewhere, "standby": True, "name": "ops"}):
        path.write_text(json.dumps({"daemon": daemon | more, "services": [service]}))
        noted.append([note for note in summary(load(path))["notes"] if "refuse" in note])
    waits = "one that takes over in the middle of a step there waits until it is done, or its limit has passed"
    assert noted == [[], [], [f"shop: code cannot refuse a daemon that lost; {waits}"]]
