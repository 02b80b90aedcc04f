"""The rule that lets the daemon manage units: as `rollbackd check` prints it, and as it is shipped for reading."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rollbackd.cli.commands import app
from rollbackd.setup import polkit_rule

SHIPPED = Path(__file__).parents[2] / "systemd" / "50-rollbackd.rules.example"
CONFIG = """
daemon: {mode: act, open_on_loopback: true}
services:
  - name: checkout
    match: {service: checkout}
    layers:
      page:
        adapter: nginx
        maintenance: /etc/nginx/maintenance.conf
        link: /etc/nginx/conf.d/00-maintenance.conf
        reload: [systemctl, reload, nginx.service]
      process: {adapter: systemd, units: [checkout.service]}
      proxy: {adapter: systemd, units: [nginx.service], action: reload, resource: nginx}
      worker: {adapter: systemd, units: [worker.service]}
    plans: {default: {within: [page, worker], steps: [process, proxy]}}
    verify: {checks: [{tcp: 127.0.0.1:3000}]}
"""
UNITS = {
    "checkout.service": ["reset-failed", "restart"],
    "nginx.service": ["reload"],
    "worker.service": ["reset-failed", "restart", "start", "stop"],
}
"""Start and stop only of what a plan stops; what is only a step is restarted or reloaded."""


@pytest.fixture
def config(tmp_path: Path) -> str:
    (tmp_path / "config.yaml").write_text(CONFIG)
    return str(tmp_path / "config.yaml")


def test_check_prints_what_the_layers_need_of_the_host(config: str) -> None:
    said = CliRunner().invoke(app, ["check", config])
    assert said.exit_code == 0, said.output
    assert f"// {polkit_rule.PLACE}\n{polkit_rule.rule(UNITS)}" in said.output
    assert "ReadWritePaths=/etc/nginx/conf.d\n" in said.output


def test_check_gives_the_units_and_their_verbs_to_programs(config: str) -> None:
    said = CliRunner().invoke(app, ["check", "--json", config])
    assert json.loads(said.output)["units"] == UNITS


def test_the_shipped_example_is_the_rule_for_the_units_that_it_names() -> None:
    comment, _, rule = SHIPPED.read_text().partition("\n\n")
    assert rule == polkit_rule.rule(UNITS)
    assert polkit_rule.PLACE in comment
