"""The batches that a push of a file runs, written down for the bare loop."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from splitfrozen.bundle import Bundle
from splitfrozen.graph import TOKENIZER
from splitfrozen_edge.data.preprocess import Preprocessor
from splitfrozen_edge.data.rows import Source, read_rows
from splitfrozen_edge.data.tokenizer import Tokenizer
from splitfrozen_edge.model.batches import plan_batches
from splitfrozen_edge.pushing.collect import Example, pad


def write_batches(data: Path, bundle: Bundle, path: Path) -> tuple[int, int]:
    """Write ids and masks of all batches of a labelled file; (examples, tokens without padding)."""
    manifest = bundle.manifest
    preprocessor = Preprocessor(
        manifest.preprocess,
        Tokenizer.from_file(bundle.path(TOKENIZER)),
        task="classification",
        vocab_size=manifest.vocab_size,
    )
    rows = read_rows(Source(data, "classification", None))
    examples = [Example(row.line, preprocessor.encode(row.fields)) for row in rows]
    arrays = {}
    for number, places in enumerate(plan_batches([len(item.encoded.ids) for item in examples])):
        ids, mask = pad([examples[place] for place in places])
        arrays[f"ids_{number}"], arrays[f"mask_{number}"] = ids, mask
    np.savez(path, allow_pickle=False, **arrays)
    return len(examples), sum(len(item.encoded.ids) for item in examples)
