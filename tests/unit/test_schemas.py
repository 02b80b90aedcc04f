"""What of one schema another one does not have, and what of some contents is lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollbackd_adapters.alembic.graph import MigrationGraph, heads_of, release_of
from rollbackd_adapters.schemas import Column, Contents, DatabaseSchema, Table, losses, mismatches

KNOWN = Table({"id": Column("integer", True, True), "note": Column("varchar(40)")}, frozenset({"PRIMARY KEY (id)"}))


def changed(rules: frozenset[str] = KNOWN.rules, **columns: Column | None) -> DatabaseSchema:
    found = {**KNOWN.columns, **columns}
    return DatabaseSchema({"orders": Table({name: one for name, one in found.items() if one is not None}, rules)})


@pytest.mark.parametrize(
    ("present", "said"),
    [
        (changed(), ()),
        (changed(fresh=Column("text")), ()),
        (changed(fresh=Column("text", True, True)), ()),
        (changed(note=Column("varchar(80)")), ()),
        (changed(note=Column("text")), ()),
        (changed(id=Column("bigint", True, True)), ()),
        (changed(note=None), ("column orders.note is gone",)),
        (changed(note=None, text=Column("varchar(40)")), ("column orders.note is gone, or called text now",)),
        (changed(note=Column("varchar(20)")), ("column orders.note is now varchar(20) where varchar(40) was",)),
        (changed(note=Column("varchar(40)", True)), ("column orders.note is now NOT NULL",)),
        (changed(id=Column("integer", True)), ("column orders.id is now without its default",)),
        (changed(id=Column("smallint", True, True)), ("column orders.id is now smallint where integer was",)),
        (changed(fresh=Column("text", True)), ("column orders.fresh is new, NOT NULL and without default",)),
        (changed(KNOWN.rules | {"UNIQUE (note)"}), ("table orders has a new rule: UNIQUE (note)",)),
        (DatabaseSchema(), ("table orders is gone",)),
        (DatabaseSchema({"sales": KNOWN}), ("table orders is called sales now",)),
    ],
)
def test_old_code_is_told_what_it_would_miss(present: DatabaseSchema, said: tuple[str, ...]) -> None:
    assert mismatches(changed(), present) == said


def test_an_enumeration_that_is_gone_or_lost_values_is_told() -> None:
    known = DatabaseSchema(others={"type mood": "bad, good", "type size": "s, m"})
    present = DatabaseSchema(others={"type mood": "good, new, better"})
    assert mismatches(known, present) == ("type size is gone", "type mood has no value bad any more")


ORDERS = Contents({"orders": 3}, {"orders": {"id": (3, 60), "note": (2, 11)}})


@pytest.mark.parametrize(
    ("after", "lost"),
    [
        (ORDERS, set()),
        (Contents({"orders": 4}, {"orders": {"id": (4, 70), "note": (2, 11)}}), set()),
        (Contents({"sales": 3}, {"sales": {"id": (3, 60), "text": (2, 11)}}), set()),
        (Contents({"orders": 3}, {"orders": {"id": (3, 60), "text": (2, 11)}}), set()),
        (Contents({"sales": 3}, {"sales": {"id": (3, 60), "text": (2, 12)}}), {"orders"}),
        (Contents(), {"orders"}),
        (Contents({"orders": 2}, {"orders": {"id": (2, 30), "note": (2, 11)}}), {"orders"}),
        (Contents({"orders": 3}, {"orders": {"id": (3, 60)}}), {"orders.note"}),
        (Contents({"orders": 3}, {"orders": {"id": (3, 60), "note": (2, 12)}}), {"orders.note"}),
    ],
)
def test_what_has_another_name_is_not_lost_and_all_else_is(after: Contents, lost: set[str]) -> None:
    assert {one.name for one in losses(ORDERS, after)} == lost
    assert losses(Contents({"orders": 0}, {"orders": {"id": (0, 0)}}), after) == ()


@given(st.lists(st.frozensets(st.integers(0, 30), max_size=3), min_size=1, max_size=12), st.data())
def test_the_way_back_takes_each_migration_after_all_that_come_after_it(
    below: list[frozenset[int]], data: st.DataObject
) -> None:
    names = [f"m{n:02}" for n in range(len(below))]
    down = {
        name: frozenset(names[one % n] for one in some) if n else frozenset()
        for n, (name, some) in enumerate(zip(names, below, strict=True))
    }
    graph = MigrationGraph(down, {}, "")
    present, target = (graph.tips(graph.behind(data.draw(st.sets(st.sampled_from(names))))) for _ in range(2))
    applied = set(graph.behind(present))
    kept = graph.behind(graph.tips(applied & graph.behind(target)))
    for one in graph.way(present, graph.tips(kept)):
        assert not [other for other in applied if one in down[other]]
        applied.remove(one)
    assert applied == kept
    releases = graph.releases(present)
    assert (releases[0], releases[-1].id) == (release_of(present), "base")
    assert len({one.id for one in releases}) == len(releases)
    assert all(graph.behind(heads_of(one.id)) <= graph.behind(present) for one in releases)
