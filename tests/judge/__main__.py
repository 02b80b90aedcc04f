"""`make judge`: plays a corpus of incidents, by the daemon and by models of its peers, and prints who was right.

Exit code 0 when it was played, whatever the figures are; 2 for words that are not understood.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rollbackd.system import log
from tests.judge.classes import CLASSES
from tests.judge.configurations import CONFIGURATIONS
from tests.judge.corpus import HELD_OUT, Case, cases, play_all
from tests.judge.figures import Result, failing, score
from tests.judge.page import page, table
from tests.judge.peers import PEERS

_PAGE = Path(__file__).parents[2] / "docs" / "judgement-figures.md"
_JUDGES = tuple(one.name for one in (*CONFIGURATIONS, *PEERS))


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make judge", description=__doc__)
    parser.add_argument("--incidents", type=int, default=1000, help="how many, the classes in turn")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--held-out", action="store_true", help="of another range of seeds")
    parser.add_argument("--class", dest="kinds", action="append", default=[], help="only this class; may be repeated")
    parser.add_argument("--number", type=int, help="only this incident of a class, with all that was made of it")
    parser.add_argument("--by", action="append", choices=_JUDGES, help="only this judge; may be repeated")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="figures as JSON")
    parser.add_argument(
        "--publish", action="store_true", help="write docs/judgement-figures.md, held-out incidents too"
    )
    given = parser.parse_args(words)
    known = {one.name for one in CLASSES}
    if wrong := [name for name in given.kinds if name not in known]:
        parser.error(f"there is no class {', '.join(wrong)}; there are: {', '.join(sorted(known))}")
    if given.number is not None and not given.kinds:
        parser.error("--number is of a class; name it by --class")
    judges, seed = given.by or _JUDGES, given.seed + (HELD_OUT if given.held_out else 0)
    log.configure("critical")
    if given.number is not None:
        return _one([Case(kind, given.number, seed) for kind in given.kinds], judges)
    results = _played(cases(given.incidents, seed, given.kinds), judges, given.processes)
    if given.json:
        print(json.dumps(_as_json(results), indent=1))
    else:
        print("\n".join(table(results, seed)))
    if given.publish:
        others = [one for one in judges if one != CONFIGURATIONS[1].name]
        held_out = _played(cases(given.incidents, seed + HELD_OUT, given.kinds), others, given.processes)
        _PAGE.write_text("\n".join(page(results, held_out)) + "\n")
    return 0


def _played(given: Sequence[Case], judges: Sequence[str], processes: int) -> list[Result]:
    begun = time.monotonic()

    def told(done: int) -> None:
        print(
            f"\r{done} of {len(given)} incidents, {time.monotonic() - begun:.0f}s ", end="", file=sys.stderr, flush=True
        )

    found = play_all(given, judges, processes, told)
    print(file=sys.stderr)
    return found


def _one(given: Sequence[Case], judges: Sequence[str]) -> int:
    for case in given:
        print(case.made())
        for who, played in play_all([case], judges)[0].by.items():
            print(f"\n{who}:", *played.rollbacks, f"missed {list(played.missed)}", *played.reasons, sep="\n  ")
    return 0


def _as_json(results: Sequence[Result]) -> dict[str, object]:
    judges = list(results[0].by) if results else []
    found: dict[str, object] = {}
    for who in judges:
        halves = {"all": results, **{half: [one for one in results if one.half == half] for half in ("plain", "hard")}}
        halves["side by side"] = [one for one in results if one.side_by_side]
        parts = {name: score(part, who) for name, part in halves.items()}
        found[who] = {
            name: {
                "right": one.right, "wrong": one.wrong, "missed": one.missed, "precision": one.precision,
                "recall": one.recall, "median_seconds": one.typical, "p90_seconds": one.late, "recovered": one.recovered,
            }
            for name, one in parts.items()
        } | {"failing": [{**asdict(one), "kind": one.kind.name} for one in failing(results, who)]}  # fmt: skip
    return found


if __name__ == "__main__":
    sys.exit(main())
