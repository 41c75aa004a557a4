"""Transformers without its own bars and notes: they are about single files, ours about steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from transformers.utils import logging

# Transformers gives these no types.
_hide_bars: Callable[[], None] = logging.disable_progress_bar
_show_bars: Callable[[], None] = logging.enable_progress_bar
_only_errors: Callable[[], None] = logging.set_verbosity_error


def silence_transformers() -> None:
    """For the rest of the process."""
    _hide_bars()
    _only_errors()


@contextmanager
def no_bars() -> Iterator[None]:
    """Within the block, show no bars of Transformers."""
    shown = logging.is_progress_bar_enabled()
    _hide_bars()
    try:
        yield
    finally:
        if shown:
            _show_bars()
