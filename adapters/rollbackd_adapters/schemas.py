"""What a database's schema is and what it holds, so that two can be compared. No I/O."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

_SHOWN = 5
_SIZED = re.compile(r"(?P<kind>[a-z_ ]*[a-z])(?:\((?P<size>\d+)(?:,\s*(?P<scale>\d+))?\))?(?P<rest>.*)")
_WIDER = (("smallint", "integer", "bigint"), ("character varying", "varchar", "text"), ("real", "double precision"))
"""Families of types; each holds whatever one before it held."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table."""

    type: str
    required: bool = False
    """NOT NULL."""
    filled: bool = False
    """It has a value by itself: a default, an identity, what is computed."""


@dataclass(frozen=True, slots=True)
class Table:
    """One table."""

    columns: Mapping[str, Column]
    rules: frozenset[str] = frozenset()
    """What rows must keep, as in SQL: `UNIQUE (email)`, `CHECK (total > 0)`, `FOREIGN KEY …`."""


@dataclass(frozen=True, slots=True)
class DatabaseSchema:
    """The tables of a database, and all else that it has."""

    tables: Mapping[str, Table] = field(default_factory=dict)
    others: Mapping[str, str] = field(default_factory=dict)
    """The definition of each view, trigger, index, type, function: `view totals`."""

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Self:
        """As `written` gave it. :raises KeyError, TypeError, AttributeError: it is none."""
        tables = {
            name: Table({one: Column(*about) for one, about in table["columns"].items()}, frozenset(table["rules"]))
            for name, table in given["tables"].items()
        }
        return cls(tables, dict(given["others"]))

    @property
    def written(self) -> dict[str, Any]:
        tables = {
            name: {
                "columns": {one: [about.type, about.required, about.filled] for one, about in table.columns.items()},
                "rules": sorted(table.rules),
            }
            for name, table in self.tables.items()
        }
        return {"tables": tables, "others": dict(self.others)}

    def without(self, table: str) -> "DatabaseSchema":
        """The same, but for one table."""
        return DatabaseSchema({name: one for name, one in self.tables.items() if name != table}, self.others)


@dataclass(frozen=True, slots=True)
class Contents:
    """What the tables hold: enough to see that something is gone, or another value."""

    rows: Mapping[str, int] = field(default_factory=dict)
    values: Mapping[str, Mapping[str, Sequence[int]]] = field(default_factory=dict)
    """For each column how many values there are, and a sum over their hashes."""

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Self:
        values = {table: {one: tuple(found) for one, found in all_.items()} for table, all_ in given["values"].items()}
        return cls(dict(given["rows"]), values)

    def without(self, table: str) -> "Contents":
        """The same, but for one table."""
        rows = {name: count for name, count in self.rows.items() if name != table}
        return Contents(rows, {name: found for name, found in self.values.items() if name != table})


@dataclass(frozen=True, slots=True)
class Survey:
    """All that is known of a database at one instant, but for its version table."""

    heads: tuple[str, ...]
    """What the version table has."""
    schema: DatabaseSchema
    contents: Contents

    @classmethod
    def read(cls, given: Mapping[str, Any], table: str) -> Self:
        """:raises KeyError, TypeError, AttributeError: it is none."""
        schema, contents = DatabaseSchema.read(given["schema"]), Contents.read(given["contents"])
        return cls(tuple(given["heads"]), schema.without(table), contents.without(table))


@dataclass(frozen=True, slots=True)
class Loss:
    """What of the present is not there afterwards."""

    name: str
    """`orders`, or `orders.note`."""
    text: str
    """A sentence for people; counts, never values."""


def losses(before: Contents, after: Contents) -> tuple[Loss, ...]:
    """What one content has and the other has not; what only has another name is there still."""
    found: list[Loss] = []
    fresh = [table for table in after.rows if table not in before.rows]
    for table, rows in before.rows.items():
        if not rows:
            continue
        if table in after.rows:
            found += _losses_within(table, before, after)
        elif not any(_same_values(before, table, after, other) for other in fresh):
            found.append(Loss(table, f"table {table} goes, with {rows} rows"))
    return tuple(found)


def _same_values(before: Contents, table: str, after: Contents, other: str) -> bool:
    mine, theirs = before.values.get(table, {}), after.values.get(other, {})
    return before.rows[table] == after.rows[other] and sorted(map(tuple, mine.values())) == sorted(
        map(tuple, theirs.values())
    )


