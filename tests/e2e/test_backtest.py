"""The past of a real Prometheus played again by the command: found at the right time, and the same as by hand."""

import asyncio
import html
import json
import os
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from rollbackd import facts
from rollbackd.cli.commands import app
from rollbackd.journal import Entry, open_journal
from rollbackd.model import Release, State, service_stream
from rollbackd.system.clock import SystemClock
from tests.e2e.past_data import CHANGES, DAY, HOURS, RELEASES, SCRAPE, at, metrics
from tests.servers import Server, prometheus

pytestmark = [pytest.mark.needs("prometheus", "promtool"), pytest.mark.timeout(240)]

PACK = {
    "pack": "http", "only": ["high-error-rate", "unavailable"], "window": "5m", "lasting": "5m", "min_samples": 50
}  # fmt: skip
ALERT = {"name": "broken", "when": {"alert": 'alertname="Broken", severity="page"'}}
_LAYER = {"adapter": "command", "current": ["current"], "releases": ["releases"], "apply": ["apply"]}
SPAN = ("--from", f"{DAY:%Y-%m-%dT%H:%M:%SZ}", "--to", f"{at(HOURS):%Y-%m-%dT%H:%M:%SZ}")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with prometheus(tmp_path_factory.mktemp("prometheus"), samples=metrics(), every="1m") as running:
        yield running


class House:
    """A configuration, and the command run on it."""

    def __init__(self, directory: Path, url: str) -> None:
        self.directory = directory
        self.url = url
        self.changes = directory / "changes.txt"
        self.changes.write_text(CHANGES)

    def configure(self, *rules: Any, name: str = "config.yaml", **parts: Any) -> Path:
        path = self.directory / name
        services = [
            {
                "name": service,
                "match": {"service": service},
                "layers": {"code": _LAYER},
                "checks": {"health": {"command": ["true"]}},
                "verify": {"checks": ["health"]},
            }
            for service in ("shop", "bank", "till")
        ]
        document = {
            "daemon": {"mode": "shadow", "open_on_loopback": True, "journal": f"sqlite:///{self.directory}/journal.db"},
            "prometheus": {"url": self.url, "poll_every": "15s"},
            "rules": list(rules) or [PACK, ALERT],
            "services": services,
            **parts,
        }
        path.write_text(json.dumps(document))
        return path

    def arguments(self, *given: str, config: Path | None = None) -> list[str]:
        own = ("--cache", str(self.directory / "cache"), "--config", str(config or self.directory / "config.yaml"))
        return ["backtest", *given, *own]

    def run(self, *given: str, config: Path | None = None) -> Result:
        """The command in this process, which is as true and starts at once."""
        return CliRunner().invoke(app, self.arguments(*given, config=config))

    def json(self, *given: str, config: Path | None = None) -> Any:
        done = self.run(*SPAN, "--json", *given, config=config)
        assert done.exit_code == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def house(server: Server, tmp_path: Path) -> House:
    made = House(tmp_path, server.url)
    made.configure()
    return made


def by_file(house: House) -> tuple[str, str]:
    return "--changes", str(house.changes)


def acts(found: Any) -> list[tuple[str, str, str, str, str]]:
    return [
        (one["at"][11:19], one["service"], one["action"], one["blamed"], one["target"]) for one in found["decisions"]
    ]


def met_by_hand(server: Server, service: str, threshold: float) -> str:
    """When the service's share of errors has been above a threshold for five minutes, as Prometheus itself counts."""
    rate = f'sum(rate(http_requests_total{{service="{service}",code="500"}}[5m]))'
    share = f'{rate} / sum(rate(http_requests_total{{service="{service}"}}[5m])) > {threshold}'
    begin, end = DAY.timestamp(), at(HOURS).timestamp()
    asked = urllib.parse.urlencode({"query": share, "start": begin, "end": end, "step": 15})
    with urllib.request.urlopen(f"{server.url}/api/v1/query_range?{asked}") as answer:
        (series,) = json.load(answer)["data"]["result"]
    times = [point[0] for point in series["values"]]
    lasting = int(timedelta(minutes=5) / SCRAPE)
    first = next(time for n, time in enumerate(times) if n >= lasting and time - times[n - lasting] == 300)
    return f"{datetime.fromtimestamp(first, UTC):%H:%M:%S}"


def test_it_finds_the_bad_release_at_the_time_that_prometheus_itself_says(house: House, server: Server) -> None:
    found = house.json(*by_file(house))
    assert acts(found) == [
        (met_by_hand(server, "shop", 0.1), "shop", "roll_back", "code v2", "code v1"),
        ("11:10:00", "till", "roll_back", "code t2", "code t1"),
    ]
    shop, till = found["decisions"]
    assert {key: shop["findings"][6][key] for key in ("guard", "against")} == {"guard": "change", "against": None}
    assert (shop["people_went_back"], till["people_went_back"]) == (True, False)
    assert till["people"] == "changed nothing afterwards"
    (back,) = found["rollbacks_of_people"]
    assert (back["service"], back["left"], back["reached"]) == ("shop", "code v2", "code v1")
    assert back["played"].endswith("earlier (high-error-rate)")
    assert found["summary"] | {"lead": ""} == {
        "rollbacks": 2, "shared": 1, "missed": 0, "asked": 0, "refused": 0, "lead": "",
    }  # fmt: skip
    assert not (house.directory / "journal.db").exists()


