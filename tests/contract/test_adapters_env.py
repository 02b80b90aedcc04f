"""Switches in a file of variables: the contract on a real file, and what a shell and systemd really read from it."""

import json
import os
import re
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rollbackd.adapter import AdapterError
from rollbackd.execution.layers import resolve
from rollbackd.model import Progress, Release
from rollbackd.testing import AdapterContract, World, finish, perform, place, planned
from rollbackd_adapters.env import EnvAdapter, EnvSettings
from rollbackd_adapters.env.memory import content_id
from rollbackd_adapters.env.text import EnvText, Unreadable, Value, quoted
from tests.contract.elsewhere import occupy
from tests.dockerd import IMAGE, PROGRAMS, Dockerd

NAMES = ("RAG_ENABLED", "KB_WRITE_MODE", "AUTH_MODE", "RAG_INDEX_VERSION")
PRESETS = {
    "no-retrieval": {"RAG_ENABLED": "false", "RAG_INDEX_VERSION": None},
    "readonly": {"KB_WRITE_MODE": "readonly"},
    "legacy-auth": {"AUTH_MODE": "legacy mode's"},
    "stable-index": {"RAG_INDEX_VERSION": "2024-05"},
}
FILE = """# switches of the shop
export RAG_ENABLED="true"   # since May
DATABASE_URL='postgres://shop:hunter2@db/shop'

KB_WRITE_MODE=full
RAG_ENABLED=true
  RAG_INDEX_VERSION=2024-06
LAST=1"""
GENERATOR = "/usr/lib/systemd/user-environment-generators/30-systemd-environment-d-generator"


def shell_reads(path: Path, names: tuple[str, ...] = NAMES) -> dict[str, str]:
    """What bash finds in the file; unset names are left out."""
    program = 'set -a; . "$0"; for name; do [ -z "${!name+x}" ] || printf "%s=%s\\0" "$name" "${!name}"; done'
    done = subprocess.run(["bash", "-c", program, str(path), *names], env={}, capture_output=True, check=True)
    return dict(pair.split("=", 1) for pair in done.stdout.decode().split("\0") if pair)


def systemd_reads(path: Path) -> dict[str, str]:
    """What systemd's own parser finds in the file, by its generator for environment.d."""
    home = path.parent / "config"
    (home / "environment.d").mkdir(parents=True, exist_ok=True)
    (home / "environment.d" / "x.conf").write_bytes(path.read_bytes())
    environment = {"XDG_CONFIG_HOME": str(home), "HOME": "/nonexistent"}
    done = subprocess.run([GENERATOR], env=environment, capture_output=True, check=True)
    program = 'eval "$(cat)"; for n in A B C; do [ -z "${!n+x}" ] || printf "%s=%s\\0" "$n" "${!n}"; done'
    lines = b"".join(line + b"\n" for line in done.stdout.splitlines() if line[:2] in {b"A=", b"B=", b"C="})
    read = subprocess.run(["bash", "-c", program], input=lines, env={}, capture_output=True, check=True)
    return dict(pair.split("=", 1) for pair in read.stdout.decode().split("\0") if pair)


def id_of(values: dict[str, str]) -> str:
    return content_id({name: Value(values[name]) if name in values else None for name in NAMES})


class EnvWorld(World):
    def __init__(self, path: Path, text: str = FILE, **more: Any) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self.file = path / "shop.env"
        self.file.write_bytes(text.encode())
        self.file.chmod(0o640)
        self._settings = {"adapter": "env", "file": self.file, "names": NAMES, "presets": PRESETS, **more}

    def adapter(self) -> EnvAdapter:
        return EnvAdapter(EnvSettings.model_validate(self._settings), place(self.path))

    def present(self) -> str:
        return id_of(shell_reads(self.file))

    def target(self) -> Release:
        return Release(id_of({"RAG_ENABLED": "false", "KB_WRITE_MODE": "full"}))

    def moved_by_somebody(self) -> None:
        with self.file.open("a") as file:
            file.write("\nAUTH_MODE=new\n")

    def everything(self) -> object:
        found = self.file.stat()
        return self.file.read_bytes(), found.st_ino, found.st_mtime_ns, sorted(os.listdir(self.file.parent))

    def break_it(self) -> None:
        self.file.rename(self.path / "real.env")
        self.file.symlink_to(self.path / "real.env")

    def hang(self) -> None:
        occupy(self.path, self.adapter().resource)

    def switch(self, name: str, key: str) -> None:
        """Go to what a step names."""
        adapter = self.adapter()
        change = finish(planned(adapter, resolve("flags", name, finish(adapter.releases())), key))
        assert finish(perform(adapter, change)) is Progress.DONE


