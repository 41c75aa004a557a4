"""How much memory this machine has, and the share of it that split sessions may take."""

from __future__ import annotations

import os
from pathlib import Path

import torch

SHARE = 4  # sessions take a quarter unless told otherwise
_CGROUP = Path("/sys/fs/cgroup/memory.max")  # what a container may use; "max": everything


def session_bytes() -> int:
    """Default limit of all keys and values together, where the model computes."""
    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[1]) // SHARE
    return main_memory() // SHARE


def main_memory() -> int:
    """Bytes of main memory that this process may use."""
    found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        limit = _CGROUP.read_text().strip()
    except OSError:
        return found
    return min(found, int(limit)) if limit.isdigit() else found
