"""Regular expressions, whoever wrote them, matched in a time that grows with the text alone (RE2). No I/O.

https://github.com/google/re2/wiki/Syntax

Python's own engine can take hours over a short text, and holds the interpreter all the while.
"""

import re2

LONGEST = 2**16
"""Characters of an expression."""
_MEMORY = 2**20
"""Bytes that a compiled expression may take; what needs more is refused."""


class Expression:
    """An expression of RE2's syntax; a dot is any character, also the end of a line.

    :raises ValueError: RE2 cannot say it; the text says why.
    """

    __slots__ = ("_compiled",)

    def __init__(self, written: str) -> None:
        if len(written) > LONGEST:
            raise ValueError(f"it has more than {LONGEST} characters")
        options = re2.Options()
        options.dot_nl, options.log_errors, options.never_capture, options.max_mem = True, False, True, _MEMORY
        try:
            self._compiled = re2.compile(written.encode(), options)
        except re2.error as error:
            said = error.args[0]
            raise ValueError(said.decode(errors="replace") if isinstance(said, bytes) else str(said)) from error
        except UnicodeEncodeError as error:
            raise ValueError("it is no text that UTF-8 can write") from error

    def fits(self, text: str) -> bool:
        """Whether the whole text matches, as Prometheus and Alertmanager anchor theirs."""
        return self._compiled.fullmatch(text.encode(errors="replace")) is not None
