"""Which examples run together. Pure.

Examples of like length share a batch, so that little padding is computed; only within a window of
the file, so that what is uploaded first is not only the short ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

# Padded tokens of a batch. More takes more memory and, from here on, more time per token too: the
# activations leave the processor's cache (gpt2's shape: 1024 take 86 MB and 15 % time more).
BATCH_TOKENS = 256
WINDOW = 512  # examples


def plan_batches(
    lengths: Sequence[int], *, tokens: int = BATCH_TOKENS, window: int = WINDOW
) -> Iterator[list[int]]:
    """Yield batches as lists of places in `lengths`: each place once, at least one per batch."""
    for start in range(0, len(lengths), window):
        places = range(start, min(start + window, len(lengths)))
        yield from _fill(sorted(places, key=lambda place: lengths[place]), lengths, tokens)


def _fill(places: Sequence[int], lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    batch: list[int] = []
    for place in places:
        # Ascending lengths: the newest member is the longest and sets the padded width.
        if batch and lengths[place] * (len(batch) + 1) > tokens:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch
