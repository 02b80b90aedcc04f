"""The graph of a project's migrations: what lies behind heads, and the way back from some to others. No I/O."""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rollbackd.adapter import AdapterError
from rollbackd.model import Release
from rollbackd.system.spawner import one_line

BASE = "base"
"""The release of a database that has no migration yet."""


def release_of(heads: Iterable[str]) -> Release:
    """A set of heads as a release."""
    return Release("+".join(sorted(heads)) or BASE)


def heads_of(release: str) -> tuple[str, ...]:
    """The heads of a release's id."""
    return () if release == BASE else tuple(release.split("+"))


@dataclass(frozen=True, slots=True)
class MigrationGraph:
    """All migrations that the code has."""

    down: Mapping[str, frozenset[str]]
    """For each one those that it comes right after, also by `depends_on`."""
    about: Mapping[str, str]
    """What each says of itself."""
    digest: str
    """Of all their files and env.py."""

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> "MigrationGraph":
        """As the project's interpreter told it. :raises KeyError, TypeError, AttributeError: it is none."""
        found = given["graph"]
        content = json.dumps([found, given["environment"]], sort_keys=True)
        down = {str(one): frozenset(map(str, about["down"])) for one, about in found.items()}
        digest = hashlib.sha256(content.encode()).hexdigest()
        return cls(down, {one: str(about["about"]) for one, about in found.items()}, digest)

    def behind(self, heads: Collection[str]) -> frozenset[str]:
        """The migrations that are applied where these are the heads.

        :raises AdapterError: permanent, the code does not have one of them.
        """
        found: set[str] = set()
        waiting = list(heads)
        while waiting:
            one = waiting.pop()
            if one not in self.down:
                text = f"the code that is there has no migration {one_line(one)}, so it cannot take it back"
                raise AdapterError(f"{text}; put the code there that has it, or go back in data", permanent=True)
            if one not in found:
                found.add(one)
                waiting += self.down[one]
        return frozenset(found)

    def tips(self, applied: Collection[str]) -> tuple[str, ...]:
        """The heads of applied migrations."""
        below = {down for one in applied for down in self.down[one]}
        return tuple(sorted(one for one in applied if one not in below))

    def way(self, present: Collection[str], target: Collection[str]) -> tuple[str, ...]:
        """The migrations to take back, in order, from some heads to others.

        :raises AdapterError: permanent, no way back leads there.
        """
        applied, kept = set(self.behind(present)), self.behind(target)
        if ahead := kept - applied:
            text = f"{release_of(target).id} is not behind {release_of(present).id}: it has {min(ahead)}"
            raise AdapterError(
                f"{text}, which is not applied; a deployment goes forward, not a rollback", permanent=True
            )
        found: list[str] = []
        while applied != kept:
            found.append(next(one for one in reversed(self.tips(applied)) if one not in kept))
            applied.remove(found[-1])
        return tuple(found)

    def forward(self, present: Collection[str], named: Collection[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The heads that an upgrade leads to, and the migrations to take, in order.

        :param named: the migrations that are wanted, with what they need; none: all that there are.
        :raises AdapterError: permanent, the code does not have one of them.
        """
        if unknown := sorted({*named} - {*self.down}):
            text = f"the code that is there has no migration {one_line(unknown[0])}"
            raise AdapterError(f"{text}; `alembic history` lists them, by their whole names", permanent=True)
        heads = self.tips(self.behind(present) | (self.behind(named) if named else {*self.down}))
        return heads, tuple(reversed(self.way(heads, present)))

    def releases(self, present: Sequence[str]) -> list[Release]:
        """What the way back to the beginning leads through, the present first."""
        applied = set(self.behind(present))
        found = [release_of(present)]
        for one in self.way(present, ()):
            applied.remove(one)
            found.append(release_of(self.tips(applied)))
        return found

    def name(self, revision: str) -> str:
        """A migration for people."""
        return f"{revision} ({self.about[revision]})" if self.about.get(revision) else revision
