"""Anybody else: the services that apprise knows, gateways of SMS among them. Needs the extra `rollbackd[notify]`.

https://github.com/caronc/apprise
apprise blocks, and may hang for as long as a service does. Each receiver has one thread for it at most, apart from all
other work; while that hangs, only this receiver's own messages wait.
"""

import asyncio
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from threading import Thread

from pydantic import model_validator

from rollbackd.adapter import DeliveryError, Message, NotifierSettings
from rollbackd.notify.messages import plain_text
from rollbackd.notify.messages.envelope import plain
from rollbackd.notify.receivers.http_post import LIMIT, Sender
from rollbackd.syntax.units import Secret
from rollbackd.system.http_client import Session

_SMS = 160
_SIGNS = str.maketrans({"×": "x", "→": "->"})
"""What has no plain character of its own."""
_BODY = 8000
"""Characters; apprise cuts or splits them further, as each service has it."""


class AppriseSettings(NotifierSettings):
    """`{name: team, apprise: {url: {env: TEAM_URL}}}`."""

    url: Secret
    """One address as apprise has it, such as msteams://… or twilio://…; it lets one in, so it is a secret."""
    short: bool = False
    """The title alone, in at most 160 plain characters: an SMS."""

    @model_validator(mode="after")
    def _installed(self) -> "AppriseSettings":
        if find_spec("apprise") is None:
            raise ValueError("needs the Python package apprise; install it: rollbackd[notify]")
        return self


class Apprise(Sender[AppriseSettings]):
    """Somebody whom apprise reaches."""

    settings_model = AppriseSettings
    who = "apprise"

    def __init__(self, settings: AppriseSettings, reveal: Callable[[Secret], str], http: Callable[[], Session]) -> None:
        super().__init__(settings, reveal, http)
        self._key = ""
        self._work: asyncio.Future[str] | None = None
        """What came of the last message, once that is known: what took too long may have been taken all the same."""

    async def send(self, message: Message) -> None:
        url = self._revealed(self._settings.url).strip()
        if self._work is None or (self._key != message.key and self._work.done()):
            title, body = (
                ("", sms(message)) if self._settings.short else (plain_text.line(message.headline), _body(message))
            )
            self._key, self._work = message.key, _on_a_thread(partial(_problem, url, title, body, _kind(message)))
        if self._key != message.key:
            raise DeliveryError("apprise: the message before this one is still under way", permanent=False)
        try:
            async with asyncio.timeout(LIMIT):
                problem = await asyncio.shield(self._work)
        except TimeoutError as error:
            raise DeliveryError("apprise did not answer in time", permanent=False) from error
        self._work = None
        if problem:
            raise DeliveryError(f"apprise {problem}", permanent=False)
        self.said = "taken"


def sms(message: Message) -> str:
    """The title in characters that every phone has: any other would leave room for 70 of them."""
    shown = plain_text.line(message.headline).translate(_SIGNS)
    text = unicodedata.normalize("NFKD", shown).encode("ascii", "ignore").decode()
    return text if len(text) <= _SMS else f"{text[: _SMS - 3]}..."


def _body(message: Message) -> str:
    return plain_text.paragraph("\n".join(filter(None, (plain(message), message.link))), _BODY) or message.event


def _kind(message: Message) -> str:
    if message.resolves:
        return "success"
    return "failure" if message.severity == "critical" else message.severity


def _on_a_thread(work: Callable[[], str]) -> asyncio.Future[str]:
    """What it says. The thread ends with the process: nobody waits for one that hangs.

    :raises DeliveryError: there can be no further thread.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[str] = loop.create_future()

    def run() -> None:
        try:
            problem = work()
        except Exception as error:  # noqa: BLE001  # a service's own fault; its text may hold an address that is a secret
            problem = f"failed with {type(error).__name__}"
        with suppress(RuntimeError):  # the loop is closed, and with it whoever would want to know
            loop.call_soon_threadsafe(answer.set_result, problem)

    try:
        Thread(target=run, name="apprise", daemon=True).start()
    except RuntimeError as error:
        raise DeliveryError(f"apprise: {error}", permanent=False) from None
    return answer


def _problem(url: str, title: str, body: str, kind: str) -> str:
    """Send it, on the thread; what was wrong, or nothing."""
    import apprise

    asset = apprise.AppriseAsset(
        storage_mode=apprise.PersistentStoreMode.MEMORY,
        allow_templates=False,
        app_id="rollbackd",
        app_desc="rollbackd",
        http_redirects=False,
        pgp_autogen=False,
        pem_autogen=False,
    )
    service = apprise.Apprise.instantiate(url, asset=asset)
    if service is None:
        return "knows no such address; it is to be one, as https://github.com/caronc/apprise/wiki says"
    # Not by `Apprise.notify`, which begins threads of its own, and leaves those that hang.
    taken = service.notify(body, title, apprise.NotifyType(kind), body_format=apprise.NotifyFormat.TEXT)
    return "" if taken else "could not deliver it, or was refused"
