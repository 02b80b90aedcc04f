"""All that the page shows in some situations, as outlines in `tests/data/page`: a line that a template loses is missed.

`python -m tests.unit.test_page_outlines` writes them; what is different then is looked at before it is kept.
"""

import asyncio
import getpass
import re
import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path

from rollbackd import __version__
from rollbackd.views.shapes import IncidentView, StepView, VerificationView
from tests.fakes.operations import ASKING, CHECKOUT, DECIDED, HOTFIX, NOON, OPENED, FakeOperations
from tests.fakes.serving import serving
from tests.unit.test_page import PAGES, REPORTS, Browser, _hostile, browsing

KEPT = Path(__file__).parents[1] / "data/page"
_VARIES = (
    (re.compile(r"\b[0-9a-f]{64}\b"), "WORD"),
    (re.compile(r"assets/[0-9a-f]+/"), "assets/HASH/"),
    (re.compile(re.escape(f"rollbackd {__version__}")), "rollbackd VERSION"),
    (re.compile(re.escape(f"unix:{getpass.getuser()}") + r"\b"), "unix:USER"),
    (re.compile(r'name="code" value="[^"]*"'), 'name="code" value="CODE"'),
)
_INLINE = frozenset({"a", "span", "strong", "time", "code", "label", "summary", "button", "option", "td", "dd", "th"})
MINUTE = timedelta(minutes=1)


class Outline(HTMLParser):
    """A page as lines: an element with its attributes and the text right after it; what is inline stays on its line."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._drawing = False
        self.feed(text)

    def handle_decl(self, decl: str) -> None:
        self.lines.append(f"<!{decl}>")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if not self._drawing:
            given = "".join(f" {name}={value or ''}" for name, value in attrs)
            if tag in _INLINE and self.lines:
                self.lines[-1] += f"<{tag}{given}>"
            else:
                self.lines.append(f"<{tag}{given}>")
        self._drawing = self._drawing or tag == "svg"

    def handle_endtag(self, tag: str) -> None:
        self._drawing = self._drawing and tag != "svg"
        if not self._drawing:
            self.lines[-1] += f"</{tag}>"

    def handle_data(self, data: str) -> None:
        if not self._drawing and data.strip():
            self.lines[-1] += f" {' '.join(data.split())} "


def outline(text: str) -> str:
    for pattern, word in _VARIES:
        text = pattern.sub(word, text)
    return "".join(f"{line}\n" for line in Outline(text).lines)


async def outlines(place: Path) -> AsyncIterator[tuple[str, str]]:
    """Each situation's pages."""
    async with serving(place / "s.sock", name="ops-1") as served, browsing(served) as one:
        operations = served.operations
        operations.ask()
        yield "login", await _shown(one, "/login", "/login?code=nonsense", "/login?code=" + await one.link())
        await one.log_in()
        async with one.client.get(f"{served.url}/") as answer:
            yield "whole", outline(await answer.text())
        yield "asking", await _shown(one, *PAGES, *REPORTS, "/?find=zz", "/services/search", "/incidents/nowhere-1")
        for service in ("checkout", "search"):
            async with one.client.post(
                f"{served.url}/services/{service}/plan", data={"form": await one.word()}, headers={"Origin": served.url}
            ) as answer:
                yield f"plan-{service}", _main(await answer.text())
        _everything(operations)
        yield "everything", await _shown(one, "/?page=2", *PAGES[1:])
        operations.services_ = {"checkout": replace(CHECKOUT, rules=(), present=None, target=None)}
        operations.incidents_ = {"checkout-2": _ended()}
        operations.records["checkout-2"] = []
        yield "ended", await _shown(one, "/", "/services/checkout", "/incidents/checkout-2")
    async with serving(place / "v.sock", name="ops-1") as served, browsing(served) as one:
        served.operations.ask()
        await one.log_in("viewer")
        yield "viewer", await _shown(one, "/", "/services/checkout", "/incidents/checkout-2")
    async with serving(place / "n.sock", name="ops-1") as served, browsing(served) as one:
        async with one.client.get(f"{served.url}/login") as answer:
            yield "nobody", outline(await answer.text())
        await one.log_in()
        served.operations.decided = replace(DECIDED, action="roll_back")
        yield "calm", await _shown(one, "/", "/incidents", "/decisions")


def _everything(operations: FakeOperations) -> None:
    """Whatever can be there is."""
    _hostile(operations, "said")
    operations.ready = False
    operations.services_["checkout"] = replace(CHECKOUT, waiting=(HOTFIX,), asks=True)
    operations.services_ |= {f"s{n}": replace(CHECKOUT, name=f"s{n}") for n in range(120)}
    running = StepView("code", "v41", "v40", "running", attempt=2, since=NOON - MINUTE, expected=MINUTE * 2)
    operations.incidents_["checkout-2"] = replace(
        operations.incidents_["checkout-2"],
        steps=(running,), verification=VerificationView(1, 2, NOON + MINUTE, NOON + MINUTE * 5), watch_until=NOON,
    )  # fmt: skip


def _ended() -> IncidentView:
    return replace(
        ASKING,
        status="closed",
        outcome="failed",
        closed=NOON + MINUTE,
        question=None,
        entered=("freeze",),
        steps=OPENED.steps,
    )


async def _shown(one: Browser, *paths: str) -> str:
    return "".join(
        [f"== {re.sub('code=[^n].*', 'code=CODE', path)}\n{_main((await one.get(path))[1])}" for path in paths]
    )


def _main(text: str) -> str:
    """What a page has of its own: its title, and what is in the middle."""
    title = text[text.index("<title") : text.index("</title>")]
    return outline(title + text[text.index("<main") : text.index("</main>")])


async def test_pages_show_all_that_was_looked_at_and_nothing_else(tmp_path: Path) -> None:
    found = {name: text async for name, text in outlines(tmp_path)}
    assert {file.stem for file in KEPT.iterdir()} == set(found)
    for name, text in found.items():
        assert text == (KEPT / f"{name}.txt").read_text(), name


async def _main_() -> None:
    with tempfile.TemporaryDirectory() as place:
        KEPT.mkdir(exist_ok=True)
        async for name, text in outlines(Path(place)):
            (KEPT / f"{name}.txt").write_text(text)


if __name__ == "__main__":
    asyncio.run(_main_())
