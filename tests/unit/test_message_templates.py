"""Templates of messages: whose words a receiver hears, that values stay text, and what one that fails comes to."""

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from rollbackd import facts
from rollbackd.adapter import Message, NotifierSettings
from rollbackd.config import message_templates
from rollbackd.config.load import ConfigErrors, load
from rollbackd.config.message_templates import MessageTemplates, TemplateTrouble, TemplateValues, values_of
from rollbackd.config.models import Config, Notify, Receiver
from rollbackd.journal import Entry
from rollbackd.model import FLEET, Outcome
from rollbackd.notification_events import EVENTS, USERS, Audience
from rollbackd.notify.dispatcher import NotificationDispatcher
from rollbackd.notify.messages import self_notices
from rollbackd.notify.receivers.email import EmailSettings, mail
from rollbackd.notify.receivers.pagerduty import event
from rollbackd.notify.receivers.slack import payload
from rollbackd.notify.receivers.webhook import payload as webhook_payload
from rollbackd.notify.receivers.webhook import schema as webhook_schema
from rollbackd.notify.routes import worded
from rollbackd.notify.wording import Wording
from tests.contract.test_notifiers import FORMS, HOSTILE, a_message
from tests.fakes.clock import START, ManualClock
from tests.fakes.journal import MemoryJournal
from tests.fakes.notifications import Recorder, opened
from tests.fakes.pagerduty import PagerDutyFake
from tests.fakes.slack import SlackFake
from tests.unit.house import SERVICE

ALL = """\
{{ event }} {{ audience }} {{ kind }} {{ severity }} {{ priority }} {{ service }} {{ services | join(",") }} {{ count }}
{{ incident }} {{ title }} {{ source }} {{ link }} {{ time }} {{ resolves }} {{ acknowledged }}

{% for field in fields %}
{{ field.heading }}: {{ field.text }}

{% endfor %}
"""


def receiver(kind: str = "slack", audience: Audience = "team", **given: Any) -> Receiver:
    return Receiver(name="room", kind=kind, settings=NotifierSettings(), audience=audience, **given)


def said(sources: Mapping[str, str], message: Message, one: Receiver | None = None) -> Message:
    """The message as the receiver is sent it; nothing may be wrong with its template."""
    sent, trouble = Wording([one or receiver()], MessageTemplates(sources)).of("room", message)
    assert trouble is None
    return sent


# -- which words --------------------------------------------------------------------------------
def test_the_most_special_template_counts_and_without_one_it_is_our_own_words() -> None:
    names = ("team/any/any", "team/slack/any", "team/any/opened", "team/slack/opened")
    for last in range(4):
        sources = {f"{name}.j2": f"by {name}" for name in names[: last + 1]}
        assert said(sources, a_message()).title == f"by {names[last]}"
    assert said(sources, a_message(event="failed")).title == "by team/slack/any"
    assert said(sources, a_message(event="failed"), receiver("email")).title == "by team/any/any"
    ours = a_message()
    assert said({"team/email/opened.j2": "x", "users/any/any.j2": "y"}, ours) is ours
    assert said(sources, replace(ours, own_words=True)).title == ours.title, "`says` says it already"


def test_the_first_line_is_the_title_and_the_rest_are_paragraphs_and_it_can_be_answered_as_ours() -> None:
    written = "\n  {{ service }} goes back \n\none\nand more\n   \n\n\ntwo\n"
    message = a_message(buttons=("a button",), source="ops-1")
    one = said({"team/any/any.j2": written}, message)
    assert (one.title, one.headline) == ("checkout goes back", "checkout goes back")
    assert one.lines == (("", "one\nand more"), ("", "two"))
    assert (one.buttons, one.thread, one.key) == (message.buttons, message.thread, message.key)


def test_loops_macros_and_parts_are_there_to_write_with() -> None:
    sources = {
        "_lines.j2": "{% macro line(one) %}{{ one.heading | upper }}={{ one.text }}{% endmacro %}",
        "team/any/any.j2": (
            '{% from "_lines.j2" import line %}\n{{ title | truncate(20) }}\n\n'
            "{% for one in fields %}\n{{ loop.index }}/{{ fields | length }} {{ line(one) }}\n\n{% endfor %}\n"
            "{% set names = services | default([service], true) %}{{ names | first }}{{ '!' if priority == 'P1' }}\n"
        ),
    }
    one = said(sources, a_message(lines=(("Why", "a"), ("Now", "b"))))
    assert (one.title, one.lines) == (
        "checkout rolling...", (("", "1/2 WHY=a"), ("", "2/2 NOW=b"), ("", "checkout!")),
    )  # fmt: skip


