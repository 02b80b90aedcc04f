"""The spawner: nothing escapes its limits, nothing leaks, and what was begun is found again."""

import asyncio
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from rollbackd.system import boundary, supervisor
from rollbackd.system.redaction import MASK, TAIL
from rollbackd.system.spawner import Busy, Recorded, Spawner, SpawnError
from rollbackd.system.supervisor import KEPT, holders, write_durably
from rollbackd.testing import descendants, kill, killed_at
from tests.servers import wait_until

SOON = timedelta(seconds=20)
SHORT = timedelta(milliseconds=200)


@pytest.fixture
def spawner(tmp_path: Path) -> Spawner:
    return Spawner(tmp_path / "locks", secrets=["correct horse", "battery staple"])


def alive(pid: int) -> bool:
    """Running, and not only waiting to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(met: Callable[[], object], limit: float = 20.0) -> None:
    end = time.monotonic() + limit
    while not met():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


async def until_async(met: Callable[[], object], limit: float = 20.0) -> None:
    async with asyncio.timeout(limit):
        while not met():
            await asyncio.sleep(0.01)


def run_file(tmp_path: Path) -> Path:
    return next((tmp_path / "locks").glob("*.run"))


def number_in(path: Path) -> int:
    until(lambda: path.exists() and path.read_text().strip())
    return int(path.read_text())


# -- quick commands -----------------------------------------------------------------------------
async def test_it_tells_what_a_command_printed_and_how_it_ended(spawner: Spawner) -> None:
    finished = await spawner.run(["sh", "-c", "echo out; echo err >&2; exit 3"], timeout=SOON)
    assert (finished.code, finished.stdout, finished.stderr) == (3, b"out\n", "err")
    assert not finished.ok
    assert finished.ending == "exit 3"
    assert sorted(finished.tail.splitlines()) == ["err", "out"]


async def test_a_command_sees_a_clean_environment(spawner: Spawner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLACK_WEBHOOK_URL", "https://example.com/secret")
    finished = await spawner.run(["env"], timeout=SOON, env={"GIVEN": "1"})
    names = {line.partition("=")[0] for line in finished.stdout.decode().splitlines()}
    assert names >= {"PATH", "HOME", "LANG", "GIVEN"}
    assert names <= {"PATH", "HOME", "LANG", "USER", "LOGNAME", "TZ", "GIVEN"}


async def test_a_command_has_no_input_no_terminal_and_no_descriptor_of_ours(spawner: Spawner) -> None:
    reading = await spawner.run(["cat"], timeout=SOON)
    assert (reading.code, reading.stdout) == (0, b"")
    listing = await spawner.run(["ls", "/proc/self/fd"], timeout=SOON)
    assert set(listing.stdout.split()) <= {b"0", b"1", b"2", b"3"}
    terminal = await spawner.run(["sh", "-c", ": < /dev/tty"], timeout=SOON)
    assert terminal.code != 0


async def test_input_that_is_given_is_read_however_long(spawner: Spawner) -> None:
    finished = await spawner.run(["wc", "-c"], timeout=SOON, stdin=b"x" * 300_000)
    assert int(finished.stdout) == 300_000


async def test_a_shell_never_sees_an_argument(spawner: Spawner) -> None:
    finished = await spawner.run(["printf", "%s", "$(id); `id` | > & *"], timeout=SOON)
    assert finished.stdout == b"$(id); `id` | > & *"


async def test_the_time_limit_ends_the_whole_group(spawner: Spawner, tmp_path: Path) -> None:
    began = time.monotonic()
    finished = await spawner.run(
        ["sh", "-c", f"sleep 1000 & echo $! > {tmp_path}/pid; wait"], timeout=SHORT, cwd=tmp_path
    )
    assert finished.timed_out
    assert not finished.ok
    assert finished.ending == "took longer than its limit"
    assert time.monotonic() - began < 3
    until(lambda: not alive(number_in(tmp_path / "pid")))


async def test_who_ignores_being_asked_to_end_is_killed(spawner: Spawner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rollbackd.system.program_output.GRACE", SHORT)
    finished = await spawner.run(["sh", "-c", "trap '' TERM; while :; do sleep 0.05; done"], timeout=SHORT)
    assert finished.code == -signal.SIGKILL
    assert finished.timed_out


async def test_cancelling_ends_the_whole_group(spawner: Spawner, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    task = asyncio.create_task(spawner.run(["sh", "-c", f"sleep 1000 & echo $! > {pid}; wait"], timeout=SOON))
    await until_async(lambda: pid.exists() and pid.read_text())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    until(lambda: not alive(number_in(pid)))


async def test_a_flood_of_output_is_read_to_its_end_and_kept_in_bounds(spawner: Spawner) -> None:
    finished = await spawner.run(["sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x"], timeout=SOON, limit=1000)
    assert finished.code == 0
    assert finished.stdout == b"x" * 1000
    assert finished.truncated
    assert len(finished.tail) <= TAIL + 2


async def test_what_a_command_leaves_running_does_not_keep_us_waiting(spawner: Spawner, tmp_path: Path) -> None:
    finished = await spawner.run(["sh", "-c", f"sleep 1000 & echo $! | tee {tmp_path}/pid"], timeout=SOON)
    pid = number_in(tmp_path / "pid")
    assert int(finished.stdout) == pid
    assert alive(pid)
    os.kill(pid, signal.SIGKILL)


async def test_what_a_command_leaves_writing_without_end_holds_up_nobody(spawner: Spawner, tmp_path: Path) -> None:
    began = time.thread_time()
    finished = await spawner.run(["sh", "-c", f"yes & echo $! > {tmp_path}/pid"], timeout=SOON)
    os.kill(number_in(tmp_path / "pid"), signal.SIGKILL)
    assert finished.ok
    assert time.thread_time() - began < 2


async def test_secrets_and_terminal_tricks_do_not_reach_what_is_shown(spawner: Spawner) -> None:
    text = "correct horse; battery staple; password=x; \x1b[2J"
    finished = await spawner.run(["sh", "-c", 'printf %s "$1"; printf %s "$1" >&2', "-", text], timeout=SOON)
    assert finished.stdout == text.encode()
    assert finished.stderr == f"{MASK}; {MASK}; password={MASK}; "
    assert "horse" not in finished.tail


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["no-such-program-anywhere"], "no-such-program-anywhere: no such program"),
        (["/etc/passwd"], "/etc/passwd: permission denied; is it executable?"),
        ([], "an empty command; write it as a list, the program first"),
        (["a\0b"], "a?b: embedded null byte"),
    ],
)
async def test_what_cannot_start_says_why(spawner: Spawner, argv: list[str], message: str) -> None:
    with pytest.raises(SpawnError) as failed:
        await spawner.run(argv, timeout=SOON)
    assert str(failed.value) == message
    assert failed.value.permanent


async def test_a_directory_that_is_missing_is_named(spawner: Spawner, tmp_path: Path) -> None:
    with pytest.raises(SpawnError, match=r"true: cannot run in .*/nowhere: no such directory"):
        await spawner.run(["true"], timeout=SOON, cwd=tmp_path / "nowhere")


async def test_each_start_passes_three_boundaries(spawner: Spawner, tmp_path: Path) -> None:
    passed: list[str] = []
    boundary.hook = passed.append
    await spawner.run(["true"], timeout=SOON)
    async with spawner.hold("r") as lock:
        await spawner.run_recorded(["true"], record=tmp_path / "r.json", lock=lock, timeout=SOON)
    assert passed == ["process.before", "process.spawned", "process.ended"] * 2


async def test_nothing_is_left_open(spawner: Spawner, tmp_path: Path) -> None:
    async def all_kinds() -> None:
        await spawner.run(["cat"], timeout=SOON, stdin=b"x")
        with suppress(SpawnError):
            await spawner.run(["no-such-program-anywhere"], timeout=SOON)
        await spawner.run(["sleep", "1000"], timeout=timedelta(milliseconds=10))
        async with spawner.hold("r") as lock:
            await spawner.run(["true"], timeout=SOON, lock=lock)
            await spawner.run_recorded(["false"], record=tmp_path / "r.json", lock=lock, timeout=SOON)

    await all_kinds()
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(3):
        await all_kinds()
    assert sorted(os.listdir("/proc/self/fd")) == before


# -- commands that outlive us -------------------------------------------------------------------
async def recorded(spawner: Spawner, tmp_path: Path, text: str, timeout: timedelta = SOON) -> Recorded:
    async with spawner.hold("r") as lock:
        return await spawner.run_recorded(
            ["sh", "-c", text], record=tmp_path / "record.json", lock=lock, timeout=timeout, cwd=tmp_path
        )


async def test_a_success_is_on_record_and_never_runs_again(spawner: Spawner, tmp_path: Path) -> None:
    text = "echo ran >> log; echo token=abc"
    first = await recorded(spawner, tmp_path, text)
    assert (first.code, first.tail) == (0, f"token={MASK}")
    assert await recorded(Spawner(tmp_path / "locks"), tmp_path, text) == first
    assert (tmp_path / "log").read_text() == "ran\n"
    assert (tmp_path / "record.json").stat().st_mode & 0o777 == 0o600


async def test_a_failure_is_told_once_and_then_tried_again(spawner: Spawner, tmp_path: Path) -> None:
    text = "echo ran >> log; echo wrong >&2; test $(wc -l < log) -gt 1"
    first = await recorded(spawner, tmp_path, text)
    assert (first.ok, first.ending, first.tail) == (False, "exit 1", "wrong")
    assert (await recorded(spawner, tmp_path, text)).ok
    assert (tmp_path / "log").read_text() == "ran\n" * 2


async def test_a_record_of_another_command_does_not_count(spawner: Spawner, tmp_path: Path) -> None:
    await recorded(spawner, tmp_path, "echo one >> log")
    await recorded(spawner, tmp_path, "echo two >> log")
    assert (tmp_path / "log").read_text() == "one\ntwo\n"


async def test_a_damaged_record_is_shown_to_a_person(spawner: Spawner, tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text("{")
    with pytest.raises(SpawnError, match="not a record of a command"):
        await recorded(spawner, tmp_path, "true")


async def test_the_supervisor_keeps_the_time_limit(spawner: Spawner, tmp_path: Path) -> None:
    text = f"setsid sleep 1000 & echo $! > {tmp_path}/pid; echo began; sleep 1000"
    finished = await recorded(spawner, tmp_path, text, timeout=timedelta(milliseconds=500))
    assert finished.timed_out
    assert finished.tail == "began"
    until(lambda: not alive(number_in(tmp_path / "pid")))
    assert not spawner.held("r")


async def test_a_supervised_flood_is_kept_in_bounds(spawner: Spawner, tmp_path: Path) -> None:
    finished = await recorded(spawner, tmp_path, "head -c 3000000 /dev/zero | tr '\\0' x; echo; echo the end")
    assert finished.tail.endswith("the end")
    assert len(finished.tail) <= TAIL + 2
    assert (tmp_path / "record.json").stat().st_size < 2 * KEPT


async def test_what_a_build_leaves_running_does_not_hold_the_resource(spawner: Spawner, tmp_path: Path) -> None:
    finished = await recorded(spawner, tmp_path, f"sleep 1000 & echo $! > {tmp_path}/pid")
    pid = number_in(tmp_path / "pid")
    assert finished.ok
    assert alive(pid), "a build may leave a daemon running"
    assert not spawner.held("r")
    assert (await recorded(spawner, tmp_path, "true")).ok
    os.kill(pid, signal.SIGKILL)


def test_killed_alone_the_command_goes_on_and_the_next_life_finds_its_result(tmp_path: Path) -> None:
    text = "sleep 0.5; echo ran >> log; echo told"

    async def life() -> None:
        await recorded(Spawner(tmp_path / "locks"), tmp_path, text)

    assert killed_at(2, life, descending=False)
    spawner = Spawner(tmp_path / "locks")
    assert spawner.held("r")
    with pytest.raises(Busy, match="what an earlier life started still runs"):
        asyncio.run(recorded(spawner, tmp_path, text))
    until(lambda: not spawner.held("r"))
    assert asyncio.run(recorded(spawner, tmp_path, text)).tail == "told"
    assert (tmp_path / "log").read_text() == "ran\n"


def test_killed_alone_the_time_limit_holds_all_the_same(tmp_path: Path) -> None:
    async def life() -> None:
        await recorded(Spawner(tmp_path / "locks"), tmp_path, "sleep 1000", timeout=timedelta(milliseconds=300))

    assert killed_at(2, life, descending=False)
    spawner = Spawner(tmp_path / "locks")
    until(lambda: not spawner.held("r"))
    found = spawner.recorded(tmp_path / "record.json", ["sh", "-c", "sleep 1000"])
    assert found is not None
    assert found.timed_out


def test_as_long_as_its_supervisor_lives_a_command_is_left_alone_however_late_the_clock_says_it_is(
    tmp_path: Path,
) -> None:
    text = f"echo $$ > {tmp_path}/pid; sleep 0.5; echo ran >> log"

    async def life() -> None:
        await recorded(Spawner(tmp_path / "locks"), tmp_path, text)

    assert killed_at(2, life, descending=False)
    number_in(tmp_path / "pid")
    run_file(tmp_path).write_text(json.dumps({"resource": "r", "until": 0}))
    spawner = Spawner(tmp_path / "locks")
    assert spawner.held("r")
    with pytest.raises(Busy):
        asyncio.run(recorded(spawner, tmp_path, text))
    until(lambda: not spawner.held("r"))
    assert asyncio.run(recorded(spawner, tmp_path, text)).ok
    assert (tmp_path / "log").read_text() == "ran\n"


def test_killed_with_everything_it_runs_again(tmp_path: Path) -> None:
    text = "sleep 0.3; echo ran >> log"

    async def life() -> None:
        await recorded(Spawner(tmp_path / "locks"), tmp_path, text)

    assert killed_at(2, life, descending=True)
    spawner = Spawner(tmp_path / "locks")
    until(lambda: not spawner.held("r"))
    assert not (tmp_path / "record.json").exists()
    assert asyncio.run(recorded(spawner, tmp_path, text)).ok
    assert (tmp_path / "log").read_text() == "ran\n"


def test_the_supervisor_starts_without_what_takes_half_of_its_start() -> None:
    path = Path(supervisor.__file__)
    program = "import sys; sys.path.append(sys.argv[1]); import supervisor; print(*sys.modules)"
    argv = [sys.executable, "-I", "-S", "-c", program, str(path.parent)]
    loaded = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
    assert not {"re", "enum", "functools", "collections", "ctypes"} & set(loaded)


async def test_when_only_the_supervisor_is_killed_nothing_of_it_lives_on(spawner: Spawner, tmp_path: Path) -> None:
    text = f"sleep 1000 & echo $! > {tmp_path}/pid; wait"
    task = asyncio.create_task(recorded(spawner, tmp_path, text))
    pid = tmp_path / "pid"
    await until_async(lambda: pid.exists() and pid.read_text())
    supervisor = next(child for child in descendants(os.getpid()) if b"supervisor.py" in _command(child))
    os.kill(supervisor, signal.SIGKILL)
    with pytest.raises(SpawnError, match="its supervisor was killed by SIGKILL") as failed:
        await task
    assert not failed.value.permanent
    until(lambda: not alive(number_in(pid)))
    assert (await recorded(spawner, tmp_path, "true")).ok


def _command(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def test_an_orphan_of_a_killed_supervisor_shows_until_it_is_overdue_and_is_killed_then(tmp_path: Path) -> None:
    text = f"sleep 1000 & echo $! > {tmp_path}/pid; wait"

    async def life() -> None:
        await recorded(Spawner(tmp_path / "locks"), tmp_path, text)

    assert killed_at(2, life, descending=False)
    orphan = number_in(tmp_path / "pid")
    spawner = Spawner(tmp_path / "locks")
    lock = run_file(tmp_path)
    for pid in holders(lock):
        if b"supervisor.py" in _command(pid):
            os.kill(pid, signal.SIGKILL)
    until(lambda: holders(lock) == [orphan])
    assert spawner.held("r")
    lock.write_text(json.dumps({"resource": "r", "until": time.time() - 1}))
    assert not spawner.held("r")
    assert asyncio.run(recorded(spawner, tmp_path, "true")).ok
    until(lambda: not alive(orphan))


async def test_cancelled_it_goes_on_and_is_found_later(spawner: Spawner, tmp_path: Path) -> None:
    text = f"echo $$ > {tmp_path}/pid; sleep 0.5; echo ran >> log"
    task = asyncio.create_task(recorded(spawner, tmp_path, text))
    pid = tmp_path / "pid"
    await until_async(lambda: pid.exists() and pid.read_text())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert spawner.held("r")
    await until_async(lambda: not spawner.held("r"))
    assert (await recorded(spawner, tmp_path, text)).ok
    assert (tmp_path / "log").read_text() == "ran\n"
    await until_async(lambda: not spawner._left)


async def test_a_record_that_cannot_be_written_is_not_a_success(spawner: Spawner, tmp_path: Path) -> None:
    async with spawner.hold("r") as lock:
        with pytest.raises(SpawnError, match=r"could not be written to .*: No such file or directory"):
            await spawner.run_recorded(["true"], record=tmp_path / "nowhere" / "r.json", lock=lock, timeout=SOON)


async def test_a_missing_program_is_told_before_anything_is_started(spawner: Spawner, tmp_path: Path) -> None:
    async with spawner.hold("r") as lock:
        with pytest.raises(SpawnError, match="no-such-program: no such program, or not executable") as failed:
            await spawner.run_recorded(["no-such-program"], record=tmp_path / "r.json", lock=lock, timeout=SOON)
    assert failed.value.permanent


# -- locks --------------------------------------------------------------------------------------
async def test_two_tasks_never_hold_one_resource_at_once(spawner: Spawner) -> None:
    inside, most = 0, 0

    async def work(resource: str) -> None:
        nonlocal inside, most
        async with spawner.hold(resource):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*(work("same") for _ in range(5)))
    assert most == 1


async def test_another_process_that_holds_it_is_named(spawner: Spawner, tmp_path: Path) -> None:
    other = Spawner(tmp_path / "locks")
    async with spawner.hold("r"):
        with pytest.raises(Busy, match=rf"r: another rollbackd works on it \(process {os.getpid()}\)"):
            async with other.hold("r"):
                pass
        async with other.hold("another resource"):
            pass
    async with other.hold("r"):
        pass


def test_a_quick_command_that_survives_us_holds_the_resource(spawner: Spawner, tmp_path: Path) -> None:
    ready = tmp_path / "ready"

    async def life() -> None:
        mine = Spawner(tmp_path / "locks")
        async with mine.hold("r") as lock:
            await mine.run(["sh", "-c", f"echo $$ > {ready}; exec sleep 1000"], timeout=SOON, lock=lock)

    assert killed_at(2, life, descending=False)
    survivor = number_in(ready)
    assert spawner.held("r")
    kill(survivor, descending=True)
    until(lambda: not spawner.held("r"))


def test_looking_at_a_lock_does_not_make_a_holder(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    held, looked = os.open(lock, os.O_RDWR | os.O_CREAT), os.open(lock, os.O_RDWR)
    fcntl.flock(held, fcntl.LOCK_EX)
    program = [sys.executable, "-c", "input()"]
    with (
        subprocess.Popen(program, stdin=subprocess.PIPE, pass_fds=(held,)) as holder,
        subprocess.Popen(program, stdin=subprocess.PIPE, pass_fds=(looked,)) as looking,
    ):
        # Whatever else forks just now shares all descriptors until it has begun its own program.
        wait_until(lambda: holders(lock) == [holder.pid], "nobody else holds it")
        holder.communicate(b"\n")
        looking.communicate(b"\n")
    os.close(held)
    os.close(looked)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_durably(path, b"old")
    (tmp_path / f".file.{os.getpid()}").mkdir()
    with pytest.raises(IsADirectoryError):
        write_durably(path, b"new")
    assert path.read_bytes() == b"old"
