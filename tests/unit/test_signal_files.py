"""The manual override, as files: what holds, what is an order, what is neither."""

import errno
import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from rollbackd.signals.signal_files import COMMANDS, LARGEST, MOST, SignalCommand, SignalFiles, SignalsUnsafe
from rollbackd.views.condition_labels import moment
from tests.fakes.clock import START, ManualClock

SERVICES = {"shop", "desk"}
SECOND = timedelta(seconds=1)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    directory = tmp_path / "signals"
    directory.mkdir()
    directory.chmod(0o1770)
    return directory


@pytest.fixture
def files(path: Path, clock: ManualClock) -> SignalFiles:
    return SignalFiles(path, clock)


def reason(files: SignalFiles, service: str = "shop") -> str:
    """Why it is held; empty when it is not."""
    return "; ".join(hold.reason for hold in files.holds(service))


def taken(files: SignalFiles, clock: ManualClock) -> list[SignalCommand]:
    """What is handed over once all has been still for a second."""
    files.commands(SERVICES)
    clock.advance(SECOND)
    return files.commands(SERVICES)


@contextmanager
def as_user(uid: int) -> Iterator[None]:
    """Another user's eyes, for files."""
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


# -- the directory ------------------------------------------------------------------------------
def test_a_directory_that_is_not_there_says_how_to_make_it(tmp_path: Path, clock: ManualClock) -> None:
    with pytest.raises(
        SignalsUnsafe, match=r"No such file or directory; make it with `install -d -m 1770 -o rollbackd"
    ):
        SignalFiles(tmp_path / "nowhere", clock)


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o1771, 0o774, 0o772])
def test_a_directory_that_is_open_to_others_keeps_the_daemon_from_starting(
    path: Path, clock: ManualClock, mode: int
) -> None:
    path.chmod(mode)
    with pytest.raises(SignalsUnsafe, match=f"mode {mode:04o} lets anybody give orders; chmod 1770"):
        SignalFiles(path, clock)


@pytest.mark.parametrize("mode", [0o770, 0o720, 0o730, 0o2770])
def test_a_directory_in_which_files_can_be_moved_by_others_is_refused(
    path: Path, clock: ManualClock, mode: int
) -> None:
    path.chmod(0o1770)
    files = SignalFiles(path, clock)
    path.chmod(mode)
    with pytest.raises(SignalsUnsafe, match=f"mode {mode:04o} has no sticky bit, .*; chmod 1770"):
        SignalFiles(path, clock)
    (path / "ROLLBACK.shop").touch()
    assert "has no sticky bit" in reason(files)
    assert taken(files, clock) == []


@pytest.mark.parametrize("mode", [0o700, 0o750, 0o1700, 0o1750])
def test_where_nobody_else_may_write_no_sticky_bit_is_needed(path: Path, clock: ManualClock, mode: int) -> None:
    path.chmod(mode)
    assert SignalFiles(path, clock).trouble() == ""


def test_what_is_no_directory_keeps_the_daemon_from_starting(tmp_path: Path, path: Path, clock: ManualClock) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(path)
    for name in ("file", "link"):
        with pytest.raises(SignalsUnsafe, match=f"{name}: is not a directory"):
            SignalFiles(tmp_path / name, clock)


@pytest.mark.needs("root")
def test_a_directory_of_somebody_else_keeps_the_daemon_from_starting(path: Path, clock: ManualClock) -> None:
    os.chown(path, 12345, 0)
    with pytest.raises(SignalsUnsafe, match="belongs to 12345; chown it to root"):
        SignalFiles(path, clock)


def test_a_directory_put_in_its_place_holds_everything_and_gives_no_orders(
    path: Path, files: SignalFiles, clock: ManualClock
) -> None:
    assert reason(files) == ""
    path.rename(path.with_name("old"))
    path.mkdir(mode=0o770)
    (path / "ROLLBACK.shop").touch()
    assert "was replaced since rollbackd started" in reason(files)
    assert taken(files, clock) == []
    path.with_name("old").rename(path.with_name("older"))
    (path / "ROLLBACK.shop").unlink()
    path.rmdir()
    assert "cannot be read: No such file or directory" in reason(files)
    path.with_name("older").rename(path)
    assert reason(files) == files.trouble() == ""


