"""Every query of PromQL that a configuration has, and where it stands. Pure: data in."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain

from rollbackd.config.outline import Outline
from rollbackd.config.positions import ConfigFault, Loc, mapping
from rollbackd.config.rule_faults import leaves
from rollbackd.syntax.promql import unbalanced


def written(outline: Outline) -> Iterator[ConfigFault]:
    """Each query as the text of what a fault would be there."""
    for rule in outline.rules:
        raw = mapping(rule.raw)
        asked = [*leaves(raw.get("when")), (("users",), mapping(raw.get("users")))]
        for loc, text in chain.from_iterable(_of(part, loc) for loc, part in asked):
            yield rule.point(loc, text)
    for service in outline.services:
        for loc, check in _checks(service.raw):
            if isinstance(check, Mapping) and outline.asks_prometheus(check):
                for inner, text in _of(check, (*service.loc, *loc)):
                    yield outline.main.fault(inner, text)


def faults(queries: Iterable[ConfigFault]) -> Iterator[ConfigFault]:
    """What no dialect of PromQL takes."""
    for query in queries:
        if why := unbalanced(query.text):
            yield ConfigFault(query.file, query.line, query.column, f"this is no query: {why}")


def _of(part: Mapping[str, object], loc: Loc) -> Iterator[tuple[Loc, str]]:
    """The queries of a condition or a check: its own, and those that count samples or requests."""
    for keys in (("query",), ("samples", "query"), ("score", "of")):
        value: object = part
        for key in keys:
            value = mapping(value).get(key)
        if isinstance(value, str):
            yield (*loc, *keys), value


def _checks(service: Mapping[str, object]) -> Iterator[tuple[Loc, object]]:
    """The checks of a service, named ones and those that stand where they are used."""
    for name, check in mapping(service.get("checks")).items():
        yield ("checks", name), check
    places: list[tuple[Loc, object]] = [(("evidence",), service.get("evidence"))]
    plans = mapping(service.get("plans"))
    verifies: list[tuple[Loc, object]] = [(("verify",), service.get("verify"))]
    verifies += [(("plans", name, "verify"), mapping(plan).get("verify")) for name, plan in plans.items()]
    for loc, verify in verifies:
        places += [((*loc, key), mapping(verify).get(key)) for key in ("gate", "checks")]
    for loc, listed in places:
        for n, check in enumerate(listed if isinstance(listed, list) else []):
            yield (*loc, n), check
