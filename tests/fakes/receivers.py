"""Slack, PagerDuty and a webhook as one process: `python -m tests.fakes.receivers --port 9900`.

Each message is a readable line on stdout. `GET /messages` gives all of them as JSON, `POST /control/slack
{"fault": "500", "times": 3}` lets one fail.
"""

import argparse
import asyncio
import html
import signal
from typing import Any

from tests.fakes.pagerduty import PagerDutyFake
from tests.fakes.receiving import Receiver, serving
from tests.fakes.slack import SlackFake
from tests.fakes.webhook import WebhookFake


def readable(name: str, body: Any) -> str:
    """One line: who was told, and what."""
    match name:
        case "slack":
            return f"slack      {html.unescape(body['text'])}"
        case "pagerduty":
            said = body["payload"]["summary"] if "payload" in body else ""
            return f"pagerduty  {body['event_action']} {body['dedup_key']} {said}".rstrip()
        case _:
            return f"webhook    {body['event']}: {body['title']}"


def _print(name: str, body: Any) -> None:
    print(readable(name, body), flush=True)


async def main(port: int) -> None:
    """Until SIGTERM or SIGINT."""
    fakes: list[Receiver] = [SlackFake(), PagerDutyFake(), WebhookFake()]
    for fake in fakes:
        fake.heard = _print
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with serving(*fakes, port=port) as base:
        for fake in fakes:
            print(f"listening  {fake.name} {base}{fake.path}", flush=True)
        await ended.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="on 127.0.0.1; 0 takes a free one")
    asyncio.run(main(parser.parse_args().port))
