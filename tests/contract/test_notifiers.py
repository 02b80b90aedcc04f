"""One suite for every notifier, each against a strict fake of its service."""

import asyncio
import base64
import json
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import jsonschema
import pytest
from pydantic import ValidationError

from rollbackd.adapter import DeliveryError, Message, Notifier, PartlyDeliveredError
from rollbackd.model import Priority
from rollbackd.notify.receivers import http_post
from rollbackd.notify.receivers.email import Email, EmailSettings, mail
from rollbackd.notify.receivers.grafana import Grafana, GrafanaSettings, tags
from rollbackd.notify.receivers.pagerduty import PagerDuty, PagerDutySettings, dedup_key, event
from rollbackd.notify.receivers.slack import Slack, SlackSettings, payload
from rollbackd.notify.receivers.webhook import Webhook, WebhookSettings
from rollbackd.notify.receivers.webhook import payload as webhook_payload
from rollbackd.notify.receivers.webhook import schema as webhook_schema
from rollbackd.syntax.units import Secret
from rollbackd.system.http_client import HttpSession, retry_after
from tests.fakes.clock import START
from tests.fakes.grafana import TOKEN as GRAFANA_TOKEN
from tests.fakes.grafana import GrafanaFake
from tests.fakes.pagerduty import ROUTING_KEY, PagerDutyFake
from tests.fakes.receiving import Fault, Receiver, serving
from tests.fakes.slack import SlackFake
from tests.fakes.smtp import PASSWORD, USER, MailFake, make_certificate, serving_mail
from tests.fakes.webhook import WebhookFake

HOSTILE = "$(reboot) <!channel> <https://evil.example|click> & \r\nBcc: all@example.com\x1b[31m\x00\ud800\u202e"
SECRETS = {"KEY": ROUTING_KEY, "PASSWORD": PASSWORD, "TOKEN": "Bearer s3cr3t-token", "GRAFANA": GRAFANA_TOKEN}


def a_message(**given: Any) -> Message:
    usual = Message(
        key="incident:checkout-3/1/room",
        event="opened",
        title="checkout rolling back: v5 -> v4",
        lines=(("Why", "errors = 34.2% (> 10% for 5m)"), ("Stop it", "`rollbackd abort checkout-3`")),
        severity="critical",
        thread="checkout-3",
        at=START,
        service="checkout",
        incident="checkout-3",
        priority=Priority.P1,
    )
    return replace(usual, **given)


FORMS = {
    "plain": a_message(),
    "hostile": a_message(
        title=HOSTILE,
        thread=HOSTILE,
        lines=tuple((f"{HOSTILE}{n}", HOSTILE) for n in range(3)),
        labels={HOSTILE: HOSTILE},
        key=f"{HOSTILE}/1",
    ),
    "huge": a_message(title="<" * 100_000, lines=(("Why", "&" * 1_048_576),) * 200, thread="t" * 5000),
    "bare": a_message(lines=(), service="", incident="", priority=None, severity="info"),
    "over": a_message(event="recovered", severity="info", resolves=True),
    "seen": a_message(event="acknowledged", severity="info", acknowledged=True),
}


class Setting:
    """A notifier of one kind on its fake."""

    def __init__(self, notifier: Notifier, fake: Receiver, secrets: tuple[str, ...]) -> None:
        self.notifier = notifier
        self.fake = fake
        self.secrets = secrets


@asynccontextmanager
async def on_a_fake(kind: str) -> AsyncIterator[Setting]:
    fake: Receiver = {
        "slack": SlackFake, "pagerduty": PagerDutyFake, "webhook": WebhookFake, "grafana": GrafanaFake,
    }[kind]()  # fmt: skip
    async with serving(fake) as base, aiohttp.ClientSession() as session:
        secrets = {**SECRETS, "URL": f"{base}{fake.path}"}
        given: tuple[Any, Any] = {
            "slack": (Slack, SlackSettings(webhook_url=Secret(env="URL"))),
            "pagerduty": (PagerDuty, PagerDutySettings(routing_key=Secret(env="KEY"), url=secrets["URL"])),
            "webhook": (
                Webhook,
                WebhookSettings(url=Secret(env="URL"), headers={"Authorization": Secret(env="TOKEN"), "X-Fleet": "eu"}),
            ),
            "grafana": (
                Grafana,
                GrafanaSettings.model_validate({"url": base, "authorization": {"credentials": {"env": "GRAFANA"}}}),
            ),
        }[kind]
        notifier: Notifier = given[0](given[1], lambda secret: secrets[secret.env], lambda: session)
        hidden = {
            "slack": (secrets["URL"], fake.path),
            "pagerduty": (ROUTING_KEY,),
            "webhook": (secrets["URL"], "s3cr3t"),
            "grafana": (GRAFANA_TOKEN,),
        }
        yield Setting(notifier, fake, hidden[kind])