class TestEnv(AdapterContract):
    def make_world(self, path: Path) -> World:
        return EnvWorld(path)


@pytest.fixture
def world(tmp_path: Path) -> EnvWorld:
    return EnvWorld(tmp_path)


def test_a_preset_changes_its_lines_alone_and_going_back_restores_every_byte(world: EnvWorld) -> None:
    before = finish(world.adapter().current())
    world.switch("readonly", "shop-1/0/flags")
    assert world.file.read_text() == FILE.replace("KB_WRITE_MODE=full", "KB_WRITE_MODE=readonly")
    world.switch("legacy-auth", "shop-1/1/flags")
    assert world.file.read_text().endswith('LAST=1\nAUTH_MODE="legacy mode\'s"')
    world.switch(before.id, "shop-2/0/flags")
    assert world.file.read_text() == FILE
    assert stat.S_IMODE(world.file.stat().st_mode) == 0o640


def test_what_a_file_set_before_can_be_gone_back_to_in_a_later_life(world: EnvWorld) -> None:
    first = finish(world.adapter().current())
    world.file.write_text(FILE.replace("2024-06", "2024-07"))
    assert first not in finish(world.adapter().releases())[:1]
    assert first in finish(world.adapter().releases())
    finish(world.adapter().current())
    world.switch(first.id, "shop-1/0/flags")
    assert world.file.read_text() == FILE


def test_a_version_of_an_index_goes_back_to_the_stable_one_or_the_feature_off(world: EnvWorld) -> None:
    world.switch("stable-index", "shop-1/0/flags")
    assert shell_reads(world.file) == {
        "RAG_ENABLED": "true", "KB_WRITE_MODE": "full", "RAG_INDEX_VERSION": "2024-05"
    }  # fmt: skip
    world.switch("no-retrieval", "shop-1/1/flags")
    assert shell_reads(world.file) == {"RAG_ENABLED": "false", "KB_WRITE_MODE": "full"}


def test_each_preset_that_is_in_force_is_still_found_by_its_name(world: EnvWorld) -> None:
    world.switch("readonly", "shop-1/0/flags")
    world.switch("no-retrieval", "shop-1/1/flags")
    releases = finish(world.adapter().releases())
    present = finish(world.adapter().current())
    assert resolve("flags", "readonly", releases) == resolve("flags", "no-retrieval", releases) == present
    assert len(releases) == len(set(releases))
    assert resolve("flags", "legacy-auth", releases) != present


def test_a_content_is_called_after_all_presets_that_it_agrees_with_the_one_that_says_most_first(tmp_path: Path) -> None:
    presets = {"stable-index": {"INDEX": "5"}, "no-retrieval": {"RAG": "false", "WRITES": "readonly"}}
    world = EnvWorld(
        tmp_path, "INDEX=5\nRAG=false\nWRITES=readonly\n", names=["INDEX", "RAG", "WRITES"], presets=presets
    )
    assert finish(world.adapter().current()).label == "no-retrieval, stable-index"
    assert resolve("flags", "stable-index", finish(world.adapter().releases())) == finish(world.adapter().current())


def test_labels_say_the_values_but_no_secret(tmp_path: Path) -> None:
    text = "MODE=fast\nSTRIPE_KEY=abcdef\nDB_PASSWORD=hunter2\nURL=https://u:pw99@h/\n"
    world = EnvWorld(tmp_path, text, names=["MODE", "STRIPE_KEY", "DB_PASSWORD", "URL"], presets={})
    label = finish(world.adapter().current()).label
    assert label.startswith("MODE=fast STRIPE_KEY=[secret] DB_PASSWORD=[secret] URL=https:")
    assert not {"abcdef", "hunter2", "pw99"} & set(label.replace(":", " ").replace("@", " ").split())


