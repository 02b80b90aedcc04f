"""nginx: the contract on a real one, and what the contract does not ask."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Self

import pytest
from pydantic import ValidationError

from rollbackd.adapter import AdapterError
from rollbackd.model import Progress, Release
from rollbackd.system import boundary
from rollbackd.testing import KEY, AdapterContract, BracketContract, BracketWorld, World, finish, place, planned
from rollbackd_adapters.nginx import NginxAdapter, NginxSettings, workers
from rollbackd_adapters.nginx.included import includes
from tests.contract.nginx_worlds import ColourWorld, PageWorld, Running, running

pytestmark = pytest.mark.needs("nginx")


class OnNginx:
    @pytest.fixture(autouse=True)
    def _servers(self) -> Iterator[None]:
        with ExitStack() as self.stack:
            yield

    def nginx(self, path: Path) -> Running:
        return self.stack.enter_context(running(path / "nginx"))


class TestPage(OnNginx, BracketContract):
    def make_world(self, path: Path) -> BracketWorld:
        return PageWorld(self.nginx(path))


class TestColour(OnNginx, AdapterContract):
    def make_world(self, path: Path) -> World:
        return ColourWorld(self.nginx(path))


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path / "nginx") as nginx:
        yield nginx


# -- what nginx does not take -------------------------------------------------------------------
def test_a_page_that_nginx_rejects_is_never_left_in_place(nginx: Running) -> None:
    world = PageWorld(nginx)
    world.file.write_text("nonsense;\n")
    with pytest.raises(AdapterError, match=r'exit 1: .*\[emerg\] unknown directive "nonsense".*nothing was rel') as no:
        finish(world.adapter().enter(KEY))
    assert no.value.permanent
    assert not finish(world.adapter().inside(KEY))
    assert not world.inside()
    assert nginx.reloads() == 0


def test_a_page_stays_on_while_the_rest_of_the_configuration_is_broken(nginx: Running) -> None:
    world = PageWorld(nginx)
    finish(world.adapter().enter(KEY))
    broken = nginx.path / "conf.d" / "broken.conf"
    broken.write_text("nonsense;\n")
    with pytest.raises(AdapterError, match="unknown directive"):
        finish(world.adapter().leave(KEY))
    assert world.inside()
    assert finish(world.adapter().inside(KEY))
    broken.unlink()
    finish(world.adapter().leave(KEY))
    assert not world.inside()


def test_what_passes_the_test_and_cannot_be_loaded_is_taken_back_and_unloaded(nginx: Running) -> None:
    world = PageWorld(nginx)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        world.file.write_text(f"listen 127.0.0.1:{taken.getsockname()[1]};\n")
        adapter = world.adapter(timeout="500ms")
        with pytest.raises(AdapterError, match="no new workers within 500ms; its error log says why") as failed:
            finish(adapter.enter(KEY))
    assert not failed.value.permanent
    assert not finish(adapter.inside(KEY))
    assert not world.inside()


def test_killed_before_the_test_that_fails_the_link_goes_back_to_where_it_was_at_first(nginx: Running) -> None:
    world = ColourWorld(nginx)
    change = finish(planned(world.adapter(), world.target()))

    def hook(_name: str) -> None:
        if world.link.readlink() == world.choices["blue"]:
            raise KeyboardInterrupt

    boundary.hook = hook
    with pytest.raises(KeyboardInterrupt):
        finish(world.adapter().apply(change))
    boundary.hook = lambda _name: None
    assert world.link.readlink() == world.choices["blue"]
    world.choices["blue"].write_text("nonsense;\n")
    with pytest.raises(AdapterError, match="unknown directive"):
        finish(world.adapter().apply(change))
    assert world.present() == "green"
    assert finish(world.adapter().progress(change)) is Progress.NOT_STARTED


@pytest.mark.parametrize("entering", [True, False], ids=["in", "out"])
def test_killed_between_the_link_and_the_reload_the_crossing_is_not_over(nginx: Running, entering: bool) -> None:
    world = PageWorld(nginx)
    if not entering:
        finish(world.adapter().enter(KEY))

    def hook(_name: str) -> None:
        if world.link.is_symlink() is entering:
            raise KeyboardInterrupt

    def cross() -> None:
        bracket = world.adapter()
        finish(bracket.enter(KEY) if entering else bracket.leave(KEY))

    boundary.hook = hook
    with pytest.raises(KeyboardInterrupt):
        cross()
    boundary.hook = lambda _name: None
    assert finish(world.adapter().inside(KEY)) is not entering, "so it is done again"
    cross()
    assert world.inside() is entering
    assert finish(world.adapter().inside(KEY)) is entering


def test_what_is_not_a_link_is_not_touched(nginx: Running) -> None:
    world = PageWorld(nginx)
    world.link.write_text("# somebody's own\n")
    assert "it is not a link, so it is not rollbackd's" in finish(world.adapter().ready())[0].text
    with pytest.raises(AdapterError, match="it is not a link") as refused:
        finish(world.adapter().enter(KEY))
    assert refused.value.permanent
    assert world.link.read_text() == "# somebody's own\n"


def test_a_link_of_somebody_else_is_neither_led_elsewhere_nor_taken_away(nginx: Running) -> None:
    world = PageWorld(nginx)
    theirs = nginx.path / "theirs.conf"
    theirs.write_text("# their page\n")
    world.link.symlink_to(theirs)
    with pytest.raises(
        AdapterError, match=r"leads to .*theirs\.conf, not to .*maintenance\.conf; take it away"
    ) as refused:
        finish(world.adapter().enter(KEY))
    assert refused.value.permanent
    finish(world.adapter().leave(KEY))
    assert world.link.readlink() == theirs


def test_choices_between_which_nothing_would_move_are_told_before(nginx: Running) -> None:
    world = ColourWorld(nginx)
    world.choices["blue"].unlink()
    world.choices["blue"].symlink_to(world.choices["green"])
    (problem,) = finish(world.adapter().ready())
    assert "blue.conf and " in problem.text
    assert "green.conf are the same, so nothing would move between them" in problem.text


@pytest.mark.parametrize(
    ("text", "included"),
    [
        ("include conf.d/*.conf;", True),
        ('  include "/etc/nginx/conf.d/page.conf";', True),
        ("http { include /etc/nginx/*.conf; include other.d/*; }", False),
        ("# include /etc/nginx/conf.d/*.conf;", False),
    ],
)
def test_whether_nginx_includes_a_file_is_read_from_its_configuration(text: str, included: bool) -> None:
    dump = f"# configuration file /etc/nginx/nginx.conf:\n{text}\n"
    assert includes(dump, Path("/etc/nginx/conf.d/page.conf")) is included
    assert includes(text, Path("/etc/nginx/conf.d/page.conf")), "it is not nginx that speaks: nobody knows"


# -- a reload is seen ---------------------------------------------------------------------------
def test_connections_of_old_workers_are_not_cut_and_not_waited_for(nginx: Running) -> None:
    world = PageWorld(nginx)
    host, port = nginx.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as slow:
        slow.sendall(b"GET / HTTP/1.0\r\n")
        assert nginx.body() == "the shop", "a later connection was served, so nginx has the slow one"
        finish(world.adapter().enter(KEY))
        assert world.inside()
        slow.sendall(b"\r\n")
        assert slow.makefile("rb").read().endswith(b"the shop")


@pytest.fixture
def hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes of others are hidden, as under `ProtectProc=invisible`."""
    monkeypatch.setattr(workers, "_PROC", tmp_path / "proc")


