"""Environment files: what is asked about is found and set, and nothing else moves."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rollbackd_adapters.env.text import EnvText
from rollbackd_adapters.files.envfile import values, with_values

TEXT = """\
# A comment=no
A=1
export B = "two words"  # why
  C='first
second'
A=last
EMPTY=
D="a \\" quote
over lines"
"""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("A", "last"),
        ("B", ' "two words"  # why'),
        ("C", "'first\nsecond'"),
        ("EMPTY", ""),
        ("D", '"a \\" quote\nover lines"'),
        ("second", None),
        ("comment", None),
        ("NONE", None),
    ],
)
def test_a_value_is_what_is_written(name: str, value: str | None) -> None:
    assert values(TEXT, [name]) == {name: value}


def test_a_changed_value_moves_nothing_else() -> None:
    changed = with_values(TEXT, {"A": "new", "C": "short", "EMPTY": None})
    assert changed == TEXT.replace("A=last", "A=new").replace("'first\nsecond'", "short").replace("EMPTY=\n", "")


def test_what_is_not_assigned_comes_last_and_what_must_not_be_goes_everywhere() -> None:
    assert with_values("A=1", {"B": "2"}) == "A=1\nB=2\n"
    assert with_values("", {"B": "2"}) == "B=2\n"
    assert with_values("A=1\nB=2\nexport A=3", {"A": None}) == "B=2\n"


def test_line_ends_of_another_system_stay() -> None:
    assert values("A=1\r\nB=2\r\n", ["A"]) == {"A": "1"}
    assert with_values("A=1\r\nB=2\r\n", {"A": "3"}) == "A=3\r\nB=2\r\n"


NAME = st.sampled_from(["A", "B", "C"])
VALUE = st.one_of(
    st.text(st.characters(exclude_characters="\n\r\"'", exclude_categories=["Cs"]), max_size=8).filter(
        lambda text: not text.endswith("\\")  # it would join the next line
    ),
    st.sampled_from(["a\\\nb", '--opt="a\nA=1"', "x='\nB=2\n'", "it's # don't", '"a"\'b\nC=3\'"c"', "a\\\\"]),
    st.sampled_from(["'a\nb'", '"x=y"', '"\\""', "", "a'b"]),
)


@given(
    first=st.dictionaries(NAME, VALUE),
    second=st.dictionaries(NAME, VALUE),
    rest=st.lists(st.sampled_from(["# c", "", "X=1", "!"])),
)
def test_any_values_come_back(first: dict[str, str], second: dict[str, str], rest: list[str]) -> None:
    text = "".join(f"{line}\n" for line in [*rest, *(f"{name}={value}" for name, value in first.items()), *rest])
    names = ["A", "B", "C", "X"]
    before = values(text, names)
    assert {name: value for name, value in before.items() if name != "X"} == {name: first.get(name) for name in "ABC"}
    changed = with_values(text, {name: second.get(name) for name in "ABC"})
    assert values(changed, names) == {**{name: second.get(name) for name in "ABC"}, "X": before["X"]}
    back = with_values(changed, before)
    assert values(back, names) == before


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("B=1\nMODE=aaa\\\nbbb\nC=2\n", "MODE", "aaa\\\nbbb"),
        ('X=--opt="a\nMODE=inner"\nMODE=fast\n', "MODE", "fast"),
        ('MODE=fast\nX=--opt="a\nMODE=inner"\n', "MODE", "fast"),
        ("MODE=fast\nX=a\\\nMODE=inner\n", "MODE", "fast"),
        ("MODE=fast\necho a \\\nMODE=inner\n", "MODE", "fast"),
        ("# it's \\\nMODE=fast\n# it's\n", "MODE", "fast"),
        ("X=it's\nMODE=fast\nY=don't\n", "MODE", "fast"),
        ("X=1 # it's\nMODE=fast # \"\n", "MODE", 'fast # "'),
        ("\ufeffMODE=fast\nB=1\n", "MODE", "fast"),
        ('MODE="never closed\nB=1\n', "MODE", '"never closed'),
        ("MODE=a\\\\\nB=1\n", "MODE", "a\\\\"),
        ("MODE=a\\", "MODE", "a\\"),
        ("X='a\\'\nMODE=fast\n", "MODE", "fast"),
        ("MODE='a'\"b\nc\"d\n", "MODE", "'a'\"b\nc\"d"),
    ],
)
def test_a_value_goes_on_where_a_shells_does(text: str, name: str, value: str) -> None:
    assert values(text, [name]) == {name: value}
    changed = with_values(text, {name: "other"})
    assert values(changed, [name]) == {name: "other"}
    assert with_values(changed, {name: value}) == text


SHELL_VALUE = st.lists(
    st.sampled_from(["a", "b1", "--x=", '"q\nA=2"', "-'s\nB=3'", "\\\n", "\\ ", '"\\""', "#", "/'w'"]), max_size=4
).map("".join)


@example(first="", second='\\ #"q\nA=2"', lines=[])
@given(first=SHELL_VALUE, second=SHELL_VALUE, lines=st.lists(st.sampled_from(["# it's", "", "X=1"]), max_size=2))
def test_what_a_shell_reads_over_several_lines_is_one_value_for_both_adapters(
    first: str, second: str, lines: list[str]
) -> None:
    text = "".join(f"{line}\n" for line in (f"A={first}", *lines, f"B={second}", "C=end"))
    read = EnvText(text, "shell", ["A", "B", "C"]).content
    assert values(text, ["A", "B", "C"]) == {name: value and value.written for name, value in read.items()}
