"""The page: what it shows without scripts, who may order, what text from outside does to it, and its streams."""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import cast
from unittest.mock import Mock

import aiohttp
import pytest
from aiohttp.test_utils import make_mocked_request

import rollbackd.page
from rollbackd.model import Request
from rollbackd.operations import Operations
from rollbackd.page import streams as page_streams
from rollbackd.page.sessions import LASTS, LINK_LASTS, PageSessions
from rollbackd.page.streams import MOST_STREAMS, PageStreams
from rollbackd.views.shapes import CheckView, DecisionView, FindingView, HoldView, RecordView, RuleView
from tests.fakes.clock import ManualClock
from tests.fakes.operations import ASKING, CHECKOUT, DECIDED, NOON, OPENED, PLOT, SEARCH, V41, FakeOperations
from tests.fakes.serving import TOKENS, Served, serving

PAGES = ("/", "/services/checkout", "/incidents", "/incidents/checkout-2", "/decisions")
REPORTS = ("/reports", "/incidents/checkout-2/report")
"""They show what is over, so nothing keeps them up to date."""
ORDERS: tuple[tuple[str, dict[str, str]], ...] = (
    ("/incidents/checkout-2/approve", {}), ("/incidents/checkout-2/deny", {}), ("/incidents/checkout-2/abort", {}),
    ("/incidents/checkout-2/acknowledge", {}), ("/incidents/checkout-2/escalate", {}),
    ("/services/checkout/mending", {"length": "8m"}),
    ("/services/checkout/acknowledge", {}), ("/services/checkout/hold", {}),
    ("/services/checkout/resume", {}), ("/services/checkout/rollback", {"plan_id": "1a2b3c4d5e6f"}), ("/hold", {}),
    ("/resume", {}), ("/breaker", {}),
)  # fmt: skip
HOSTILE = (
    "<img src=x onerror=alert(1)>", "</script><script>alert(1)</script>", '"><svg onload=alert(1)>', "x" * 10_000,
    "\u202etxt.exe\u2066", "<hx-partial hx-target=body>", "{{ 7 * 7 }}", "&lt;b&gt;", "\x1b[2J\x00",
    "@form-of-the-session@",
)  # fmt: skip
VENDORED = {
    "htmx.min.js": ("4.0.1", "a0abb04f2f45a1f89d1d4844023245537e5e6014c87b144553e0607b4cc32130"),
    "hx-sse.min.js": ("4.0.1", "18ef2761356ec1fe0bb6d92612315b37517a7c1e9856b661c5ae81fef239d103"),
}


class Markup(HTMLParser):
    """The elements, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str, name: str) -> list[str]:
        return [value for one, attribute, value in self.attributes if (one, attribute) == (tag, name)]


class Browser:
    """A person's browser: it keeps cookies, says where a form comes from, and runs no script."""

    def __init__(self, served: Served, client: aiohttp.ClientSession) -> None:
        self.served = served
        self.client = client
        self.origin = served.url

    async def get(self, path: str) -> tuple[int, str]:
        async with self.client.get(self.served.url + path) as answer:
            return answer.status, await answer.text()

    async def post(self, path: str, fields: dict[str, str], **headers: str) -> aiohttp.ClientResponse:
        given = {"Origin": self.origin, **headers}
        async with self.client.post(
            self.served.url + path, data=fields, headers=given, allow_redirects=False
        ) as answer:
            await answer.read()
            return answer

    async def word(self) -> str:
        """What the session's forms carry."""
        _, text = await self.get("/services/checkout")
        found = re.search(r'name="form" value="([0-9a-f]{64})"', text)
        assert found is not None
        return found.group(1)

    async def order(self, path: str, **fields: str) -> aiohttp.ClientResponse:
        return await self.post(path, {"form": await self.word(), **fields})

    async def link(self) -> str:
        async with self.served.unix.post("/api/v1/login", json={}) as answer:
            code: str = (await answer.json())["url"].partition("code=")[2]
            return code

    async def log_in(self, role: str = "") -> None:
        """By a link, or by a token of this role."""
        fields = {"token": TOKENS[role]} if role else {"code": await self.link()}
        assert (await self.post("/login", fields)).status == 303


