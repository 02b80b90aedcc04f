"""The hosts of the examples as they are shipped: valid, and `rollbackd check` says what their unit must be given."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rollbackd.cli.commands import app

EXAMPLES = Path(__file__).parents[2] / "examples"
WRITES = {
    "smartalk": ["/etc/nginx/smartalk.d", "/srv/copies", "/srv/deploy", "/srv/smartalk"],
    "career-hero": ["/srv/career-hero", "/srv/copies", "/srv/deploy"],
    "layered-recovery": ["/etc/default", "/srv/copies", "/srv/platform"],
    "ai-workstation": ["/home/studio", "/srv/workstation"],
    "blue-green-canary": ["/srv/copies", "/srv/scratch"],
}
"""A file that is replaced by rename needs its directory, and a directory that may be gone the one above it."""
UNITS = {
    "smartalk": {"nginx.service", "smartalk.service"},
    "career-hero": {"career-hero.service"},
    "layered-recovery": {"platform.service"},
    "ai-workstation": {"workstation.service"},
    "blue-green-canary": set(),
}


@pytest.mark.parametrize("name", WRITES)
def test_an_example_is_valid_and_names_what_its_layers_write_to(name: str) -> None:
    said = CliRunner().invoke(app, ["check", "--without-secrets", "--json", str(EXAMPLES / name / "config.yaml")])
    assert said.exit_code == 0, said.output
    found: dict[str, Any] = json.loads(said.output)
    assert found["read_write_paths"] == WRITES[name]
    assert set(found["units"]) == UNITS[name]