def _losses_within(table: str, before: Contents, after: Contents) -> Iterator[Loss]:
    if (gone := before.rows[table] - after.rows[table]) > 0:
        yield Loss(table, f"{gone} of {before.rows[table]} rows of {table} go")
    was, now = before.values.get(table, {}), after.values.get(table, {})
    fresh = [tuple(found) for column, found in now.items() if column not in was]
    for column, found in was.items():
        if column in now and tuple(now[column]) != tuple(found) and gone == 0:
            yield Loss(f"{table}.{column}", f"values of {table}.{column} change")
        elif column not in now and found[0] and tuple(found) not in fresh:
            yield Loss(f"{table}.{column}", f"column {table}.{column} goes, with {found[0]} values")


def mismatches(known: DatabaseSchema, present: DatabaseSchema) -> tuple[str, ...]:
    """What code that was written for one schema meets in another one and cannot know; a sentence an object."""
    found: list[str] = []
    for name, table in known.tables.items():
        if name not in present.tables:
            fresh = [other for other in present.tables if other not in known.tables]
            new = next((other for other in fresh if present.tables[other].columns == table.columns), "")
            found.append(f"table {name} is {f'called {new} now' if new else 'gone'}")
        else:
            found += _mismatches_within(name, table, present.tables[name])
    found += [f"{name} is gone" for name in known.others if name not in present.others and name.startswith(_USED)]
    for name in sorted(known.others.keys() & present.others.keys()):
        if name.startswith(_TYPE) and (gone := _values(known.others[name]) - _values(present.others[name])):
            found.append(f"{name} has no value {', '.join(sorted(gone))} any more")
    return tuple(found)


def _values(text: str) -> set[str]:
    """The values of an enumeration."""
    return set(text.split(", "))


_TYPE = "type "
_USED = ("view ", "materialized view ", "function ", "sequence ", _TYPE)
"""What code names in its statements, besides tables."""


def _mismatches_within(name: str, known: Table, present: Table) -> Iterator[str]:
    fresh = {column: about for column, about in present.columns.items() if column not in known.columns}
    for column, about in known.columns.items():
        now = present.columns.get(column)
        if now is None:
            new = next((other for other, one in fresh.items() if one.type == about.type), "")
            yield f"column {name}.{column} is {f'gone, or called {new} now' if new else 'gone'}"
            continue
        changes = []
        if now.type != about.type and not _holds(now.type, about.type):
            changes.append(f"{now.type or 'untyped'} where {about.type or 'any type'} was")
        if now.required and not about.required:
            changes.append("NOT NULL")
        if about.filled and not now.filled and now.required:
            changes.append("without its default")
        if changes:
            yield f"column {name}.{column} is now {', '.join(changes)}"
    for column, about in fresh.items():
        if about.required and not about.filled:
            yield f"column {name}.{column} is new, NOT NULL and without default"
    for rule in sorted(present.rules - known.rules):
        yield f"table {name} has a new rule: {rule}"


def _holds(wide: str, narrow: str) -> bool:
    """Whether a type holds whatever another one held."""
    new, old = _SIZED.fullmatch(wide.lower()), _SIZED.fullmatch(narrow.lower())
    if new is None or old is None or new["rest"] != old["rest"]:
        return False
    if new["kind"] != old["kind"]:
        family = next((one for one in _WIDER if new["kind"] in one and old["kind"] in one), ())
        later = bool(family) and family.index(new["kind"]) > family.index(old["kind"])
        return later and (new["size"] is None or (old["size"] is not None and int(new["size"]) >= int(old["size"])))
    if new["size"] is None or old["size"] is None:
        return new["size"] is None
    scales = int(new["scale"] or 0), int(old["scale"] or 0)
    return scales[0] >= scales[1] and int(new["size"]) - scales[0] >= int(old["size"]) - scales[1]


def differences(first: DatabaseSchema, second: DatabaseSchema) -> tuple[str, ...]:
    """The objects in which two schemas differ, some of them."""
    tables = [f"table {name}" for name in sorted({*first.tables, *second.tables}) if _one(first, second, name)]
    others = sorted({*first.others, *second.others})
    return tuple([*tables, *(name for name in others if first.others.get(name) != second.others.get(name))][:_SHOWN])


def _one(first: DatabaseSchema, second: DatabaseSchema, name: str) -> bool:
    return first.tables.get(name) != second.tables.get(name)
