"""Twenty quick rollbacks in a row: what a window still holds of a release that was left is nobody's page."""

from pathlib import Path

from tests.unit.judgement.shop import PAGE, Shop

ERRORS = {"name": "errors", "when": {"query": "avg_over_time(errors[5m])", "above": "5%", "for": "5m"}}
LIMITS = {"cooldown": "0s", "per_service": {"rollbacks": 50, "per": "1d"}, "fleet": {"rollbacks": 50, "per": "1d"}}


async def test_none_of_twenty_quick_rollbacks_pages_or_takes_a_mark(tmp_path: Path) -> None:
    shop = Shop(tmp_path, PAGE, ERRORS, limits=LIMITS)
    await shop.let("Sun 10:00 all: ran v1, good")
    for service in ("shop", "bank"):
        shop.world.measure("errors", service, 0.01)
    await shop.up()
    for number in range(2, 22):
        hour, minute = divmod((number - 2) * 7, 60)
        at = f"{10 + hour}:{minute:02}"
        later = f"{10 + hour}:{minute + 1:02}"
        await shop.let(f"{at} deploys v{number}", f"{at} errors 40% while v{number}")
        await shop.let(f"{later}:30 alert Sick fires while v{number}")
    await shop.wait(minutes=20)
    made = [one for one in shop.told if one.service == "shop"]
    assert [one.what for one in made] == ["rolls back", "recovered"] * 20, made
    ledger = shop.daemon.read_model.of("shop")
    assert ledger.present is not None
    assert ledger.present.key in ledger.good
    await shop.down()
