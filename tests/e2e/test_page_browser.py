"""The page in a real browser: live steps, an approval by click, and the daemon restarted under an open page."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.chromium import PROGRAM, Tab, chromium
from tests.fakes.operations import NOON, OPENED, FakeOperations
from tests.fakes.serving import Served, serving

pytestmark = [pytest.mark.needs(PROGRAM), pytest.mark.timeout(600)]
UPDATES = 50


async def log_in(served: Served, tab: Tab) -> None:
    """By a link, and a click on its button."""
    async with served.unix.post("/api/v1/login", json={}) as answer:
        code = (await answer.json())["url"].partition("code=")[2]
    await tab.open(f"{served.url}/login?code={code}")
    await tab.run("document.querySelector('button.good').click()")
    await tab.until("document.querySelector('#services')")


async def test_an_incident_is_followed_and_approved_by_click(tmp_path: Path) -> None:
    operations = FakeOperations()
    operations.ask()
    async with chromium(tmp_path) as tab:
        async with serving(tmp_path / "s.sock", operations) as served:
            await log_in(served, tab)
            await tab.looks(360, dark=True)
            await tab.open(f"{served.url}/incidents/checkout-2")
            await tab.run("document.querySelector('#order-approve summary').click()")
            await tab.run("document.querySelector('#reason-approve').focus()")
            await tab.call("Input.insertText", text="yes, <b>back</b>")
            for number in range(1, UPDATES + 1):
                await operations.note("checkout-2", "Adopted", f"looked at again, {number}")
            await tab.until(f"document.querySelector('#record-{UPDATES}')", within=240)
            assert await tab.run("document.activeElement.id") == "reason-approve"
            assert await tab.run("document.activeElement.value") == "yes, <b>back</b>"
            assert await tab.run("document.querySelector('#order-approve').open") is True
            assert await tab.run("document.documentElement.scrollWidth") <= 360
            await tab.run("document.querySelector('#order-approve button').click()")
            await tab.until("document.readyState === 'complete' && !document.activeElement.value")
            assert [one[:1] + one[3:4] for one in operations.orders] == [("approve", "yes, <b>back</b>")]
            operations.incidents_["checkout-2"] = replace(OPENED, id="checkout-2", status="verifying")
            await operations.note("checkout-2", "Applied", "applied code")
            await tab.until("document.querySelector('h1').textContent.includes('rolled back, checking')")
            assert await tab.run("!document.querySelector('#order-approve')")
            port = served.server.port
        await tab.until("document.querySelector('#not-live').textContent.includes('Not live since')")
        ended = replace(OPENED, id="checkout-2", status="closed", outcome="recovered", closed=NOON)
        operations.incidents_["checkout-2"] = ended
        async with serving(tmp_path / "s.sock", operations, listen=f"127.0.0.1:{port}"):
            await tab.until("document.querySelector('h1').textContent.includes('rolled back, recovered')")
            await tab.until("!document.querySelector('#not-live').textContent")
            assert await tab.run("document.querySelector('[role=status]').textContent") == (
                "checkout-2: rolled back, recovered."
            )
        refused = [one for one in tab.complaints if "Failed to load resource" not in one and "ERR_" not in one]
        assert refused == []  # what was not reached while nobody listened is no fault of the page
