"""The bench's own arithmetic, its table, and what it does about other runs, other commits and rows that fail."""

import fcntl
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from rich.console import Console

from bench import commits, leftovers, results
from bench.commits import Commit, figure
from bench.host import ROOT, BenchError
from bench.measure import TINY, Row, Sizes, percentile, span
from bench.run import RESULTS, ROWS, compare, run, table

PROMISES = {
    "intake": "durable intake",
    "burst": "one request with",
    "reaction": "POST to the first adapter call",
    "apply": "POST to `apply`",
    "judging": "one query's answer",
    "comparing": "one query's two answers",
    "scoring": "a score of",
    "share": "the engine's share",
    "restart": "restart with 2,000",
    "restart-many": "restart with 4,000",
    "memory": "memory, idle",
    "snapshots": "a snapshot of",
    "sqlite": "a SQLite database of",
    "postgres-copy": "a copy of a PostgreSQL database of",
    "postgres-restore": "a PostgreSQL database of",
    "postgres-closed": "no client of",
    "postgres-point": "a point in time of a PostgreSQL database of",
    "watching": "20 Deployments with 10 ReplicaSets",
    "watch-event": "an event of a watch",
    "hung-clusters": "looks at 9 clusters, while 1",
    "cluster-rollback": "a rollback in Kubernetes whose",
}
KEPT = Row("a", "1.0", "0.9", "x", "<= 1.1", ok=True)
MISSED = Row("b", "1.2", "0.9", "x", "<= 1.1", ok=False)
PAGE = """# Speed

| row | what | at |
|-|-|-|
| share | old | 0 |
| forgotten | older | 0 |

After it.
"""


def test_a_missed_promise_is_said_and_a_kept_one_too() -> None:
    console = Console(width=200, record=True)
    console.print(table([MISSED, KEPT]))
    lines = console.export_text().splitlines()
    assert any("<= 1.1" in line and "NO" in line for line in lines)
    assert any("1.0" in line and "yes" in line for line in lines)


def test_there_is_a_row_for_each_line_of_the_promise() -> None:
    assert list(ROWS) == list(PROMISES)


def test_the_percentile_is_the_nearest_rank() -> None:
    values = [float(number) for number in range(1, 101)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile([7.0], 0.99)) == (50.0, 99.0, 7.0)
    assert span([2.0, 1.0], ".1f") == "1.0 to 2.0"


def test_tiny_is_smaller_in_everything() -> None:
    sizes = Sizes()
    assert all(getattr(TINY, one.name) < getattr(sizes, one.name) for one in fields(Sizes))


def test_a_row_is_put_into_its_place_and_the_text_around_it_stays(tmp_path: Path) -> None:
    page = tmp_path / "RESULTS.md"
    page.write_text(PAGE)
    results.keep(page, "memory", MISSED, "abc", ["intake", "share", "memory"])
    results.keep(page, "intake", KEPT, "abc+", ["intake", "share", "memory"])
    assert page.read_text().splitlines() == [
        "# Speed",
        "",
        "| row | what | measured | floor | the rest | must be | ok? | at commit |",
        "|-|-|-|-|-|-|-|-|",
        "| intake | a | 1.0 | 0.9 | x | <= 1.1 | yes | abc+ |",
        "| share | old | 0 |",
        "| memory | b | 1.2 | 0.9 | x | <= 1.1 | NO | abc |",
        "",
        "After it.",
    ]


def test_the_kept_page_has_rows_that_are_still_measured() -> None:
    names = [line.split("|")[1].strip() for line in RESULTS.read_text().splitlines() if line.startswith("|")]
    assert set(names[2:]) <= set(ROWS)


@pytest.mark.parametrize(
    ("measured", "number"),
    [("p50 3.5 ms, p99 10.4 ms", 3.5), ("+1.01 s", 1.01), ("-0.2 s", -0.2), ("129 MiB", 129.0), ("0.72, 0.19", 0.72)],
)
def test_the_figure_of_a_row_is_its_first_number(measured: str, number: float) -> None:
    assert figure(measured) == number


def test_a_row_without_a_figure_cannot_be_compared() -> None:
    with pytest.raises(BenchError, match="no figure in: p50"):
        figure("p50 of none")


# -- what another run left
def test_a_directory_of_somebody_else_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(BenchError, match="is not empty, and no bench has left it"), leftovers.alone(tmp_path):
        pass
    assert (tmp_path / "mine").exists()


def test_a_second_run_in_a_directory_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BenchError, match="another bench is running"), leftovers.alone(tmp_path):
            pass