@pytest.mark.usefixtures("hidden")
def test_where_workers_are_hidden_what_is_answered_tells(nginx: Running) -> None:
    page = PageWorld(nginx, confirm=True)
    assert finish(page.adapter().ready()) == []
    finish(page.adapter().enter(KEY))
    assert page.inside()
    finish(page.adapter().leave(KEY))
    assert not page.inside()
    colour = ColourWorld(nginx, confirm=True)
    nginx.reload()
    finish(colour.adapter().apply(finish(planned(colour.adapter(), colour.target()))))
    assert colour.present() == "blue"


@pytest.mark.usefixtures("hidden")
def test_where_nothing_would_tell_nothing_is_switched(nginx: Running) -> None:
    world = PageWorld(nginx)
    assert "is hidden from rollbackd, so a reload could not be seen; give" in finish(world.adapter().ready())[0].text
    with pytest.raises(AdapterError, match="is hidden from rollbackd"):
        finish(world.adapter().enter(KEY))
    assert not world.inside()


def test_an_answer_that_never_shows_the_switch_takes_it_back(nginx: Running) -> None:
    world = PageWorld(nginx, confirm=True)
    with pytest.raises(AdapterError, match=r"http://127\.0\.0\.1:\d+ did not show it within 1s; .* put back$"):
        finish(world.adapter(page="another text", timeout="1s").enter(KEY))
    assert not world.inside()
    assert not finish(world.adapter().inside(KEY))