@pytest.fixture(params=["slack", "pagerduty", "webhook", "grafana"])
async def setting(request: pytest.FixtureRequest) -> AsyncIterator[Setting]:
    async with on_a_fake(request.param) as made:
        yield made


@pytest.mark.parametrize("form", FORMS)
async def test_every_form_of_message_is_taken_by_a_strict_receiver(setting: Setting, form: str) -> None:
    await setting.notifier.send(FORMS[form])
    assert setting.fake.wrong == []
    assert len(setting.fake.taken) == 1


async def test_a_stumbling_server_is_asked_again_in_the_same_send(setting: Setting) -> None:
    setting.fake.fail(Fault.SERVER_ERROR, 2)
    await setting.notifier.send(a_message())
    assert len(setting.fake.sent) == 3
    assert len(setting.fake.taken) == 1


async def test_a_broken_server_is_transient(setting: Setting) -> None:
    setting.fake.fail(Fault.SERVER_ERROR, 9)
    with pytest.raises(DeliveryError) as caught:
        await setting.notifier.send(a_message())
    assert not caught.value.permanent
    assert len(setting.fake.sent) == 3


async def test_what_a_full_receiver_asks_for_is_passed_on(setting: Setting) -> None:
    setting.fake.retry_after = "77"
    setting.fake.fail(Fault.TOO_MANY)
    with pytest.raises(DeliveryError) as caught:
        await setting.notifier.send(a_message())
    assert (caught.value.permanent, caught.value.retry_after) == (False, timedelta(seconds=77))
    assert len(setting.fake.sent) == 1


async def test_an_address_that_is_gone_may_come_back_and_names_no_secret(setting: Setting) -> None:
    setting.fake.fail(Fault.GONE)
    with pytest.raises(DeliveryError, match="answered 404") as caught:
        await setting.notifier.send(a_message())
    assert not caught.value.permanent
    assert not any(secret in str(caught.value) for secret in setting.secrets)


@pytest.mark.parametrize("kind", ["slack", "pagerduty", "webhook", "grafana"])
async def test_only_what_is_about_the_message_is_permanent(kind: str) -> None:
    async with on_a_fake(kind) as made:
        for status in (*range(300, 309), *range(400, 452), 500, 501, 502, 503, 504, 507, 511, 599):
            made.fake.status = status
            with pytest.raises(DeliveryError, match=f"answered {status}") as caught:
                await made.notifier.send(a_message())
            assert caught.value.permanent is (status in {400, 411, 413, 422}), status


@pytest.mark.parametrize(
    "said",
    [
        '{"ok":false,"error":"channel_not_found"}',
        "<html>sign in to the proxy</html>",
        "",
        "no_text",
        '"ok"',
        "[" * 10_000,
        "[]",
        "okay",
    ],
)
async def test_slack_has_it_only_when_it_says_ok(said: str) -> None:
    async with on_a_fake("slack") as made:
        made.fake.status, made.fake.words = 200, said
        with pytest.raises(DeliveryError, match="slack answered 200") as caught:
            await made.notifier.send(a_message())
        assert not caught.value.permanent
        for taken in ("ok", "ok\n", '{"ok":true}'):
            made.fake.words = taken
            await made.notifier.send(a_message())


async def test_slack_gets_plain_text_where_it_does_not_take_the_blocks() -> None:
    async with on_a_fake("slack") as made:
        fake, problems = made.fake, made.fake.problems
        fake.problems = lambda body, headers: ["no"] if "blocks" in body else problems(body, headers)  # type: ignore[method-assign]
        await made.notifier.send(FORMS["hostile"])
        await made.notifier.send(a_message())
        assert [sent.taken for sent in fake.sent] == [False, True, False, True]
        assert "Stop it: `rollbackd abort checkout-3`" in fake.taken[-1]["text"]


async def test_an_answer_that_never_comes_is_transient_and_asked_for_once(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_post, "_ONE_TRY", timedelta(seconds=2))
    setting.fake.fail(Fault.HANG)
    with pytest.raises(DeliveryError, match="did not answer in time") as caught:
        await setting.notifier.send(a_message())
    assert not caught.value.permanent
    assert len(setting.fake.sent) == 1


async def test_a_connection_that_ends_after_taking_is_repeated_with_the_same_body(setting: Setting) -> None:
    setting.fake.fail(Fault.DROP)
    await setting.notifier.send(a_message())
    first, second = setting.fake.taken
    if isinstance(setting.fake, GrafanaFake):  # it does not know a request again, so it is asked first
        assert len(setting.fake.kept) == 1
    else:
        assert first == second


@pytest.mark.parametrize("kind", ["slack", "pagerduty", "webhook", "grafana"])
async def test_a_dead_address_is_transient_and_not_named(kind: str) -> None:
    async with on_a_fake(kind) as made:
        notifier, secrets = made.notifier, made.secrets
    async with aiohttp.ClientSession() as session:
        notifier._http = lambda: session  # type: ignore[attr-defined]
        with pytest.raises(DeliveryError, match="cannot be reached") as caught:
            await notifier.send(a_message())
    assert not caught.value.permanent
    assert not any(secret in str(caught.value) for secret in secrets)
    assert caught.value.__cause__ is None


