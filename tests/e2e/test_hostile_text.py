"""What strangers write into labels and annotations is text, everywhere, to the end. Nothing of it is ever done."""

import asyncio
import json
import re
import unicodedata
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.alerts import ALERT, alert, webhook
from tests.e2e.shop import BAD
from tests.e2e.town import Town
from tests.fakes.receiving import serving
from tests.fakes.slack import PATH as SLACK
from tests.fakes.slack import SlackFake
from tests.fakes.smtp import MailFake, serving_mail
from tests.fakes.webhook import PATH as WEBHOOK
from tests.fakes.webhook import WebhookFake

pytestmark = [pytest.mark.needs("git"), pytest.mark.timeout(180)]
CANARY = "canary-ca11ed"
"""What must never be a file's name."""
MEBIBYTE = 2**20
ESCAPES = "\x1b[2J\x1b]0;owned\x07\x9b31m\r\b\x7f\u202e\u2066\u2028"
HOSTILE: Mapping[str, str] = {
    "shell": f"$(reboot) $(touch {CANARY}) `touch {CANARY}` ; touch {CANARY} | tee {CANARY} && touch {CANARY} #",
    "climbs": f"../../../../../../etc/{CANARY}",
    "option": f"--upload-pack=touch {CANARY}",
    "another_option": f"-oProxyCommand=touch {CANARY}",
    "quotes": "'; DROP TABLE facts; -- \" ' \\ ${HOME} %s %n {0} {{ 7 * 7 }} {% raw %}",
    "lines": f'one\ntwo\r\nX-Injected: {CANARY}\n\n.\n# HELP x y\nx{{a="b"}} 1',
    "escapes": ESCAPES,
    "rich": "[red]red[/red] [link=file:///etc/passwd]x[/link] [/] :bomb:",
    "slack": "<!channel> <@U024BE7LH> <https://evil.example|click> & @here *bold* `code`",
    "html": "<script>alert(1)</script><img src=x onerror=alert(1)>&lt;",
    "promql": '"}) or vector(1) #',
    "long": "A" * MEBIBYTE,
    "nul": "a\x00b",
    "$(touch name)": "a label's name",
    "[bold]name[/bold]\n\x1b[31m": "another label's name",
}


@dataclass
class Ears:
    """Everybody who is told."""

    slack: SlackFake = field(default_factory=SlackFake)
    program: WebhookFake = field(default_factory=WebhookFake)
    mail: MailFake = field(default_factory=MailFake)


@asynccontextmanager
async def told_town(root: Path) -> AsyncIterator[tuple[Town, Ears]]:
    """A town whose shop runs a bad v2, with a good v1 behind it."""
    ears = Ears()
    async with serving(ears.slack, ears.program) as url, serving_mail(ears.mail, None) as smtp:
        with Town(root, "shop", "fresh") as town:
            secret = root / "slack"
            secret.write_text(f"{url}{SLACK}")
            secret.chmod(0o600)
            mail = {"to": ["leads@example.com"], "from": "rollbackd@example.com", "smtp": smtp, "security": "none"}
            receivers = [
                {"name": "room", "slack": {"webhook_url": {"file": str(secret)}}},
                {"name": "program", "webhook": {"url": f"{url}{WEBHOOK}"}},
                {"name": "leads", "email": mail},
            ]
            fresh = town.service("fresh", bake="1h")
            town.write_config(rules=[ALERT], notify={"receivers": receivers}, services=[town.service("shop"), fresh])
            await asyncio.to_thread(_prepare, town)
            yield town, ears


def _prepare(town: Town) -> None:
    town.start_daemon()
    town.until_good("v1")
    town.shop.deploy("v2", BAD)
    town.until_seen("v2")


def _bodies() -> Iterator[dict[str, Any]]:
    """Notifications whose every text is hostile: for the service that is rolled back, and for one that cannot be."""
    for service in ("shop", "fresh"):
        written = alert(service, datetime.now(UTC))
        written["labels"] |= HOSTILE
        first = ("slack", "shell")  # a message quotes the beginning
        summary = "".join([*(HOSTILE[name] for name in first), *HOSTILE.values()])
        written["annotations"] = {"summary": summary, **HOSTILE}
        written["generatorURL"] = f"javascript:alert(1)//{HOSTILE['lines']}{HOSTILE['escapes']}"
        written["fingerprint"] = f"../../{CANARY}"
        more = dict.fromkeys(("receiver", "groupKey", "externalURL"), HOSTILE["climbs"] + HOSTILE["escapes"])
        yield {**webhook(written), **more, "groupLabels": dict(HOSTILE), "commonLabels": dict(HOSTILE)}


async def test_what_strangers_write_is_text_everywhere_and_nothing_of_it_is_done(tmp_path: Path) -> None:
    async with told_town(tmp_path) as (town, ears):
        before = await asyncio.to_thread(_files, town)
        booted = Path("/proc/sys/kernel/random/boot_id").read_text()
        for body in _bodies():
            taken = await asyncio.to_thread(town.post, "alerts", body)
            assert taken == {"accepted": 1, "duplicates": 0, "unmatched": 0}
            if body["alerts"][0]["labels"]["service"] == "shop":
                await asyncio.to_thread(town.until_back, body)
        assert (await asyncio.to_thread(town.until_ended, "shop-1"))["outcome"] == "recovered"
        await asyncio.to_thread(town.until_decided, "target", "fresh")
        await ears.program.until(4)
        await asyncio.to_thread(_told_all, town, ears)

        await asyncio.to_thread(_kept_as_written, town)
        await asyncio.to_thread(_shown_on_terminals, town)
        await asyncio.to_thread(_in_metrics_and_logs, town)
        _in_messages(ears)
        assert town.shop.running() == "v1"
        assert await asyncio.to_thread(_files, town) == before
        assert Path("/proc/sys/kernel/random/boot_id").read_text() == booted
        assert _canaries(tmp_path, Path.cwd(), Path("/etc"), Path("/tmp"), Path.home()) == []


