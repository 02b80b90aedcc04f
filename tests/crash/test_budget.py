"""Fifty services go bad at once: five are rolled back, also when the daemon is killed on the way; people hear of all."""

import json
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from rollbackd import facts
from rollbackd.model import Outcome, Release, State
from tests.contract.worlds import script
from tests.crash.lives import until, zygote
from tests.crash.world import World, alert, of_kind
from tests.fakes.receiving import serving
from tests.fakes.slack import SlackFake

SERVICES = [f"shop{number:02}" for number in range(50)]
ALLOWED = 5
SPEED = 10.0
"""Times; what is decided alike within a minute is told as one message."""


def _services(root: Path) -> list[dict[str, Any]]:
    """A release each, in a file by its name; the same programs serve all."""
    (root / "present").mkdir()
    for name in SERVICES:
        (root / "present" / name).write_text("v2\n")
    mine = f"{root}/present/$ROLLBACKD_SERVICE"
    layer = {
        "adapter": "command",
        "current": [script(root / "bin/current", f'read it < "{mine}"', 'echo "$it"')],
        "releases": [script(root / "bin/releases", "echo v2; echo v1; echo v0")],
        "apply": [
            script(
                root / "bin/apply", f'echo "$ROLLBACKD_AFTER" > "{mine}"', f'echo "$ROLLBACKD_SERVICE" >> {root}/went'
            )
        ],
    }
    well = script(root / "bin/well", f'read it < {root}/present/"$1" && [ "$it" = v1 ]')
    return [
        {
            "name": name,
            "match": {"service": name},
            "bake": "1h",
            "layers": {"code": layer},
            "checks": {"well": {"command": [well, name]}},
            "verify": {"settle": "0s", "every": "1s", "passes": 1, "checks": ["well"]},
        }
        for name in SERVICES
    ]


def _told(body: dict[str, Any]) -> list[str]:
    """Whom a message says to need a person: the first ones with their lines, the others by their names alone."""
    texts = [block["text"]["text"] for block in body["blocks"] if "text" in block]
    whole = [text.partition(" needs a person")[0].strip("*") for text in texts if " needs a person" in text]
    also = [text.removeprefix("*Also*\n").split(", ") for text in texts if text.startswith("*Also*\n")]
    return [name.rpartition(" ")[2] for name in (*whole, *chain.from_iterable(also))]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("killed", [False, True], ids=["alive", "killed after the third opening"])
async def test_of_fifty_bad_services_the_budget_lets_five_go_and_the_rest_is_told(tmp_path: Path, killed: bool) -> None:
    slack = SlackFake()
    history = [State({"code": Release(release)}) for release in ("v0", "v1", "v2")]
    delivery = [alert(name) for name in SERVICES]
    async with serving(slack) as url, zygote() as mother:
        world = World(tmp_path, mother, slack, f"{url}{slack.path}")
        world.settings = {"speed": SPEED, "origin": datetime.now(UTC).isoformat()}
        limits = {"common_cause": False, "fleet": {"rollbacks": ALLOWED, "per": "1h"}}
        world.configure(_services(tmp_path), limits=limits)
        await world.deployed(dict.fromkeys(SERVICES, history))
        if killed:
            life = await world.begin(once="SELECT count(*) >= 3 FROM facts WHERE kind = 'Opening'")
            answered = await world.post(*delivery)
            assert await life.ended() == -9
            assert world.counted("SELECT count(*) FROM facts WHERE kind = 'Opening'") == 3
            life = await world.begin()
            assert answered or await world.post(*delivery)
        else:
            life = await world.begin()
            assert await world.post(*delivery)

        async def ended() -> bool:
            return (
                world.counted("SELECT count(*) FROM facts WHERE kind = 'Closed'") == ALLOWED
                and world.counted("SELECT count(*) FROM inbox WHERE NOT handled") == 0
                and world.counted("SELECT count(*) FROM outbox WHERE ended IS NULL") == 0
                and world.counted("SELECT count(*) FROM outbox WHERE grouped LIKE 'refused/%'") >= 50 - ALLOWED
            )

        await until(ended, "five rollbacks, and forty-five refusals told")
        assert await life.stop() == 0
        records = await world.checked()
    went = {fact.service for fact in of_kind(records, facts.Opening)}
    assert len(of_kind(records, facts.Opening)) == len(went) == ALLOWED
    assert sorted((tmp_path / "went").read_text().split()) == sorted(went)
    assert {name for name in SERVICES if (tmp_path / "present" / name).read_text() == "v1\n"} == went
    assert [fact.outcome for fact in of_kind(records, facts.Closed)] == [Outcome.RECOVERED] * ALLOWED
    refused = [fact.decision for fact in of_kind(records, facts.Decided) if not fact.decision.joins]
    assert sorted(decision.trigger.service for decision in refused) == sorted(set(SERVICES) - went)
    for decision in refused:
        assert [finding.guard for finding in decision.against] == ["fleet_budget"]
        assert decision.against[0].reason == "5 of 5 rollbacks of the fleet in 1h are used"
    messages = [body for body in slack.taken if "needs a person" in json.dumps(body)]
    assert {name for body in messages for name in _told(body)} == set(SERVICES) - went
    assert len(messages) <= 6, "told together, not one by one"
    assert slack.wrong == []