def test_what_is_remembered_is_private_and_bounded(tmp_path: Path) -> None:
    world = EnvWorld(tmp_path, keep=3)
    adapter = world.adapter()
    for number in range(8):
        world.file.write_text(f"RAG_INDEX_VERSION={number}\n")
        finish(adapter.current())
    finish(adapter.prune())
    kept = list((tmp_path / "scratch" / "contents").iterdir())
    assert sorted(json.loads(path.read_text())["content"]["RAG_INDEX_VERSION"]["text"] for path in kept) == [
        "5", "6", "7"
    ]  # fmt: skip
    assert {stat.S_IMODE(path.stat().st_mode) for path in kept} == {0o600}
    assert stat.S_IMODE((tmp_path / "scratch" / "contents").stat().st_mode) == 0o700


def test_a_look_works_when_it_cannot_be_remembered_and_ready_tells(world: EnvWorld) -> None:
    adapter = world.adapter()
    (world.path / "scratch" / "contents").write_text("in the way")
    assert finish(adapter.current()).id == world.present()
    (problem,) = finish(adapter.ready())
    assert "in the way" in problem.text


@pytest.mark.needs("root")
def test_owner_and_attributes_stay(world: EnvWorld) -> None:
    os.chown(world.file, 12345, 54321)
    os.setxattr(world.file, "user.note", b"ours")
    world.switch("readonly", "shop-1/0/flags")
    found = world.file.stat()
    assert (found.st_uid, found.st_gid) == (12345, 54321)
    assert os.getxattr(world.file, "user.note") == b"ours"


def _pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def _link(file: Path) -> None:
    file.symlink_to(file.rename(f"{file}.real"))


def _second_name(file: Path) -> None:
    Path(f"{file}.other").hardlink_to(file)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (Path.unlink, "no such file"),
        (_pipe, "not a regular file"),
        (_link, "symbolic link"),
        (_second_name, "has 2 names"),
        (lambda file: file.write_text("RAG_ENABLED='true\n"), "line 1: the quote in the value of RAG_ENABLED"),
        (lambda file: file.write_text("A=1\nRAG_ENABLED=true false\n"), "line 2: more than a value follows"),
        (lambda file: file.write_bytes(b"#" * (2**20 + 1)), "longer than 1 MiB"),
    ],
)
def test_ready_says_what_is_wrong_with_the_file(world: EnvWorld, spoil: Callable[[Path], object], words: str) -> None:
    spoil(world.file)
    (problem,) = finish(world.adapter().ready())
    assert words in problem.text


def test_a_file_that_somebody_writes_meanwhile_keeps_what_they_wrote(world: EnvWorld) -> None:
    from rollbackd.system import boundary

    adapter = world.adapter()
    change = finish(planned(adapter, world.target()))
    boundary.hook = lambda name: world.moved_by_somebody() if name == "env.written" else None
    with pytest.raises(AdapterError, match="changed just now") as failed:
        finish(adapter.apply(change))
    assert not failed.value.permanent
    assert world.file.read_text().endswith("AUTH_MODE=new\n")
    assert sorted(os.listdir(world.path)) == ["locks", "scratch", "shop.env"]
    assert finish(world.adapter().progress(change)) is Progress.SUPERSEDED


# -- text ---------------------------------------------------------------------------------------
def changed(text: str, syntax: Literal["shell", "systemd"] = "shell", **values: str | None) -> str:
    return EnvText(text, syntax, values).changed({n: None if v is None else Value(v) for n, v in values.items()})


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "A=x y\n"),
        ("A=1", "A='x y'"),
        ("A=1\r\nB=2\r\n", "A='x y'\r\nB=2\r\n"),
        ("B=2\r\n", "B=2\r\nA='x y'\r\n"),
        ("B=2", "B=2\nA='x y'"),
        ('  export A="1" # why\n', '  export A="x y" # why\n'),
        ("A=1\n#A=2\nA=3 #\n", "A='x y'\n#A=2\nA='x y' #\n"),
        ("# A=1\n", "# A=1\nA='x y'\n"),
        ("XA=1\nA_=2\n", "XA=1\nA_=2\nA='x y'\n"),
        ("A=a\\\nb\nB=\n", "A='x y'\nB=\n"),
        ("A='a\nA=b'\nB=\n", "A='x y'\nB=\n"),
        ("\ufeffA=1\n", "\ufeffA='x y'\n"),
        ("for x in a; do echo $x; done\nA=1\n", "for x in a; do echo $x; done\nA='x y'\n"),
    ],
)
def test_only_the_lines_concerned_change(before: str, after: str) -> None:
    assert changed(before, A="x y") == (after if before else "A='x y'\n")


