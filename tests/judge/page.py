"""The figures as text: a table for the terminal, and the page that is published."""

from collections.abc import Iterator, Sequence

from tests.judge.classes import CLASSES
from tests.judge.figures import HALVES, Failing, Result, Score, failing, score
from tests.judge.peers import PEERS

_LONGEST = 200
_HEADS = ("", "half", "right", "wrong", "missed", "precision", "recall", "median delay", "p90 delay", "recovered")


BOUNDS = {"plain": (0.99, 0.99), "hard": (0.9, 0.95)}
"""The least precision and recall of the shipped pack on each half, as a small run in the tests must meet them."""


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def length(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.0f} s"


def rows(results: Sequence[Result]) -> Iterator[tuple[str, ...]]:
    """A line for each who judges, and each half."""
    judges = list(results[0].by) if results else []
    for who in judges:
        parts = [("all", list(results)), *((half, [one for one in results if one.half == half]) for half in HALVES)]
        parts.append(("side by side", [one for one in results if one.side_by_side]))
        for name, part in parts:
            yield _row(who if name == "all" else "", name, score(part, who), is_peer=who in {one.name for one in PEERS})


def _row(who: str, half: str, one: Score, *, is_peer: bool) -> tuple[str, ...]:
    well = "-" if is_peer else f"{one.recovered} of {one.right}"
    counts = (str(one.right), str(one.wrong), str(one.missed))
    return (
        who,
        half,
        *counts,
        percent(one.precision),
        percent(one.recall),
        length(one.typical),
        length(one.late),
        well,
    )


def table(results: Sequence[Result], seed: int) -> Iterator[str]:
    """For the terminal."""
    lines = [_HEADS, *rows(results)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADS))]
    for line in lines:
        yield "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
    for who in [who for who in (results[0].by if results else ()) if who not in {one.name for one in PEERS}]:
        found = failing(results, who)
        yield ""
        yield f"Classes that fail by {who}: {len(found)} of {len({one.kind for one in results})}"
        for one in found:
            yield f"  {one.kind.half:5} {one.wrong:3} of {one.incidents:3}  {one.kind.name}: {_short(one.reason)}"
            yield f"        again: --seed {seed} --class '{one.kind.name}' --number {one.number}"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def page(results: Sequence[Result], held_out: Sequence[Result]) -> Iterator[str]:
    """`docs/judgement-figures.md`."""
    yield "# Judgement in figures"
    yield ""
    yield (
        "Written by `make judge WORDS=--publish`, not by hand. Incidents with known right answers, made from a seed, "
        "are played by the daemon's own parts in virtual time: a Prometheus that scrapes every 15 s and answers the rules' "
        "own queries, deployments, outages, alerts with their lag. The daemon has the shipped configuration, and nothing "
        "is set for any class. Beside it are models of other tools' published rules, on the same samples. "
        "`tests/judge/plain.py` and `tests/judge/hard.py` have the classes."
    )
    yield ""
    yield (
        "A rollback is right when it takes away the release that hurts people, after it began to; every other rollback "
        "of any service is wrong. Precision is the share of rollbacks that are right, recall the share of right ones "
        "that came with nobody asked. Delay counts from when people are hurt to the first step."
    )
    for title, part in (("The corpus", results), ("Held out", held_out)):
        yield ""
        yield f"## {title}: {len(part)} incidents"
        yield ""
        yield from _markdown(_HEADS, rows(part))
    yield ""
    yield "## The peers"
    yield ""
    for peer in PEERS:
        yield f"- **{peer.name}** {peer.rule}."
    yield ""
    yield "## The classes"
    yield ""
    who = next(iter(results[0].by))
    bad = {one.kind.name: one for one in failing(results, who)}
    played = {each.name: sum(1 for one in results if one.kind == each.name) for each in CLASSES}
    yield from _markdown(
        ("class", "half", "rollback is", f"failed by {who}", "why"),
        (
            (
                each.name,
                each.half,
                "right" if each.right else "wrong",
                _failed(bad.get(each.name), played[each.name]),
                each.why,
            )
            for each in CLASSES
        ),
    )


def _failed(one: Failing | None, count: int) -> str:
    return f"{one.wrong if one is not None else 0} of {count}"


def _markdown(heads: Sequence[str], lines: Iterator[tuple[str, ...]]) -> Iterator[str]:
    yield "| " + " | ".join(heads) + " |"
    yield "|-" * len(heads) + "|"
    for line in lines:
        yield "| " + " | ".join(line) + " |"