async def test_a_redirect_is_not_followed_with_the_secret() -> None:
    async with on_a_fake("slack") as made, aiohttp.ClientSession() as session:
        server = await asyncio.start_server(_redirecting(f"http://127.0.0.1{made.fake.path}"), "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/secret"
        slack = Slack(SlackSettings(webhook_url=Secret(env="URL")), lambda _secret: url, lambda: session)
        with pytest.raises(DeliveryError, match="answered 302") as caught:
            await slack.send(a_message())
        server.close()
        await server.wait_closed()
    assert not caught.value.permanent
    assert made.fake.sent == []


def _redirecting(target: str) -> Any:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode())
        await writer.drain()
        writer.close()

    return answer


async def test_a_secret_that_cannot_be_read_is_said_and_tried_again_later() -> None:
    def missing(_secret: Secret) -> str:
        raise ValueError("environment variable URL is not set")

    async with aiohttp.ClientSession() as session:
        slack = Slack(SlackSettings(webhook_url=Secret(env="URL")), missing, lambda: session)
        with pytest.raises(DeliveryError, match="slack: environment variable URL is not set") as caught:
            await slack.send(a_message())
    assert not caught.value.permanent


def test_a_date_in_retry_after_is_read_against_the_servers_own_date() -> None:
    date = "Mon, 02 Mar 2026 10:00:00 GMT"
    assert retry_after({"Retry-After": "Mon, 02 Mar 2026 10:01:30 GMT", "Date": date}) == timedelta(seconds=90)
    assert retry_after({"Retry-After": "Mon, 02 Mar 2026 09:00:00 GMT", "Date": date}) == timedelta()
    assert retry_after({"Retry-After": "999999999999"}) == timedelta(hours=1)
    for odd in ("soon", "-5", "²", ""):
        assert retry_after({"Retry-After": odd, "Date": date}) is None


def test_slack_shows_what_it_cannot_be_made_to_do() -> None:
    text = payload(a_message(lines=(("Why", HOSTILE),)))["blocks"][1]["text"]
    assert "&lt;!channel&gt; &lt;https://evil.example|click&gt; &amp;" in text["text"]
    assert text["verbatim"] is True


async def test_pagerduty_resolves_only_what_is_over_and_by_its_thread() -> None:
    async with on_a_fake("pagerduty") as made:
        fake = made.fake
        assert isinstance(fake, PagerDutyFake)
        await made.notifier.send(a_message())
        assert fake.open == {"checkout-3": "triggered"}
        await made.notifier.send(FORMS["seen"])
        assert fake.open == {"checkout-3": "acknowledged"}
        await made.notifier.send(a_message(event="passed", severity="info"))
        assert fake.open == {"checkout-3": "acknowledged"}, "one more entry of the same alert"
        await made.notifier.send(FORMS["over"])
        assert fake.open == {}


async def test_pagerduty_resolves_all_that_is_settled_and_goes_on_where_a_try_ended() -> None:
    async with on_a_fake("pagerduty") as made:
        fake = made.fake
        assert isinstance(fake, PagerDutyFake)
        threads = [f"shop-{n}" for n in range(20)]
        for thread in (*threads, "other"):
            await made.notifier.send(a_message(thread=thread))
        over = a_message(event="passed", thread=threads[0], resolves=True, settles=tuple(threads[1:]))
        heard: list[str] = []

        def hear(_name: str, body: Any) -> None:
            heard.append(body["dedup_key"])
            if len(heard) == 10:
                fake.fail(Fault.GONE)

        fake.heard = hear
        with pytest.raises(DeliveryError):
            await made.notifier.send(over)
        assert len(heard) == 1 + 8 + 7, "eight at once; one of the second eight was refused"
        await made.notifier.send(over)
        assert heard[16] == threads[0]
        assert sorted(heard[:16] + heard[17:]) == sorted(threads), "the others were not asked for twice"
        assert set(fake.open) == {"other"}
        await made.notifier.send(a_message(thread=threads[1]))
        await made.notifier.send(over)
        assert set(fake.open) == {"other"}


