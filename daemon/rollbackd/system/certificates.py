"""Certificates as connections use them, read again when their files change. It blocks: never on the event loop."""

import ssl
import stat
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from rollbackd.syntax.connections import Tls
from rollbackd.system import log

_LARGEST = 2**24
"""Bytes; a system's whole store has a quarter of a million."""
_REMEDY = "is it whole, in PEM, and for this user to read?"

_Look = tuple[tuple[int, int, int] | None, ...]
"""What tells a file from what it was, for each: its inode, size and time; None: it is not there."""


class CertificateTrouble(ValueError):  # noqa: N818  # it is about a file of theirs
    """A file cannot be used; the text names it and says what to do."""


@dataclass(slots=True)
class _Kept:
    """What was read, and when it is to be read again."""

    look: _Look
    context: ssl.SSLContext


_kept: dict[tuple[str, ...], _Kept] = {}
_lock = Lock()


def tls_context(tls: Tls) -> ssl.SSLContext:
    """What these settings trust and show; the same object until a file of theirs changes.

    While changed files cannot be used, such as a certificate whose new key is not there yet, what was read before is
    used on, and the log says so once.

    :raises CertificateTrouble: they cannot be used, and never could.
    """
    files = tuple(str(name or "") for name in (tls.ca, tls.cert, tls.key))
    with _lock:
        look = tuple(_seen(name) if name else None for name in files)
        kept = _kept.get(files)
        if kept is None or kept.look != look:
            try:
                kept = _kept[files] = _Kept(look, try_tls(tls))
            except CertificateTrouble as error:
                if kept is None:
                    raise
                kept.look = look
                log.get("tls").warning("changed certificates cannot be used; those from before are", error=str(error))
        return kept.context


def _seen(name: str) -> tuple[int, int, int] | None:
    try:
        found = Path(name).stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def try_tls(tls: Tls) -> ssl.SSLContext:
    """The settings' files, read now. :raises CertificateTrouble: one cannot be used."""
    for name in filter(None, (tls.ca, tls.cert, tls.key)):
        _check(Path(name), private=name == (tls.key or tls.cert))
    try:
        context = ssl.create_default_context(cafile=tls.ca)
    except (OSError, ValueError) as error:
        raise CertificateTrouble(f"{tls.ca} has no certificates to trust ({_words(error)}); {_REMEDY}") from None
    if tls.ca is not None:
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the server's own certificate is enough
    if tls.cert is not None:
        try:
            context.load_cert_chain(tls.cert, tls.key, password=_no_passphrase)
        except (OSError, ValueError) as error:
            both = tls.cert if tls.key is None else f"{tls.cert} and {tls.key}"
            raise CertificateTrouble(f"{both} are no certificate and its key ({_words(error)}); {_REMEDY}") from None
    return context


def _no_passphrase() -> str:
    raise ValueError("the key has a passphrase; write it without one")


def _check(path: Path, *, private: bool) -> None:
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # before opening it: a pipe would wait for its writer
            raise CertificateTrouble(f"{path} is not a regular file; name the file with the certificates")
        if found.st_size > _LARGEST:
            raise CertificateTrouble(f"{path} is larger than certificates are; is it the right file?")
        if private and found.st_mode & stat.S_IROTH:
            raise CertificateTrouble(f"{path} has a key and can be read by everybody on this host; chmod o-rwx it")
        with path.open("rb"):
            pass
    except OSError as error:
        raise CertificateTrouble(f"{path} cannot be read: {_words(error)}; name a file that is there") from None


def _words(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):  # KEY_VALUES_MISMATCH, NO_CERTIFICATE_OR_CRL_FOUND
        return (error.reason or "it is none").lower().replace("_", " ")
    return (error.strerror if isinstance(error, OSError) and error.strerror else str(error)).lower()
