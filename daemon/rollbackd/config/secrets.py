"""Secrets: read when they are used, and once while loading to see that they are there. Never logged."""

import os
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from rollbackd.syntax.units import Secret

_LONGEST = 64 * 1024
"""Bytes; a secret that is longer is another file named by mistake."""


class SecretError(ValueError):
    """A secret is not where the configuration says; the text names the place and what to do, never the secret."""


def reveal(secret: Secret, environ: Mapping[str, str] | None = None) -> str:
    """The secret itself, without the newline at its end.

    :raises SecretError: it is not there, it is empty, or everybody may read its file.
    """
    environ = os.environ if environ is None else environ
    if secret.env:
        return _from_environment(secret.env, environ)
    if secret.file:
        return _from_file(Path(secret.file), "keep it in a file that only the daemon's user may read", private=True)
    return _from_credential(secret.credential, environ)


def those_there(secrets: Iterable[Secret]) -> list[str]:
    """The secrets that can be read here: a person's shell has none of those that systemd gives the daemon."""
    found = []
    for secret in secrets:
        with suppress(SecretError):
            found.append(reveal(secret))
    return found


def _from_environment(name: str, environ: Mapping[str, str]) -> str:
    value = environ.get(name, "")
    if not value:
        raise SecretError(f"environment variable {name} is not set; set it where the daemon is started")
    return value


def _from_credential(name: str, environ: Mapping[str, str]) -> str:
    directory = environ.get("CREDENTIALS_DIRECTORY", "")
    remedy = f"add LoadCredential={name}:/path/of/the/file to the unit"
    if "/" in name or name in {".", ".."}:
        raise SecretError(f'"{name}" is not a credential\'s name; it has no slash, as after LoadCredential=')
    if not directory:
        raise SecretError(f"credential {name}: systemd gave this process none; {remedy}")
    return _from_file(Path(directory) / name, remedy, private=False)


def _from_file(path: Path, remedy: str, *, private: bool) -> str:
    """The text of a file. `private`: others must not be able to read it; systemd closes its credentials by itself."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):  # before opening it: a pipe would wait for its writer
            raise SecretError(f"{path} is not a regular file; {remedy}")
        if private and mode & stat.S_IROTH:
            raise SecretError(f"{path} can be read by everybody on this host; chmod o-rwx it")
        with path.open("rb") as file:
            body = file.read(_LONGEST + 1)
    except OSError as error:
        raise SecretError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}; {remedy}") from error
    return _text(body, path, remedy)


def _text(body: bytes, path: Path, remedy: str) -> str:
    if len(body) > _LONGEST:
        raise SecretError(f"{path} is longer than a secret can be; {remedy}")
    try:
        text = body.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        # The cause would carry the bytes along into a log.
        raise SecretError(f"{path} is not text in UTF-8; {remedy}") from None
    if not text:
        raise SecretError(f"{path} is empty; write the secret into it")
    return text
