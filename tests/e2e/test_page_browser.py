"""The page in a real browser: live steps, an approval by click, and the daemon restarted under an open page.

The same without scripts, with the real daemon; and what stands in the way of somebody who reads it by other means.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path

import pytest
import pytest_asyncio

from tests.chromium import PROGRAM, Tab, chromium
from tests.e2e.toy import TOKEN, toy
from tests.fakes.operations import NOON, OPENED, FakeOperations
from tests.fakes.serving import Served, serving

pytestmark = [
    pytest.mark.needs(PROGRAM), pytest.mark.timeout(600), pytest.mark.asyncio(loop_scope="module"),
]  # fmt: skip
UPDATES = 50
PAGES = (
    "/", "/services/checkout", "/incidents", "/incidents/checkout-1", "/incidents/checkout-2",
    "/incidents/checkout-1/report", "/decisions", "/reports", "/incidents/nobody-1",
)  # fmt: skip
_UNREACHED = """
const reach = window.fetch;
window.fetch = () => {
  window.fetch = reach;
  window.unreached = true;
  return Promise.reject(new TypeError("network changed"));
};
"""
"""The first stream of a page never begins."""
LATE = {"page.js": "window.unreached", "hx-sse.min.js": "window.htmx && document.styleSheets.length"}
"""A script that comes last on a slow line, and what is so before it may."""
LOOKS = [(width, dark) for width in (360, 1400) for dark in (False, True)]
_FOUND = """
axe.run({resultTypes: ["violations"]}).then(found => ({
  asked: found.passes.some(rule => rule.id === "color-contrast"),
  wrong: found.violations.filter(rule => ["serious", "critical"].includes(rule.impact)).flatMap(
    rule => rule.nodes.map(node => `${rule.id}: ${node.html}`)),
}))
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Tab]:
    async with chromium(tmp_path_factory.mktemp("browser")) as one:
        yield one


@pytest_asyncio.fixture(loop_scope="module")
async def tab(browser: Tab) -> Tab:
    """The browser as whoever opens it for the first time has it."""
    await browser.scripts(on=True)
    await browser.call("Network.clearBrowserCookies")
    await browser.call("Page.navigate", url="about:blank")
    browser.complaints.clear()
    return browser


async def log_in(served: Served, tab: Tab) -> None:
    """By a link, and a click on its button."""
    async with served.unix.post("/api/v1/login", json={}) as answer:
        code = (await answer.json())["url"].partition("code=")[2]
    await tab.open(f"{served.url}/login?code={code}")
    await tab.run("document.querySelector('button.good').click()")
    await tab.until("document.querySelector('#services')")


@pytest.mark.parametrize("late", LATE)
async def test_a_stream_that_never_began_is_begun_again(tab: Tab, tmp_path: Path, late: str) -> None:
    """The first request fails, or nothing asks for the stream: a script came after htmx had looked at the page."""
    operations = FakeOperations()
    operations.ask()
    async with serving(tmp_path / "s.sock", operations) as served:
        await log_in(served, tab)
        await tab.call("Network.setCacheDisabled", cacheDisabled=True)
        await tab.call("Fetch.enable", patterns=[{"urlPattern": f"*/{late}"}])
        added = await tab.call("Page.addScriptToEvaluateOnNewDocument", source=_UNREACHED)
        await tab.call("Page.navigate", url=f"{served.url}/incidents/checkout-2")
        await tab.until(LATE[late])
        await asyncio.sleep(1)
        await tab.call("Page.removeScriptToEvaluateOnNewDocument", identifier=added["identifier"])
        await tab.call("Fetch.disable")
        await tab.call("Network.setCacheDisabled", cacheDisabled=False)
        await operations.note("checkout-2", "Adopted", "looked at again")
        await tab.until("document.querySelector('#record-1')")


async def test_an_incident_is_followed_and_approved_by_click(tab: Tab, tmp_path: Path) -> None:
    operations = FakeOperations()
    operations.ask()
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


@cache
def axe() -> str:
    """axe-core, which finds what somebody cannot see, reach or understand."""
    return (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")


async def in_the_way(tab: Tab, page: str) -> list[str]:
    """What is serious on a page, with all that can be opened open, in each width and theme; and what is too wide."""
    wrong = []
    await tab.run(axe())
    await tab.run("for (const one of document.querySelectorAll('details')) one.open = true")
    for width, dark in LOOKS:
        await tab.looks(width, dark=dark)
        await tab.run("Promise.all(document.getAnimations().map(one => one.finished))")
        found = await tab.run(_FOUND)
        assert found["asked"], page
        wrong += [f"{page} at {width}, {'dark' if dark else 'light'}: {one}" for one in found["wrong"]]
        if await tab.run("document.documentElement.scrollWidth") > width:
            wrong.append(f"{page} is wider than {width}")
    return wrong


async def test_nothing_serious_stands_in_anybodys_way(tab: Tab, tmp_path: Path) -> None:
    operations = FakeOperations()
    operations.ask()
    operations.incidents_["checkout-1"] = replace(OPENED, status="closed", outcome="failed", closed=NOON)
    operations.records["checkout-1"] = []
    await operations.note("checkout-1", "Applying", "applying code")
    async with serving(tmp_path / "s.sock", operations) as served:
        await tab.open(f"{served.url}/login")
        wrong = await in_the_way(tab, "/login")
        await log_in(served, tab)
        for page in PAGES:
            await tab.open(served.url + page)
            wrong += await in_the_way(tab, page)
        await tab.open(f"{served.url}/services/checkout")
        await tab.click("form[action$='/plan'] button")
        await tab.until("document.querySelector('input[name=plan_id]')")
        wrong += await in_the_way(tab, "a plan")
    assert wrong == []


async def test_the_story_without_scripts(tab: Tab, tmp_path: Path) -> None:
    with toy(tmp_path / "shop", policy=[{"action": "ask"}]) as shop:
        await asyncio.to_thread(shop.start_with_two_states)
        await tab.scripts(on=False)
        base = f"http://127.0.0.1:{shop.port}"
        await tab.open(f"{base}/login")
        await tab.run("document.querySelector('#token').focus()")
        await tab.call("Input.insertText", text=TOKEN)
        await tab.click("form:last-of-type button")
        await tab.until("document.querySelector('#services')")
        await asyncio.to_thread(shop.alert)
        await tab.until_loaded(base, "[...document.querySelectorAll('#people a')].some(one => one.text === 'shop-1')")
        await tab.click("#people a")
        await tab.until("document.querySelector('h1').textContent.includes('approval pending')")
        await tab.click("#order-approve summary")
        await tab.click("#reason-approve")
        await tab.call("Input.insertText", text="no scripts here")
        await tab.click("#order-approve button")
        # Another navigation would end the sending: the page that answers has an empty field, or none.
        await tab.until("document.querySelector('h1') && !document.querySelector('#reason-approve')?.value")
        await tab.until_loaded(
            f"{base}/incidents/shop-1", "document.querySelector('h1').textContent.includes('rolled back, recovered')"
        )
        said = await tab.run("document.querySelector('#timeline').textContent")
        assert "no scripts here" in said
        assert "token:desk" in said
        assert await tab.run("typeof htmx") == "undefined"
        assert shop.runs == "co-v1"