def test_a_directory_that_is_opened_to_others_later_holds_everything_and_gives_no_orders(
    path: Path, files: SignalFiles, clock: ManualClock
) -> None:
    (path / "ROLLBACK.shop").touch()
    path.chmod(0o777)
    assert "is open to others; chmod 1770" in reason(files)
    assert taken(files, clock) == []
    path.chmod(0o1770)
    assert reason(files) == ""
    assert len(taken(files, clock)) == 1


# -- holds --------------------------------------------------------------------------------------
def test_an_empty_file_holds_its_service_or_all(path: Path, files: SignalFiles) -> None:
    (path / "HOLD.shop").touch()
    assert reason(files).startswith("HOLD.shop by unix:")
    assert reason(files, "desk") == ""
    (path / "HOLD").touch()
    assert reason(files, "desk").startswith("HOLD by unix:")
    assert set(files.all_holds()) == {"*", "shop"}


@pytest.mark.parametrize("until", ["9999-12-31T23:59:59-14:00", "9999-12-31T23:59:59Z"])
def test_a_hold_until_the_end_of_all_time_can_be_shown(path: Path, files: SignalFiles, until: str) -> None:
    (path / "HOLD.shop").write_text(f"until: {until}\n")
    (hold,) = files.holds("shop")
    assert moment(hold.until) == "2200-01-01 00:00:00 UTC"


def test_a_hold_says_why_and_ends_by_itself(path: Path, files: SignalFiles, clock: ManualClock) -> None:
    until = (START + timedelta(hours=1)).isoformat()
    (path / "HOLD.shop").write_text(f"until: {until}\nreason: the database moves\n")
    assert reason(files).endswith(f": the database moves, until {until}")
    clock.advance(timedelta(hours=1) - SECOND)
    assert reason(files)
    clock.advance(SECOND)
    assert reason(files) == ""
    assert (path / "HOLD.shop").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("untill: 2020-01-01T00:00:00Z", 'unknown line "untill:"'),
        ("until: tomorrow", "`until: tomorrow` is no RFC 3339 time"),
        ("until: 2020-01-01T00:00:00", "has no time zone"),
        ("until 2020-01-01T00:00:00Z", 'unknown line "until 2020-01-01T00:"'),
        ("until: 2020-01-01T00:00:00Z\nuntil: 2020-01-02T00:00:00Z", "cannot read the line"),
        ("just because", 'cannot read the line "just because"'),
        ("x: " * LARGEST, "larger than"),
    ],
)
def test_a_text_that_is_not_understood_holds_until_it_is_removed(
    path: Path, files: SignalFiles, text: str, said: str
) -> None:
    (path / "HOLD.shop").write_text(text)
    assert said in reason(files)
    assert "held until it is removed" in reason(files)
    (path / "HOLD.shop").unlink()
    assert reason(files) == ""


def test_bytes_that_are_no_text_hold(path: Path, files: SignalFiles) -> None:
    (path / "HOLD").write_bytes(b"\xff\xfe")
    assert "not UTF-8 text" in reason(files)


def test_whatever_has_the_name_of_a_hold_holds_and_is_listed(path: Path, files: SignalFiles, tmp_path: Path) -> None:
    kinds: dict[str, Callable[[Path], object]] = {
        "symlink": lambda hold: hold.symlink_to("/dev/null"),
        "dangling symlink": lambda hold: hold.symlink_to("/nowhere"),
        "directory": lambda hold: hold.mkdir(),
        "fifo": os.mkfifo,
    }
    for number, (kind, make) in enumerate(kinds.items()):
        hold = path / "HOLD.shop"
        make(hold)
        assert reason(files).startswith("HOLD.shop by unix:"), kind
        assert set(files.all_holds()) == {"shop"}, kind
        hold.rename(tmp_path / str(number))
        assert reason(files) == "", kind


