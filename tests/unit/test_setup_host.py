"""What is put onto a host and taken off again, in a directory that stands for its root; a real one is in tests/e2e."""

import os
import sqlite3
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from rollbackd.cli import install_command
from rollbackd.cli.command_frame import Session, StopError
from rollbackd.setup import polkit_rule, service_files
from rollbackd.setup.steps import EncryptSecret, SetupError, TargetHost

pytestmark = pytest.mark.needs("root", "systemd-sysusers", "systemd-tmpfiles")

CONFIG = """\
daemon:
  mode: act
  tokens: [{name: alertmanager, role: source, token: {credential: alertmanager-token}}]
services:
  - name: checkout
    match: {service: checkout}
    layers:
      code: {adapter: git, repo: /srv/my 100% checkout}
      process: {adapter: systemd, units: [checkout.service]}
    verify: {checks: [{tcp: 127.0.0.1:3000}]}
"""
UNIT = "etc/systemd/system/rollbackd.service"
RULE = polkit_rule.PLACE[1:]
DROP_IN = str(service_files.DROP_IN)[1:]
SECRET = "etc/rollbackd/credentials/alertmanager-token"


@dataclass
class Image:
    """A root directory with nothing but its users."""

    root: Path
    said: Callable[[], str]

    def install(self, **more: bool) -> str:
        return self._told(install_command.install, **more)

    def uninstall(self, **more: bool) -> str:
        return self._told(install_command.uninstall, **more)

    def _told(self, command: Callable[..., int | None], **more: bool) -> str:
        assert command(Session(config=Path("/etc/rollbackd/config.yaml")), yes=True, root=self.root, **more) is None
        return self.said()

    def write(self, path: str, text: str) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def text(self, path: str) -> str:
        return (self.root / path).read_text()

    def files(self) -> set[str]:
        return {str(path.relative_to(self.root)) for path in self.root.rglob("*") if not path.is_dir()}


