"""Boundaries: the named places where a kill must be harmless. Crash tests set `hook`; in production it does nothing."""

from collections.abc import Callable


def _nothing(_name: str) -> None:
    return


hook: Callable[[str], None] = _nothing


def boundary(name: str) -> None:
    """Mark a place between two effects; `name` says which (`journal.committed`, `process.spawned`, …)."""
    hook(name)