@pytest.mark.needs("root")
def test_a_hold_that_cannot_be_read_holds(clock: ManualClock) -> None:
    with TemporaryDirectory() as parent:  # others cannot pass through pytest's own directories
        Path(parent).chmod(0o755)
        path = Path(parent) / "signals"
        path.mkdir(mode=0o770)
        os.chown(path, 65534, 65534)
        (path / "HOLD.shop").write_text("until: 2020-01-01T00:00:00Z")
        (path / "HOLD.shop").chmod(0)
        with as_user(65534):
            files = SignalFiles(path, clock)
            assert reason(files) == "HOLD.shop by unix:root, unreadable: Permission denied"


def test_a_hold_for_a_service_that_there_is_not_is_found(path: Path, files: SignalFiles) -> None:
    for name in ("HOLD.shp", "HOLD.", "HOLD.shop", "HOLD"):
        (path / name).touch()
    assert files.unknown_holds(SERVICES) == ["HOLD.", "HOLD.shp"]


# -- orders -------------------------------------------------------------------------------------
def test_an_order_is_handed_over_once_it_was_still_for_a_second(
    path: Path, files: SignalFiles, clock: ManualClock
) -> None:
    order = path / "ROLLBACK.shop"
    order.touch()
    assert files.commands(SERVICES) == []
    clock.advance(SECOND / 2)
    order.write_text("to: v1\n")
    assert files.commands(SERVICES) == []
    clock.advance(SECOND / 2)
    assert files.commands(SERVICES) == []
    clock.advance(SECOND / 2)
    (command,) = files.commands(SERVICES)
    assert (command.verb, command.service, command.fields, command.problem) == ("ROLLBACK", "shop", {"to": "v1"}, "")


def test_an_order_has_all_its_lines_and_its_owner(path: Path, files: SignalFiles, clock: ManualClock) -> None:
    (path / "ROLLBACK.shop").write_text("to: code=v1\nplan: code\nreason: it is: slow\n\n")
    (path / "ABORT.desk").write_text("reason: no\n")
    abort, rollback = taken(files, clock)
    assert abort.fields == {"reason": "no"}
    assert rollback.fields == {"to": "code=v1", "plan": "code", "reason": "it is: slow"}
    assert rollback.actor.startswith("unix:")


def test_an_answer_has_the_time_at_which_it_was_seen_first(path: Path, files: SignalFiles, clock: ManualClock) -> None:
    (path / "APPROVE.shop").write_text("reason: go\n")
    (path / "DENY.desk").touch()
    first = clock.now()
    approve, deny = taken(files, clock)
    assert (approve.verb, approve.service, approve.fields, approve.seen) == ("APPROVE", "shop", {"reason": "go"}, first)
    assert (deny.verb, deny.service, deny.fields, deny.problem) == ("DENY", "desk", {}, "")


@pytest.mark.needs("root")
def test_the_owner_of_a_file_is_the_actor(path: Path, files: SignalFiles, clock: ManualClock) -> None:
    (path / "ROLLBACK.shop").touch()
    os.chown(path / "ROLLBACK.shop", 65534, 0)
    (path / "ABORT.shop").touch()
    os.chown(path / "ABORT.shop", 54321, 0)
    assert [command.actor for command in taken(files, clock)] == ["unix:54321", "unix:nobody"]


def problems(files: SignalFiles, clock: ManualClock) -> dict[str, str]:
    return {command.verb: command.problem for command in taken(files, clock)}


