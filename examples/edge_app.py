"""A folder of notes that sorts itself. Notes are .txt files; a note's folder is its label.

    python edge_app.py learn notes --bundle bundles/gpt2-cut4    # sends notes/work/*.txt, …
    python edge_app.py sort notes --model ft:notes               # moves notes/*.txt to a folder

`learn` sends what the server has not seen yet, so run it as often as you like. Enrol first:
splitfrozen-edge enroll --server URL --token TOKEN. Training happens on the server:
splitfrozen-server jobs create --dataset notes --suffix notes
Whoever runs that server can reconstruct the notes from what it gets.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from splitfrozen_edge import DataError, Device, RefusedError, StateError


def labelled(folder: Path) -> Iterator[dict[str, str]]:
    """Every note that lies in a subfolder, as a row of a dataset."""
    for path in sorted(folder.glob("*/*.txt")):
        yield {"text": path.read_text("utf-8"), "label": path.parent.name}


def learn(device: Device, folder: Path, bundle: str | None) -> None:
    """Send the sorted notes to the dataset `notes`."""
    report = device.push(labelled(folder), dataset="notes", bundle=bundle)
    print(f"{report.uploaded_examples} notes sent, {report.skipped} were sent before")


def sort(device: Device, folder: Path, model: str, sure: float) -> None:
    """Move loose notes to the folder that the model names, if it is sure and it exists."""
    notes = sorted(folder.glob("*.txt"))
    texts = [note.read_text("utf-8") for note in notes]
    folders = {path.name for path in folder.iterdir() if path.is_dir()}
    for note, found in zip(notes, device.predict(texts, model=model), strict=True):
        share = found.scores[found.label]
        if share < sure:
            print(f"{note.name}: stays, {found.label} has only {share:.2f}")
            continue
        if found.label not in folders:  # it may come from another device, and be named "../x"
            print(f"{note.name}: stays, there is no folder {found.label!r}")
            continue
        place = folder / found.label / note.name
        if place.exists():
            print(f"{note.name}: stays, {place} is there already")
            continue
        note.rename(place)
        print(f"{note.name}: {found.label}, {share:.2f}")


def main() -> int:
    """Run a command; 0, or 1 with the reason."""
    parser = argparse.ArgumentParser(description="Sort a folder of notes by examples.")
    parser.add_argument("command", choices=["learn", "sort"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--state-dir", help="of the device; default: that of splitfrozen-edge")
    parser.add_argument("--bundle", help="directory or id; for the first `learn`")
    parser.add_argument("--model", default="ft:notes", help="of the server; for `sort`")
    parser.add_argument("--sure", type=float, default=0.5, help="share from which a note is moved")
    given = parser.parse_args()
    try:
        with Device.open(given.state_dir) as device:
            if given.command == "learn":
                learn(device, given.folder, given.bundle)
            else:
                sort(device, given.folder, given.model, given.sure)
    except (DataError, RefusedError, StateError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