def test_users_hear_a_sentence_about_trouble_and_nothing_of_how() -> None:
    users = receiver(audience="users")
    words = {event: said({}, a_message(event=event, link="https://ops/1"), users) for event in USERS}
    looking = "We are looking into trouble with checkout."
    going_back = "We are looking into trouble with checkout, and bring back the last version that worked well."
    over = "The trouble with checkout is over."
    goes_on = "The trouble with checkout goes on, and we are working on it."
    assert {event: one.title for event, one in words.items()} == {
        "asks": looking, "refused": looking, "opened": going_back, "risen": going_back, "recovered": over,
        "passed": over, "failed": goes_on, "ineffective": goes_on, "unverified": goes_on, "expired": goes_on,
        "aborted": goes_on,
    }  # fmt: skip
    assert {(one.lines, one.buttons, one.link, one.headline) for one in words.values()} == {
        ((), (), "", title) for title in {one.title for one in words.values()}
    }
    assert USERS.keys() <= EVENTS.keys()
    heard = {event for event in EVENTS if worded(users, a_message(event=event)) is not None}
    assert heard == USERS.keys()
    several = a_message(service="", services=tuple(f"s{n}" for n in range(8)), event="recovered", count=8)
    assert said({}, several, users).title == "The trouble with s0, s1, s2, s3, s4 and 3 more is over."
    own = said({"users/any/recovered.j2": "{{ service }} works.\n\n{{ link }}."}, words["recovered"], users)
    assert own.title == words["recovered"].title, "words of one's own are not put into others"
    own = said({"users/any/opened.j2": "{{ service }} is slow.\n\n[{{ link }}]"}, a_message(link="https://x/"), users)
    assert (own.title, own.lines) == ("checkout is slow.", (("", "[]"),))


# -- values are text ----------------------------------------------------------------------------
class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)


@pytest.mark.parametrize("form", [*FORMS, "evil"])
def test_whatever_its_values_are_what_it_writes_is_text_in_every_channel(form: str) -> None:
    evil = "<img src=x onerror=alert(1)></script>{{ 7 * 7 }}{% raw %}\u202e" + "x" * 10_000
    message = FORMS.get(form) or a_message(title=evil, lines=((evil, evil),) * 30, service=evil, source=evil)
    one = said({"team/any/any.j2": ALL}, message)
    assert "49" not in one.title
    assert SlackFake().problems(payload(one), {"Content-Type": "application/json"}) == []
    assert PagerDutyFake().problems(event(one, "k" * 32), {}) == []
    import jsonschema

    jsonschema.validate(json.loads(json.dumps(webhook_payload(one))), webhook_schema())
    settings = EmailSettings.model_validate(
        {"to": "a@example.com", "from": "r@example.com", "smtp": "m.example.com:25"}
    )
    sent = mail(one, settings)
    page = _Tags()
    html = sent.get_body(("html",))
    assert html is not None
    page.feed(html.get_content())
    assert page.tags <= {"html", "body", "h2", "table", "tr", "td"}
    assert sent["Bcc"] is None


def test_of_very_many_told_together_a_template_has_enough_and_not_too_much() -> None:
    several = a_message(services=tuple(f"s{n}" for n in range(2000)), count=2000, lines=(("x", "y" * 9999),) * 100)
    values = values_of(several, "team", "slack")
    assert (len(values.services), values.count, len(values.fields), len(values.fields[0].text)) == (200, 2000, 40, 800)
    assert said({"team/any/any.j2": ALL}, several).title.startswith("opened team slack critical P1")


# -- bounds -------------------------------------------------------------------------------------
ENDLESS = {
    "loops": "{% for a in title %}" * 5 + "{% endfor %}" * 5,
    "macros": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "itself": '{% include "team/any/any.j2" %}{% include "team/any/any.j2" %}',
    "filters": "{% for a in title %}{% for b in title %}{{ (title ~ title) | upper | length }}{% endfor %}{% endfor %}",
    "texts": '{{ "a" * 1000000000 }}',
    "powers": "{{ 10 ** 100000000 }}",
    "widths": '{{ "%1000000000d" % 1 }}',
    "size": "{% for a in title %}{% for b in fields %}{{ title }}{% endfor %}{% endfor %}",
    "range": "{% for a in range(1000000000) %}{% endfor %}",
    "methods": "{{ title.center(1000000000) }}",
    "inside": '{{ title.__class__.__mro__ }}{{ "".format.__globals__ }}',
    "changes": "{{ fields.clear() }}",
    "nothing": "{# nothing #}",
}


