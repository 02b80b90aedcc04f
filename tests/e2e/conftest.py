"""Stories that mostly wait are told side by side: a module's begin together, and each test takes the end of its own."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.toy import Ear, Toy, listening, toy
from tests.leftovers import no_mount_is_left, no_process_is_left

__all__ = ["no_mount_is_left", "no_process_is_left"]

PROBE = Path(__file__).parent / "probe"
Story = Callable[[Path], None]
"""Gets a directory of its own, with a short path; its asserts are the test."""


class Begun:
    """The stories that are under way."""

    def __init__(self, futures: dict[str, Future[None]]) -> None:
        self._futures = futures

    def end(self, test: str) -> None:
        """Wait for a story's end, and fail as it failed."""
        self._futures[test].result()


@pytest.fixture(scope="package", autouse=True)
def probed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where daemons that are started meanwhile report a turn of their event loop that took too long."""
    place = tmp_path_factory.mktemp("probe")
    before = os.environ.get("PYTHONPATH", "")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(PROBE), before))))
        patched.setenv("ROLLBACKD_PROBE", str(place))
        yield place


@pytest.fixture(autouse=True)
def nothing_holds_the_loop(probed: Path) -> Iterator[None]:
    """Nothing from outside holds a daemon's loop for more than 250 ms; of stories side by side any may be the one."""
    yield
    found = []
    for report in sorted(probed.iterdir()):
        found.append(report.read_text())
        report.unlink()
    assert not found, "\n".join(found)


@pytest.fixture(scope="module")
def begun(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Begun]:
    """All selected stories of the module, at most `TOGETHER` of them at once."""
    wanted = {item.name for item in request.session.items if item.path == request.path}
    stories: dict[str, Story] = {
        name: getattr(function, "story")  # noqa: B009  # set by `told`
        for name, function in vars(request.module).items()
        if name in wanted and hasattr(function, "story")
    }
    with ThreadPoolExecutor(getattr(request.module, "TOGETHER", 4)) as pool:
        futures = {name: pool.submit(tell, tmp_path_factory.mktemp("s")) for name, tell in stories.items()}
        yield Begun(futures)
        for future in futures.values():
            future.cancel()


@pytest.fixture
def ear() -> Iterator[Ear]:
    """A receiver that hears everything."""
    with listening() as one:
        yield one


@pytest.fixture
def shop(tmp_path: Path, ear: Ear) -> Iterator[Toy]:
    """v1 is good, v2 runs, the daemon too."""
    with toy(tmp_path / "shop", told=ear.url) as one:
        one.start_with_two_states()
        yield one