@asynccontextmanager
async def browsing(served: Served) -> AsyncIterator[Browser]:
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(cookie_jar=jar, connector=aiohttp.TCPConnector(limit=0)) as client:
        yield Browser(served, client)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path / "s.sock") as served:
        served.operations.ask()
        yield served


@pytest.fixture
async def browser(served: Served) -> AsyncIterator[Browser]:
    async with browsing(served) as one:
        yield one


# -- what it shows --------------------------------------------------------------------------------
async def test_who_is_not_logged_in_is_sent_to_do_so_and_comes_back(browser: Browser) -> None:
    async with browser.client.get(f"{browser.served.url}/incidents/checkout-2", allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (303, "../login?next=incidents%2Fcheckout-2")
    code = await browser.link()
    answer = await browser.post("/login", {"code": code, "next": "incidents/checkout-2"})
    assert answer.headers["Location"] == "./incidents/checkout-2"


@pytest.mark.parametrize(
    "wanted", ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)"]
)
async def test_a_login_leads_to_our_own_pages_alone(browser: Browser, wanted: str) -> None:
    answer = await browser.post("/login", {"code": await browser.link(), "next": wanted})
    assert (answer.status, answer.headers["Location"]) == (303, "./")


async def test_the_fleet_has_first_what_needs_a_person(browser: Browser) -> None:
    browser.served.operations.breaker = "3 rollbacks in a row did not help"
    await browser.log_in()
    _, text = await browser.get("/")
    said = Markup(text).text
    assert said.index("approval pending") < said.index("2 of 2 services")
    assert "Missing: one of product" in said
    assert "breaker open" in said
    assert said.index("checkout P1") < said.index("search P2")
    assert "oncall (2 messages wait)" in said


async def test_filters_of_the_fleet_are_in_the_address(browser: Browser) -> None:
    await browser.log_in()
    for path, names in (("/?find=sea", ["search"]), ("/?only=asks", ["checkout"]), ("/?find=zz", [])):
        _, text = await browser.get(path)
        assert re.findall(r'id="service-([a-z]+)"', text) == names
    status, text = await browser.get("/?page=0")
    assert (status, "greater than or equal to 1" in text) == (400, True)


async def test_an_incident_says_in_one_sentence_what_is_and_what_comes_next(browser: Browser) -> None:
    await browser.log_in()
    _, text = await browser.get("/incidents/checkout-2")
    assert (
        "checkout: high-error-rate since 2026-03-01 11:55:00 UTC, P1. Approval pending for the rollback to "
        "code v40 (77d0e1f2a3b4): missing is one of product. Without an answer it goes back by itself at 12:15:00, "
        "in 15m." in Markup(text).text
    )


async def test_a_past_is_drawn_and_told(browser: Browser) -> None:
    await browser.log_in()
    _, text = await browser.get("/services/checkout")
    page = Markup(text)
    assert page.all("svg", "role") == ["img"]
    assert {"title", "desc"} <= set(page.elements)
    assert text.count("<rect") == 4  # two states, an incident and a hold
    assert "held: release day" in page.text


async def test_what_was_measured_is_drawn_with_the_way_to_its_query_and_told_in_words(browser: Browser) -> None:
    await browser.log_in()
    operations = browser.served.operations
    await operations.note("checkout-2", "Measured", "measured 0.02 to 0.342")
    _, text = await browser.get("/incidents/checkout-2")
    page = Markup(text)
    assert page.all("svg", "role") == ["img"]
    for words in ("job:errors:ratio5m", "> 0.1", "The same in words", "after the change", "11:55:00", "0.342"):
        assert words in page.text
    assert "measured 0.02" not in page.text, "it is shown, not told"
    assert "/graph" not in text
    operations.plot = replace(PLOT, url="https://prometheus.example/graph?g0.expr=job")
    assert "https://prometheus.example/graph?g0.expr=job" in Markup(
        (await browser.get("/incidents/checkout-2"))[1]
    ).all("a", "href")
    assert "<svg" in (await browser.get("/incidents/checkout-2/report"))[1]
    operations.plot = None
    for path in ("/incidents/checkout-2", "/incidents/checkout-2/report"):
        status, text = await browser.get(path)
        assert (status, "<svg" in text, "The same in words" in text) == (200, False, False)