def test_an_event_of_pagerduty_says_who_speaks_how_urgent_it_is_and_where_to_look() -> None:
    message = a_message(source="ops-1", link="https://ops.example/incidents/checkout-3", priority=Priority.P1)
    sent = event(message, ROUTING_KEY)
    assert PagerDutyFake().problems(sent, {}) == []
    assert sent["dedup_key"] == "ops-1/checkout-3"
    assert (sent["client"], sent["client_url"]) == ("ops-1", message.link)
    assert sent["links"] == [{"href": message.link, "text": "checkout-3"}]
    payload = sent["payload"]
    assert (payload["source"], payload["component"], payload["severity"]) == ("ops-1", "checkout", "error")
    assert payload["summary"] == "[ops-1] P1 checkout rolling back: v5 -> v4"
    severities = [
        event(replace(message, priority=one), ROUTING_KEY)["payload"]["severity"] for one in (*Priority, None)
    ]
    assert severities == ["critical", "error", "warning", "info", "critical"]
    assert event(replace(message, resolves=True), ROUTING_KEY).keys() == {"routing_key", "event_action", "dedup_key"}


async def test_what_changed_is_a_change_event_of_pagerduty_and_no_alert() -> None:
    async with on_a_fake("pagerduty") as one:
        for form in FORMS.values():
            await one.notifier.send(
                replace(form, event="changed", source="ops-1", link="https://ops/services/checkout")
            )
    fake = one.fake
    assert isinstance(fake, PagerDutyFake)
    assert (fake.wrong, fake.opened, fake.taken) == ([], [], [])
    assert fake.changes[0] == {
        "routing_key": ROUTING_KEY,
        "payload": {
            "summary": "[ops-1] P1 checkout rolling back: v5 -> v4",
            "timestamp": START.isoformat(),
            "source": "ops-1",
            "custom_details": {
                "key": "incident:checkout-3/1/room",
                "Why": "errors = 34.2% (> 10% for 5m)",
                "Stop it": "`rollbackd abort checkout-3`",
            },
        },
        "links": [{"href": "https://ops/services/checkout", "text": "checkout-3"}],
    }
    assert len(fake.changes) == len(FORMS)


def test_a_headline_fits_and_own_words_stay_as_they_are() -> None:
    long = a_message(source="ops-1", title="checkout " + "x" * 500)
    assert (len(long.headline), long.headline[:20]) == (120, "[ops-1] P1 checkout ")
    assert replace(long, own_words=True).headline == long.title


def test_pagerduty_keys_of_long_threads_differ_and_stay() -> None:
    one, other = dedup_key("ops-1", "t" * 5000 + "1"), dedup_key("ops-1", "t" * 5000 + "2")
    assert one != other
    assert dedup_key("ops-1", "t" * 5000 + "1") == one
    assert len(one) <= 255


def test_a_pagerduty_event_stays_under_its_limit() -> None:
    lines = tuple((f"{n}", "\x01" * 10_000) for n in range(500))
    assert len(json.dumps(event(a_message(lines=lines), ROUTING_KEY))) <= 512 * 1024


async def test_the_webhook_sends_its_headers_and_a_key_that_stays() -> None:
    async with on_a_fake("webhook") as made:
        await made.notifier.send(a_message())
        await made.notifier.send(a_message())
        fake = made.fake
        assert isinstance(fake, WebhookFake)
        assert fake.sent[0].headers["Authorization"] == SECRETS["TOKEN"]
        assert fake.sent[0].headers["X-Fleet"] == "eu"
        assert len(fake.taken) == 2
        assert len(fake.once) == 1


async def test_a_trouble_is_one_region_from_its_first_message_to_its_last() -> None:
    async with on_a_fake("grafana") as made:
        fake = made.fake
        assert isinstance(fake, GrafanaFake)
        end = START + timedelta(minutes=7)
        told = a_message(source="ops-1", link="https://ops.example/incidents/checkout-3")
        await made.notifier.send(told)
        await made.notifier.send(a_message(source="ops-2"))
        await made.notifier.send(replace(told, at=end, title="checkout rolled back: <b>v4</b>", resolves=True))
        await made.notifier.send(told)  # an old one that comes again takes nothing from the end
        assert fake.wrong == []
        first, second = fake.kept.values()
        assert (first["time"], first["timeEnd"]) == (START.timestamp() * 1000, end.timestamp() * 1000)
        assert second["time"] == second["timeEnd"]
        assert first["tags"] == tags(told) != second["tags"]
        assert first["tags"][:3] == ["rollbackd", "ops-1", "checkout"]
        assert "&lt;b&gt;v4" in fake.taken[2]["text"]
        assert '\n<a href="https://ops.example/incidents/checkout-3">checkout-3</a>' in fake.taken[2]["text"]


async def test_a_login_page_is_no_annotation() -> None:
    async with on_a_fake("grafana") as made:
        for words in ("<html>sign in</html>", "", "[" * 10_000, '"ok"'):
            made.fake.status, made.fake.words = 200, words
            with pytest.raises(DeliveryError, match="grafana answered 200") as caught:
                await made.notifier.send(a_message())
            assert not caught.value.permanent


@pytest.mark.parametrize("form", FORMS)
def test_what_a_webhook_is_sent_fits_the_schema_that_is_published(form: str) -> None:
    sent = webhook_payload(FORMS[form])
    published = webhook_schema()
    jsonschema.validate(sent, published, format_checker=jsonschema.FormatChecker())
    assert sent.keys() == published["properties"].keys()
    for name in sent:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**sent, name: [None]}, published)


