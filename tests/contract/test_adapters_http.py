"""A service behind URLs: the contract against a strict server, and all the ways in which an answer can fail to come."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rollbackd.adapter import AdapterError, Place, refuses_older
from rollbackd.model import NO_RELEASE, Progress, Release
from rollbackd.syntax.units import Secret
from rollbackd.testing import KEY, AdapterContract, StepContract, World, finish, perform, place, planned
from rollbackd_adapters.http import HttpAdapter, HttpSettings
from tests.fakes.switchboard import TOKEN, Desk, Switchboard, switchboard


@pytest.fixture(scope="module")
def board() -> Iterator[Switchboard]:
    with switchboard() as made:
        yield made


def reveal(secret: Secret) -> str:
    if secret.env != "TOKEN":
        raise ValueError(f"environment variable {secret.env} is not set; set it where the daemon is started")
    return f"Bearer {TOKEN}"


class HttpWorld(World):
    def __init__(self, board: Switchboard, path: Path, *, releases: bool = True, progress: bool = True) -> None:
        self.path = path
        self.desk: Desk = board.desk()
        url = f"{board.url}/{self.desk.name}"
        headers = {"Authorization": {"env": "TOKEN"}}
        fields = {"id": "sha", "label": "title", "created": "at"}
        self.settings: dict[str, Any] = {
            "adapter": "http",
            "apply": {
                "url": f"{url}/rollback/{{after}}",
                "headers": headers,
                "body": {
                    "to": "{after}",
                    "from": "{before}",
                    "by": {"service": "{service}"},
                    "why": "{incident}",
                    "urgent": True,
                },
            },
            "request_timeout": "2s",
            "every": "20ms",
            "timeout": "20s",
        }
        if releases:
            self.settings["current"] = {
                "url": f"{url}/current", "headers": headers, "json": "data.release", "fields": fields
            }  # fmt: skip
            self.settings["releases"] = {
                "url": f"{url}/releases", "headers": headers, "json": "items", "fields": fields
            }  # fmt: skip
        if progress:
            self.settings["progress"] = {
                "url": f"{url}/jobs/{{key}}",
                "headers": headers,
                "json": "jobs[0].state",
                "done": "ok",
                "failed": ["broken"],
                "running": ["queued"],
            }

    def adapter(self) -> HttpAdapter:
        return HttpAdapter(HttpSettings.model_validate(self.settings), self.place())

    def place(self) -> Place:
        return replace(place(self.path), reveal=reveal)

    def present(self) -> str:
        return self.desk.present

    def target(self) -> Release:
        return Release("v2") if "current" in self.settings else NO_RELEASE

    def moved_by_somebody(self) -> None:
        self.desk.present = "v1"

    def finished(self) -> int:
        assert self.desk.wrong == []
        return len(self.desk.done)

    def everything(self) -> object:
        return self.desk.present, dict(self.desk.jobs), list(self.desk.asked)

    def break_it(self) -> None:
        if "current" in self.settings:
            self.desk.down = True
        else:
            self.settings["apply"]["url"] = "http://127.0.0.1:1/"

    def hang(self) -> None:
        self.settings["request_timeout"] = "300ms"
        self.desk.faults.append("hang")


class TestHttp(AdapterContract):
    @pytest.fixture(autouse=True)
    def _board(self, board: Switchboard) -> None:
        self.board = board

    def make_world(self, path: Path) -> World:
        return HttpWorld(self.board, path)


class TestHttpWithoutProgress(TestHttp):
    def make_world(self, path: Path) -> World:
        return HttpWorld(self.board, path, progress=False)


class TestHttpWithoutReleases(StepContract):
    @pytest.fixture(autouse=True)
    def _board(self, board: Switchboard) -> None:
        self.board = board

    def make_world(self, path: Path) -> World:
        return HttpWorld(self.board, path, releases=False)


@pytest.fixture(params=[True, False], ids=["with progress", "by its release"])
def world(request: pytest.FixtureRequest, board: Switchboard, tmp_path: Path) -> HttpWorld:
    return HttpWorld(board, tmp_path, progress=request.param)


@pytest.fixture
def jobs(board: Switchboard, tmp_path: Path) -> HttpWorld:
    return HttpWorld(board, tmp_path)


def roll_back(world: HttpWorld, retries: int = 0) -> Progress:
    change = finish(planned(world.adapter(), world.target()))
    return finish(perform(world.adapter(), change, retries))


def test_the_service_is_told_who_drives_where_that_may_be_one_of_several(jobs: HttpWorld) -> None:
    change = finish(planned(jobs.adapter(), jobs.target()))
    settings = HttpSettings.model_validate({**jobs.settings, "fenced": True})
    adapter = HttpAdapter(settings, replace(jobs.place(), epoch=7))
    assert refuses_older(adapter)
    assert not refuses_older(jobs.adapter())
    assert finish(perform(adapter, change)) is Progress.DONE
    assert jobs.desk.epochs == ["7"]
    jobs.desk.present = "v3"
    again = replace(change, key="another")
    assert finish(perform(jobs.adapter(), again)) is Progress.DONE
    assert jobs.desk.epochs == ["7"], "the only daemon there is has none"


@pytest.mark.parametrize("fault", ["500", "lost", "drop"])
def test_what_was_not_answered_is_asked_about_and_done_once(world: HttpWorld, fault: str) -> None:
    world.desk.faults.append(fault)
    assert roll_back(world, retries=1) is Progress.DONE
    assert world.desk.present == "v2"
    assert world.desk.done == [KEY]
    assert set(world.desk.asked) == {KEY}
    assert len(world.desk.asked) == (1 if fault == "drop" else 2)
    assert world.desk.wrong == []


def test_a_refusal_is_final_and_shows_no_secret(world: HttpWorld) -> None:
    world.desk.faults.append("422")
    with pytest.raises(AdapterError, match="answered 422") as refused:
        roll_back(world, retries=3)
    assert refused.value.permanent
    assert len(world.desk.asked) == 1
    assert "no; you sent" in refused.value.evidence
    assert TOKEN not in f"{refused.value} {refused.value.evidence}"


def test_a_job_that_takes_long_is_waited_for(jobs: HttpWorld) -> None:
    jobs.desk.slow = 4
    assert roll_back(jobs) is Progress.DONE
    assert jobs.desk.looks >= 5
    assert jobs.desk.done == [KEY]


def test_a_job_that_takes_too_long_fails_and_no_attempt_waits_for_it_once_more(jobs: HttpWorld) -> None:
    jobs.settings["timeout"] = "100ms"
    jobs.desk.slow = 1_000
    change = finish(planned(jobs.adapter(), jobs.target()))
    with pytest.raises(AdapterError, match=r'is not done after 100ms: .* says "queued"') as failed:
        finish(jobs.adapter().apply(change))
    assert not failed.value.permanent
    with pytest.raises(AdapterError, match=r'is not done after 100ms: .* says "queued"') as failed:
        finish(jobs.adapter().progress(change))
    assert not failed.value.permanent
    jobs.desk.slow = 1
    finish(jobs.adapter().apply(change))
    assert finish(jobs.adapter().progress(change)) is Progress.DONE, "what ends in between counts"
    assert jobs.desk.asked == jobs.desk.done == [KEY]


def test_a_job_that_failed_is_begun_anew_with_a_key_of_its_own(jobs: HttpWorld) -> None:
    jobs.desk.ends.extend(["broken", "ok"])
    change = finish(planned(jobs.adapter(), jobs.target()))
    with pytest.raises(AdapterError, match='says "broken"') as failed:
        finish(jobs.adapter().apply(change))
    assert not failed.value.permanent
    assert finish(jobs.adapter().progress(change)) is Progress.NOT_STARTED
    finish(jobs.adapter().apply(change))
    assert jobs.desk.asked == [KEY, f"{KEY}/2"]
    assert finish(jobs.adapter().progress(change)) is Progress.DONE


def test_a_word_that_nobody_explained_is_an_error_and_not_a_guess(jobs: HttpWorld) -> None:
    jobs.desk.ends.append("paused")
    with pytest.raises(AdapterError, match='says "paused", which is none of `done`, `running` and `failed`; add it'):
        roll_back(jobs)


def test_what_was_taken_but_shows_no_effect_is_waited_for_and_then_a_failure(
    board: Switchboard, tmp_path: Path
) -> None:
    world = HttpWorld(board, tmp_path, progress=False)
    world.settings["timeout"] = "150ms"
    world.desk.slow = 1
    change = finish(planned(world.adapter(), world.target()))
    with pytest.raises(AdapterError, match=r"is not done.*v3"):
        finish(world.adapter().apply(change))
    assert len(world.desk.asked) == 1


def test_the_service_is_not_asked_as_often_as_we_are(jobs: HttpWorld) -> None:
    jobs.settings["timeout"] = "1ms"
    jobs.desk.slow = 1_000
    change = finish(planned(jobs.adapter(), jobs.target()))
    with pytest.raises(AdapterError):
        finish(jobs.adapter().apply(change))
    jobs.settings |= {"every": "1h", "timeout": "1h"}
    adapter = jobs.adapter()
    looks = jobs.desk.looks
    assert [finish(adapter.progress(change)) for _ in range(5)] == [Progress.RUNNING] * 5
    assert jobs.desk.looks == looks + 1


def test_releases_are_read_with_labels_and_times(jobs: HttpWorld) -> None:
    first, *_ = finish(jobs.adapter().releases())
    assert (first.id, first.label, first.created and first.created.year) == ("v3", "release v3", 2023)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"<html>", "the answer is not JSON"),
        (b'{"data": {}}', '"data" has no "release"'),
        (b'{"data": {"release": {"title": "x"}}}', "a release has no id"),
        (b'{"data": {"release": {"sha": null}}}', "no release's id"),
        (b'{"data": {"release": {"sha": true}}}', "no release's id"),
        (b'{"data": {"release": {"sha": "a b"}}}', "not an acceptable id"),
        (b'{"data": {"release": {"sha": "../x"}}}', "not an acceptable id"),
        (b'{"data": {"release": {"sha": "x", "at": "soon"}}}', "is not a time"),
        (b'"' + b"x" * 2**21 + b'"', "longer than 1 MiB"),
    ],
)
def test_an_answer_that_is_no_release_is_told_and_never_taken_for_one(jobs: HttpWorld, raw: bytes, words: str) -> None:
    jobs.desk.raw = raw
    (problem,) = finish(jobs.adapter().ready())
    assert words in problem.text
    with pytest.raises(AdapterError, match=r"current|answer"):
        finish(jobs.adapter().current())


@pytest.mark.parametrize("raw", [b'{"data": {"release": "v7"}}', b'{"data": {"release": {"sha": "v7"}}}'])
def test_a_release_may_be_a_text_or_an_object(jobs: HttpWorld, raw: bytes) -> None:
    jobs.desk.raw = raw
    assert finish(jobs.adapter().current()) == Release("v7")


def test_a_number_is_an_id_too(jobs: HttpWorld) -> None:
    jobs.desk.raw = b'{"data": {"release": 17}}'
    assert finish(jobs.adapter().current()) == Release("17")


def test_a_redirect_is_followed_on_the_host_alone(jobs: HttpWorld) -> None:
    url = jobs.settings["current"]["url"]
    jobs.settings["current"]["url"] = url.replace("/current", "/elsewhere")
    assert finish(jobs.adapter().current()).id == "v3"
    jobs.settings["current"]["url"] = url.replace("/current", "/elsewhere?off=1")
    with pytest.raises(AdapterError, match="answered 302; a redirect is not followed"):
        finish(jobs.adapter().current())


def test_a_secret_that_is_missing_is_told_before_anything_is_touched(jobs: HttpWorld) -> None:
    jobs.settings["apply"]["headers"] = {"Authorization": {"env": "OTHER"}}
    (problem,) = finish(jobs.adapter().ready())
    assert "header Authorization: environment variable OTHER is not set" in problem.text


@pytest.mark.parametrize("host", ["127.0.0.1:1", f"{'a' * 70}.example"])
def test_who_cannot_be_reached_is_told_before_anything_is_touched(jobs: HttpWorld, host: str) -> None:
    jobs.settings["apply"]["url"] = f"http://{host}/{{after}}"
    (problem,) = finish(jobs.adapter().ready())
    assert "where `apply` goes, cannot be reached" in problem.text


def test_a_key_is_one_part_of_a_path(jobs: HttpWorld) -> None:
    change = replace(finish(planned(jobs.adapter(), jobs.target())), key="a/../../b?c#d")
    finish(jobs.adapter().apply(change))
    assert jobs.desk.done == ["a/../../b?c#d"]
    assert jobs.desk.wrong == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"current": {"url": "http://h/"}}, "belong together"),
        ({"progress": None, "current": None, "releases": None}, "nothing tells whether"),
        ({"apply": {"url": "http://h/rollback"}, "current": {"url": "http://h/"}, "releases": {"url": "http://h/"}}, "write {after} into"),
        ({"current": {"url": "http://h/{after}"}, "releases": {"url": "http://h/"}}, "known only while something changes"),
        ({"progress": {"url": "http://h/", "json": "a..b", "done": "x", "failed": "y"}}, "not a path in JSON"),
        ({"progress": {"url": "http://h/", "json": "a", "done": "x", "failed": "x"}}, "stands in two of"),
        ({"apply": {"url": "http://{service}/"}}, "the host is fixed"),
        ({"apply": {"url": "http://h/{team}"}}, "{team} is not known here"),
        ({"apply": {"url": "http://h/", "headers": {"X": "a\r\nb"}}}, "line break"),
        ({"idempotency_header": "a b"}, "pattern"),
    ],
)  # fmt: skip
def test_wrong_settings_are_told(settings: dict[str, Any], words: str) -> None:
    sound = {
        "adapter": "http",
        "apply": {"url": "http://h/"},
        "progress": {"url": "http://h/{key}", "json": "state", "done": True, "failed": [False, "no"]},
    }
    assert HttpSettings.model_validate(sound).progress is not None
    assert HttpSettings.model_validate(sound).timeout == timedelta(minutes=10)
    with pytest.raises(ValidationError) as failed:
        HttpSettings.model_validate({**sound, **settings})
    assert words in str(failed.value)