async def test_reports_are_of_an_incident_and_of_a_month(browser: Browser) -> None:
    await browser.log_in("viewer")
    assert "Its report" not in (await browser.get("/incidents/checkout-2"))[1]
    await browser.served.operations.close("checkout-2", "recovered")
    _, text = await browser.get("/incidents/checkout-2/report")
    said = Markup(text).text
    for words in ("checkout-2: recovered", "How long it took", "Timeline", "After-care: Immediate"):
        assert words in said
    _, of_it = await browser.get("/incidents/checkout-2")
    assert 'href="../incidents/checkout-2/report"' in of_it
    _, text = await browser.get("/reports")
    page = Markup(text)
    for words in (f"Rollbacks in {NOON:%Y-%m}", "1 (50.0%)", "errors", "search: nothing there"):
        assert words in page.text
    assert page.elements.count("option") == 13
    for path in REPORTS:
        async with browser.client.get(f"{browser.served.url}{path}?live=1") as answer:
            assert answer.content_type == "text/html", "it has nothing to stream"
    _, text = await browser.get("/reports?month=1999-12")
    assert "Rollbacks in 1999-12" in Markup(text).text
    assert text.count("<option") == 14


@pytest.mark.parametrize(
    ("path", "status"),
    [("/services/nowhere", 404), ("/incidents/nowhere-1", 404), ("/incidents?limit=x", 400), ("/assets/x/y", 404)],
)
async def test_what_is_not_there_is_a_page_that_says_so(browser: Browser, path: str, status: int) -> None:
    await browser.log_in()
    found, text = await browser.get(path)
    assert found == status
    assert 'role="alert"' in text


# -- orders ---------------------------------------------------------------------------------------
async def test_every_order_is_a_form_that_is_done_as_who_logged_in(browser: Browser) -> None:
    await browser.log_in("operator")
    browser.served.operations.holds_["*"] = HoldView("*", "unix:ann", "", "api")
    for path, fields in ORDERS:
        answer = await browser.order(path, reason="because", **fields)
        assert answer.status == 303, (path, answer.status)
    orders = browser.served.operations.orders
    assert {order[0] for order in orders} == {
        "approve", "deny", "abort", "acknowledge", "escalate", "mending", "hold", "unhold", "rollback", "resume",
    }  # fmt: skip
    assert ("approve", "checkout-2", "token:release-desk", "because", None) in orders
    wanted = Request("checkout", "token:release-desk", "because", plan_id="1a2b3c4d5e6f")
    assert ("rollback", wanted) in orders


async def test_a_rollback_is_ordered_as_it_was_shown(browser: Browser) -> None:
    await browser.log_in()
    answer = await browser.order("/services/checkout/rollback")
    assert answer.status == 400
    async with browser.client.post(
        f"{browser.served.url}/services/checkout/plan", data={"form": await browser.word()},
        headers={"Origin": browser.origin},
    ) as shown:  # fmt: skip
        text = await shown.text()
    assert 'name="plan_id" value="1a2b3c4d5e6f"' in text
    assert "outside the allowed windows" in text


async def test_a_hold_lasts_as_long_as_it_says(browser: Browser) -> None:
    await browser.log_in()
    assert (await browser.order("/services/checkout/hold", length="1h30m")).status == 303
    assert (await browser.order("/services/checkout/hold", length="soon")).status == 400
    (held,) = [order for order in browser.served.operations.orders if order[0] == "hold"]
    assert held[4] is not None


async def test_a_refused_order_says_why(browser: Browser) -> None:
    await browser.log_in()
    async with browser.client.post(
        f"{browser.served.url}/services/search/rollback",
        data={"form": await browser.word(), "plan_id": "1a2b3c4d5e6f"}, headers={"Origin": browser.origin},
    ) as answer:  # fmt: skip
        assert answer.status == 409
        assert "no good state" in await answer.text()


@pytest.mark.parametrize("path", [path for path, _ in ORDERS])
async def test_nobody_orders_by_opening_a_link(browser: Browser, path: str) -> None:
    await browser.log_in()
    status, _ = await browser.get(path)
    assert status == 405
    assert browser.served.operations.orders == []