def test_what_an_interrupted_run_left_is_gone_and_the_directory_in_the_end(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    (tmp_path / "row").mkdir()
    (tmp_path / "row/journal.db").touch()
    with leftovers.alone(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == ["lock"]
    assert not tmp_path.exists()


def test_what_a_killed_row_had_elsewhere_is_gone_too(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), leftovers.apart(tmp_path / "row") as elsewhere:
        raise KeyboardInterrupt
    assert not elsewhere.exists()
    with leftovers.apart(tmp_path / "another") as elsewhere:
        (elsewhere / "data").touch()
        leftovers.clean(tmp_path)
        assert not elsewhere.exists()
    assert not list(tmp_path.iterdir())


def _sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "60"], start_new_session=True)


def test_the_session_that_is_noted_is_ended(tmp_path: Path) -> None:
    with _sleeper() as process:
        leftovers.note(tmp_path, process.pid)
        leftovers.end_session(tmp_path)
        assert process.wait(10) == -9
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("change", ["boot", "start"])
def test_a_number_that_was_given_away_again_is_left_alone(change: str, tmp_path: Path) -> None:
    with _sleeper() as process:
        try:
            leftovers.note(tmp_path, process.pid)
            boot, session, began = (tmp_path / "session").read_text().split()
            boot, began = ("another", began) if change == "boot" else (boot, str(int(began) - 1))
            (tmp_path / "session").write_text(f"{boot} {session} {began}")
            leftovers.end_session(tmp_path)
            assert process.poll() is None
        finally:
            process.kill()


# -- two commits
_BENCH = {
    "pyproject.toml": '[project]\nname = "x"\n[project.entry-points."rollbackd.adapters"]\n',
    "bench/__init__.py": "",
    "bench/host.py": "class BenchError(Exception): ...\n",
    "bench/measure.py": """
from dataclasses import dataclass
@dataclass
class Sizes:
    rounds: int = 5
TINY = Sizes(1)
@dataclass
class Row:
    what: str
    measured: str
""",
    "bench/run.py": """
from bench.measure import Row
def share(root, sizes):
    return Row("share", "FIGURE ms")
def broken(root, sizes):
    raise ValueError("all is broken")
ROWS = {"share": share, "broken": broken}
""",
}


def _git(repository: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=Bench", "-c", "user.email=bench@example.com"]
    subprocess.run(["git", *identity, *arguments], cwd=repository, check=True, capture_output=True, timeout=60)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a bench of its own, whose row said 2 in the first commit and says 3 now."""
    made = tmp_path / "project"
    for number in (2, 3):
        for name, text in _BENCH.items():
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            (made / name).write_text(text.replace("FIGURE", str(number)))
        if number == 2:
            _git(made, "init", "-q")
            _git(made, "add", ".")
            _git(made, "commit", "-q", "-m", "First")
    monkeypatch.setattr(commits, "ROOT", made)
    return made


def _said(console: Console) -> str:
    return " ".join(console.export_text().split())


@pytest.mark.needs("git")
def test_two_commits_are_measured_in_turns_and_each_by_its_own_bench(repository: Path, tmp_path: Path) -> None:
    console = Console(width=100, record=True)
    with leftovers.alone(tmp_path / "bench") as directory:
        ours, theirs = commits.here(directory), commits.other("HEAD", directory)
        assert ours.name == f"{theirs.name}+"
        assert not commits.same_bench(theirs)
        assert compare(["share"], (ours, theirs), console, tiny=False) == 0
    said = _said(console)
    turns = f"share, {ours.name}: 3 ms share, {theirs.name}: 2 ms"
    assert said.startswith(f"{turns} {turns}")
    assert "1.50" in said


@pytest.mark.needs("git")
def test_a_commit_that_is_not_there_is_said(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="Needed a single revision"):
        commits.other("nowhere", tmp_path)


@pytest.mark.needs("git")
def test_what_was_not_measured_is_said_and_the_others_are_measured(repository: Path, tmp_path: Path) -> None:
    console = Console(width=140, record=True)
    with leftovers.alone(tmp_path / "bench") as directory:
        both = commits.here(directory), commits.other("HEAD", directory)
        assert compare(["broken", "share"], both, console, tiny=True) == 1
    said = _said(console)
    assert "nothing: ValueError: all is broken" in said
    assert "1.50" in said


def test_a_row_that_fails_is_a_row_of_the_table_and_no_traceback(repository: Path, tmp_path: Path) -> None:
    console = Console(width=140, record=True)
    with leftovers.alone(tmp_path / "bench") as directory:
        missing = Commit("abc", repository, directory)
        assert run(["broken", "unknown"], missing, console, tiny=True) == 1
    said = _said(console)
    assert "broken: broken: nothing; floor -; must be -: NO" in said
    assert "ValueError: all is broken" in said
    assert "the bench of this commit has no such row" in said
    assert "Traceback" not in said


def test_a_row_that_nobody_waits_for_does_not_begin() -> None:
    argv = [sys.executable, "bench/row.py", "memory", "nowhere", "1", "0", "--tiny"]
    ended = subprocess.run(
        argv,
        check=False,
        cwd=ROOT,
        env={"PYTHONPATH": "."},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ended.returncode, ended.stderr) == (1, "nobody waits for this row\n")