@pytest.fixture
def image(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Image:
    monkeypatch.setattr(sys, "argv", ["/opt/rollbackd/bin/rollbackd"])
    monkeypatch.setenv("COLUMNS", "200")

    def said() -> str:
        captured = capsys.readouterr()
        return captured.out + captured.err

    made = Image(tmp_path / "image", said)
    for name in ("passwd", "group"):
        made.write(f"etc/{name}", "root:x:0:0:root:/root:/bin/sh\n" if name == "passwd" else "root:x:0:\n")
    return made


def test_the_service_its_user_and_its_places_are_there_and_once_is_enough(image: Image) -> None:
    said = image.install()
    assert "write    /etc/systemd/system/rollbackd.service" in said
    assert "left to do: there is no /etc/rollbackd/config.yaml yet: rollbackd init" in said
    assert (image.root / "usr/local/bin/rollbackd").readlink() == Path("/opt/rollbackd/bin/rollbackd")
    assert image.text(UNIT) == (service_files.shipped() / "rollbackd.service").read_text()
    number = TargetHost(image.root).group("rollbackd")
    place = (image.root / "var/lib/rollbackd/signals").stat()
    operators = TargetHost(image.root).group("rollbackd-operators")
    assert (oct(place.st_mode & 0o7777), place.st_gid) == ("0o1770", operators)
    assert number != operators
    for path in (
        "usr/local/share/man/man1/rollbackd.1",
        "usr/local/share/bash-completion/completions/rollbackd",
        "usr/local/share/zsh/site-functions/_rollbackd",
        "usr/local/share/fish/vendor_completions.d/rollbackd.fish",
    ):
        assert "rollbackd" in image.text(path)
        assert stat.S_IMODE((image.root / path).stat().st_mode) == 0o644
    before = image.files()
    assert image.install().startswith("nothing is left to do on this host\n")
    assert image.files() == before


def test_what_an_earlier_version_wrote_is_replaced_and_what_people_wrote_is_left(image: Image) -> None:
    image.write("etc/rollbackd/config.yaml", CONFIG)
    image.install()
    first, *_ = image.text(UNIT).splitlines()
    image.write(UNIT, f"{first}\n[Service]\nExecStart=old\n")
    image.write(RULE, "// by hand\n")
    said = image.install()
    assert "replace  /etc/systemd/system/rollbackd.service" in said
    assert f"left     {polkit_rule.PLACE}" in said
    assert "--force replaces it" in said
    assert "ExecStart=rollbackd run" in image.text(UNIT)
    assert image.text(RULE) == "// by hand\n"
    image.install(force=True)
    assert '"checkout.service": ["reset-failed", "restart"]' in image.text(RULE)
    assert image.text(f"{RULE}.old") == "// by hand\n"
    assert not (image.root / f"{UNIT}.old").exists()


def test_the_configuration_gets_what_it_needs_and_no_more_than_that(image: Image) -> None:
    image.write("etc/rollbackd/config.yaml", CONFIG)
    said = image.install()
    assert f"write it into /{SECRET} (0600)" in said
    assert "apt-get install polkitd" in said
    assert image.text(DROP_IN).splitlines()[1:] == ["[Service]", 'ReadWritePaths="/srv/my 100%% checkout"']
    image.write(SECRET, "s3cret")
    image.install()
    assert image.text(DROP_IN).splitlines()[-1] == f"LoadCredential=alertmanager-token:/{SECRET}"
    (image.root / SECRET).rename(image.root / f"{SECRET}.cred")
    image.install()
    assert image.text(DROP_IN).splitlines()[-1] == f"LoadCredentialEncrypted=alertmanager-token:/{SECRET}.cred"
    least = CONFIG.replace("      process: {adapter: systemd, units: [checkout.service]}\n", "")
    image.write("etc/rollbackd/config.yaml", least.replace("/srv/my 100% checkout", "/var/lib/rollbackd/checkout"))
    (image.root / f"{SECRET}.cred").unlink()
    assert f"remove   {polkit_rule.PLACE}" in image.install()
    assert not (image.root / RULE).exists()
    assert not (image.root / DROP_IN).exists()


def test_a_configuration_with_faults_keeps_nobody_from_installing_the_service(image: Image) -> None:
    image.write("etc/rollbackd/config.yaml", f"{CONFIG}polcy: []\n")
    assert "left to do: /etc/rollbackd/config.yaml" not in (said := image.install()), said
    assert 'unknown key "polcy"' in said
    assert (image.root / UNIT).exists()
    assert not (image.root / DROP_IN).exists()


def test_an_older_version_is_refused_where_a_newer_one_wrote_the_journal(image: Image) -> None:
    journal = image.write("var/lib/rollbackd/journal.db", "")
    with sqlite3.connect(journal) as connection:
        connection.execute("PRAGMA user_version = 9")
    connection.close()
    before = image.files()
    with pytest.raises(StopError, match=r"written by a newer version of rollbackd .* start that version"):
        image.install()
    assert image.files() == before


def test_a_step_that_fails_says_what_is_done_and_the_next_time_goes_on(image: Image) -> None:
    (image.root / "usr/local/share").mkdir(parents=True)
    in_the_way = image.write("usr/local/share/man", "no directory")
    with pytest.raises(StopError, match="what came before it is done, and the same command goes on from there"):
        image.install()
    assert (image.root / UNIT).exists()
    in_the_way.unlink()
    image.install()
    assert image.install().startswith("nothing is left to do")


def test_it_goes_as_it_came_and_keeps_what_is_peoples(image: Image) -> None:
    before = image.files() | {"etc/rollbackd/config.yaml", "var/lib/rollbackd/journal.db", "usr/local/share/fish/mine"}
    for path in before - image.files():
        image.write(path, CONFIG if path.endswith("yaml") else "")
    image.install()
    image.uninstall()
    left = {
        path
        for path in image.files() - before
        if not path.startswith(("etc/passwd", "etc/group", "etc/shadow", "etc/gshadow"))
    }
    assert {path for path in left if not path.startswith("etc/.")} == set()
    assert "nothing is left to do" in image.uninstall()
    image.uninstall(purge=True)
    assert not (image.root / "var/lib/rollbackd").exists()
    assert not (image.root / "etc/rollbackd").exists()


async def test_a_secret_that_cannot_be_encrypted_keeps_its_plain_text(tmp_path: Path) -> None:
    plain = tmp_path / "token"
    plain.write_text("s3cret")

    async def run(argv: tuple[str, ...], **_: object) -> SimpleNamespace:
        return SimpleNamespace(ok=False, ending="exit 1", tail="no TPM here\n")

    with pytest.raises(SetupError, match="exit 1: no TPM here"):
        await EncryptSecret("token", plain, tmp_path / "token.cred").do(TargetHost(), SimpleNamespace(run=run))  # type: ignore[arg-type]
    assert plain.read_text() == "s3cret"


def test_the_umask_of_whoever_installs_it_closes_nothing(image: Image) -> None:
    before = os.umask(0o077)
    try:
        image.install()
    finally:
        os.umask(before)
    for path in ("usr/local/share/man/man1/rollbackd.1", UNIT):
        place = image.root / path
        assert stat.S_IMODE(place.stat().st_mode) == 0o644
        assert stat.S_IMODE(place.parent.stat().st_mode) == 0o755
