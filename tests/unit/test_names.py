"""A public class is found by its name, and so is a file of tests: no other has the same."""

import ast
from collections import defaultdict
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_IN_TWO_DOCUMENTS = {
    "CommandSettings": "a layer's and a check's, each by the kind of its plugin",
    "HttpSettings": "a layer's and a check's, each by the kind of its plugin",
    "RedisSettings": "a layer's and a check's, each by the kind of its plugin",
    "Snapshots": "the capability in `rollbackd.adapter`, and what the API answers",
}
"""Names that are promised: `rollbackd schema` and the API document have them, and so has `rollbackd.adapter`."""


def test_no_two_public_classes_share_a_name() -> None:
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(file for top in ("daemon", "adapters") for file in (_ROOT / top).rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(str(path.relative_to(_ROOT)))
    assert {name for name, files in found.items() if len(files) > 1} == _IN_TWO_DOCUMENTS.keys()


def test_no_two_files_of_tests_share_a_name() -> None:
    """One process imports them all, by their names alone where their directory is no package."""
    names = [path.name for path in (_ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names))
