"""What a user must know before a text leaves the device as activations; said once, not always."""

from __future__ import annotations

from contextlib import suppress

from splitfrozen_edge.state import StateDirectory

PRIVACY_NOTE = (
    "Whoever runs the server can reconstruct the text from what this sends: the first blocks run "
    "here to save work there, not to hide anything."
)
GENERATION_NOTE = (
    "No token of the prompt leaves this device, its activations do: whoever runs the server can "
    "reconstruct the prompt from them, and it draws every token of the answer itself."
)
_FILE = "privacy-note-shown"


def is_due(state: StateDirectory, *, interactive: bool) -> bool:
    """Whether to say it: to a person at a terminal always, to a program's log once per device."""
    path = state.path / _FILE
    if path.exists():
        return interactive
    with suppress(OSError):  # where nothing can be written, it is said every time
        path.touch(mode=0o600)
    return True