async def _forged(browser: Browser, how: str) -> aiohttp.ClientResponse:
    word = await browser.word() if how not in {"nobody", "viewer"} else ""
    path = "/incidents/checkout-2/approve"
    match how:
        case "no word":
            return await browser.post(path, {})
        case "another word":
            return await browser.post(path, {"form": "0" * 64})
        case "foreign origin":
            return await browser.post(path, {"form": word}, Origin="https://evil.example")
        case "no origin":
            return await browser.post(path, {"form": word}, Origin="null")
        case "broken origin":
            return await browser.post(path, {"form": word}, Origin="http://[::1")
        case "yesterday":
            browser.client.cookie_jar.clear()
            await browser.log_in()
            return await browser.post(path, {"form": word})
        case "logged out":
            cookies = {one.key: one.value for one in browser.client.cookie_jar}
            await browser.post("/logout", {"form": word})
            browser.client.cookie_jar.update_cookies(cookies)
            return await browser.post(path, {"form": word})
        case "viewer":
            await browser.log_in("viewer")
            _, text = await browser.get("/services/checkout")
            word = Markup(text).all("input", "value")[0]
            return await browser.post(path, {"form": word})
    return await browser.post(path, {"form": word})


@pytest.mark.parametrize(
    "how",
    [
        "no word",
        "another word",
        "foreign origin",
        "no origin",
        "broken origin",
        "yesterday",
        "logged out",
        "viewer",
        "nobody",
    ],
)
async def test_a_forged_order_does_nothing_and_is_logged(
    browser: Browser, how: str, capfd: pytest.CaptureFixture[str]
) -> None:
    if how not in {"viewer", "nobody"}:
        await browser.log_in()
    answer = await _forged(browser, how)
    assert answer.status == 403
    assert browser.served.operations.orders == []
    assert "an order of the page was refused" in "".join(capfd.readouterr())


async def test_a_viewer_sees_no_button_that_orders(browser: Browser) -> None:
    await browser.log_in("viewer")
    for path in (*PAGES, *REPORTS):
        _, text = await browser.get(path)
        actions = {action.lstrip("./") for action in Markup(text).all("form", "action")}
        assert actions <= {"", "logout", "reports", "services/checkout/plan"}, path


# -- coming in ------------------------------------------------------------------------------------
async def test_a_link_is_good_once_and_opening_it_uses_nothing_up(browser: Browser) -> None:
    code = await browser.link()
    for _ in range(2):
        _, text = await browser.get(f"/login?code={code}")
        assert "Log in as unix:" in text
    assert (await browser.post("/login", {"code": code})).status == 303
    assert (await browser.post("/login", {"code": code})).status == 403


async def test_a_link_is_made_on_the_socket_alone(browser: Browser) -> None:
    async with browser.client.post(
        f"{browser.served.url}/api/v1/login", headers=browser.served.bearer("operator"), json={}
    ) as answer:
        assert answer.status == 403


def test_links_and_sessions_end_in_time_and_outlive_a_restart(tmp_path: Path) -> None:
    clock, key = ManualClock(), tmp_path / "page.key"
    sessions = PageSessions(clock, key)
    code, late = sessions.link("unix:ann"), sessions.link("unix:bob")
    session = sessions.use(code)
    assert session is not None
    assert key.stat().st_mode & 0o777 == 0o600
    again = PageSessions(clock, key)
    assert again.find(session.cookie) == session
    assert again.find(f"{session.cookie[:-1]}{'1' if session.cookie.endswith('0') else '0'}") is None
    clock.advance(LINK_LASTS)
    assert sessions.use(late) is None
    clock.advance(LASTS - LINK_LASTS)
    assert again.find(session.cookie) is None
    assert PageSessions(clock, tmp_path / "other.key").find(sessions.begin("unix:ann", "").cookie) is None