@pytest.mark.needs("root")
@pytest.mark.parametrize(("user", "person"), [(1, False), (999, False), (61184, False), (65534, False), (1000, True)])
def test_a_service_users_own_files_only_stop(clock: ManualClock, user: int, person: bool) -> None:
    """Since a release's code runs as that user, too; others give all orders."""
    with TemporaryDirectory() as parent:  # others cannot pass through pytest's own directories
        Path(parent).chmod(0o755)
        path = Path(parent) / "signals"
        path.mkdir()
        path.chmod(0o1770)
        os.chown(path, user, 0)
        for verb in (*COMMANDS, "HOLD"):
            for service, owner in (("shop", user), ("desk", 0)):
                (path / f"{verb}.{service}").write_text("for: 5m\n" if verb == "MENDING" else "")
                os.chown(path / f"{verb}.{service}", owner, 0)
        with as_user(user):
            files = SignalFiles(path, clock)
            found = {f"{one.verb}.{one.service}": one.problem for one in taken(files, clock)}
            assert reason(files) != ""
    refused = {name for name, problem in found.items() if problem}
    assert len(found) == 2 * len(COMMANDS)
    assert refused == (set() if person else {"ROLLBACK.shop", "APPROVE.shop", "DENY.shop"})
    assert all("runs what a release brings" in found[name] for name in refused)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("ROLLBACK.shp", "", 'there is no service "shp"'),
        ("ROLLBACK", "", 'there is no service ""'),
        ("ROLLBACK...", "", 'there is no service ".."'),
        ("ROLLBACK.shop\nHOLD", "", "there is no service"),
        (
            "rollback.shop",
            "",
            '"rollback" is no command; there are HOLD, HOLD.<service>, ROLLBACK.<service>, APPROVE.<service>, DENY',
        ),
        ("APPROVE.shop", "to: v1", 'unknown line "to:"; it takes reason'),
        ("DENY", "", 'there is no service ""'),
        ("HOLDS", "", "is no command"),
        ("ROLLBACK.shop", "too: v1", 'unknown line "too:"; it takes plan, reason, to'),
        ("ABORT.shop", "to: v1", 'unknown line "to:"; it takes reason'),
        ("ROLLBACK.shop", "v1", 'cannot read the line "v1"'),
        ("ROLLBACK.shop", "x" * (LARGEST + 1), "larger than"),
        ("x" * 255, "", "is no command"),
    ],
)
def test_what_is_no_order_is_put_aside_with_the_reason_beside_it(
    path: Path, files: SignalFiles, clock: ManualClock, name: str, text: str, said: str
) -> None:
    (path / name).write_text(text)
    (command,) = taken(files, clock)
    assert said in command.problem
    assert files.finish(command, command.problem) == ""
    assert not (path / name).exists()
    reasons = [one for one in (path / "rejected").iterdir() if one.name.endswith(".reason")]
    assert [said in one.read_text() for one in reasons] == [True]
    assert len(list((path / "rejected").iterdir())) == 2
    assert not (path / "done").exists()
    assert taken(files, clock) == []


def test_a_name_of_any_bytes_is_text_wherever_it_is_shown(path: Path, files: SignalFiles, clock: ManualClock) -> None:
    for name in (b"ROLLBACK.\xff", b"HOLD.\xff"):
        Path(os.fsdecode(os.fsencode(path) + b"/" + name)).touch()
    assert files.unknown_holds(SERVICES) == ["HOLD.\\xff"]
    assert list(files.all_holds()) == ["\\xff"]
    (command,) = taken(files, clock)
    for text in (command.key, command.problem, files.finish(command, command.problem)):
        text.encode()
    assert not any(name.startswith("ROLLBACK") for name in os.listdir(path))


