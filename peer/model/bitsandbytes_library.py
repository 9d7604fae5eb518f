"""bitsandbytes, imported when it is needed: that takes a second."""

from __future__ import annotations

import importlib
import logging
import sys
from typing import Any

_KERNELS = "kernels"


def bitsandbytes() -> Any:
    """The package, which logs a line per product when it is not told to be quiet."""
    if (library := sys.modules.get("bitsandbytes")) is None:
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
        library = _import_without_kernels()
    return library


def _import_without_kernels() -> Any:
    """Where the package `kernels` is installed, bitsandbytes fetches native code from a hub with it, and runs it."""
    theirs = sys.modules.get(_KERNELS)
    sys.modules[_KERNELS] = None  # pyright: ignore[reportArgumentType]  # an import of it fails
    try:
        return importlib.import_module("bitsandbytes")
    finally:
        del sys.modules[_KERNELS]
        if theirs is not None:
            sys.modules[_KERNELS] = theirs