async def test_a_cookie_of_any_bytes_lets_nobody_in_and_is_no_fault_of_ours(browser: Browser) -> None:
    host = browser.served.url.removeprefix("http://")
    reader, writer = await asyncio.open_connection(*host.split(":"))
    for cookie in (
        b'rollbackd="\xff.x"',
        b"rollbackd=\xc3\xa4.\xe2\x82\xac",
        b"rollbackd=.",
        b"rollbackd=" + b"a" * 4000,
    ):
        writer.write(b"GET / HTTP/1.1\r\nHost: %s\r\nCookie: %s\r\n\r\n" % (host.encode(), cookie))
        answer = (await reader.readuntil(b"\r\n\r\n")).split()
        assert answer[1] in {b"303", b"200"}, (cookie, answer)
        length = int(next((value for name, value in pairwise(answer) if name == b"Content-Length:"), 0))
        await reader.readexactly(length)
    writer.close()


async def test_a_source_may_not_look_and_a_wrong_token_is_slowed_down(browser: Browser) -> None:
    begun = asyncio.get_running_loop().time()
    assert (await browser.post("/login", {"token": TOKENS["source"]})).status == 403
    assert asyncio.get_running_loop().time() - begun >= 1
    found = await asyncio.gather(*(browser.post("/login", {"token": f"guess {n}"}) for n in range(20)))
    assert sorted({answer.status for answer in found}) == [403, 429]


async def test_the_cookie_is_closed_to_scripts_and_under_tls_to_other_hosts(tmp_path: Path) -> None:
    for url, name, secure in (("", "rollbackd", False), ("https://ops.example/rollbackd", "__Host-rollbackd", True)):
        async with serving(tmp_path / "s.sock", url=url) as served, browsing(served) as browser:
            browser.origin = "https://ops.example" if url else served.url
            answer = await browser.post("/login", {"token": TOKENS["viewer"]})
            cookie = answer.cookies[name]
            assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "Lax", "/")
            assert bool(cookie["secure"]) is secure


async def test_every_answer_forbids_what_the_page_does_not_need(browser: Browser) -> None:
    await browser.log_in()
    for path in (*PAGES, "/login", "/services/nowhere"):
        async with browser.client.get(browser.served.url + path) as answer:
            policy = answer.headers["Content-Security-Policy"]
            text = await answer.text()
        assert policy.startswith("default-src 'none'")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        page = Markup(text)
        assert not {"style", "iframe"} & set(page.elements)
        assert not [name for _, name, _ in page.attributes if name == "style" or name.startswith("on")]
        links = (
            page.all("a", "href") + page.all("script", "src") + page.all("link", "href") + page.all("form", "action")
        )
        assert [one for one in links if one.startswith(("/", "http"))] == []


def test_what_is_vendored_is_what_was_released() -> None:
    assets = Path(rollbackd.page.__path__[0]) / "assets"
    for name, (version, digest) in VENDORED.items():
        body = (assets / name).read_bytes()
        assert hashlib.sha256(body).hexdigest() == digest, name
        assert version.encode() in body or name != "htmx.min.js"


# -- text from outside ----------------------------------------------------------------------------
def _hostile(operations: FakeOperations, text: str) -> None:
    """Put a text wherever text from outside can be."""
    state = replace(V41, releases={"code": text}, good=text, change=text)
    finding = FindingView(text, "ask", text)
    checkout = replace(
        CHECKOUT, present=state, target=state, cannot=text, rules=(RuleView(text, "bad", text, NOON),),
    )  # fmt: skip
    question = ASKING.question
    assert question is not None
    operations.services_ = {"checkout": checkout, "search": replace(SEARCH, cannot=text)}
    operations.history = [state]
    operations.holds_ = {"*": HoldView("*", text, text, "api"), "checkout": HoldView("checkout", text, text, "file")}
    operations.past_ = [RecordView(1, NOON, text, "Held", text), RecordView(2, NOON, text, "Announced", text)]
    asked = replace(question, why=(text,), missing=text, of=text, excluded=text, approvals=(text,))
    operations.incidents_["checkout-2"] = replace(
        ASKING, rule=text, reason=text, question=asked, change=text, notes=(text,), before=state, target=state,
        steps=tuple(replace(step, after=text, risks=(text,)) for step in OPENED.steps), acknowledged=text,
        entered=(text,), plan=text, evidence=(CheckView(text, "bad", text),),
    )  # fmt: skip
    operations.records["checkout-2"] = [
        RecordView(1, NOON, text, "ApplyFailed", text, {"evidence": text}), RecordView(2, NOON, text, "Told", text),
    ]  # fmt: skip
    operations.decided = replace(DECIDED, rule=text, evidence=(text,), findings=(finding,), change=text)
    operations.breaker = text
    operations.counted = text


