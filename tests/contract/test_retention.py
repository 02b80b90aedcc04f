"""Pruning on real layers: nothing goes that the journal relies on, that a plan names, or that runs."""

import json
import tempfile
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollbackd import facts
from rollbackd.adapter import Adapter
from rollbackd.config.load import load
from rollbackd.execution.layers import Layers, PlanRequest
from rollbackd.journal import Entry, Journal
from rollbackd.model import State, service_stream
from rollbackd.policy.target import candidates, still_there
from rollbackd.snapshots.retention import Retention
from rollbackd.state.read_model import ReadModel
from rollbackd.testing import finish, place
from rollbackd_adapters.env import EnvAdapter, EnvSettings
from rollbackd_adapters.releases import ReleasesAdapter, ReleasesSettings
from tests.fakes.clock import ManualClock
from tests.fakes.journal import MemoryJournal

DEPLOYED = "deployed"
"""A deployment that never ran."""
RAN = "ran"
GOOD = "good"
NIGHT = "night"
HISTORIES = st.lists(st.sampled_from([DEPLOYED, RAN, GOOD, NIGHT]), max_size=25).map(lambda past: [RAN, *past, NIGHT])


class Host:
    """A layer on disk whose releases are 1, 2, …, and the journal of its service. A plan goes to release 1."""

    def __init__(self, path: Path, kind: str, keep: int) -> None:
        self.path = path
        self.adapter, self.deploy, self.switch = {"releases": self._releases, "env": self._env}[kind](keep)
        config = path / "config.yaml"
        layer = {"adapter": "command", "current": ["x"], "releases": ["x"], "apply": ["x"]}
        service = {
            "name": "shop", "match": {"service": "shop"}, "layers": {"front": layer},
            "plans": {"default": ["front"], "first": [{"front": self.name(1)}]},
            "verify": {"checks": [{"tcp": "127.0.0.1:1"}]},
        }  # fmt: skip
        config.write_text(json.dumps({"daemon": {"mode": "act", "open_on_loopback": True}, "services": [service]}))
        self.layers = Layers(load(config).config.services[0], {"front": self.adapter})
        self.clock = ManualClock()
        self.read_model = ReadModel(cast("Journal", MemoryJournal(self.clock)))
        self.retention = Retention(self.read_model, {"shop": self.layers})

    def _releases(self, keep: int) -> tuple[Adapter, Callable[[int], None], Callable[[int], None]]:
        directory, link = self.path / "releases", self.path / "current"
        given = {"adapter": "releases", "directory": directory, "link": link, "keep": keep}

        def switch(number: int) -> None:
            link.unlink(missing_ok=True)
            link.symlink_to(directory / self.name(number))

        def deploy(number: int) -> None:
            (directory / self.name(number)).mkdir(parents=True)

        return ReleasesAdapter(ReleasesSettings.model_validate(given), place(self.path)), deploy, switch

    def _env(self, keep: int) -> tuple[Adapter, Callable[[int], None], Callable[[int], None]]:
        file = self.path / "app.env"
        given = {"adapter": "env", "file": file, "names": ["MODE"], "keep": max(keep, 2)}
        adapter = EnvAdapter(EnvSettings.model_validate(given), place(self.path))

        def put(number: int) -> None:
            file.write_text(f"MODE={number}\n")
            finish(adapter.current())  # seen, and so remembered

        return adapter, put, put

    def name(self, number: int) -> str:
        return f"MODE={number}" if self.path.name == "env" else str(number)

    def tell(self, *told: Any) -> None:
        self.clock.advance(timedelta(minutes=1))
        finish(self.read_model.append(*(Entry(service_stream("shop"), fact) for fact in told)))

    def live(self, past: Sequence[str]) -> None:
        for number, what in enumerate(past, 1):
            if what == NIGHT:
                finish(self.retention.prune())
                continue
            self.deploy(number)
            if what != DEPLOYED:
                self.switch(number)
                present, now = State({"front": finish(self.adapter.current())}), self.clock.now()
                self.tell(facts.Changed(present, now, now))
                if what == GOOD:
                    self.tell(facts.MarkedGood(present, "marked by ann"))


@pytest.mark.parametrize("kind", ["releases", "env"])
@given(past=HISTORIES, keep=st.integers(1, 3))
@settings(max_examples=60)
def test_no_pruning_takes_what_the_journal_relies_on(kind: str, past: list[str], keep: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / kind
        path.mkdir()
        host = Host(path, kind, keep)
        host.live(past)
        ledger = host.read_model.of("shop")
        assert ledger.present is not None
        there = {"front": {release.id for release in finish(host.adapter.releases())}}
        for candidate in candidates(ledger, ledger.present):
            assert still_there(candidate.state, ledger.present, there) == (), past
        assert finish(host.adapter.current()).id in there["front"]
        good = len({ident for ident in there["front"] if State({"front": _release(host, ident)}).key in ledger.good})
        assert len(there["front"]) <= max(keep, 2) + good + 2, "what nothing needs is dropped"
        way = PlanRequest(ledger.present, ledger.present)
        plan = finish(host.layers.plan("first", way))  # what the configuration goes to is still there
        assert [step.after.label for step in plan.steps] in ([], [host.name(1)])


def _release(host: Host, ident: str) -> Any:
    return next(release for release in finish(host.adapter.releases()) if release.id == ident)


def test_where_it_cannot_be_told_what_runs_nothing_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "releases"
    path.mkdir()
    host = Host(path, "releases", 1)
    host.live([RAN, RAN, RAN])
    (path / "current").unlink()
    finish(host.retention.prune())
    assert len(list((path / "releases").iterdir())) == 3
