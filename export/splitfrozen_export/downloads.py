"""Fetching weight files from the Hub so that a user sees how far it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.utils.tqdm import tqdm

from splitfrozen_export.split import ModelSource
from splitfrozen_export.split.source import hub_errors

OnPart = Callable[[int, int], None]


def download(source: ModelSource, missing: Mapping[str, int | None], on_part: OnPart) -> None:
    """Fetch files into the local Hub cache; `on_part` is told the bytes so far, of how many.

    `missing` holds their sizes where the Hub told them. Raises ModelError `model_not_found` when
    the Hub fails.
    """
    total = sum(size or 0 for size in missing.values())
    done = 0

    class Bar(tqdm):
        """Draws nothing: what it is told goes to `on_part`."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            options["disable"] = True
            super().__init__(*arguments, **options)  # type: ignore[no-untyped-call]
            self.got = 0.0

        def update(self, n: float | None = 1) -> None:
            self.got += n or 0
            on_part(min(done + int(self.got), total), total)

    with hub_errors(source.id):
        for name, size in missing.items():
            hf_hub_download(source.id, name, revision=source.revision, tqdm_class=Bar)
            done += size or 0
            on_part(done, total)
