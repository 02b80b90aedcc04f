"""The engine's share of a rollback: a git layer with two commands, against the same commands in a shell script.

Counted is the time from the POST of the alert to the fact `Applied`, that is: intake, decision, opening, looking,
planning, saving, checkout, both commands under their supervisor, and all that is journaled meanwhile. The script checks
the same commit out in an equal repository and runs the same commands. In turns; verification is not counted in.
"""

import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

from bench import floor, past
from bench.alerts import alert, service_name
from bench.host import Host, service
from bench.measure import Row, Sizes, middle, span
from rollbackd.model import Release

MOST = 1.06
_FILES = 200
_IDENTITY = ("-c", "user.name=Bench", "-c", "user.email=bench@example.com")


def measure(root: Path, sizes: Sizes) -> Row:
    """The row."""
    host = Host(root)
    count = sizes.rounds + 1
    repos = [root / f"repo-{number}" for number in range(count)]
    plains = [root / f"plain-{number}" for number in range(count)]
    for repo in [*repos, *plains]:
        _make(repo)
    good, bad = _git(repos[0], "rev-parse", "HEAD~^{tree}", "HEAD^{tree}").split()
    then = [["sleep", f"{sizes.command}"], ["sleep", f"{sizes.command}"]]
    layers = [{"code": {"adapter": "git", "repo": str(repo), "then": then}} for repo in repos]
    host.write_config([service(number, layer) for number, layer in enumerate(layers)])
    names = [service_name(number) for number in range(count)]
    past.release_all(host.journal, names, Release(good), Release(bad))
    ratios, extra, commits, scripts = [], [], [], []
    with host.daemon():
        for number in range(count):
            ours, kept = _roll_back(host, number)
            plain = _script(plains[number], sizes.command)
            if number:  # the first one warms up
                ratios.append(ours / plain)
                extra.append(ours - plain)
                commits.append(kept)
                scripts.append(plain)
    ratio, commit = middle(ratios), floor.commits(root)
    rest = (
        f"{middle(extra) * 1000:.0f} ms from the POST to `Applied`, of them {middle(commits):.0f} commits of "
        f"{commit * 1000:.1f} ms after each other; else three starts of commands under supervision, looks, decisions; "
        f"rounds {span(ratios, '.3f')}"
    )
    return Row(
        what=f"the engine's share of a rollback, two commands of {sizes.command:g} s",
        measured=f"{ratio:.3f}",
        floor=f"1, a shell script's {middle(scripts):.2f} s",
        rest=rest,
        must=f"<= {MOST}",
        ok=ratio <= MOST,
    )


def _git(repo: Path, *arguments: str) -> str:
    argv = ["git", *_IDENTITY, *arguments]
    return subprocess.run(argv, cwd=repo, check=True, capture_output=True, text=True, timeout=60).stdout


def _make(repo: Path) -> None:
    """A repository of two releases that differ in every file; equal ones have equal trees."""
    repo.mkdir()
    _git(repo, "init", "-q", "-b", "main")
    for release in ("good", "bad"):
        for number in range(_FILES):
            (repo / f"file-{number}").write_text(f"{release} {number}\n" * 50)
        _git(repo, "add", "-A")
        _git(repo, "commit", "-q", "-m", f"Release {release}")
        _git(repo, "tag", release)


def _roll_back(host: Host, number: int) -> tuple[float, int]:
    """Seconds from the alert to the applied step, and the commits that they hold."""
    sick, stream = alert(number, number), f"incident:{service_name(number)}-1"
    begun = datetime.now(UTC)
    host.roll_back(stream, sick)
    ((applied,),) = host.ask("SELECT at FROM facts WHERE stream = ? AND kind = 'Applied'", stream)
    commits = host.commits(service_name(number), begun, "Applied")
    return (datetime.fromisoformat(applied) - begun).total_seconds(), commits


def _script(repo: Path, seconds: float) -> float:
    """Seconds of the same by hand."""
    script = f"set -e\ngit checkout --force --detach --quiet good\nsleep {seconds}\nsleep {seconds}\n"
    begun = time.perf_counter()
    subprocess.run(["/bin/sh", "-c", script], cwd=repo, check=True, timeout=60)
    return time.perf_counter() - begun
