"""Words of one's own on the real daemon: a template's, ours where it fails, and a sentence for users."""

from pathlib import Path

from tests.e2e.toy import Ear, toy
from tests.servers import wait_until

_OPENED = "{{ service }} goes back ({{ priority }})\n\n{{ fields | map(attribute='heading') | join(', ') }}\n"
_RECOVERED = "{% if event == 'recovered' and incident == 'shop-1' %}{{ fields[77].text }}{% endif %}It is well.\n"


def test_each_audience_hears_it_in_its_words_and_a_template_that_fails_is_told_once(tmp_path: Path, ear: Ear) -> None:
    folder = tmp_path / "templates"
    for name, text in (("team/webhook/opened.j2", _OPENED), ("team/any/recovered.j2", _RECOVERED)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    receivers = [
        {"name": "room", "webhook": {"url": ear.url}},
        {"name": "customers", "audience": "users", "webhook": {"url": ear.url}},
    ]
    with toy(tmp_path / "shop", told=ear.url) as shop:
        shop.configure(notify={"receivers": receivers, "templates": str(folder)})
        shop.start_with_two_states()
        shop.alert()
        ear.until_heard("recovered")
        wait_until(lambda: bool(ear.heard("template_failed")), "that it failed is told")
        opened = {one["title"]: one for one in ear.heard("opened")}
        users = "We are looking into trouble with shop, and bring back the last version that worked well."
        assert opened.keys() == {"shop goes back (P1)", users}
        ours = opened["shop goes back (P1)"]
        assert (ours["service"], ours["incident"], ours["services"]) == ("shop", "shop-1", ["shop"])
        assert ours["lines"][0]["heading"] == ""
        assert ours["lines"][0]["text"].startswith("Trouble, What, Do now, ")
        assert opened[users]["lines"] == []
        wait_until(lambda: len(ear.heard("recovered")) > 1, "both hear of the end")
        ends = [one["title"] for one in ear.heard("recovered")]
        assert "The trouble with shop is over." in ends
        assert any(title.startswith("shop recovered") for title in ends), "in our words"
        (failed,) = ear.heard("template_failed")
        assert failed["lines"][0]["text"].startswith("team/any/recovered.j2:1: ")
