"""The documentation is run: configurations load, keys and commands exist, links lead somewhere."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from rollbackd.config.load import load
from rollbackd.config.schema import schema
from rollbackd.config.shape import shape_of
from rollbackd.incident.outcomes import BAD_ENDS, MEANINGS
from rollbackd.model import Outcome
from rollbackd.notification_events import EVENTS
from rollbackd.plugins import installed
from rollbackd.remote.settings import load as load_layers

PROJECT = Path(__file__).parents[2]
PAGES = (PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md")))
EXAMPLE = PROJECT / "config.example.yaml"
SCHEMA = schema()
"""What underlines mistakes in an editor: it must not do that in what we show."""
REST: dict[str, Any] = {
    "daemon": {"mode": "act", "open_on_loopback": True},
    "services": [
        {
            "name": "checkout",
            "match": {"service": "checkout"},
            "layers": {"code": {"adapter": "git", "repo": "/srv/checkout"}},
            "verify": {"checks": [{"tcp": "127.0.0.1:3000"}]},
        }
    ],
}
"""What an example that is a part leaves out."""


def _blocks(language: str) -> list[Any]:
    """All fenced blocks of a language, named by their page and their place in it."""
    found = []
    for page in PAGES:
        blocks = re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
        found += [pytest.param(text, id=f"{page.name}-{place}") for place, text in enumerate(blocks, 1)]
    return found


def _configurations() -> list[Any]:
    others = ("# alertmanager.yml", "# prometheus.yml", "# layers.yaml", "# kubectl apply")
    return [block for block in _blocks("yaml") if not str(block.values[0]).startswith(others)]


def _commands() -> set[str]:
    """What the command line knows."""
    return set(_program().commands)


def _program() -> Any:
    import typer.main

    from rollbackd.cli.commands import app

    return typer.main.get_command(app)


@pytest.mark.parametrize("text", _configurations())
def test_a_configuration_in_the_documentation_loads(text: str, tmp_path: Path) -> None:
    (tmp_path / "rules.d").mkdir()
    rest = {key: value for key, value in REST.items() if key not in yaml.safe_load(text)}
    (tmp_path / "config.yaml").write_text(text + (yaml.safe_dump(rest) if rest else ""))
    load(tmp_path / "config.yaml", look_for=None)
    faults = Draft202012Validator(SCHEMA).iter_errors(yaml.safe_load(text) | rest)
    assert [f"{error.json_path}: {error.message}" for error in faults] == []


@pytest.mark.needs("promtool")
def test_prometheuss_part_is_understood_by_its_own_tool(tmp_path: Path) -> None:
    (block,) = (block for block in _blocks("yaml") if str(block.values[0]).startswith("# prometheus.yml"))
    (tmp_path / "prometheus.yml").write_text(str(block.values[0]))
    argv = ["promtool", "check", "config", "--syntax-only", str(tmp_path / "prometheus.yml")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.needs("amtool")
def test_alertmanagers_part_is_understood_by_its_own_tool(tmp_path: Path) -> None:
    (block,) = (block for block in _blocks("yaml") if str(block.values[0]).startswith("# alertmanager.yml"))
    (tmp_path / "alertmanager.yml").write_text(str(block.values[0]))
    argv = ["amtool", "check-config", str(tmp_path / "alertmanager.yml")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_another_host_serves_loads(tmp_path: Path) -> None:
    (block,) = (block for block in _blocks("yaml") if str(block.values[0]).startswith("# layers.yaml"))
    (tmp_path / "layers.yaml").write_text(str(block.values[0]))
    assert list(load_layers(tmp_path / "layers.yaml").layers) == ["code"]


def test_the_example_configuration_loads() -> None:
    load(EXAMPLE, look_for=None)


def test_there_are_configurations_to_try() -> None:
    assert len(_configurations()) >= 6


def _keys(schema: Any) -> Iterator[str]:
    """Every key that a configuration can have."""
    if isinstance(schema, dict):
        yield from schema.get("properties", {})
        for value in schema.values():
            yield from _keys(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _keys(value)


def test_every_key_of_the_configuration_is_documented() -> None:
    keys = set(_keys(shape_of(installed()).file.model_json_schema(by_alias=True)))
    text = "\n".join(page.read_text() for page in PAGES)
    named = set(re.findall(r"[\w]+", " ".join(re.findall(r"`([^`\n]+)`", text))))
    assert {"daemon", "passes", "repo", "webhook_url"} <= keys
    assert sorted(keys - named) == []


def test_every_command_that_is_named_exists() -> None:
    known = _commands()
    named = {
        (page.name, command)
        for page in PAGES
        for code in re.findall(r"```\w+\n.*?```|`[^`\n]+`", page.read_text(), re.DOTALL)
        for command in re.findall(r"(?:`|^|&& )rollbackd ([a-z][a-z-]*)", code, re.MULTILINE)
    }
    assert {command for _, command in named} >= {"run", "check", "rollback", "hold"}
    assert sorted((page, command) for page, command in named if command not in known) == []


def test_every_command_is_documented() -> None:
    text = (PROJECT / "docs/commands.md").read_text()
    assert sorted(command for command in _commands() if f"`rollbackd {command}" not in text) == []


def test_every_event_that_a_route_can_name_is_documented() -> None:
    table = re.search(
        r"^\| event \| \|\n.*?\n\n", (PROJECT / "docs/configuration.md").read_text(), re.MULTILINE | re.DOTALL
    )
    assert table is not None
    assert set(re.findall(r"`([a-z_]+)`", table.group())) == set(EVENTS)


def test_every_option_of_a_command_is_documented() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    assert sorted(option for option in _options(_program()) if option not in text) == []


def _options(command: Any) -> Iterator[str]:
    for parameter in command.params:
        yield from (name for name in parameter.opts if name.startswith("--"))
    for inner in getattr(command, "commands", {}).values():
        yield from _options(inner)


def _files_named(page: Path) -> Iterator[str]:
    """Files of the project, and folders with their slash, as code or in a block that draws the tree."""
    for code in re.findall(r"^```\n.*?^```|`[^`\n]+`", page.read_text(), re.MULTILINE | re.DOTALL):
        yield from re.findall(r"(?<![\w./-])[\w.-]+(?:/[\w.-]+)*(?:/|\.(?:py|toml|yaml|md))(?![\w/])", code)


@pytest.mark.parametrize("name", ["design-notes.md", "contributing.md"])
def test_every_file_that_is_named_is_there(name: str) -> None:
    named = set(_files_named(PROJECT / "docs" / name))
    roots = (PROJECT, PROJECT / "daemon/rollbackd")
    assert {"policy/guards.py", "incident/fold.py", "notify/messages/", "pyproject.toml"} <= named
    assert sorted(file for file in named if not any((root / file).exists() for root in roots)) == []


@pytest.mark.parametrize("name", ["adapters.md", "kubernetes.md"])
def test_no_sentence_is_too_long_for_a_tired_engineer(name: str) -> None:
    text = re.sub(r"```.*?```", "", (PROJECT / "docs" / name).read_text(), flags=re.DOTALL)
    lines = [line.lstrip("- ") for line in text.splitlines() if not line.startswith(("|", "#"))]
    sentences = [one for line in lines for one in re.split(r"(?<=[.!?:])\s+", line)]
    assert [one for one in sentences if len(one.split()) > 35] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_inside_the_project_lead_somewhere(page: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)", page.read_text()) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_defaults_in_the_documentation_are_the_real_ones() -> None:
    """Rows of `daemon` and `verify`: key and default as the models have them."""
    text = (PROJECT / "docs/configuration.md").read_text()
    real = _defaults()
    rows = dict(re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", text, re.MULTILINE))
    checked = {key: value for key, value in rows.items() if key in real}
    assert len(checked) > 20
    assert checked == {key: real[key] for key in checked}


def _defaults() -> dict[str, str]:
    """Defaults by key, as YAML writes them, of the models whose keys no other has."""
    from rollbackd.config.models import Daemon, Service
    from rollbackd.incident.spec import VerifySpec
    from rollbackd.policy.spec import Limits
    from rollbackd.syntax.units import Spec

    found: dict[str, str] = {}
    models: tuple[type[Spec], ...] = (Daemon, VerifySpec, Limits, Service)
    for model in models:
        for key, field in model.model_fields.items():
            if field.is_required() or field.default is None:
                continue
            value = model.model_construct(**{key: field.default}).model_dump(mode="json", include={key})[key]
            found[key] = _written(value)
    return found


def _written(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_written(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return str(value[0]) if len(value) == 1 else str(value)
    if value == 32 * 2**20:
        return "32MiB"
    if isinstance(value, float):
        return f"{value:.0%}"
    return yaml.safe_dump(value).removesuffix("...\n").strip()


def test_every_end_of_an_incident_has_its_words_and_the_bad_ones_say_in_the_documentation_what_to_do() -> None:
    assert list(MEANINGS) == list(Outcome)
    rows = (PROJECT / "docs" / "operating.md").read_text()
    assert [one for one in sorted(BAD_ENDS) if f"\n| {one} | " not in rows] == []