def test_where_nothing_shows_that_the_old_is_loaded_again_that_is_said(nginx: Running) -> None:
    world = PageWorld(nginx)
    with pytest.raises(AdapterError, match="put back, and nginx was not seen to load that either") as failed:
        finish(world.adapter(reload=["true"], timeout="300ms").enter(KEY))
    assert not failed.value.permanent
    finish(world.adapter().enter(KEY))
    assert world.inside(), "the next try does all of it"


# -- what serves --------------------------------------------------------------------------------
def led_by_hand(world: ColourWorld, name: str) -> None:
    """Somebody switches the link, and forgets the reload."""
    world.link.unlink()
    world.link.symlink_to(world.choices[name])


def test_a_link_that_was_switched_without_a_reload_is_not_what_serves(nginx: Running) -> None:
    world = ColourWorld(nginx, confirm=True)
    led_by_hand(world, "blue")
    assert finish(world.adapter().current()) == Release("green", label="green")
    change = finish(planned(world.adapter(), world.target()))
    assert change.before.id == "green"
    assert finish(world.adapter().progress(change)) is Progress.NOT_STARTED
    finish(world.adapter().apply(change))
    assert (world.present(), nginx.reloads()) == ("blue", 1)
    assert finish(world.adapter().progress(change)) is Progress.DONE


def test_a_link_that_somebody_led_to_a_third_one_is_left_to_them_also_before_they_reload(nginx: Running) -> None:
    world = ColourWorld(nginx, confirm=True)
    led_by_hand(world, "grey")
    change = finish(planned(world.adapter(), world.target()))
    assert finish(world.adapter().progress(change)) is Progress.SUPERSEDED
    with pytest.raises(AdapterError, match="leads to grey, which is neither where") as failed:
        finish(world.adapter().apply(change))
    assert failed.value.permanent
    assert nginx.reloads() == 0


@pytest.mark.parametrize("answer", ["nothing of that", "blue serves, and green serves"])
def test_an_answer_that_names_no_choice_leaves_it_to_the_link(nginx: Running, answer: str) -> None:
    world = ColourWorld(nginx, confirm=True)
    world.choices["green"].write_text(f'location = /colour {{ return 200 "{answer}"; }}\n')
    nginx.reload()
    assert finish(world.adapter().current()) == Release("green", label="green")
    nginx.stop()
    assert finish(world.adapter().current()) == Release("green", label="green"), "nor does one that does not run"


# -- the other colour is healthy first ----------------------------------------------------------
class Colour:
    """A backend that answers as it is told, then with 200."""

    def __init__(self, *statuses: int) -> None:
        self.asked = 0
        backend, answers = self, iter(statuses)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                backend.asked += 1
                self.send_response(next(answers, 200))
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/health"
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def test_the_other_colour_has_to_be_healthy_five_times_in_a_row(nginx: Running) -> None:
    with Colour() as backend:
        world = ColourWorld(nginx, healthy={"blue": backend.url}, every="10ms")
        finish(world.adapter().apply(finish(planned(world.adapter(), world.target()))))
        assert backend.asked == 5
    assert world.present() == "blue"


def test_one_bad_answer_and_nothing_is_touched(nginx: Running) -> None:
    with Colour(200, 200, 503) as backend:
        world = ColourWorld(nginx, healthy={"blue": backend.url}, every="10ms")
        change = finish(planned(world.adapter(), world.target()))
        with pytest.raises(
            AdapterError, match=r"blue is not healthy.*\(3 of 5\): GET .*/health answered 503"
        ) as failed:
            finish(world.adapter().apply(change))
        assert backend.asked == 3
    assert not failed.value.permanent
    assert world.present() == "green"
    assert nginx.reloads() == 0
    assert finish(world.adapter().progress(change)) is Progress.NOT_STARTED