@pytest.mark.parametrize(
    ("before", "after"),
    [("A=1\nB=2", "B=2"), ("B=2\nA=1", "B=2"), ("B=2\n\nA=1", "B=2\n"), ("A=1\n", ""), ("A=1\r\nB=2\r\nA=3", "B=2")],
)
def test_a_name_is_taken_out_with_its_lines(before: str, after: str) -> None:
    assert changed(before, A=None) == after


def test_a_value_that_a_shell_expands_is_kept_as_it_is_written() -> None:
    file = """A="$HOME/x"\nB="$(hostname)"\nC=~/y\nD='$HOME'\n"""
    text = EnvText(file, "shell", "ABCD")
    assert [value and value.expands for value in text.content.values()] == [True, True, True, False]
    set_otherwise = text.changed({name: Value("1") for name in "ABCD"})
    assert EnvText(set_otherwise, "shell", "ABCD").changed(text.content) == file


def test_a_comment_of_systemd_that_ends_in_a_backslash_is_refused() -> None:
    with pytest.raises(Unreadable, match="line 1: versions of systemd disagree"):
        EnvText("# c \\\nA=1\n", "systemd", "A")


_PIECES = st.sampled_from(["a", "b1", " ", "  ", "\t", "'", '"', "\\", "#", ";", "=", "$x", "$", "\n", "\r\n", "A=", "B=", "\nA=", "\nB=", "\nC=", "\n#", "é", "~", "\nexport C=", "&", "/:.", '\\"', "\\\n", "`"])  # fmt: skip
_TEXTS = st.lists(_PIECES, max_size=14).map(lambda pieces: "A=" + "".join(pieces))


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=_TEXTS)
@example(text="A=a\n=\\\nA=b1")  # a line that begins with `=` has that in its name, so it sets nothing
def test_systemd_itself_reads_what_is_read_here(tmp_path: Path, text: str) -> None:
    if not Path(GENERATOR).exists():
        pytest.skip("missing: systemd (make servers)")
    try:
        read = EnvText(text, "systemd", "ABC")
    except Unreadable:
        return
    # This generator expands, takes an empty value for none at all, and its own output is read by a shell here.
    if {"$", "`", "~"} & set(text) or not all(
        each.value.text.isprintable() and each.value.text for each in read._assignments
    ):
        return
    (tmp_path / "env").write_bytes(text.encode())
    assert systemd_reads(tmp_path / "env") == {name: value.text for name, value in read.content.items() if value}


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=_TEXTS)
def test_a_shell_itself_reads_what_is_read_here(tmp_path: Path, text: str) -> None:
    """Where a line of the file is no assignment, what a shell makes of it is its own affair."""
    try:
        content = EnvText(text, "shell", "ABC").content
    except Unreadable:
        return
    lines = [line for line in text.replace("\\\n", "").split("\n") if line.strip("\r\t ")]
    if any(value is not None and value.expands for value in content.values()) or not all(
        line.lstrip(" \t").startswith(("A=", "B=", "C=", "export A=", "export B=", "#")) for line in lines
    ):
        return
    # A line end here and a character there; a program that may go on for lines; a line of nothing, joined to the next.
    if "\r" in text or "`" in text or re.search(r"^[ \t]*(#.*)?\\\n", text, re.MULTILINE):
        return
    (tmp_path / "env").write_bytes(text.encode())
    ours = {name: value.text for name, value in content.items() if value is not None}
    assert shell_reads(tmp_path / "env", ("A", "B", "C")) == ours


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    value=st.text(st.characters(exclude_characters="\0\r\n", exclude_categories=("Cs", "Cc")), max_size=12),
    like=st.sampled_from(["", "'", '"']),
)
def test_what_is_written_reads_the_same_in_both(tmp_path: Path, value: str, like: str) -> None:
    line = f"A={quoted(value, like)}\n"
    for syntax in ("shell", "systemd"):
        assert EnvText(line, syntax, "A").content == {"A": Value(value)}
    (tmp_path / "env").write_text(line)
    assert shell_reads(tmp_path / "env", ("A",)) == {"A": value}