@pytest.mark.parametrize("text", HOSTILE)
async def test_text_from_outside_is_text(browser: Browser, text: str) -> None:
    await browser.log_in()
    usual = {path: Markup((await browser.get(path))[1]).elements for path in (*PAGES, *REPORTS)}
    _hostile(browser.served.operations, text)
    shown = text[:2000] if text.isalpha() else re.sub("[\x00\x1b\u202e\u2066]", "", text)[:5]
    for path in (*PAGES, *REPORTS):
        status, found = await browser.get(path)
        page = Markup(found)
        assert status == 200
        assert shown in page.text, path
        assert not set("\u202e\u2066\x00\x1b") & set(found)
        assert not {"img", "hx-partial"} & set(page.elements)
        assert page.elements.count("script") == usual[path].count("script") == 3
        assert not [name for _, name, _ in page.attributes if name.startswith("on")]
        assert len(found) < 300_000
    for path in PAGES:
        streamed = await _first(browser, path)
        assert not {"img", "script"} & set(Markup(streamed).elements)


# -- streams --------------------------------------------------------------------------------------
async def _event(answer: aiohttp.ClientResponse) -> dict[str, str]:
    """The next event of a stream."""
    event: dict[str, str] = {}
    async with asyncio.timeout(60):
        while True:
            line = (await answer.content.readline()).decode().rstrip("\r\n")
            if not line and event:
                return event
            name, _, value = line.partition(": ")
            if name:
                event[name] = f"{event[name]}\n{value}" if name in event else value


async def _first(browser: Browser, path: str) -> str:
    async with browser.client.get(f"{browser.served.url}{path}?live=1") as answer:
        return (await _event(answer))["data"]


async def test_a_stream_sends_what_changed_with_the_journals_place(browser: Browser) -> None:
    await browser.log_in()
    operations = browser.served.operations
    async with browser.client.get(f"{browser.served.url}/incidents/checkout-2?live=1") as answer:
        assert answer.content_type == "text/event-stream"
        assert answer.headers["X-Accel-Buffering"] == "no"
        first = await _event(answer)
        assert (first["id"], first["data"].count("<hx-partial")) == ("1", 8)
        assert await browser.word() in first["data"]
        assert (await _event(answer))["event"] == "alive"
        await operations.note("checkout-2", "Approved", "approved: go", "unix:ann")
        second = await _event(answer)
        assert (second["id"], second["data"].count("<hx-partial")) == ("2", 1)
        assert "approved: go" in second["data"]


async def test_every_live_part_is_one_element_of_its_page(browser: Browser) -> None:
    await browser.log_in()
    for path in PAGES:
        _, text = await browser.get(path)
        targets = re.findall(
            r'hx-target="#([a-z]+)" hx-swap="outerMorph"><[a-z]+ id="([a-z]+)"', await _first(browser, path)
        )
        assert targets, path
        for target, own in targets:
            assert target == own
            assert text.count(f'id="{own}"') == 1


async def test_streams_are_bounded_and_end_with_the_server(browser: Browser) -> None:
    await browser.log_in()
    address = f"{browser.served.url}/decisions?live=1"
    streams = [await browser.client.get(address) for _ in range(MOST_STREAMS)]
    for one in streams:
        assert "id" in await _event(one)
    async with browser.client.get(address) as late:
        told = await _event(late)
        assert "64 pages are live already" in told["data"]
        assert told["retry"] == "15000"
        assert await late.content.read() == b""
    await asyncio.wait_for(browser.served.server.stop(), 30)
    for one in streams:
        await asyncio.wait_for(one.content.read(), 30)
        one.release()


