"""What all tests share: the marker for servers that a test needs, and a count of what was skipped for want of one.

The only reason to skip a test here is that something it runs against is missing. With ROLLBACKD_CI=1 that is an error.
"""

import gc
import os
import re
import shutil
import signal
import sys
import threading
from collections import Counter
from collections.abc import Generator, Iterator
from functools import cache
from pathlib import Path

import hypothesis
import pytest
import structlog

from rollbackd.system import boundary
from tests.dockerd import Dockerd, dockerd
from tests.hanging import Hanging
from tests.leftovers import temporary_files, who_left_temporary_files
from tests.sharing import Sharing

__all__ = ["temporary_files", "who_left_temporary_files"]

CI = os.environ.get("ROLLBACKD_CI", "") not in {"", "0"}
_SEARCH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
_skipped: Counter[str] = Counter()
_clusters: Counter[str] = Counter()
"""How many tests ran on each Kubernetes."""
_UNIT = Path(__file__).parent / "unit"
_CORE = re.compile(r"^from rollbackd\.(rules|policy|incident)\b", re.MULTILINE)


# How long an example takes says how busy the machine is: a property is about what is, not about when.
hypothesis.settings.register_profile("rollbackd", deadline=None)
hypothesis.settings.load_profile("rollbackd")


def pytest_configure(config: pytest.Config) -> None:
    if (
        signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    ):  # started in the background: what a test starts would ignore it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line(
        "markers",
        'needs(*programs): skipped where one of these programs is not installed; "root" stands for being root',
    )
    config.addinivalue_line("markers", "reads_sources: walks all source files and runs nothing, so nothing is covered")
    config.pluginmanager.register(Sharing(config))
    config.pluginmanager.register(Hanging(config))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported and collected stays: to look for garbage among it takes a third of the time that it takes."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def _missing(program: str) -> bool:
    return os.geteuid() != 0 if program == "root" else shutil.which(program, path=_SEARCH) is None


def pytest_runtest_setup(item: pytest.Item) -> None:
    needed = [program for marker in item.iter_markers("needs") for program in marker.args]
    if missing := sorted({program for program in needed if _missing(program)}):
        pytest.skip(f"missing: {', '.join(missing)} (make servers)")


def _reason(longrepr: object) -> str:
    text = str(longrepr[2]) if isinstance(longrepr, tuple) else str(longrepr)
    return text.removeprefix("Skipped: ")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """The pure core is covered by tests that name it: whole daemons that play on it would take twice as long.

    pytest-cov's own mark `no_cover` leaves a tracer running in the workers of pytest-xdist.
    """
    tracer = sys.gettrace()
    reads_sources = item.get_closest_marker("reads_sources") is not None
    if tracer is None or (_names_the_core(item.path) and not reads_sources):
        return (yield)
    sys.settrace(None)
    threading.settrace(None)
    try:
        return (yield)
    finally:
        sys.settrace(tracer)
        threading.settrace(tracer)


@cache
def _names_the_core(path: Path) -> bool:
    return path.is_relative_to(_UNIT) and path.name != "test_decision_speed.py" and bool(_CORE.search(path.read_text()))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: skipped where everything must run: {_reason(report.longrepr)}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if CI and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid}: skipped where everything must run: {_reason(report.longrepr)}"
    return report


def _count(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        _skipped[_reason(report.longrepr)] += 1


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _count(report)
    if report.when == "call":
        _clusters.update(str(value) for name, value in report.user_properties if name == "kubernetes")


def pytest_collectreport(report: pytest.CollectReport) -> None:
    _count(report)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"skipped for a missing server: {sum(_skipped.values())}")
    for reason, times in _skipped.most_common():
        terminalreporter.write_line(f"  {times} x {reason}")
    for version, times in sorted(_clusters.items()):
        terminalreporter.write_line(f"Kubernetes: {times} tests on {version}")


@pytest.fixture(scope="session")
def docker() -> Iterator[Dockerd]:
    """A real dockerd; a test that asks for it needs `tests.dockerd.PROGRAMS`, and removes its own containers."""
    with dockerd() as server:
        yield server


@pytest.fixture(autouse=True)
def _no_boundary_left_behind() -> Generator[None]:
    """A crash test's hook ends with its test."""
    before = boundary.hook
    yield
    boundary.hook = before


@pytest.fixture(autouse=True)
def logs_go_where_each_test_looks() -> Generator[None]:
    """What a test configured, such as an order that runs here, must not outlive the output that it was given."""
    _log_plainly()
    yield
    structlog.reset_defaults()


def _log_plainly() -> None:
    """As by default, but tracebacks without what each frame holds: to write out a whole daemon takes minutes."""
    *before, _ = structlog.get_config()["processors"]
    plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*before, plain])
