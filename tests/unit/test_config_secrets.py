"""Where secrets come from, and that they are never told."""

import os
from pathlib import Path

import pytest

from rollbackd.config.secrets import SecretError, reveal
from rollbackd.syntax.units import Secret


def _secret_file(tmp_path: Path, body: bytes = b"hunter2\n", mode: int = 0o600) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(body)
    path.chmod(mode)
    return path


def _refused(secret: Secret, **environ: str) -> str:
    with pytest.raises(SecretError) as caught:
        reveal(secret, environ)
    assert "hunter2" not in str(caught.value)
    return str(caught.value)


def test_an_environment_variable_is_read_as_it_is() -> None:
    assert reveal(Secret(env="TOKEN"), {"TOKEN": "hunter2"}) == "hunter2"


def test_the_environment_is_that_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROLLBACKD_TEST_TOKEN", "hunter2")
    assert reveal(Secret(env="ROLLBACKD_TEST_TOKEN")) == "hunter2"


@pytest.mark.parametrize("environ", [{}, {"TOKEN": ""}])
def test_a_variable_that_is_not_set_or_empty_is_missing(environ: dict[str, str]) -> None:
    said = _refused(Secret(env="TOKEN"), **environ)
    assert said == "environment variable TOKEN is not set; set it where the daemon is started"


@pytest.mark.parametrize("body", [b"hunter2", b"hunter2\n", b"hunter2\r\n"])
def test_a_newline_at_the_end_of_a_file_is_not_part_of_it(tmp_path: Path, body: bytes) -> None:
    assert reveal(Secret(file=str(_secret_file(tmp_path, body)))) == "hunter2"


def test_inner_newlines_stay(tmp_path: Path) -> None:
    assert reveal(Secret(file=str(_secret_file(tmp_path, b"a\nb\n\n")))) == "a\nb\n"


def test_a_group_may_read_a_secret(tmp_path: Path) -> None:
    assert reveal(Secret(file=str(_secret_file(tmp_path, mode=0o640)))) == "hunter2"


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o666])
def test_a_file_that_everybody_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = _secret_file(tmp_path, mode=mode)
    said = _refused(Secret(file=str(path)))
    assert said == f"{path} can be read by everybody on this host; chmod o-rwx it"


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "nothing"
    assert _refused(Secret(file=str(path))) == (
        f"{path} cannot be read: no such file or directory; keep it in a file that only the daemon's user may read"
    )


@pytest.mark.parametrize(
    ("body", "words"),
    [(b"", "is empty"), (b"\n", "is empty"), (b"\xff\xfe", "is not text"), (b"x" * 70_000, "is longer than")],
)
def test_a_file_with_something_else_is_refused(tmp_path: Path, body: bytes, words: str) -> None:
    assert words in _refused(Secret(file=str(_secret_file(tmp_path, body))))


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path, 0o600)
    assert "is not a regular file" in _refused(Secret(file=str(path)))


def test_the_cause_of_an_undecodable_secret_is_not_carried_along(tmp_path: Path) -> None:
    with pytest.raises(SecretError) as caught:
        reveal(Secret(file=str(_secret_file(tmp_path, b"hunter2\xff"))))
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_a_credential_is_what_systemd_handed_over(tmp_path: Path) -> None:
    _secret_file(tmp_path, mode=0o444)
    assert reveal(Secret(credential="secret"), {"CREDENTIALS_DIRECTORY": str(tmp_path)}) == "hunter2"


def test_a_credential_that_was_not_handed_over_says_the_line_of_the_unit(tmp_path: Path) -> None:
    said = _refused(Secret(credential="pager"), CREDENTIALS_DIRECTORY=str(tmp_path))
    assert said == (
        f"{tmp_path}/pager cannot be read: no such file or directory; "
        "add LoadCredential=pager:/path/of/the/file to the unit"
    )
    assert "systemd gave this process none" in _refused(Secret(credential="pager"))


@pytest.mark.parametrize("name", ["../etc/shadow", "a/b", "..", "."])
def test_a_credential_cannot_leave_its_directory(tmp_path: Path, name: str) -> None:
    assert "is not a credential's name" in _refused(Secret(credential=name), CREDENTIALS_DIRECTORY=str(tmp_path))


@pytest.mark.parametrize("places", [{}, {"env": "A", "file": "/b"}, {"env": "A", "credential": "b"}])
def test_a_secret_has_one_place(places: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="write exactly one"):
        Secret(**places)
