"""Releases as they are written on the command line. No I/O."""

from collections.abc import Sequence

from rollbackd.cli.frame import UsageError


def releases(references: Sequence[str]) -> dict[str, str]:
    """`code=v41` by layer; a release alone is of the only layer, whose key is empty. :raises UsageError:"""
    found: dict[str, str] = {}
    for reference in references:
        layer, separator, release = reference.partition("=")
        if not separator:
            layer, release = "", reference
        if not release or layer in found:
            raise UsageError(f'"{reference}": write each layer once, as LAYER=RELEASE')
        found[layer] = release
    return found
