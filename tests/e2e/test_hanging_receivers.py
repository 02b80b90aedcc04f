"""Receivers that hang, apprise's threads among them, hold up no step and no look: nothing waits in the event loop."""

import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.toy import REPO, Ear, served, toy
from tests.fakes.apprise_json import AppriseJsonFake
from tests.fakes.pagerduty import ROUTING_KEY, PagerDutyFake
from tests.fakes.receiving import Fault, serving
from tests.fakes.slack import SlackFake
from tests.fakes.webhook import WebhookFake
from tests.servers import wait_until

ORDINARY_BOUND = 0.25
"""Seconds; what every end-to-end test looks at."""


@contextmanager
def silent() -> Iterator[tuple[int, list[socket.socket]]]:
    """A mail server that takes connections and never says a word: its port, and those who wait for it."""
    listener = socket.create_server(("127.0.0.1", 0))
    waiting: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                waiting.append(listener.accept()[0])
            except OSError:
                return

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1], waiting
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(timeout=10)
        for one in waiting:
            one.close()


def test_receivers_that_hang_for_a_minute_hold_the_loop_for_no_tenth_of_a_second(
    tmp_path: Path, ear: Ear, probed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROLLBACKD_PROBE_BOUND", "0.1")
    fakes = (SlackFake(), PagerDutyFake(), WebhookFake(), AppriseJsonFake())
    for fake in fakes:
        fake.fail(Fault.HANG, 1000)
    with served(serving(*fakes)) as base, silent() as (port, waiting), toy(tmp_path / "shop", told=ear.url) as shop:
        slack, pager, desk, phone = (f"{base}{fake.path}" for fake in fakes)
        secrets = {"slack": slack, "pager": ROUTING_KEY, "phone": f"{phone.replace('http', 'json')}?rto=60&cto=60"}
        for name, text in secrets.items():
            (tmp_path / name).write_text(text)
            (tmp_path / name).chmod(0o600)
        given = {name: {"file": str(tmp_path / name)} for name in secrets}
        receivers = [
            {"name": "room", "webhook": {"url": ear.url}},
            {"name": "slack", "slack": {"webhook_url": given["slack"]}},
            {"name": "pager", "pagerduty": {"routing_key": given["pager"], "url": pager}},
            {"name": "desk", "webhook": {"url": desk}},
            {"name": "phone", "apprise": {"url": given["phone"], "short": True}},
            {
                "name": "post",
                "email": {"to": "a@example.com", "from": "r@example.com", "smtp": f"127.0.0.1:{port}", "security": "none"},
            },
        ]  # fmt: skip
        shop.configure(notify={"receivers": receivers})
        with (shop.root / "log").open("ab") as log:
            argv = [sys.executable, "-m", "rollbackd", "run", "--config", str(shop.root / "config.yaml")]
            shop.daemon = subprocess.Popen(
                argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=REPO, env=os.environ
            )
        shop.until_up()
        shop.until_seen("co-v1")
        shop.ask("POST", "services/shop/good", {})
        shop.deploy("v2")
        shop.until_seen("co-v2")
        shop.alert()
        wait_until(lambda: bool(shop.incidents()), "it is decided on")
        shop.until_closed("shop-1")
        assert ear.until_heard("recovered")
        for report in probed.iterdir():  # what is made when it is first asked for is no matter of receivers
            if float(re.findall(r"took ([0-9.]+)s", report.read_text())[0]) < ORDINARY_BOUND:
                report.unlink()

        def all_hang() -> bool:
            return bool(waiting) and all(fake.sent for fake in fakes) and len(fakes[0].sent) > 1

        wait_until(all_hang, "each of them hangs, and one was given up and asked again", 60)
        shop.deploy("v3")
        shop.until_seen("co-v3")
        shop.until_closed(shop.ask("POST", "services/shop/rollback", {})["incident"], 60)
        assert [fake.taken for fake in fakes] == [[]] * 4
