"""Broken configurations, one file a fault and named by it; the whole text is compared.

What is expected stands beside each as `.txt`. A new one is written by hand and read before it is kept.
"""

from pathlib import Path

import pytest

from rollbackd.config.files import packs
from rollbackd.config.load import ConfigErrors, load
from tests.unit.stand_ins import STAND_INS

BROKEN = Path(__file__).parent / "broken"
FAULTS = sorted(path.stem for path in BROKEN.glob("*.yaml"))


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(BROKEN)
    monkeypatch.setenv("HOOK", "https://hooks.example/T0/B0/XYZ")
    monkeypatch.delenv("NOT_SET", raising=False)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)


def _said(fault: str) -> str:
    with pytest.raises(ConfigErrors) as caught:
        load(Path(f"{fault}.yaml"), STAND_INS)
    return str(caught.value)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_configuration_is_refused_with_these_words(fault: str) -> None:
    assert _said(fault) + "\n" == (BROKEN / f"{fault}.txt").read_text()


@pytest.mark.parametrize("fault", FAULTS)
def test_every_line_says_where_what_and_what_to_do(fault: str) -> None:
    for line in _said(fault).splitlines():
        place, _, text = line.partition(": ")
        file, row, column = place.rsplit(":", 2)
        lines = Path(file).read_text().splitlines()
        assert 1 <= int(row) <= len(lines), line
        assert 1 <= int(column) <= len(lines[int(row) - 1]) + 1, line
        assert "; " in text, line
        assert text.rstrip("?")[-1] not in ".;:", line


@pytest.mark.parametrize("fault", FAULTS)
def test_no_secret_and_no_shipped_file_is_named(fault: str) -> None:
    said = _said(fault)
    assert not [secret for secret in ("hunter2", "s3cr3t", "12345678", "XYZ") if secret in said]
    assert str(packs()) not in said


def test_there_are_faults_of_several_kinds_at_once() -> None:
    assert len(FAULTS) > 100
    assert {path.stem for path in BROKEN.glob("*.txt")} == set(FAULTS)
    many = [fault for fault in FAULTS if len((BROKEN / f"{fault}.txt").read_text().splitlines()) > 3]
    assert len(many) >= 4
