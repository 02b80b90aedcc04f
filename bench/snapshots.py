"""A snapshot of 1 GiB in 50,000 files, against `rsync -a --checksum` of the same to an empty place; then once more.

Ours is on disk when it returns, rsync's copy need not be; dirty pages are written out before each, so that neither pays
for the other. The second snapshot is one of a new adapter, as after a restart of the daemon. In turns.
"""

import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from bench.host import BenchError
from bench.measure import Row, Sizes, middle, span
from rollbackd.testing import finish, place
from rollbackd_adapters.files import FilesAdapter, FilesSettings

MOST = 1.5
"""Of rsync's time."""
MOST_AGAIN = 0.3
"""Of the first snapshot's time."""
_BYTES = 2**30 // 50_000
_A_DIRECTORY = 100
_ROUNDS = 3
_LIMIT = timedelta(minutes=5)


def measure(root: Path, sizes: Sizes) -> Row:
    """The row."""
    rsync = shutil.which("rsync")
    if rsync is None:
        raise BenchError("rsync is missing; `make servers` installs it")
    tree = root / "tree"
    _make(tree, sizes.files)
    ratios, again, seconds = [], [], []
    for number in range(min(sizes.rounds, _ROUNDS)):
        copy, store = root / f"copy-{number}", root / f"store-{number}"
        argv = [rsync, "-a", "--checksum", f"{tree}/", f"{copy}/"]
        theirs = _timed(lambda argv=argv: subprocess.run(argv, check=True, timeout=600))  # type: ignore[misc]
        ours = _timed(lambda store=store: _take(tree, store, "first"))  # type: ignore[misc]
        more = _timed(lambda store=store: _take(tree, store, "second"))  # type: ignore[misc]
        ratios.append(ours / theirs)
        again.append(more / ours)
        seconds.append((theirs, ours, more))
        for path in (copy, store):
            shutil.rmtree(path)
    theirs, ours, more = (middle([row[column] for row in seconds]) for column in range(3))
    walked = _timed(lambda: [path.stat() for path in tree.rglob("*")])
    return Row(
        what=f"a snapshot of {sizes.files:,} files, {sizes.files * _BYTES / 2**20:.0f} MiB; then with no change",
        measured=f"{middle(ratios):.2f}, {middle(again):.2f}",
        floor=f"1, {theirs:.1f} s of rsync -a --checksum; again {walked / ours:.2f}, a look at each file",
        rest=f"{ours:.1f} s, again {more:.1f} s; ours is on disk then; rounds {span(ratios, '.2f')}",
        must=f"<= {MOST} of rsync, again < {MOST_AGAIN} of the first",
        ok=middle(ratios) <= MOST and middle(again) < MOST_AGAIN,
    )


def _make(tree: Path, files: int) -> None:
    chance = random.Random(1)
    noise = chance.randbytes(2 * _BYTES)
    for number in range(files):
        directory = tree / str(number // _A_DIRECTORY)
        if number % _A_DIRECTORY == 0:
            directory.mkdir(parents=True)
        begin = chance.randrange(_BYTES)
        (directory / str(number)).write_bytes(b"%012d" % number + noise[begin : begin + _BYTES - 12])


def _take(tree: Path, store: Path, name: str) -> None:
    settings = {"adapter": "files", "paths": [str(tree)], "room": 0}
    finish(FilesAdapter(FilesSettings.model_validate(settings), place(store)).take(name), _LIMIT)


def _timed(work: Callable[[], object]) -> float:
    """Seconds of it, begun with nothing left to write."""
    os.sync()
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
