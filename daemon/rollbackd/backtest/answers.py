"""A backtest in words and as JSON values. No I/O."""

from collections.abc import Iterator

from rollbackd.backtest.report import Account, PlayedDecision, account_json, tally_json
from rollbackd.backtest.run import Backtest, Variant
from rollbackd.syntax.units import format_duration, whole_seconds

_FEW = 4
"""Services that are named where a setting makes a difference."""


SWEEP_HEAD = ("setting", "rollbacks", "as people", "missed", "asked", "refused", "earlier by", "other")


def head(found: Backtest) -> Iterator[str]:
    """What was played, and what came of it, a sentence each."""
    span = f"{found.start():%Y-%m-%d %H:%M} to {found.end():%Y-%m-%d %H:%M} UTC"
    many = f"{len(found.config.services)} services, {len(found.config.rules)} rules, {len(found.changes)} changes"
    yield f"{span}, every {format_duration(found.grid.pace)}: {many} from {found.source}; played as if it acted"
    tally, back = found.account.tally, len(found.account.rollbacks)
    others = f"{tally.asked} questions; {tally.refused} refused or only noted"
    yield f"{tally.rollbacks} rollbacks, {tally.shared} of them where people went back, too; {others}"
    earlier = f", in the median {format_duration(whole_seconds(tally.lead))} earlier" if tally.lead is not None else ""
    did = f"the play did {back - tally.missed} of them{earlier}, and missed {tally.missed}"
    yield f"people went back {back} times: {did}"
    for note in found.notes:
        yield f"note: {note}"
    for service, why in found.account.ungood.items():
        yield f"note: {service} had no good state in all that time: {why}"


def words(one: PlayedDecision) -> Iterator[str]:
    """Why a decision was made: what was seen, and what each guard found."""
    since = f"since {one.onset:%H:%M:%S}"
    yield f"{'; '.join(one.evidence) or 'met'}, {since}"
    for finding in one.findings:
        stands = "" if finding.against is None else f"{finding.against.value}: " if finding.counted else "not counted: "
        if finding.reason:
            yield f"{finding.guard}: {stands}{finding.reason}"
    if one.end:
        yield f"{one.incident} ended as {one.end}"


def sweep_rows(found: Backtest) -> Iterator[tuple[str, ...]]:
    """What each setting would have made of it, the configuration's own first."""
    yield _row("as configured", found.account, "")
    for variant in found.variants:
        yield _row(f"{variant.setting} {variant.value}", variant.account, difference(found, variant))


def _row(name: str, account: Account, other: str) -> tuple[str, ...]:
    tally = account.tally
    lead = format_duration(whole_seconds(tally.lead)) if tally.lead is not None else ""
    numbers = (tally.rollbacks, tally.shared, tally.missed, tally.asked, tally.refused)
    return (name, *map(str, numbers), lead, other)


def difference(found: Backtest, variant: Variant) -> str:
    """What it goes back from that the configuration does not, and the other way round."""
    ours, theirs = found.account.went_back(), variant.account.went_back()
    parts = [(f"+{service} {state}") for service, state in sorted(theirs - ours)]
    parts += [(f"-{service} {state}") for service, state in sorted(ours - theirs)]
    more = f" and {len(parts) - _FEW} more" if len(parts) > _FEW else ""
    return ", ".join(parts[:_FEW]) + more


def backtest_json(found: Backtest) -> dict[str, object]:
    """All of it."""
    return {
        "from": found.start().isoformat(),
        "to": found.end().isoformat(),
        "pace": format_duration(found.grid.pace),
        "services": [service.name for service in found.config.services],
        "rules": [rule.name for rule in found.config.rules],
        "changes": {"source": found.source, "count": len(found.changes)},
        "notes": list(found.notes),
        **account_json(found.account),
        "sweep": [
            {
                "setting": variant.setting,
                "value": variant.value,
                **tally_json(variant.account.tally),
                "other": difference(found, variant),
                "decisions": account_json(variant.account)["decisions"],
            }
            for variant in found.variants
        ],
    }