def test_a_sweep_says_what_each_setting_says_by_hand(house: House, server: Server) -> None:
    swept = house.json(*by_file(house), "--sweep", "error_rate=1%,5%,20%,50%")
    assert [one["value"] for one in swept["sweep"]] == ["1%", "5%", "20%", "50%"]
    for one in swept["sweep"]:
        config = house.configure({**PACK, "error_rate": one["value"]}, ALERT, name=f"by-hand-{one['value']}.yaml")
        alone = house.json(*by_file(house), config=config)
        assert alone["decisions"] == one["decisions"]
        assert alone["summary"] == {key: one[key] for key in alone["summary"]}
    strict, tight, loose, never = swept["sweep"]
    assert met_by_hand(server, "bank", 0.05) in [one["at"][11:19] for one in tight["decisions"]]
    assert [len(one["decisions"]) for one in (tight, loose, never)] == [3, 2, 1]
    assert "+bank code b2" in strict["other"]
    assert "+bank code b2" in tight["other"]
    assert (loose["other"], never["other"]) == ("", "-shop code v2")
    assert (never["missed"], loose["missed"]) == (1, 0)


@pytest.mark.parametrize(
    ("query", "label"), [("generation", ()), ("build", ("--release-label", "version"))], ids=["number", "label"]
)
def test_changes_can_be_read_off_a_metric(house: House, query: str, label: tuple[str, ...]) -> None:
    found = house.json("shop", "--changes-query", query, *label)
    (shop,) = found["decisions"]
    assert (shop["service"], shop["action"], shop["at"][11:16]) == ("shop", "roll_back", "06:10")
    assert shop["blamed"] == ("code v2" if label else "code 2")
    assert found["changes"] == {"source": f"the query {query}", "count": 7}
    if label:  # a number only grows, so that it does not tell a way back
        assert shop["people"].startswith("went back ")


def test_changes_are_the_journals_and_it_is_only_read(house: House) -> None:
    async def write() -> None:
        journal = await open_journal(f"sqlite:///{house.directory / 'journal.db'}", SystemClock())
        for service, releases in RELEASES.items():
            for since, release in releases:
                state = State({"code": Release(release)})
                await journal.append(Entry(service_stream(service), facts.Changed(state, since, since)))
        await journal.close()

    asyncio.run(write())
    before = (house.directory / "journal.db").read_bytes()
    assert acts(house.json()) == acts(house.json(*by_file(house)))
    assert (house.directory / "journal.db").read_bytes() == before


def test_a_page_has_all_of_it_and_no_script(house: House, server: Server) -> None:
    page = house.directory / "p.html"
    given = house.arguments(*SPAN, *by_file(house), "--sweep", "high-error-rate=5%..20%/3", "--html", str(page))
    env = {**os.environ, "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-m", "rollbackd", *given], capture_output=True, text=True, check=False, timeout=120, env=env
    )
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert text.count("<svg") == 2
    assert "<script" not in text
    assert "default-src 'none'" in html.unescape(text)
    assert "people went back 1 times: the play did 1 of them" in done.stdout
    assert f"2025-06-03 {met_by_hand(server, 'shop', 0.1)}Z shop, high-error-rate: roll_back" in done.stdout
    assert "high-error-rate 5%" in done.stdout
    assert "fetching: " in done.stderr


def test_what_was_fetched_is_not_asked_for_again(house: House) -> None:
    house.json(*by_file(house))
    kept = {path.name: path.read_bytes() for path in (house.directory / "cache").iterdir()}
    assert (house.directory / "cache").stat().st_mode & 0o777 == 0o700
    one = min(kept)
    (house.directory / "cache" / one).write_bytes(b"damaged")
    house.json(*by_file(house))
    again = {path.name: path.read_bytes() for path in (house.directory / "cache").iterdir()}
    assert again.keys() == kept.keys()
    assert again[one].partition(b"\n")[2] == kept[one].partition(b"\n")[2]
    assert all(again[name] == kept[name] for name in kept if name != one)


def test_what_cannot_be_played_is_a_sentence(house: House) -> None:
    bad = house.directory / "bad.txt"
    bad.write_text("2025-06-03T00:00Z shop v1\nyesterday shop v2\n2025-06-03T00:00Z shoop v1\n")
    down = house.configure(name="down.yaml", prometheus={"url": "http://127.0.0.1:9"})
    for arguments, config, code, sentence in (
        (("shoop", *SPAN), None, 1, "there is no service shoop in the configuration; there is: shop, bank, till"),
        (("--from", "yesterday"), None, 2, "--from: yesterday is no time"),
        ((*SPAN[2:], "--from", "2025-06-05"), None, 1, "--from is not before --to"),
        ((*SPAN, "--changes", str(bad)), None, 1, f"{bad}:2: yesterday is no time"),
        ((*SPAN, "--changes", str(bad)), None, 1, f"{bad}:3: there is no service shoop in the configuration"),
        ((*SPAN,), None, 1, "there is no journal; rollbackd has not run with it yet; or say what was changed"),
        (("--from", "2020-01-01", "--to", "2020-01-02", *by_file(house)), None, 1, "no data: none of the rules'"),
        ((*SPAN, "--sweep", "eror=1%..2%", *by_file(house)), None, 1, "no pack's setting and no rule's threshold"),
        ((*SPAN, "--sweep", "error_rate"), None, 2, "write it like error_rate=1%..20%"),
        ((*SPAN, *by_file(house)), down, 1, "Connection refused"),
    ):
        done = house.run(*arguments, config=config)
        assert (done.exit_code, done.stdout) == (code, ""), (arguments, done.stderr)
        assert sentence in done.stderr
        assert "Traceback" not in done.stderr
