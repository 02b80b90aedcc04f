"""Plugins: found by their entry points, and loud about what does not fit."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import pytest

from rollbackd import plugins
from rollbackd.adapter import Check, CheckPlace, CheckSettings, Notifier, Place, Settings
from rollbackd.config.load import ConfigErrors, load
from rollbackd.plugins import ADAPTERS, CHECKS, NOTIFIERS, PluginError, Plugins
from rollbackd.system.clock import SystemClock
from tests.unit.stand_ins import (
    STAND_INS,
    CheckCommand,
    CheckCommandSettings,
    Command,
    Git,
    GitSettings,
    Http,
    HttpSettings,
    Slack,
    SlackSettings,
)

PLACE = Place("checkout", "code", Path("/nonexistent"), None, None)
CHECK_PLACE = CheckPlace("health", "checkout", {}, None, SystemClock(), lambda: None, None)


class Nameless:
    """No settings model."""


class Strange:
    settings_model: ClassVar[type[Any]] = dict


class Mute:
    """A check whose settings have no key of its own."""

    settings_model: ClassVar[type[CheckSettings]] = CheckSettings


function = print


@pytest.fixture
def _entry_points(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Any:
    """Pretends that these are installed: (group, name, value)."""
    points = metadata.EntryPoints(metadata.EntryPoint(name, value, group) for group, name, value in request.param)
    monkeypatch.setattr(metadata, "entry_points", points.select)
    monkeypatch.setattr(plugins, "_named", set())
    cached = (
        plugins.adapters,
        plugins.some_adapters,
        plugins.checks,
        plugins.notifiers,
        plugins.installed,
        plugins._with,
    )
    for each in cached:
        each.cache_clear()
    yield
    for each in cached:
        each.cache_clear()


HERE = "tests.unit.test_config_plugins"
THERE = "tests.unit.stand_ins"


def test_what_is_shipped_is_installed() -> None:
    assert set(plugins.adapters()) >= {"git", "command"}
    assert set(plugins.checks()) >= {"http", "tcp", "query", "command"}
    assert set(plugins.notifiers()) >= {"slack", "pagerduty", "email", "webhook"}
    assert plugins.installed() is plugins.installed()


@pytest.mark.parametrize("_entry_points", [[(ADAPTERS, "mine", f"{THERE}:Git")]], indirect=True)
def test_a_foreign_adapter_is_found_like_a_shipped_one(_entry_points: None) -> None:
    found = plugins.adapters()
    assert dict(found) == {"mine": Git}
    assert not plugins.checks()


@pytest.mark.parametrize(
    ("_entry_points", "words"),
    [
        pytest.param(
            [(ADAPTERS, "mine", "rollbackd_nowhere:Mine")],
            'adapter "mine" (rollbackd_nowhere:Mine) cannot be imported: '
            "ModuleNotFoundError: No module named 'rollbackd_nowhere'; mend or uninstall it",
            id="no module",
        ),
        pytest.param(
            [(CHECKS, "mine", f"{HERE}:Absent")],
            f"check \"mine\" ({HERE}:Absent) cannot be imported: AttributeError: module '{HERE}' has no attribute "
            "'Absent'; mend or uninstall it",
            id="no class",
        ),
        pytest.param(
            [(NOTIFIERS, "mine", f"{HERE}:function")],
            'notifier "mine" (<built-in function print>) is not a class; its entry point must name one',
            id="function",
        ),
        pytest.param(
            [(ADAPTERS, "mine", f"{HERE}:Nameless")],
            f"adapter \"mine\" (<class '{HERE}.Nameless'>) has no settings_model that derives from Settings; give it one",
            id="no settings",
        ),
        pytest.param(
            [(NOTIFIERS, "mine", f"{HERE}:Strange")],
            f"notifier \"mine\" (<class '{HERE}.Strange'>) has no settings_model that derives from NotifierSettings; "
            "give it one",
            id="other settings",
        ),
        pytest.param(
            [(CHECKS, "mine", f"{HERE}:Mute")],
            f'check "mine" (<class \'{HERE}.Mute\'>) has settings without a field "mine"; '
            "that key is what makes it this kind of check",
            id="no key",
        ),
        pytest.param(
            [(ADAPTERS, "git", f"{THERE}:Git"), (ADAPTERS, "git", f"{THERE}:Command")],
            f'two adapters are called "git": {THERE}:Command and {THERE}:Git; uninstall one of them',
            id="two of a name",
        ),
    ],
    indirect=["_entry_points"],
)
def test_what_does_not_fit_is_loud(_entry_points: None, words: str, tmp_path: Path) -> None:
    with pytest.raises(PluginError) as caught:
        plugins.installed()
    assert str(caught.value) == words
    path = tmp_path / "config.yaml"
    path.write_text("services: [{layers: {a: {adapter: mine}, b: {adapter: git}}}]\na: 1\na: 2\n")
    with pytest.raises(ConfigErrors) as refused:
        load(path)
    assert str(refused.value).splitlines() == [
        f"{path}:1:1: {words}",
        f'{path}:3:1: duplicate key "a", first on line 2; keep one of them',
    ]


@pytest.mark.parametrize("_entry_points", [[(ADAPTERS, "mine", "rollbackd_nowhere:Mine")]], indirect=True)
def test_an_adapter_that_no_file_names_is_not_loaded(_entry_points: None, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("services: [{layers: {a: {adapter: mnie}}}]\n")
    with pytest.raises(ConfigErrors) as refused:
        load(path)
    assert "cannot be imported" not in str(refused.value)
    assert f'{path}:1:26: unknown adapter "mnie"; did you mean "mine"?' in str(refused.value).splitlines()


def test_plugins_are_built_from_their_settings() -> None:
    adapter = plugins.build_adapter(GitSettings(adapter="git", repo="/srv/x"), PLACE, STAND_INS)
    assert isinstance(adapter, Git)
    check = plugins.build_check(HttpSettings(http="http://x/"), CHECK_PLACE, STAND_INS)
    assert isinstance(check, Http)
    assert isinstance(check, Check)
    settings = SlackSettings.model_validate({"webhook_url": {"env": "A"}})
    notifier = plugins.build_notifier("slack", settings, lambda secret: secret.env, lambda: None, STAND_INS)
    assert isinstance(notifier, Slack)
    assert isinstance(notifier, Notifier)


def test_an_unknown_plugin_is_named_with_what_is_near() -> None:
    with pytest.raises(PluginError, match='unknown adapter "gti"; did you mean "git"\\?'):
        plugins.build_adapter(Settings(adapter="gti"), PLACE, STAND_INS)
    with pytest.raises(PluginError, match='unknown notifier "irc"; there is email, slack'):
        plugins.build_notifier("irc", SlackSettings.model_validate({"webhook_url": {"env": "A"}}), str, str, STAND_INS)
    with pytest.raises(PluginError, match="no check is installed whose settings are CheckSettings"):
        plugins.build_check(CheckSettings(), CHECK_PLACE, STAND_INS)


def test_the_kind_of_a_check_is_that_of_its_settings() -> None:
    assert plugins.check_kind(CheckCommandSettings(command=("true",)), STAND_INS) == "command"
    assert plugins.check_kind(HttpSettings(http="x"), STAND_INS) == "http"


def test_one_plugin_of_a_group_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "daemon: {mode: act, open_on_loopback: true}\n"
        "services: [{name: a, match: {a: b}, layers: {x: {adapter: command, apply: [x]}}, verify: {checks: [{command: [y]}]}}]\n"
    )
    alone = Plugins({"command": Command}, {"command": CheckCommand}, {})
    assert load(path, alone).config.services[0].plans["default"].layers == ("x",)


def test_a_long_list_of_names_is_cut() -> None:
    names = [f"service-{n}" for n in range(20)]
    assert plugins.unknown("service", "x", names).endswith("service-15 and 12 more")
    assert plugins.unknown("check", "x", []) == 'unknown check "x"; there is none, define it first'


def test_each_that_ships_can_be_the_first_that_is_imported() -> None:
    """Modules that import each other in a ring fail only where the ring is entered at the wrong one."""
    script = """
import importlib, os, sys
import aiohttp, pydantic, yaml, rollbackd.adapter  # what all of them need is imported once
failed = []
for module in sys.argv[1:]:
    if (child := os.fork()) == 0:
        importlib.import_module(module)
        os._exit(0)
    if os.waitpid(child, 0)[1] != 0:
        failed.append(module)
sys.exit(" ".join(failed) or 0)
"""
    groups = (ADAPTERS, CHECKS, NOTIFIERS)
    modules = sorted({point.module for group in groups for point in metadata.entry_points(group=group)})
    ours = [module for module in modules if module.startswith("rollbackd")]
    assert len(ours) > 20
    done = subprocess.run(
        [sys.executable, "-c", script, *ours], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