@pytest.mark.parametrize("prefix", ["", "whsec_"])
async def test_a_webhook_is_signed_so_that_nobody_else_can_have_sent_it(prefix: str) -> None:
    fake, key = WebhookFake(), bytes(range(32))
    fake.secret = key
    async with serving(fake) as base, aiohttp.ClientSession() as session:
        held = {"SECRET": f"{prefix}{base64.b64encode(key).decode()}\n"}
        given = WebhookSettings(url=f"{base}{fake.path}", secret=Secret(env="SECRET"))
        signing = Webhook(given, lambda secret: held[secret.env], lambda: session)
        for message in FORMS.values():
            await signing.send(message)
        await signing.send(a_message())
        names = [one.headers["Webhook-Id"] for one in fake.sent]
        assert names[-1] == names[0] != names[1]
        assert fake.wrong == []
        with pytest.raises(DeliveryError, match="400"):
            await Webhook(WebhookSettings(url=f"{base}{fake.path}"), lambda _: "", lambda: session).send(a_message())
        for wrong in ("c2hvcnQ=", "not base64!", ""):
            held["SECRET"] = wrong
            with pytest.raises(DeliveryError, match="secret is not 24 to 64 bytes in base64") as caught:
                await signing.send(a_message())
            assert not caught.value.permanent


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("bot.example", "not an address"),
        ("ftp://bot.example", "not an address"),
        ("https://a:b@bot.example", "password"),
    ],
)
def test_the_webhooks_address_is_checked(url: str, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        WebhookSettings(url=url)


@pytest.mark.parametrize("headers", [{"X Y": "1"}, {"X-Y": "1\r\nHost: evil"}, {"": "1"}])
def test_headers_that_would_be_injected_are_errors(headers: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        WebhookSettings.model_validate({"url": "https://bot.example", "headers": headers})


# -- mail ---------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("tls"))


def settings(smtp: str, **given: Any) -> EmailSettings:
    usual = {
        "to": ["a@example.com", "b@example.com"],
        "from": "rollbackd@example.com",
        "smtp": smtp,
        "username": USER,
        "password": {"env": "PASSWORD"},
    }
    return EmailSettings.model_validate({**usual, **given})


def email(given: EmailSettings, password: str = PASSWORD) -> Email:
    return Email(given, lambda _secret: password, HttpSession())


@pytest.mark.needs("openssl")
@pytest.mark.parametrize("security", ["starttls", "tls"])
@pytest.mark.parametrize("form", FORMS)
async def test_mail_goes_out_encrypted_with_a_password(
    security: str, form: str, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    fake = MailFake()
    async with serving_mail(fake, certificate, tls=security == "tls") as smtp:
        await email(settings(smtp, security=security)).send(FORMS[form])
    assert fake.wrong == []
    assert fake.users == [USER]
    assert fake.encrypted == [True]
    assert fake.recipients == [["a@example.com", "b@example.com"]]


def test_a_plot_is_a_file_beside_a_mail_that_is_whole_without_it() -> None:
    given = EmailSettings.model_validate({"to": "a@example.com", "from": "b@example.com", "smtp": "c:25"})
    plain = mail(a_message(), given)
    made = mail(replace(a_message(), plot="<svg/>", incident="checkout-3"), given)
    (plot,) = made.iter_attachments()
    assert (plot.get_content_type(), plot.get_filename()) == ("image/svg+xml", "checkout-3.svg")
    assert plot.get_payload(decode=True) == b"<svg/>"
    for kind in ("plain", "html"):
        one, other = made.get_body((kind,)), plain.get_body((kind,))
        assert one is not None
        assert other is not None
        assert one.get_content() == other.get_content()
    assert not list(plain.iter_attachments())


@pytest.mark.needs("openssl")
@pytest.mark.parametrize("security", ["starttls", "tls"])
async def test_mail_trusts_the_authority_that_is_named(security: str, certificate: tuple[Path, Path]) -> None:
    fake = MailFake()
    async with serving_mail(fake, certificate, tls=security == "tls") as smtp:
        await email(settings(smtp, security=security, tls={"ca": str(certificate[0])})).send(a_message())
        with pytest.raises(DeliveryError, match="cannot be read") as no:
            await email(settings(smtp, security=security, tls={"ca": "/nowhere/ca.pem"})).send(a_message())
    assert not no.value.permanent
    assert fake.encrypted == [True]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"security": "none", "username": "", "password": None, "tls": {}}, "take one of them away"),
        ({"tls": {"server_name": "mail.example.com"}}, "write the name that the certificate has in `smtp`"),
    ],
)
def test_certificates_that_would_not_be_used_are_errors(given: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        settings("mail.example.com:587", **given)


@pytest.mark.needs("openssl")
async def test_a_wrong_password_may_be_put_right_and_is_not_repeated_in_the_error(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    async with serving_mail(MailFake(), certificate) as smtp:
        with pytest.raises(DeliveryError, match="535") as caught:
            await email(settings(smtp), "hunter2-hunter2").send(a_message())
    assert not caught.value.permanent
    assert "hunter2" not in str(caught.value)


@pytest.mark.needs("openssl")
async def test_an_unknown_certificate_gets_no_mail(certificate: tuple[Path, Path]) -> None:
    fake = MailFake()
    async with serving_mail(fake, certificate) as smtp:
        with pytest.raises(DeliveryError) as caught:
            await email(settings(smtp)).send(a_message())
    assert not caught.value.permanent
    assert fake.mails == []


async def test_a_server_without_starttls_gets_no_mail() -> None:
    fake = MailFake()
    async with serving_mail(fake, None) as smtp:
        with pytest.raises(DeliveryError):
            await email(settings(smtp, username="", password=None)).send(a_message())
    assert fake.mails == []


def unencrypted(smtp: str) -> Email:
    return email(settings(smtp, security="none", username="", password=None))


@pytest.mark.parametrize(("answer", "permanent"), [("451 later", False), ("554 never", True)])
async def test_the_answers_first_digit_says_whether_to_try_again(answer: str, permanent: bool) -> None:
    fake = MailFake()
    fake.answers.append(answer)
    async with serving_mail(fake, None) as smtp:
        with pytest.raises(DeliveryError, match=answer[:3]) as caught:
            await unencrypted(smtp).send(a_message())
    assert caught.value.permanent == permanent


@pytest.mark.parametrize("refused", [["a@example.com"], ["a@example.com", "b@example.com"]])
async def test_a_refused_recipient_is_named(refused: list[str]) -> None:
    fake = MailFake(refused=dict.fromkeys(refused, "550 no such user"))
    async with serving_mail(fake, None) as smtp:
        with pytest.raises(DeliveryError, match=r"a@example\.com") as caught:
            await unencrypted(smtp).send(a_message())
    assert caught.value.permanent
    assert len(fake.mails) == (1 if len(refused) == 1 else 0)


@pytest.mark.parametrize(
    ("codes", "left", "lost"),
    [
        ({"a": "452 4.2.2 full"}, ("a",), ()),
        ({"a": "552 5.2.2 full"}, ("a",), ()),
        ({"a": "550 no such user"}, (), ("a",)),
        ({"a": "550 no such user", "c": "451 later"}, ("c",), ("a",)),
    ],
)
async def test_who_did_not_take_a_mail_is_said_and_only_they_get_it_again(
    codes: dict[str, str], left: tuple[str, ...], lost: tuple[str, ...]
) -> None:
    fake = MailFake(refused={f"{name}@example.com": answer for name, answer in codes.items()})
    to = ["a@example.com", "b@example.com", "c@example.com"]
    async with serving_mail(fake, None) as smtp:
        notifier = email(settings(smtp, security="none", username="", password=None, to=to))
        with pytest.raises(PartlyDeliveredError) as caught:
            await notifier.send(a_message())
        assert caught.value.left == tuple(f"{name}@example.com" for name in left)
        assert caught.value.lost == tuple(f"{name}@example.com" for name in lost)
        assert fake.recipients == [[one for one in to if one[0] not in codes]]
        fake.refused.clear()
        if left:
            await notifier.send(replace(a_message(), recipients=caught.value.left))
            assert fake.recipients[1:] == [list(caught.value.left)]


@pytest.mark.parametrize(
    ("step", "answer"),
    [
        ("banner", "554 5.7.1 too many connections, try again later"),
        ("banner", "421 busy"),
        ("EHLO", "504 5.5.2 need fully-qualified hostname"),
        ("EHLO", "550 not you"),
        ("AUTH", "535 5.7.8 temporary backend failure"),
        ("MAIL", "553 5.7.1 sender not owned"),
        ("MAIL", "550 relaying denied"),
    ],
)
async def test_what_is_about_the_server_is_tried_on(step: str, answer: str) -> None:
    begun: list[asyncio.Task[Any] | None] = []
    async with await asyncio.start_server(_smtp_that_refuses(step, answer, begun), "127.0.0.1", 0) as server:
        smtp = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(DeliveryError, match=answer[:3]) as caught:
            await email(settings(smtp, security="none")).send(a_message())
        await asyncio.wait([task for task in begun if task is not None])
    assert not caught.value.permanent


async def test_a_mail_that_was_taken_is_not_sent_again_when_the_server_says_no_farewell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Silent(MailFake):
        async def handle_QUIT(self, *_: object) -> str:
            await asyncio.Event().wait()
            raise AssertionError

    monkeypatch.setattr("rollbackd.notify.receivers.email._FAREWELL", 0.1, raising=False)
    monkeypatch.setattr("rollbackd.notify.receivers.email.LIMIT", 5.0)
    fake = Silent()
    async with serving_mail(fake, None) as smtp:
        await unencrypted(smtp).send(a_message())
    assert len(fake.mails) == 1


@pytest.mark.parametrize("utf8", [True, False])
async def test_a_recipient_whom_the_server_cannot_name_costs_the_others_nothing(utf8: bool) -> None:
    fake = MailFake()
    to = ["jörg@example.com", "b@example.com"]
    async with serving_mail(fake, None, utf8=utf8) as smtp:
        notifier = email(settings(smtp, security="none", username="", password=None, to=to))
        if utf8:
            await notifier.send(a_message())
        else:
            with pytest.raises(PartlyDeliveredError, match=r"takes no mail for jörg@example\.com \(553\)"):
                await notifier.send(a_message())
    assert fake.recipients == [to if utf8 else to[1:]]


@pytest.mark.parametrize("host", ["mail..example.com", ".mail", "x" * 64])
def test_a_server_whose_name_cannot_be_looked_up_is_an_error_at_start(host: str) -> None:
    with pytest.raises(ValidationError, match="is not a mail server"):
        settings(f"{host}:25")


def _smtp_that_refuses(step: str, answer: str, begun: list[asyncio.Task[Any] | None]) -> Any:
    replies = {"EHLO": "250-sink\r\n250 AUTH PLAIN", "HELO": "250 sink", "AUTH": "235 ok"}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        begun.append(asyncio.current_task())
        said = answer if step == "banner" else "220 sink"
        with suppress(OSError):
            while said:
                writer.write(f"{said}\r\n".encode())
                await writer.drain()
                word = (await reader.readline()).decode()[:4].upper().strip()
                alike = word == step or (word, step) == ("HELO", "EHLO")
                said = "" if not word else answer if alike else replies.get(word, "250 ok")
        writer.close()

    return serve


@pytest.mark.parametrize("hello", ["ops.example.com", ""])
async def test_the_greeting_names_this_host(hello: str, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []

    def asked(*_: object) -> str:
        raise AssertionError("a name is looked up on the threads that file work needs")

    monkeypatch.setattr(socket, "getfqdn", asked)

    begun: list[asyncio.Task[Any] | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        begun.append(asyncio.current_task())
        writer.write(b"220 sink\r\n")
        heard.append((await reader.readline()).decode().strip())
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        smtp = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(DeliveryError):
            await email(settings(smtp, security="none", username="", password=None, hello=hello)).send(a_message())
        await asyncio.wait([task for task in begun if task is not None])
    assert heard[0].startswith(f"EHLO {hello}")
    assert len(heard[0]) > len("EHLO ")


async def test_a_mail_server_that_is_gone_is_transient() -> None:
    async with serving_mail(MailFake(), None) as smtp:
        pass
    with pytest.raises(DeliveryError, match="cannot be reached") as caught:
        await unencrypted(smtp).send(a_message())
    assert not caught.value.permanent


async def test_no_value_becomes_a_header_and_html_stays_text() -> None:
    fake = MailFake()
    async with serving_mail(fake, None) as smtp:
        await unencrypted(smtp).send(a_message(title=HOSTILE, lines=(("Why", "<script>alert(1)</script>"),)))
    (sent,) = fake.mails
    assert sent["Bcc"] is None
    assert sent["Subject"].startswith("P1 $(reboot) <!channel>")
    html = sent.get_body(("html",))
    assert html is not None
    assert "&lt;script&gt;" in html.get_content()
    assert "<script>" not in html.get_content()


_MAIL = """\
[ops-1] P1 checkout rolling back: v5 -> v4

Why:
  errors = 34.2% (> 10% for 5m)

Stop it:
  `rollbackd abort checkout-3`

-- 
P1 · opened · checkout · checkout-3
"""  # noqa: W291
_PAGE = """\
<!DOCTYPE html>
<html><body style="font-family: sans-serif; max-width: 50em">
<h2 style="border-left: 6px solid #c62828; padding-left: 10px">[ops-1] P1 checkout rolling back: v5 -&gt; v4</h2>
<table cellpadding="6">
<tr><th align="left" valign="top" style="white-space: nowrap">Why</th>\
<td style="white-space: pre-wrap; word-break: break-word">errors = 34.2% (&gt; 10% for 5m)</td></tr>
<tr><th align="left" valign="top" style="white-space: nowrap">Stop it</th>\
<td style="white-space: pre-wrap; word-break: break-word">`rollbackd abort checkout-3`</td></tr>
</table>
<p style="color: #666">P1 · opened · checkout · checkout-3</p>
</body></html>
"""


def test_a_mail_reads_exactly_so_and_in_words_of_ones_own_has_nothing_else() -> None:
    sent = mail(a_message(source="ops-1"), settings("mail.example.com:587"))
    plain, marked = (sent.get_body((kind,)) for kind in ("plain", "html"))
    assert plain is not None
    assert marked is not None
    assert plain.get_content().replace("\r\n", "\n") == _MAIL
    assert marked.get_content().replace("\r\n", "\n") == _PAGE
    own = mail(a_message(title="It is slow.", lines=(("", "We know."),), own_words=True), settings("m.example.com:587"))
    plain, marked = (own.get_body((kind,)) for kind in ("plain", "html"))
    assert plain is not None
    assert marked is not None
    assert plain.get_content().replace("\r\n", "\n") == "It is slow.\n\nWe know.\n\n"
    assert "checkout" not in marked.get_content()
    assert ">We know.</td></tr>" in marked.get_content()


def test_mails_of_one_trouble_thread_and_a_repeated_one_keeps_its_id() -> None:
    given = settings("mail.example.com:587")
    first, again, other = mail(a_message(), given), mail(a_message(), given), mail(a_message(key="k2"), given)
    assert first["Message-ID"] == again["Message-ID"] != other["Message-ID"]
    assert first["References"] == other["References"]
    assert mail(a_message(thread="checkout-4"), given)["References"] != first["References"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"to": ["a@example.com\nBcc: x@example.com"]}, "is not an address"),
        ({"to": []}, "at least 1"),
        ({"from": "nobody"}, "is not an address"),
        ({"smtp": "mail.example.com"}, "is not a mail server"),
        ({"smtp": "mail.example.com:99999"}, "is not a mail server"),
        ({"password": None}, "belong together"),
        ({"security": "none"}, "unencrypted"),
        ({"hello": "a b"}, "is not a host's name"),
        ({"hello": "x\r\nMAIL FROM:<>"}, "is not a host's name"),
    ],
)
def test_settings_that_cannot_work_are_errors(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        settings("mail.example.com:587").model_validate(
            {**settings("mail.example.com:587").model_dump(by_alias=True), **given}
        )


# -- the fakes themselves -----------------------------------------------------------------------
def test_the_fakes_refuse_what_their_services_would() -> None:
    good = {"Content-Type": "application/json", "Idempotency-Key": "k"}
    slack, pager, hook = SlackFake(), PagerDutyFake(), WebhookFake()
    section = {"type": "section", "text": {"type": "mrkdwn", "text": "hello <!channel>"}}
    header = {"type": "header", "text": {"type": "plain_text", "text": "x" * 151}}
    for wrong in ({"text": ""}, {"text": "a <@U1> b"}, {"text": "a", "blocks": [section]}, {"text": "a & b"}):
        assert slack.problems(wrong, good)
    assert slack.problems({"text": "a", "blocks": [header]}, good) == ["block 0: 151 characters, 1 to 150"]
    assert slack.problems({"text": "a", "blocks": [{"type": "divider"}] * 51}, good) == ["51 blocks, at most 50"]
    right = event(a_message(), ROUTING_KEY)
    assert pager.problems(right, good) == []
    for changed in ({"routing_key": "short"}, {"dedup_key": "x" * 256}, {"event_action": "open"}, {"extra": 1}):
        assert pager.problems({**right, **changed}, good)
    for part in ({"summary": ""}, {"source": ""}, {"severity": "P1"}, {"timestamp": "2026-03-02T10:00:00"}):
        assert pager.problems({**right, "payload": {**right["payload"], **part}}, good)
    sent = webhook_payload(a_message())
    assert hook.problems(sent, good) == []
    assert hook.problems(sent, {}) == ["no Idempotency-Key"]
    assert hook.problems({**sent, "priority": 1}, good)


async def test_the_fakes_run_as_a_program_that_prints_and_fails_on_command() -> None:
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.fakes.receivers", "--port", "0"),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    try:
        assert program.stdout is not None
        lines = [(await asyncio.wait_for(program.stdout.readline(), 30)).decode().split() for _ in range(3)]
        urls = {name: url for _, name, url in lines}
        async with aiohttp.ClientSession() as session:
            slack = Slack(SlackSettings(webhook_url=Secret(env="URL")), lambda _secret: urls["slack"], lambda: session)
            await slack.send(a_message(source="ops-1"))
            said = (await asyncio.wait_for(program.stdout.readline(), 30)).decode()
            assert said == "slack      🔴 [ops-1] P1 checkout rolling back: v5 -> v4\n"
            base = urls["webhook"].removesuffix("/rollbackd")
            async with session.post(f"{base}/control/slack", json={"fault": "404"}) as answer:
                assert answer.status == 200
            with pytest.raises(DeliveryError, match="no_service"):
                await slack.send(a_message())
            async with session.get(f"{base}/messages") as answer:
                held = await answer.json()
        assert (len(held["slack"]["taken"]), held["slack"]["requests"], held["slack"]["wrong"]) == (1, 2, [])
    finally:
        program.terminate()
        assert await asyncio.wait_for(program.wait(), 30) == 0