def test_what_is_no_file_is_no_order(path: Path, files: SignalFiles, clock: ManualClock, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("to: v1")
    (path / "ROLLBACK.shop").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(path / "ROLLBACK.desk")
    (path / "ABORT.shop").mkdir()
    os.link(tmp_path / "elsewhere", path / "ABORT.desk")
    problems = {command.name: command.problem for command in taken(files, clock)}
    assert problems == {
        "ABORT.desk": "it has another name elsewhere, so its owner need not be who put it here",
        "ABORT.shop": "not a regular file",
        "ROLLBACK.desk": "not a regular file",
        "ROLLBACK.shop": "not a regular file",
    }


def test_an_editors_hidden_files_and_directories_of_others_are_left_alone(
    path: Path, files: SignalFiles, clock: ManualClock
) -> None:
    (path / ".ROLLBACK.shop.swp").touch()
    for name in ("done", "rejected", "lost+found"):
        (path / name).mkdir()
    assert taken(files, clock) == []
    assert files.all_holds() == {}


def test_a_file_is_known_by_its_inode_and_change(path: Path, files: SignalFiles, clock: ManualClock) -> None:
    (path / "ABORT.shop").touch()
    (first,) = taken(files, clock)
    (path / "ABORT.shop").rename(path / "kept")
    (path / "ABORT.shop").touch()
    (path / "kept").unlink()
    (second,) = taken(files, clock)
    assert first.key != second.key


def test_an_order_that_cannot_be_moved_away_is_not_taken_again_and_named(
    path: Path, files: SignalFiles, clock: ManualClock
) -> None:
    (path / "ABORT.shop").touch()
    (path / "done").touch()
    done, abort = sorted(taken(files, clock), key=lambda command: command.name, reverse=True)
    assert done.problem
    said = files.finish(abort)
    assert said == "ABORT.shop cannot be moved to done/: File exists; remove it"
    assert [command.name for command in taken(files, clock)] == ["done"]
    (path / "ABORT.shop").unlink()
    assert files.finish(abort) != ""


def test_an_order_that_somebody_took_back_is_no_fault(path: Path, files: SignalFiles, clock: ManualClock) -> None:
    (path / "ABORT.shop").touch()
    (command,) = taken(files, clock)
    (path / "ABORT.shop").unlink()
    assert files.finish(command) == ""


# -- floods, and nothing left to open a file with -------------------------------------------------
@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """None can be opened any more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_no_descriptor_left_is_not_no_file(path: Path, files: SignalFiles, clock: ManualClock) -> None:
    (path / "ROLLBACK.shop").write_text("reason: now")
    taken(files, clock)
    with no_descriptor_left():
        assert "cannot be read: Too many open files" in reason(files)
        assert files.commands(SERVICES) == []
    assert reason(files) == ""
    (command,) = taken(files, clock)
    assert (command.verb, command.problem) == ("ROLLBACK", "")


def test_an_order_that_cannot_be_opened_for_want_of_a_descriptor_stays_and_is_not_rejected(
    path: Path, files: SignalFiles, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing_left(*_: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    (path / "ROLLBACK.shop").touch()
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", nothing_left)
        assert taken(files, clock) == []
    assert [command.problem for command in taken(files, clock)] == [""]


@pytest.mark.parametrize("name", ["ROLLBACK.nobody{}", "HOLD.nobody{}", "{}", ".{}", "DENY.shop{}"])
def test_in_a_crowd_of_files_orders_and_holds_of_services_count(
    path: Path, files: SignalFiles, clock: ManualClock, name: str
) -> None:
    assert not files.crowd()
    for number in range(20 * MOST):
        (path / name.format(number)).touch()
    for order in ("ROLLBACK.shop", "DENY.desk", "HOLD.desk"):
        (path / order).touch()
    began = time.thread_time()
    found = taken(files, clock)
    assert files.crowd()
    assert [command.name for command in found if not command.problem] == ["DENY.desk", "ROLLBACK.shop"]
    assert [command.name for command in found[:2]] == ["DENY.desk", "ROLLBACK.shop"], "they come first"
    assert len(found) <= MOST + 2
    assert "HOLD.desk by" in reason(files, "desk")
    assert "desk" in files.all_holds(SERVICES)
    assert len(files.unknown_holds(SERVICES)) <= MOST
    assert time.thread_time() - began < 0.5
