"""apprise as a receiver: what it is sent, what its failures mean, and that one which hangs holds up nothing else."""

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from rollbackd.adapter import DeliveryError
from rollbackd.notify.receivers import apprise as receiver
from rollbackd.notify.receivers.apprise import Apprise, AppriseSettings, sms
from rollbackd.syntax.units import Secret
from rollbackd.system.http_client import HttpSession
from tests.contract.test_notifiers import FORMS, a_message
from tests.fakes.apprise_json import AppriseJsonFake
from tests.fakes.receiving import Fault, serving

pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
"""apprise imports it for a library of its own."""


def apprise(url: str, **given: Any) -> Apprise:
    return Apprise(AppriseSettings(url=Secret(env="URL"), **given), lambda _secret: url, HttpSession())


@pytest.fixture
async def fake() -> AsyncIterator[tuple[AppriseJsonFake, str]]:
    one = AppriseJsonFake()
    async with serving(one) as base:
        yield one, f"{base.replace('http', 'json')}{one.path}"


async def test_every_form_of_message_is_taken_by_a_strict_receiver(fake: tuple[AppriseJsonFake, str]) -> None:
    one, url = fake
    for form in FORMS.values():
        await apprise(url).send(form)
    assert one.wrong == []
    first = one.taken[0]
    assert (first["title"], first["type"]) == ("P1 checkout rolling back: v5 -> v4", "failure")
    assert "Stop it: `rollbackd abort checkout-3`" in first["message"]
    assert [body["type"] for body in one.taken[3:]] == ["info", "success", "info"]


async def test_an_sms_has_a_title_alone_in_plain_characters(fake: tuple[AppriseJsonFake, str]) -> None:
    one, url = fake
    for form in FORMS.values():
        await apprise(url, short=True).send(form)
    assert one.wrong == []
    assert {body["title"] for body in one.taken} == {""}
    assert all(body["message"].isascii() and len(body["message"]) <= 160 for body in one.taken)
    assert sms(a_message(title="café … 100 % — ok", priority=None)) == "cafe ... 100 %  ok"
    assert len(sms(a_message(title="x" * 500, own_words=True))) == 160


@pytest.mark.parametrize("fault", [Fault.SERVER_ERROR, Fault.TOO_MANY, Fault.GONE])
async def test_what_is_not_taken_is_tried_again_later_and_names_no_secret(
    fake: tuple[AppriseJsonFake, str], fault: Fault
) -> None:
    one, url = fake
    one.fail(fault)
    notifier = apprise(url)
    with pytest.raises(DeliveryError, match="apprise could not deliver it, or was refused") as caught:
        await notifier.send(a_message())
    assert not caught.value.permanent
    await notifier.send(a_message())
    assert len(one.taken) == 1


@pytest.mark.parametrize("url", ["https://chat.example/hook", "json://a.example,json://b.example", "nonsense", ""])
async def test_what_is_not_one_address_is_said_without_showing_it(url: str) -> None:
    with pytest.raises(DeliveryError, match="knows no such address") as caught:
        await apprise(url).send(a_message())
    assert "example" not in str(caught.value).replace("github.com", "")
    assert not caught.value.permanent


async def test_an_address_is_given_by_reference_alone() -> None:
    with pytest.raises(ValidationError):
        AppriseSettings.model_validate({"url": "json://chat.example/s3cr3t"})


async def test_one_that_hangs_holds_up_nobody_and_is_not_sent_twice(
    fake: tuple[AppriseJsonFake, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, url = fake
    let_go = asyncio.Event()
    monkeypatch.setattr(one, "_fault", lambda *_given: _after(let_go, one.success))
    hanging = [apprise(f"{url}?rto=120") for _ in range(40)]
    one.fail(Fault.HANG, len(hanging))
    monkeypatch.setattr(receiver, "LIMIT", 0.5)
    answers = await asyncio.gather(*(each.send(a_message()) for each in hanging), return_exceptions=True)
    assert {str(answer) for answer in answers} == {"apprise did not answer in time"}
    for _ in range(3):  # tries that come while it hangs begin no other thread
        with pytest.raises(DeliveryError, match="did not answer in time"):
            await hanging[0].send(a_message())
    with pytest.raises(DeliveryError, match="the message before this one is still under way"):
        await hanging[0].send(replace(a_message(), key="another"))
    await one.until_tried(len(hanging), 60)
    assert sum(thread.name == "apprise" for thread in threading.enumerate()) == len(hanging)
    monkeypatch.setattr(receiver, "LIMIT", 30.0)
    assert await asyncio.wait_for(asyncio.to_thread(lambda: "free"), 30) == "free"  # the threads of all other work
    await apprise(url).send(a_message())
    let_go.set()
    await asyncio.gather(*(each.send(a_message()) for each in hanging))
    assert len(one.sent) == len(hanging) + 1


async def _after(event: asyncio.Event, answer: Any) -> Any:
    await event.wait()
    return answer(None)
