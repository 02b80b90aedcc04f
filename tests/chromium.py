"""A headless Chromium, driven over its DevTools protocol: one tab, its console, and what it refuses."""

import asyncio
import base64
import itertools
import json
import os
import re
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp

from tests.servers import remove

PROGRAM = "chromium"
_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-extensions", "--mute-audio",
    "--remote-debugging-port=0",
)  # fmt: skip


class Tab:
    """What a person has before them."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.complaints: list[str] = []
        """Errors of the console, exceptions, and what the policy forbade."""
        self.reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self._socket:
            said = json.loads(message.data)
            if "id" in said:
                self._waiting.pop(said["id"]).set_result(said)
            elif said["method"] == "Runtime.exceptionThrown":
                self.complaints.append(str(said["params"]["exceptionDetails"]))
            elif said["method"] == "Log.entryAdded" and said["params"]["entry"]["level"] == "error":
                self.complaints.append(str(said["params"]["entry"]))

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._waiting[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params})
        answer = await asyncio.wait_for(asyncio.shield(self._waiting[number]), 90)
        assert "error" not in answer, answer
        found: dict[str, Any] = answer["result"]
        return found

    async def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        found = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def until(self, script: str, within: float = 90) -> None:
        """Wait until an expression is true."""
        async with asyncio.timeout(within):
            while True:
                try:
                    found = await self.run(f"Boolean({script})")
                except AssertionError:  # a page went away meanwhile
                    found = None
                if found:
                    return
                await asyncio.sleep(0.1)

    async def open(self, url: str) -> None:
        await self.call("Page.navigate", url=url)
        await self.until(f"document.readyState === 'complete' && location.href.startsWith({json.dumps(url[:20])})")

    async def until_loaded(self, url: str, script: str, within: float = 90) -> None:
        """Load a page again and again, as somebody without scripts does, until an expression is true."""
        async with asyncio.timeout(within):
            while True:
                await self.open(url)
                if await self.run(f"Boolean({script})"):
                    return
                await asyncio.sleep(0.5)

    async def click(self, selector: str) -> None:
        """As a mouse does it, wherever it is."""
        found = await self.run(
            f"(() => {{ const one = document.querySelector({json.dumps(selector)}); "
            "one.scrollIntoView({block: 'center'}); const box = one.getBoundingClientRect(); "
            "return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        where = {"x": found[0], "y": found[1], "button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            await self.call("Input.dispatchMouseEvent", type=kind, **where)

    async def scripts(self, *, on: bool) -> None:
        """Whether pages that are opened from now on may run theirs; what we ask of them by `run` goes on."""
        await self.call("Emulation.setScriptExecutionDisabled", value=not on)

    async def looks(self, width: int, *, dark: bool) -> None:
        """Have it so wide, and in this theme."""
        height = 800 if width < 600 else 1000
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[theme])

    async def picture(self, file: Path) -> None:
        shot = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=False)
        file.write_bytes(base64.b64decode(shot["data"]))


@asynccontextmanager
async def chromium(place: Path) -> AsyncIterator[Tab]:
    """A tab of a Chromium whose files are below a place."""
    errors = place / "chromium.log"
    # A path of its socket may have 107 characters: a test's own directory alone can be too long for that.
    short = Path(tempfile.mkdtemp(prefix="rbd-"))
    try:
        with errors.open("wb") as sink:
            process = await asyncio.create_subprocess_exec(
                PROGRAM, *_FLAGS, f"--user-data-dir={place / 'profile'}", "about:blank", stdout=sink, stderr=sink,
                stdin=asyncio.subprocess.DEVNULL, start_new_session=True, env={**os.environ, "TMPDIR": str(short)},
            )  # fmt: skip
        try:
            async with _driven(process, errors) as tab:
                yield tab
        finally:
            with suppress(ProcessLookupError):  # it ended by itself
                process.kill()
            await process.wait()
    finally:
        await asyncio.to_thread(remove, short)


@asynccontextmanager
async def _driven(process: asyncio.subprocess.Process, errors: Path) -> AsyncIterator[Tab]:
    async with asyncio.timeout(120):
        while not (found := re.search(rb"ws://127\.0\.0\.1:(\d+)/", errors.read_bytes())):
            assert process.returncode is None, errors.read_text()
            await asyncio.sleep(0.1)
    async with aiohttp.ClientSession() as client:
        async with client.get(f"http://127.0.0.1:{found.group(1).decode()}/json/list") as answer:
            page = next(one for one in await answer.json() if one["type"] == "page")
        async with client.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0) as socket:
            tab = Tab(socket)
            for domain in ("Page", "Runtime", "Log", "Network"):
                await tab.call(f"{domain}.enable")
            yield tab
            tab.reader.cancel()
