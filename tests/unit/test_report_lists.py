"""What a host's reports ask of people: lists of its own with an incident's values, and a review that is left blank."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic_core import to_jsonable_python

from rollbackd.config.load import ConfigErrors, load
from rollbackd.views import report_text
from tests.unit.test_operations import opened

LISTS = {
    "after_care": {
        "Immediate": ["the users of $service are told of $incident ($priority, $outcome)", "it costs $$5 | <b>"],
        "Acceptance": "log in, and place an order",
        "Nothing": [],
    },
    "review": ["Why $service", "Who pays"],
}


async def test_a_host_has_lists_of_its_own_in_every_report(tmp_path: Path) -> None:
    house = await opened(tmp_path, (), reports=LISTS)
    await house.event("broken")
    await house.pass_(timedelta(minutes=20))
    detail = to_jsonable_python(await house.operations.incident("shop-1"))
    await house.stage.down()
    text = report_text.markdown(report_text.of_incident(detail))
    _, _, asked = text.partition("## After-care: Immediate")
    assert asked == (
        "\n\n- [ ] the users of shop are told of shop-1 (P2, recovered)\n- [ ] it costs $5 \\| \\<b\\>\n\n"
        "## After-care: Acceptance\n\n- [ ] log in, and place an order\n\n"
        "## Review\n\n- **Why shop:** …\n- **Who pays:** …\n"
    )
    page = report_text.html(report_text.of_incident(detail))
    assert "<h2>After-care: Acceptance</h2>" in page
    assert "&lt;b&gt;" in page
    assert "regulators" not in text + page


async def test_without_any_they_are_those_of_an_after_care(tmp_path: Path) -> None:
    house = await opened(tmp_path, ())
    await house.event("broken")
    await house.pass_(timedelta(minutes=20))
    text = report_text.markdown(report_text.of_incident(to_jsonable_python(await house.operations.incident("shop-1"))))
    await house.stage.down()
    _, _, asked = text.partition("## After-care: ")
    assert asked == (
        "Immediate\n\n- [ ] users and the status page are told\n"
        "- [ ] deployments stay frozen until the cause is known\n\n"
        "## After-care: Short term\n\n- [ ] the cause is found\n- [ ] what the rollback lost is looked for\n"
        "- [ ] the release is quarantined or mended\n- [ ] regulators are told where the law asks for it\n\n"
        "## After-care: Medium term\n\n- [ ] a test fails on this cause\n"
        "- [ ] the rule that saw it is earlier, or surer\n\n"
        "## After-care: Long term\n\n- [ ] the review's actions are done\n"
        "- [ ] a drill has shown that it works again\n\n"
        "## Review\n\n- **Root cause:** …\n- **Users affected:** …\n- **What went well:** …\n"
        "- **What went badly:** …\n- **What was luck:** …\n- **Actions, owners, dates:** …\n"
    )


@pytest.mark.parametrize(
    ("reports", "said"),
    [
        ({"review": ["$servce"]}, 'unknown value "servce"; did you mean "service"?'),
        ({"review": "$5"}, "a $ stands for a value here; write $service, or $$ for a dollar"),
        ({"after_care": {"Now": ["fine", "$nothing"]}}, 'unknown value "nothing"; there is incident, outcome'),
        ({"after_care": {"Now": "$incdent"}}, 'unknown value "incdent"; did you mean "incident"?'),
        ({"after_car": {}}, 'unknown key "after_car"; did you mean "after_care"?'),
        ({"after_care": {"Now": [""]}}, "this is empty"),
    ],
)
def test_a_text_that_cannot_be_is_an_error_with_its_place(tmp_path: Path, reports: dict[str, Any], said: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps({"daemon": {"mode": "act", "open_on_loopback": True}, "reports": reports}))
    with pytest.raises(ConfigErrors) as raised:
        load(file)
    (fault,) = [one for one in raised.value.faults if "there are no services" not in one.text]
    assert str(fault).startswith(f"{file}:1:")
    assert said in str(fault)
    assert fault.column > 40, "at the text itself"