def _told_all(town: Town, ears: Ears) -> None:
    def everywhere() -> bool:
        events = {one["event"] for one in ears.program.taken}
        return {"opened", "recovered", "refused"} <= events and len(ears.mail.mails) >= 4 <= len(ears.slack.taken)

    town.until(everywhere, "everybody hears of it")


def _files(town: Town) -> set[str]:
    """What there is in the town, but for what rollbackd and git keep for themselves."""
    own = re.compile(r"^(journal\.db.*|rollbackd\.log|layers(/.*)?|repos/[a-z]+/\.git(/.*)?)$")
    found = (str(path.relative_to(town.root)) for path in town.root.rglob("*"))
    return {path for path in found if own.match(path) is None}


def _canaries(town: Path, *others: Path) -> list[Path]:
    return [*town.rglob(f"*{CANARY}*"), *(path for place in others for path in place.glob(f"*{CANARY}*"))]


# -- where it ends up ---------------------------------------------------------------------------
def _kept_as_written(town: Town) -> None:
    """The API gives what was written; only NUL, which no database takes, has become another character."""
    written = {name: text.replace("\x00", "\ufffd") for name, text in HOSTILE.items()}
    detail = town.get("incidents/shop-1")
    labels = detail["records"][0]["fact"]["decision"]["trigger"]["labels"]
    assert {name: labels[name] for name in written if name != "long"} == {
        name: text for name, text in written.items() if name != "long"
    }
    assert town.get("services")["services"][0]["name"] == "shop"
    assert [one["incident"] for one in town.decisions("shop")] == ["shop-1"]


def _shown_on_terminals(town: Town) -> None:
    commands = (
        ("incidents",),
        ("incidents", "shop-1"),
        ("decisions",),
        ("status",),
        ("status", "shop"),
        ("plan", "shop"),
    )
    for command in commands:
        for option in ((), ("--json",)):
            done = town.command(*command, *option)
            text = done.stdout + done.stderr
            assert done.returncode in {0, 1}, text[-2000:]
            harmful = {character for character in text if unicodedata.category(character) in {"Cc", "Cf", "Zl", "Zp"}}
            assert harmful <= {"\n"}, (command, harmful)
            if option:
                json.loads(done.stdout)
            else:
                assert len(text) < 100_000, (command, len(text))
    shown = town.command("incidents", "shop-1").stdout
    for text in ("$(reboot)", "../../", "--upload-pack=touch", "[red]red[/red]", "<!channel>", "\\x1b[2J", ":bomb:"):
        assert text in shown


def _in_metrics_and_logs(town: Town) -> None:
    with urllib.request.urlopen(f"{town.api}/metrics", timeout=10) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    values = {value for family in families for sample in family.samples for value in sample.labels.values()}
    assert {"shop", "fresh"} <= values
    assert not [value for value in values if not re.fullmatch(r"[a-z0-9_.+-]*", value)]
    lines = town.log.read_text().splitlines()
    assert [line for line in lines if not isinstance(json.loads(line), dict)] == []
    assert not re.search(r"[^\x20-\x7e]", "".join(lines))
    assert max(len(line) for line in lines) < 20_000


def _in_messages(ears: Ears) -> None:
    """The fakes look at Slack's mentions and limits themselves, and at the form of mails."""
    assert ears.slack.wrong + ears.program.wrong + ears.mail.wrong == []
    for one in ears.program.taken:
        texts = [one["title"], *(line["text"] for line in one["lines"])]
        assert all(len(text) < 10_000 for text in texts)
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\u2066\u2028]", "".join(texts))
    opened = next(one for one in ears.program.taken if one["event"] == "opened" and one["service"] == "shop")
    assert "<!channel>" in json.dumps(opened), "the beginning of what the alert says; the rest is on the page"
    for mail in ears.mail.mails:
        _is_harmless(mail)


def _is_harmless(mail: EmailMessage) -> None:
    assert mail["X-Injected"] is None
    assert set(mail.keys()) <= {
        *("From", "To", "Subject", "Date", "Message-ID", "References", "In-Reply-To", "MIME-Version"),
        *("Content-Type", "Auto-Submitted", "X-Auto-Response-Suppress", "X-Rollbackd-Event"),
    }
    plain, marked = (part.get_content() for part in mail.iter_parts())
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", plain + marked)
    assert not re.search(r"<(script|img)", marked)
    assert len(plain) + len(marked) < 100_000


async def test_megabytes_of_it_are_taken_or_refused_and_the_daemon_goes_on(tmp_path: Path) -> None:
    with Town(tmp_path) as town:
        town.write_config(rules=[ALERT], daemon=town.daemon(max_body="12MiB"))
        await asyncio.to_thread(_prepare, town)
        large, larger = (alert("shop", datetime.now(UTC)) for _ in range(2))
        large["labels"]["long"] = large["annotations"]["long"] = "x" * 5 * MEBIBYTE
        larger["labels"]["long"] = larger["annotations"]["long"] = "x" * 7 * MEBIBYTE
        assert (await asyncio.to_thread(town.post, "alerts", webhook(large)))["accepted"] == 1
        with pytest.raises((AssertionError, OSError), match=r"413|reset|pipe"):
            await asyncio.to_thread(town.post, "alerts", webhook(larger))
        await asyncio.to_thread(town.until_back, webhook(large))
        assert (await asyncio.to_thread(town.until_ended, "shop-1"))["outcome"] == "recovered"
        assert [one["id"] for one in await asyncio.to_thread(town.incidents)] == ["shop-1"]