@settings(max_examples=100)
@given(text=_TEXTS, syntax=st.sampled_from(["shell", "systemd"]), value=st.sampled_from(["x", "x y", "", "it's"]))
def test_there_and_back_sets_what_was_set(text: str, syntax: Any, value: str) -> None:
    try:
        before = EnvText(text, syntax, "AB")
    except Unreadable:
        return
    if text.rstrip().endswith("\\"):  # what is put behind it would be joined to it: refused
        return
    there = before.changed({"A": Value(value), "B": None})
    back = EnvText(there, syntax, "AB").changed(before.content)
    assert EnvText(back, syntax, "AB").content == before.content


# -- docker's dialect ---------------------------------------------------------------------------
def docker_reads(server: Dockerd, path: Path) -> dict[str, str] | None:
    """The variables of a container that would be made with this file; None when docker refuses the file."""
    made = server.docker("create", "--pull=never", f"--env-file={path}", IMAGE, "true", check=False)
    if not made:
        return None
    (found,) = json.loads(server.docker("inspect", made))
    return dict(pair.partition("=")[::2] for pair in found["Config"]["Env"])


@pytest.mark.needs(*PROGRAMS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=_TEXTS, value=st.sampled_from(["postgres://u:p@db/x?a=1&b=2", "it's $5", '"x"', "", " # no", "\\n", "a b "])
)
@example(text='URL=http://a\nNOTE="hi there"\n', value="it's $5")
@example(text="# set A\nA=1", value="x")
def test_docker_itself_reads_what_is_read_and_written_here(
    docker: Dockerd, tmp_path: Path, text: str, value: str
) -> None:
    path = tmp_path / "env"
    path.write_bytes(text.encode())
    try:
        before = EnvText(text, "docker", "AB")
    except Unreadable as error:
        said = str(error)
    else:
        said = ""
    if said:
        assert docker_reads(docker, path) is None or "its own environment" in said
        return
    there = before.changed({"A": Value(value), "B": None})
    path.write_bytes(there.encode())
    read = docker_reads(docker, path)
    if read is not None:  # else another line is none that docker takes
        assert {name: read.get(name) for name in "AB"} == {"A": value, "B": None}
        back = EnvText(there, "docker", "AB").changed(before.content)
        path.write_bytes(back.encode())
        read = docker_reads(docker, path)
        assert read is not None
        assert {name: read.get(name) for name in "AB"} == {
            name: one and one.text for name, one in before.content.items()
        }


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("A", "A has no value, so docker takes it from its own environment"),
        ("export A=1", "docker refuses a name with white space; write A= alone"),
        ("A =1", "docker refuses a name with white space"),
    ],
)
def test_a_line_of_ours_that_docker_does_not_take_is_told(line: str, words: str) -> None:
    with pytest.raises(Unreadable, match=f"line 2: {words}"):
        EnvText(f"# A\n{line}\n", "docker", "A")
    assert EnvText(f"# A\n{line}\n", "docker", "B").content == {"B": None}


def test_what_a_shell_knew_goes_back_in_dockers_dialect_too(tmp_path: Path) -> None:
    world = EnvWorld(tmp_path, "MODE='a b'\n", names=["MODE"], presets={"off": {"MODE": "it's $5"}})
    first = finish(world.adapter().current())
    world.file.write_text("MODE=other\n")
    finish(world.adapter().current())
    world._settings["syntax"] = "docker"
    world.switch(first.id, "shop-1/0/flags")
    assert world.file.read_text() == "MODE=a b\n"
    world.switch("off", "shop-2/0/flags")
    assert world.file.read_text() == "MODE=it's $5\n"


# -- settings -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"file": "shop.env"}, "write the whole path"),
        ({"names": []}, "at least 1"),
        ({"names": ["A B"]}, "cannot be the name of a variable"),
        ({"names": ["A", "A"]}, "stands twice"),
        ({"presets": {"off": {"B": "1"}}}, 'preset off sets "B", which is not among `names`'),
        ({"presets": {"off": {}}}, "sets nothing"),
        ({"presets": {"a b": {"A": "1"}}}, "cannot name a preset"),
        (
            {"presets": {"off": {"A": False}}},
            'False is not a text; write it in quotes, as the program reads it: "False"',
        ),
        ({"presets": {"off": {"A": "1\n2"}}}, "line break"),
    ],
)
def test_wrong_settings_are_told_with_what_to_write(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as failed:
        EnvSettings.model_validate({"adapter": "env", "file": "/srv/x/.env", "names": ["A"], **settings})
    assert words in str(failed.value)