STOPPED_BY = {
    **dict.fromkeys(("loops", "macros", "filters"), "it takes more than 5000 turns, or more than 100 ms"),
    "size": "it writes more than 65536 characters",
    **dict.fromkeys(("texts", "powers", "widths"), "is for small numbers"),
    **dict.fromkeys(("methods", "changes"), "is not safely callable"),
    "inside": "is unsafe",
    "nothing": "it writes nothing",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_one_that_never_ends_or_grows_or_gets_out_is_stopped(name: str) -> None:
    templates = MessageTemplates({"team/any/any.j2": ENDLESS[name]})
    message = a_message(title="t" * 300, lines=(("Why", "w" * 800),) * 40)
    began = time.thread_time()
    with pytest.raises(TemplateTrouble) as raised:
        templates.write("team/any/any.j2", values_of(message, "team", "slack"))
    assert time.thread_time() - began < 1
    assert raised.value.name == "team/any/any.j2"
    assert STOPPED_BY.get(name, "") in raised.value.text
    fine = MessageTemplates({"team/any/any.j2": "{% for a in title %}{{ a }}{% endfor %}"})
    assert fine.write("team/any/any.j2", values_of(message, "team", "slack")).title == "t" * 300


# -- what check says ----------------------------------------------------------------------------
WRONG = {
    "team/slack/opened.j2": ("{{ service }}\n\n{{ servce }}\n", '3:1: unknown value "servce"; did you mean "service"?'),
    "team/slack/asks.j2": (
        "x\n{% if priority == 'P9' %}{{ nowhere }}{% endif %}",
        '2:1: unknown value "nowhere"; there is acknowledged, audience, count, event, fields, incident, kind, link and 8',
    ),
    "team/slack/failed.j2": (
        "{% for field in fields %}\n{{ field.txt }}\n{% endfor %}",
        "2:1: 'dict object' has no attribute 'txt'",
    ),
    "team/slack/risen.j2": ("x\n{% if service %}", "2:1: Unexpected end of template"),
    "team/slack/paused.j2": ("x\n\n{{ title | uper }}", "3:1: No filter named 'uper'; docs/"),
    "team/slack/parked.j2": ('x\n{% include "_no.j2" %}', '2:1: there is no template "_no.j2"'),
    "team/slack/joined.j2": ('x\n{% include "_part.j2" %}', ""),
    "_part.j2": ("\n\n{{ 1 / 0 }}", "3:1: division by zero"),
    "team/slack/opend.j2": ("x", '1:1: unknown event "opend"; did you mean "opened"?'),
    "team/slak/opened.j2": ("x", '1:1: unknown kind of receiver "slak"; did you mean "slack"?'),
    "teem/slack/opened.j2": ("x", '1:1: unknown audience "teem"; did you mean "team"?'),
    "users/any/monthly_report.j2": ("x", '1:1: unknown event of users "monthly_report"; there is '),
    "team/opened.j2": ("x", "1:1: no message is made of this; a template is AUDIENCE/KIND/EVENT.j2"),
    "team/slack/opened.txt": ("x", "1:1: no message is made of this; a template is AUDIENCE/KIND/EVENT.j2"),
    "team/email/opened.j2": ("\n \n", "1:1: it writes nothing; its first line is the title"),
    "team/email/failed.j2": ("x" * 70_000, "1:1: it is longer than 65536 bytes; a message is not"),
    "team/email/asks.j2": (
        "{% if not incident %}{% for a in [1] %}\n{{ a.b }}{% endfor %}{% endif %}x",
        "2:1: 'int object'",
    ),
    "team/any/any.j2": (ALL, ""),
    "users/any/opened.j2": ("{{ services | join(', ') }} may be slow.", ""),
    ".hidden": ("", ""),
    "team/slack/opened.j2~": ("{{ nonsense", ""),
}


def configured(path: Path, folder: Path) -> Path:
    daemon = {"mode": "act", "open_on_loopback": True}
    path.write_text(json.dumps({"daemon": daemon, "notify": {"templates": str(folder)}, "services": [SERVICE]}))
    return path


def test_check_says_of_every_template_where_it_is_wrong_and_what_to_do(tmp_path: Path) -> None:
    folder = tmp_path / "templates"
    for name, (text, _) in WRONG.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "team/slack/aborted.j2").write_bytes(b"\xff")
    with pytest.raises(ConfigErrors) as raised:
        load(configured(tmp_path / "config.yaml", folder))
    told = {fault.file: f"{fault.line}:{fault.column}: {fault.text}" for fault in raised.value.faults}
    expected = {str(folder / name): text for name, (_, text) in WRONG.items() if text}
    assert told.pop(str(folder / "team/slack/aborted.j2")) == "1:1: this is not UTF-8; save the file as UTF-8"
    assert told.keys() == expected.keys()
    for name, text in expected.items():
        assert told[name].startswith(text), name


def test_a_folder_that_is_not_there_is_said_and_on_another_machine_it_need_not_be(tmp_path: Path) -> None:
    path = configured(tmp_path / "config.yaml", tmp_path / "none")
    with pytest.raises(ConfigErrors, match="none:1:1: there is no such directory; make it, or take `templates` away"):
        load(path)
    assert load(path, look_for=None).config.notify.templates == tmp_path / "none"