async def test_a_page_is_made_once_for_all_who_look_at_it(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    await browser.log_in()
    operations, looks = browser.served.operations, list[str]()
    usual = operations.decisions

    async def decisions(service: str = "", limit: int = 50, before: int = 0) -> list[DecisionView]:
        looks.append(service)
        return await usual(service, limit)

    streams = [await browser.client.get(f"{browser.served.url}/decisions?live=1") for _ in range(20)]
    for one in streams:
        assert (await _event(one))["id"] == "1"
        assert (await _event(one))["event"] == "alive"
    monkeypatch.setattr(operations, "decisions", decisions)
    operations.decided = replace(DECIDED, rule="another-rule")
    await operations.note("checkout-2", "Adopted", "driven")
    for one in streams:
        event = await _event(one)
        while event.get("event") == "alive":
            event = await _event(one)
        assert (event["id"], "another-rule" in event["data"]) == ("2", True)
    assert len(looks) < len(streams) / 2
    for one in streams:
        one.close()


async def test_who_is_gone_before_a_stream_begins_is_no_trouble() -> None:
    streams = PageStreams(cast("Operations", FakeOperations()), ManualClock())
    gone = make_mocked_request("GET", "/decisions?live=1", protocol=Mock(transport=None))

    async def never() -> dict[str, str]:
        raise AssertionError

    await streams.serve(gone, "", "page", never, lambda: True)
    assert streams.count == 0


async def test_dear_pages_are_looked_at_more_seldom_while_nothing_is_written(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    await browser.log_in()
    operations, looks = browser.served.operations, list[str]()
    usual = operations.decisions

    async def dear(service: str = "", limit: int = 50) -> list[DecisionView]:
        looks.append(service)
        await asyncio.sleep(0.3)
        return await usual(service, limit)

    monkeypatch.setattr(operations, "decisions", dear)
    monkeypatch.setattr(page_streams, "ALIVE", timedelta(seconds=0.1))
    monkeypatch.setattr(page_streams, "_CALM", timedelta())
    async with browser.client.get(f"{browser.served.url}/decisions?live=1") as answer:
        await _event(answer)
        for _ in range(5):
            assert (await _event(answer))["event"] == "alive"
    assert len(looks) == 2  # one for the status, and the first of the stream: the next one is 7 s after it


async def test_a_stream_ends_with_its_session(browser: Browser) -> None:
    await browser.log_in()
    async with browser.client.get(f"{browser.served.url}/decisions?live=1") as answer:
        await _event(answer)
        await browser.post("/logout", {"form": await browser.word()})
        browser.served.operations.records["checkout-2"] = []
        await browser.served.operations.note("checkout-2", "Adopted", "driven")
        await asyncio.wait_for(answer.content.read(), 30)
    async with browser.client.get(f"{browser.served.url}/decisions?live=1", allow_redirects=False) as answer:
        assert answer.status == 401


# -- every status ---------------------------------------------------------------------------------
STATUSES = ("asking", "queued", "running", "paused", "parked", "verifying")
OUTCOMES = (
    "recovered", "ineffective", "unverified", "failed", "aborted", "declined", "expired", "passed", "superseded",
)  # fmt: skip


@pytest.mark.parametrize("word", [*STATUSES, *OUTCOMES])
async def test_every_status_and_every_end_has_words_of_its_own(browser: Browser, word: str) -> None:
    await browser.log_in()
    outcome = word if word in OUTCOMES else ""
    closed = NOON + timedelta(minutes=4) if outcome else None
    browser.served.operations.incidents_["checkout-2"] = replace(
        OPENED, id="checkout-2", status="closed" if outcome else word, outcome=outcome, closed=closed
    )
    _, text = await browser.get("/incidents/checkout-2")
    condition = re.search(r'<span class="sign ([a-z]+)"><span aria-hidden="true">(.)</span> ([^<]+)</span>', text)
    assert condition is not None
    assert condition.group(2) != "◦"
    said = Markup(text).text
    assert "It took 4m" in said or not outcome
    assert "Abort" not in said or not outcome


def test_templates_have_no_form_that_orders_by_get() -> None:
    for file in (Path(rollbackd.page.__path__[0]) / "templates").iterdir():
        for form in re.findall(r"<form [^>]*>", file.read_text()):
            assert 'method="post"' in form or 'class="filters"' in form, file


def test_templates_mark_nothing_as_safe() -> None:
    for file in (Path(rollbackd.page.__path__[0]) / "templates").iterdir():
        assert not re.search(r"\|\s*safe|autoescape", file.read_text()), file