def test_a_link_that_a_person_wrote_in_another_way_is_understood(nginx: Running) -> None:
    world = ColourWorld(nginx)
    world.link.unlink()
    world.link.symlink_to("../upstreams/blue.conf")
    assert finish(world.adapter().current()) == Release("blue")
    world.link.unlink()
    with pytest.raises(AdapterError, match=r"checkout\.conf is not there, which is none of `choices`; lead it to one"):
        finish(world.adapter().current())


# -- ready, settings ----------------------------------------------------------------------------
def test_ready_says_what_to_do(nginx: Running, tmp_path: Path) -> None:
    def first(**settings: Any) -> str:
        return finish(world.adapter(**settings).ready())[0].text

    world = PageWorld(nginx)
    assert first(maintenance=tmp_path / "none.conf").endswith("none.conf: no such file; write it, or correct the path")
    assert first(reload=["no-such-program"]).startswith("no-such-program: no such program")
    assert first(link=tmp_path / "none" / "x.conf").endswith("no such directory; make it, or correct `link`")
    assert first(link=tmp_path / "x.conf").startswith(f"nginx includes no {tmp_path}/x.conf; have its configuration")
    assert first(pid=tmp_path / "none.pid").startswith("nginx does not run")
    for number in (os.getpid(), 0, -1):
        (tmp_path / "other.pid").write_text(str(number))
        assert first(pid=tmp_path / "other.pid").startswith("nginx does not run"), "nobody else gets a signal"
    (nginx.path / "conf.d" / "broken.conf").write_text("nonsense;\n")
    assert "its configuration is broken already, or not readable" in first()
    world.link.symlink_to(tmp_path)
    assert "leads to" in first()


PAGE = {"maintenance": "/a/page.conf", "link": "/a/conf.d/page.conf"}
COLOURS = {"link": "/a/conf.d/up.conf", "choices": {"blue": "/a/blue.conf", "green": "/a/green.conf"}}
ASK = {"confirm": {"url": "http://127.0.0.1/"}}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "either `maintenance` or `upstream`"),
        ({**PAGE, "upstream": COLOURS}, "either `maintenance` or `upstream`"),
        ({"maintenance": "/a/page.conf"}, "`maintenance` and `link` belong together"),
        ({"upstream": COLOURS, "link": "/a/b"}, "`maintenance` and `link` belong together"),
        ({**PAGE, "link": "/a/page.conf"}, "give it a path of its own"),
        ({**PAGE, "maintenance": "page.conf"}, '"page.conf" depends on where the daemon was started'),
        ({**PAGE, **ASK}, "`confirm` and `page` belong together"),
        ({**PAGE, "page": "soon"}, "`confirm` and `page` belong together"),
        ({"upstream": COLOURS, **ASK}, "`confirm` and `upstream.says` belong together"),
        ({"upstream": {**COLOURS, "says": {"blue": "b"}}, **ASK}, '`says` lacks "green"'),
        ({"upstream": {**COLOURS, "says": {"blue": "b", "green": "b"}}, **ASK}, "is in two texts of `says`"),
        ({"upstream": {**COLOURS, "healthy": {"red": "http://x/"}}}, '`healthy` has "red", which is not among'),
        ({"upstream": {**COLOURS, "says": {"blue": "v1", "green": "v10"}}, **ASK}, '"v1" is in two texts of `says`'),
        ({"upstream": {**COLOURS, "choices": {"blue": "/a/b", "green": "/a/./b"}}}, 'two `choices` are "/a/b"'),
        ({"upstream": {**COLOURS, "healthy": {"blue": "http://x/", "green": "http://x/"}}}, "two in `healthy` ask"),
        ({"upstream": {**COLOURS, "link": "/a/blue.conf"}}, "`link` is one of its own `choices`"),
        ({"upstream": {**COLOURS, "choices": {"-t": "/a/b", "x": "/a/c"}}}, "String should match pattern"),
        ({**PAGE, "reload": []}, "at least 1 item"),
    ],
)
def test_settings_that_cannot_work_are_errors_at_start(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as failed:
        NginxSettings.model_validate({"adapter": "nginx", **settings})
    assert message in str(failed.value)


def test_what_it_needs_of_the_host_is_known(tmp_path: Path) -> None:
    settings = {"adapter": "nginx", **PAGE, "reload": ["systemctl", "reload", "nginx"]}
    needs = NginxAdapter(NginxSettings.model_validate(settings), place(tmp_path)).needs
    assert list(needs.writes) == [Path("/a/conf.d")]
    assert needs.units == {"nginx.service": ("reload",)}
