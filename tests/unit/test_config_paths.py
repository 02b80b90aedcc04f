"""A path belongs to one layer, wherever the other one is written."""

from pathlib import Path

import pytest
import yaml

from rollbackd.config.load import ConfigErrors, load


def complaints(directory: Path, *services: dict[str, list[str]]) -> list[str]:
    """What is said of services with these `files` layers: who, and what of it."""
    document = {
        "daemon": {"mode": "act", "open_on_loopback": True},
        "services": [
            {
                "name": f"s{number}",
                "match": {"service": f"s{number}"},
                "layers": {name: {"adapter": "files", "paths": paths} for name, paths in layers.items()},
                "verify": {"checks": [{"tcp": "127.0.0.1:80"}]},
            }
            for number, layers in enumerate(services)
        ],
    }
    file = directory / "config.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    try:
        load(file)
    except ConfigErrors as error:
        return [line.partition(": ")[2] for line in str(error).splitlines()]
    return []


@pytest.mark.parametrize(
    ("first", "second", "clash"),
    [
        (["/srv/a"], ["/srv/a/config"], "/srv/a/config"),
        (["/srv/a/config"], ["/srv/a"], "/srv/a"),
        (["/srv/a", "/srv/b"], ["/srv/b"], "/srv/b"),
        (["/srv/a/x", "/srv/b", "/srv/a"], ["/srv/c", "/srv/a/y"], "/srv/a/y"),
    ],
)
def test_a_path_in_two_layers_is_refused(tmp_path: Path, first: list[str], second: list[str], clash: str) -> None:
    said = f'{clash} is also moved by layer "s0/one"; a path belongs to one layer, so take one away'
    assert complaints(tmp_path, {"one": first, "two": second}) == [said]
    assert complaints(tmp_path, {"one": first}, {"two": second}) == [said]


def test_the_same_list_twice_is_said_once(tmp_path: Path) -> None:
    (said,) = complaints(tmp_path, {"one": ["/srv/a"], "two": ["/srv/a"]})
    assert said == 'layer "s0/one" has files:/srv/a already; a thing belongs to one layer, so take one away'


def test_a_path_inside_one_that_comes_between_is_seen(tmp_path: Path) -> None:
    said = complaints(tmp_path, {"one": ["/srv/a"], "two": ["/srv/b"], "three": ["/srv"]})
    assert said == ['/srv is also moved by layer "s0/one"; a path belongs to one layer, so take one away']
    said = complaints(tmp_path, {"one": ["/srv/a"]}, {"two": ["/srv/b"]}, {"three": ["/srv/b/c"]})
    assert said == ['/srv/b/c is also moved by layer "s1/two"; a path belongs to one layer, so take one away']


def test_neighbours_and_patterns_are_no_clash(tmp_path: Path) -> None:
    assert complaints(tmp_path, {"one": ["/srv/a", "/srv/a/b"], "two": ["/srv/ab", "/srv/*.conf"]}) == []
