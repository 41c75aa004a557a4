"""Writes the golden vectors: `python protocol/generate_vectors.py [--check]`.

Every byte is built by hand with struct and json; the codec that the vectors test is not imported.
One file is one scenario. Contents are hex and bit patterns, never decimal floats.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from vector_scenarios.answers import answer_vectors
from vector_scenarios.manifests import manifest_vectors
from vector_scenarios.message_frames import bad_frames, bad_metadata, good_shards
from vector_scenarios.message_tensors import bad_tensors, bad_values, too_large, two_faults
from vector_scenarios.quantization import quantize_vectors
from vector_scenarios.shard_bytes import Vector

VECTORS = Path(__file__).parent / "vectors"

FOLDERS: dict[str, tuple[Callable[[], Iterator[tuple[str, Vector]]], ...]] = {
    "message": (
        good_shards,
        bad_frames,
        bad_metadata,
        bad_tensors,
        bad_values,
        two_faults,
        too_large,
    ),
    "quantize": (quantize_vectors,),
    "manifest": (manifest_vectors,),
    "answer": (answer_vectors,),
}


def render() -> dict[Path, str]:
    """Path -> text of every vector file."""
    files: dict[Path, str] = {}
    for folder, generators in FOLDERS.items():
        for generator in generators:
            for name, vector in generator():
                path = VECTORS / folder / f"{name}.json"
                assert path not in files, path
                files[path] = json.dumps(vector, indent=1, ensure_ascii=True) + "\n"
    return files


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail on a difference")
    check = parser.parse_args().check
    files = render()
    found = {path for folder in FOLDERS for path in (VECTORS / folder).glob("*.json")}
    stale = sorted(found - set(files))
    changed = sorted(p for p, text in files.items() if p not in found or p.read_text() != text)
    if not check:
        for path in stale:
            path.unlink()
        for path in changed:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(files[path])
    for path in (*stale, *changed):
        print(f"{'differs' if check else 'wrote'}: {path.relative_to(VECTORS.parent)}")
    return int(check and bool(stale or changed))


if __name__ == "__main__":
    sys.exit(main())
