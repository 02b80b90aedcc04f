"""What programs print is shown without secrets and without terminal tricks."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollbackd.system.redaction import HEADROOM, MASK, TAIL, Redactor, harmless, one_line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("password=hunter2 and on", f"password={MASK} and on"),
        ("DB_PASSWORD: 'a b c'", f"DB_PASSWORD: {MASK}"),
        ('{"api_key": "abc", "x": 1}', f'{{"api_key": {MASK}, "x": 1}}'),
        ("token: abc", f"token: {MASK}"),
        ("Authorization: Bearer abc.def", f"Authorization: {MASK}"),
        ("curl -H 'authorization: Basic abc=='", f"curl -H 'authorization: {MASK}'"),
        ("sent bearer abcdefghij", f"sent bearer {MASK}"),
        ("postgres://app:pa55@db/x", f"postgres://{MASK}@db/x"),
        ("https://ghp_abc@github.com/x", f"https://{MASK}@github.com/x"),
        ("mysql --password hunter2 -u x", f"mysql --password {MASK} -u x"),
        ("ssh://git@example.com/x", "ssh://git@example.com/x"),
        ("unexpected token < in JSON", "unexpected token < in JSON"),
        ("-----BEGIN RSA PRIVATE KEY-----\nAAA\n-----END RSA PRIVATE KEY-----\nrest", f"{MASK}\nrest"),
        ("-----BEGIN PRIVATE KEY-----\nAAA\nBBB", MASK),
        ("AAA\nBBB\n-----END PRIVATE KEY-----\nrest", f"{MASK}\nrest"),
    ],
)
def test_what_looks_like_a_secret_is_masked(text: str, shown: str) -> None:
    assert Redactor()(text) == shown


def test_known_secrets_are_masked_in_every_spelling() -> None:
    redactor = Redactor(['p&ss/w"rd', "first line\nsecond line", "abc"])
    assert redactor('p&ss/w"rd p%26ss%2Fw%22rd p&ss/w\\"rd') == f"{MASK} {MASK} {MASK}"
    assert redactor("see: second line") == f"see: {MASK}"
    assert redactor("abcdef") == "abcdef", "a secret of three letters would mask half of every text"


def test_terminal_tricks_are_made_harmless() -> None:
    assert harmless("a\x1b[31mred\x1b[0m\x1b]0;title\x07b") == "aredb"
    assert harmless("over\rwritten\r\nnext\x07\x08\x9b\u202e") == "over\nwritten\nnext????"
    assert one_line("two\nlines\x1b[2J  here") == "two lines here"


@given(
    before=st.text(max_size=50),
    secret=st.text(st.characters(categories=["L", "N"]), min_size=8, max_size=40),
    filler=st.integers(min_value=0, max_value=TAIL + HEADROOM + 100),
)
def test_no_part_of_a_secret_is_left_where_an_output_was_cut(before: str, secret: str, filler: int) -> None:
    raw = (before + secret + " " + "." * filler).encode()
    kept = raw[-(TAIL + HEADROOM) :]
    shown = Redactor([secret]).tail(kept, cut=len(kept) < len(raw))
    assert secret[-7:] not in shown.replace(before, "")
    assert len(shown) <= TAIL + 2


def test_a_long_output_without_spaces_is_masked_in_no_time() -> None:
    assert len(Redactor(["something"]).tail(b"a" * (TAIL + HEADROOM), cut=True)) <= TAIL + 2


@pytest.mark.parametrize(
    "piece", ["x", "token", "password=", "://a:b", "-----BEGIN PRIVATE KEY-----", "\x1b]", "bearer\t", "a\n", "\ud800"]
)
def test_ten_megabytes_are_cut_before_they_are_cleaned(piece: str) -> None:
    began = time.thread_time()
    cleaned = Redactor(["hunter22"])(piece * (10 * 2**20 // len(piece)))
    assert time.thread_time() - began < 0.25
    assert len(cleaned) <= 2 * (TAIL + HEADROOM)
    assert one_line(piece * 2**20) is not None


@given(st.integers(0, 3 * HEADROOM), st.sampled_from(["hunter2" * 20, "s3cr3t-" + "x" * 1000, "four"]))
def test_no_half_of_a_secret_is_left_where_a_long_text_was_cut(before: int, secret: str) -> None:
    text = "." * (TAIL - HEADROOM + before) + secret + "." * (2 * TAIL)
    cleaned = Redactor([secret])(text)
    assert secret[:4] not in cleaned
    assert cleaned.endswith("…")
