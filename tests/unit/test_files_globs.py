"""What a watch list chooses, and which settings are errors at start."""

import re
from typing import Any

import pytest
from pydantic import ValidationError

from rollbackd_adapters.files.globs import WatchList, check_pattern, matches, path_above
from rollbackd_adapters.files.scan import ScanRules
from rollbackd_adapters.files.settings import FilesSettings


def settings(**given: Any) -> FilesSettings:
    return FilesSettings.model_validate({"adapter": "files", "paths": ["/srv/x/conf"], **given})


@pytest.mark.parametrize(
    ("pattern", "path", "selected"),
    [
        ("/srv/x/conf", "/srv/x/conf", True),
        ("/srv/x/conf", "/srv/x/conf/deep/below", True),
        ("/srv/x/conf", "/srv/x/config", False),
        ("/srv/x/conf", "/srv/x", False),
        ("/etc", "/etc/passwd", True),
        ("/srv/x/.env*", "/srv/x/.env", True),
        ("/srv/x/.env*", "/srv/x/.env.local", True),
        ("/srv/x/.env*", "/srv/x/a/.env", False),
        ("/srv/x/*", "/srv/x/.hidden", True),
        ("/srv/*/limits/max", "/srv/a/limits/max", True),
        ("/srv/*/limits/max", "/srv/a/b/limits/max", False),
        ("/srv/x/**/*.json", "/srv/x/a.json", True),
        ("/srv/x/**/*.json", "/srv/x/a/b/c.json", True),
        ("/srv/x/**/*.json", "/srv/x/a/b/c.yaml", False),
        ("/srv/x/**/conf/**/a", "/srv/x/1/conf/2/3/a", True),
        ("/srv/x/**", "/srv/x/a", True),
        ("/srv/x/[ab]?", "/srv/x/b1", True),
        ("/srv/x/[ab]?", "/srv/x/c1", False),
    ],
)
def test_a_pattern_selects_what_it_matches_and_all_below(pattern: str, path: str, selected: bool) -> None:
    assert WatchList((check_pattern(pattern),)).selects(path) is selected


def test_links_are_followed_only_above_the_first_wildcard_or_the_last_name() -> None:
    bases = {pattern.base for pattern in WatchList(("/srv/x/conf", "/srv/x/*/conf", "/a/**/b", "/etc")).compiled}
    assert bases == {"/srv/x", "/a", "/"}


def test_a_path_is_found_from_the_shortest_base_that_knows_it() -> None:
    watch = WatchList(("/srv/x/conf/**/*.json", "/srv/x/conf"))
    assert watch.base_of("/srv/x/conf/a/b.json") == "/srv/x"
    assert WatchList(("/srv/x/*/conf",)).base_of("/srv/x/one") == "/srv/x", "a directory on the way"
    assert watch.base_of("/srv/y") is None


@pytest.mark.parametrize(
    ("pattern", "path", "fits"),
    [
        ("*.log", "/srv/x/a/b.log", True),
        ("*.log", "/srv/x/b.log/c", False),
        ("/srv/x/cache", "/srv/x/cache/deep", True),
        ("/srv/**/*.log", "/srv/a/b/c.log", True),
    ],
)
def test_a_pattern_without_a_slash_is_for_names(pattern: str, path: str, fits: bool) -> None:
    assert matches(pattern, path) is fits


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"paths": []}, "nothing is watched; give `paths`, or `variables`"),
        ({"paths": ["conf"]}, '"conf" depends on where the daemon was started; write the whole path'),
        ({"paths": ["/"]}, '"/" is everything; name a directory or a file'),
        ({"paths": ["/srv/../etc"]}, '"/srv/../etc" has an empty part, "." or ".."; write the path as it is'),
        ({"paths": ["/srv//x"]}, "has an empty part"),
        ({"paths": ["/srv/a**"]}, '"/srv/a**" has ** beside other characters; write it between two slashes'),
        ({"store": "/srv/x/conf/store"}, "`store` /srv/x/conf/store lies in what is watched; put it elsewhere"),
        ({"store": "store"}, "depends on where the daemon was started"),
        ({"variables": {"file": "/e", "names": ["A-B"]}}, '"A-B" cannot be the name of a variable'),
        ({"variables": {"file": "e", "names": ["A"]}}, "depends on where the daemon was started"),
        ({"variables": {"file": "/e", "names": []}}, "at least 1 item"),
        ({"syntax": [{"glob": "*.json", "command": ["check"]}]}, "nothing of it is {file}"),
        ({"syntax": [{"glob": "*.json", "command": ["check", "--file={file}"]}]}, "nothing of it is {file}"),
        ({"syntax": [{"glob": "a/b", "command": ["check", "{file}"]}]}, "depends on where the daemon was started"),
        ({"modes": {".env*": "rw"}}, '"rw" is not a mode; write it in quotes like "600" or "0644"'),
        ({"modes": {"**": "600"}}, '"**" matches no name, or all of them'),
        ({"volatile": [""]}, "matches no name"),
        ({"keep": {"last": 0}}, "greater than or equal to 1"),
        ({"extra": "keep"}, "Extra inputs are not permitted"),
    ],
)
def test_settings_that_cannot_work_are_errors_at_start(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(message)):
        settings(**given)


def test_one_of_something_needs_no_list_and_a_slash_at_the_end_is_no_matter() -> None:
    one = settings(paths="/srv/x/conf/", variables={"file": "/e", "names": "A"}, volatile="*.log")
    assert one.paths == ("/srv/x/conf",)
    assert one.variables[0].names == ("A",)
    assert FilesSettings.model_validate_json(one.model_dump_json()) == one


def test_what_changes_the_meaning_of_a_release_changes_the_fingerprint() -> None:
    base = ScanRules.of(settings()).fingerprint
    assert ScanRules.of(settings(auto=False, secret=["X"], room=1, syntax=[])).fingerprint == base
    others = [
        settings(paths=["/srv/x/conf", "/srv/y"]),
        settings(volatile=["*.log"]),
        settings(modes={"*": "600"}),
        settings(variables={"file": "/e", "names": ["A"]}),
    ]
    assert len({base, *(ScanRules.of(other).fingerprint for other in others)}) == 5


@pytest.mark.parametrize(
    ("pattern", "above"),
    [
        ("/srv/shop/config", "/srv/shop"),
        ("/srv/shop/.env*", "/srv/shop"),
        ("/srv/*/max", "/srv"),
        ("/srv/**/x", "/srv"),
        ("/shop", "/"),
    ],
)
def test_a_restore_writes_to_the_directory_above_what_a_pattern_can_match(pattern: str, above: str) -> None:
    assert path_above(pattern) == above
