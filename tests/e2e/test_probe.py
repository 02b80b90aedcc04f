"""The probe sees a turn of the loop that takes too long, says what held it, and minds nothing else."""

import time
from pathlib import Path

import pytest

from tests.e2e.toy import toy
from tests.servers import wait_until


@pytest.mark.parametrize(("how", "seen"), [("works", True), ("sleeps", False)])
def test_only_work_in_a_turn_counts(tmp_path: Path, probed: Path, how: str, seen: bool) -> None:
    with toy(tmp_path / "shop") as one:
        one.start("--hold-up", how)
        one.until_seen("co-v1")
        if seen:
            wait_until(lambda: any(probed.iterdir()), "it is reported")
        else:
            time.sleep(1)
    reports = [path.read_text() for path in probed.iterdir()]
    assert len(reports) == seen
    for path in list(probed.iterdir()):
        path.unlink()
    assert all("in works" in text and "of the processor" in text for text in reports)
