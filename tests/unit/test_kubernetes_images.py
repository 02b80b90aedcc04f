"""The digests that are remembered of images."""

from pathlib import Path

import pytest

from rollbackd_adapters.kubernetes.image_history import ImageHistory

ONE, TWO = (f"sha256:{digit * 64}" for digit in "12")
WEB = {"spec": {"containers": [{"name": "web", "image": "shop/web:1"}]}}


@pytest.fixture
def history(tmp_path: Path) -> ImageHistory:
    return ImageHistory(tmp_path)


def test_what_a_release_ran_first_stays_though_its_tag_moves_while_it_runs(history: ImageHistory) -> None:
    history.remember("good", {"web": ("shop/web:1", ONE)})
    history.remember("good", {"web": ("shop/web:1", TWO), "proxy": ("shop/proxy:1", TWO)})
    assert history.digests("good") == {"web": ONE, "proxy": TWO}
    (told,) = history.moved("good", WEB)
    assert told.startswith(f"the tag of shop/web:1 has moved: it was {ONE[:19]} and led to {TWO[:19]} since")


def test_a_tag_that_came_back_has_not_moved(history: ImageHistory) -> None:
    history.remember("good", {"web": ("shop/web:1", ONE)})
    history.remember("bad", {"web": ("shop/web:1", TWO)})
    history.remember("next", {"web": ("shop/web:1", ONE)})
    assert history.moved("good", WEB) == []
    assert history.moved("unknown", WEB) == []


def test_a_release_that_is_forgotten_takes_along_only_images_of_its_own(history: ImageHistory, tmp_path: Path) -> None:
    history.remember("good", {"web": ("shop/web:1", ONE)})
    history.remember("bad", {"web": ("shop/web:1", TWO), "proxy": ("shop/proxy:1", TWO)})
    history.forget(["bad"])
    assert history.digests("bad") == {}
    assert history.moved("good", WEB)
    assert "proxy" not in (tmp_path / "images.json").read_text()


def test_pods_that_tell_nothing_leave_no_file(history: ImageHistory, tmp_path: Path) -> None:
    history.remember("good", {})
    history.forget(["good"])
    assert not (tmp_path / "images.json").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"ran": {"good": {"web": 7}}}'])
def test_a_damaged_file_is_begun_anew(history: ImageHistory, tmp_path: Path, text: str) -> None:
    (tmp_path / "images.json").write_text(text)
    assert history.digests("good") == {}
    history.remember("good", {"web": ("shop/web:1", ONE)})
    assert history.digests("good") == {"web": ONE}