# -- while it runs ------------------------------------------------------------------------------
class Host:
    """A dispatcher with one receiver, and a template that fails for a service that no sample has."""

    def __init__(self, source: str, **given: Any) -> None:
        self.clock = ManualClock()
        self.journal = MemoryJournal(self.clock)
        self.room = Recorder()
        self.receivers = (receiver(**given),)
        self.templates = MessageTemplates({"team/any/opened.j2": source, "users/any/opened.j2": source})

    async def round(self) -> None:
        """What a new process does."""
        wording = Wording(self.receivers, self.templates)
        config = Config(notify=Notify(receivers=self.receivers))
        one = NotificationDispatcher(self.journal, config, {"room": self.room}, self.clock, wording=wording)
        for work in (one.pump, one.deliver, one.pump, one.deliver):
            await work()

    async def write(self, *given: Any, stream: str) -> None:
        await self.journal.append(*(Entry(stream, fact) for fact in given))


FAILS = "{% if service == 'checkout' %}{{ fields[99].text }}{% endif %}{{ service }} goes back"


async def test_one_that_fails_is_told_once_and_our_own_words_are_sent() -> None:
    host = Host(FAILS)
    for number in range(3):
        await host.write(opened("cart"), stream=f"incident:cart-{number}")
        await host.write(opened(), stream=f"incident:checkout-{number}")
        await host.round()
        host.clock.advance(timedelta(minutes=2))
    told = [one for one in host.room.messages if one.event == "opened"]
    assert [one.own_words for one in told] == [True, False] * 3
    assert {one.title for one in told} == {"cart goes back", "checkout rolling back: v42 -> v41"}
    notices = [record.fact for record in await host.journal.read(FLEET) if isinstance(record.fact, facts.Notice)]
    (notice,) = [one for one in notices if one.kind == self_notices.TEMPLATE]
    assert notice.text.startswith("team/any/opened.j2:1: ")
    assert notice.text.endswith("; our own words are sent until it is mended")
    assert host.room.events.count("template_failed") == 1


async def test_one_for_users_that_fails_leaves_them_our_words_for_users() -> None:
    host = Host(FAILS, audience="users")
    await host.write(
        opened(), facts.ApplyStarted("code"), facts.Closed(Outcome.RECOVERED, "x"), stream="incident:checkout-1"
    )
    await host.round()
    assert [one.title for one in host.room.messages] == [
        "We are looking into trouble with checkout, and bring back the last version that worked well.",
        "The trouble with checkout is over.",
    ], "and of the template that fails they hear nothing"
    one = NotificationDispatcher(
        host.journal, Config(notify=Notify(receivers=host.receivers)), {"room": host.room}, host.clock
    )
    assert await one.tell_directly(self_notices.unrecorded(START, "no space")) == (), "nor of what is about us"


# -- what is offered stays ----------------------------------------------------------------------
def test_what_a_template_is_offered_stays_and_is_documented() -> None:
    names = {
        "audience", "kind", "event", "severity", "priority", "service", "services", "count", "incident", "title",
        "fields", "source", "link", "time", "resolves", "acknowledged",
    }  # fmt: skip
    assert TemplateValues.model_fields.keys() == names
    made = message_templates.schema()
    assert made["required"] == list(TemplateValues.model_fields)
    assert all(made["properties"][name].get("description") for name in names)
    text = (Path(__file__).parents[2] / "docs/configuration.md").read_text()
    table = text.partition("| value | |")[2].partition("\n\n")[0]
    assert all(f"`{name}`" in table for name in names)
    assert HOSTILE not in json.dumps(made)


def test_that_a_template_is_made_at_first_takes_nothing_from_the_time_of_its_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = message_templates._Sandbox.compile

    def slowly(self: Any, *given: Any, **more: Any) -> Any:
        ends = time.thread_time() + 0.15
        while time.thread_time() < ends:
            pass
        return made(self, *given, **more)

    monkeypatch.setattr(message_templates._Sandbox, "compile", slowly)
    assert said({"team/any/any.j2": "{{ event }}"}, a_message()).title == "opened"


def test_the_example_in_the_documentation_is_written_as_it_stands() -> None:
    text = (Path(__file__).parents[2] / "docs/configuration.md").read_text()
    source = text.partition("```\n{{ service or")[2].partition("```")[0]
    written = "{{ service or" + source
    message = a_message(lines=(("Trouble", "errors 34 %"), ("What", "x"), ("Do now", "nothing")), link="https://ops/1")
    one = said({"team/any/any.j2": written}, message)
    assert one.title == "checkout goes back (P1)"
    assert one.lines == (("", "Trouble: errors 34 %"), ("", "Do now: nothing"), ("", "https://ops/1"))
