"""The list of files of a snapshot is read entry by entry, and no further than so many."""

import gzip
import hashlib
import io
import json
import tarfile
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollbackd_adapters.files import archive, store

LEAF = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5), st.lists(st.integers(), max_size=3))
LISTS = st.dictionaries(st.text(max_size=5), st.dictionaries(st.text(max_size=5), LEAF, max_size=5), max_size=4)


@given(LISTS, st.sampled_from([None, 1]), st.booleans())
def test_it_is_read_as_json_is(lists: dict[str, Any], indent: int | None, ascii_only: bool) -> None:
    body = json.dumps(lists, indent=indent, ensure_ascii=ascii_only)
    assert store._loads(body.encode("utf-8", "surrogatepass").decode("utf-8", "replace").encode(), inf) is not None
    if ascii_only:
        assert store._loads(body.encode(), inf) == json.loads(body)


@given(LISTS, st.data())
def test_what_is_cut_off_or_damaged_is_no_list(lists: dict[str, Any], data: st.DataObject) -> None:
    body = json.dumps(lists).encode()
    with pytest.raises(ValueError):
        store._loads(body[: data.draw(st.integers(0, len(body) - 1))], inf)


def packed(entries: int) -> gzip.GzipFile:
    """A copy from elsewhere, small, with a long list of directories."""
    body = b'{"entries":{' + b",".join(b'"/%07x":["dir",0,0,0,0,0,"",1,null]' % n for n in range(entries))
    body += b'},"variables":{}}\n'
    head = {
        "name": "x1", "release": hashlib.sha256(b"").hexdigest(), "created": "2026-11-29T18:00:00+00:00", "why": "schedule",
        "files": 0, "size": 0, "rules": "r", "paths": ["/x"], "digest": hashlib.sha256(body).hexdigest(), "format": 1,
    }  # fmt: skip
    manifest, out = json.dumps(head).encode() + b"\n" + body, io.BytesIO()
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.GNU_FORMAT) as tar:
        member = tarfile.TarInfo(archive.MANIFEST)
        member.size = len(manifest)
        tar.addfile(member, io.BytesIO(manifest))
    return gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(out.getvalue())))


def test_a_copy_that_lists_more_files_than_may_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "_MOST_ENTRIES", 500)
    with pytest.raises(ValueError, match="lists more than 500 files and directories"):
        archive._manifest(packed(501), 2**30)
    with pytest.raises(ValueError, match="lists more than 500 files"):
        archive._manifest(packed(100_000), 2**30)
    assert len(archive._manifest(packed(500), 2**30)[1].entries) == 500
