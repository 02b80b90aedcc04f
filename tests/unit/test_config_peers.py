"""Groups of peers in a whole configuration: who may compare with whom, in rules and in checks."""

import json
from pathlib import Path
from typing import Any

import pytest

from rollbackd.config.load import ConfigErrors, load

NAMES = ("checkout", "basket", "search", "login")
ALIKE = {"query": "q", "drops_by": "50%", "against": {"peers": "shops"}}


def written(directory: Path, check: dict[str, Any], peers: Any = None) -> Path:
    """Four services, three of them alike; `login` has the check, written in place and by name."""
    layer = {"adapter": "command", "current": ["x"], "releases": ["x"], "apply": ["x"]}
    document = {
        "daemon": {"mode": "act", "open_on_loopback": True},
        "prometheus": {"url": "http://127.0.0.1:9090"},
        "peers": {"shops": list(NAMES[:3])} if peers is None else peers,
        "rules": [{"name": "unlike", "when": ALIKE, "services": list(NAMES[:3])}] if peers is None else [],
        "services": [
            {
                "name": name,
                "match": {"service": name},
                "layers": {"code": layer},
                "checks": {"alike": check} if name == "login" else {},
                "verify": {"checks": [check if name == "login" else {"query": "q", "below": 1}]},
            }
            for name in NAMES
        ],
    }
    path = directory / "config.yaml"
    path.write_text(json.dumps(document, indent=1))
    return path


def said(path: Path) -> list[str]:
    with pytest.raises(ConfigErrors) as caught:
        load(path)
    return [line.partition(": ")[2] for line in str(caught.value).splitlines()]


def test_a_group_of_services_that_are_there_can_be_compared(tmp_path: Path) -> None:
    config = load(written(tmp_path, {"query": "q", "below": 1})).config
    assert config.peers == {"shops": NAMES[:3]}


def test_a_check_compares_its_service_only_with_its_own_group(tmp_path: Path) -> None:
    text = '"login" is not in the group "shops"; add it there, or name the services that this is for'
    assert said(written(tmp_path, ALIKE)) == [text, text]
    unknown = {**ALIKE, "against": {"peers": "shop"}}
    assert said(written(tmp_path, unknown)) == ['unknown group of peers "shop"; did you mean "shops"?'] * 2


@pytest.mark.parametrize("peers", [5, [], {"shops": 5}, {"shops": [5, 6, 7]}, {"shops": None}, {5: ["a", "b", "c"]}])
def test_peers_that_are_no_groups_are_told_not_thrown(tmp_path: Path, peers: Any) -> None:
    assert said(written(tmp_path, ALIKE, peers))
