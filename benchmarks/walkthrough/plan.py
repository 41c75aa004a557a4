"""What one demo runs: model, data dealt to devices, settings, and where everything is written."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from benchmarks.inputs import Inputs
from benchmarks.labelled import Labelled, deal, label_names, mix, write_labelled
from splitfrozen.errors import DataError
from splitfrozen.manifest import MANIFEST_NAME, parse_manifest

MARK = "splitfrozen-demo"  # a file that says: this directory may be replaced


@dataclass(frozen=True)
class Settings:
    """Numbers of the run; the server and the baselines get the same ones."""

    cut: int
    devices: int = 5
    epochs: int = 4
    schedule: str = "linear"
    seed: int = 0


@dataclass(frozen=True)
class Plan:
    """Inputs, settings, and the files of the output directory."""

    model: str  # Hub id or directory
    labels: list[str]
    parts: list[list[Labelled]]  # one a device; label-skewed
    held_out: list[Labelled]
    settings: Settings
    output: Path

    @property
    def name(self) -> str:
        """Short name of the base model, as the server registers it."""
        return Path(self.model).name

    @property
    def bundle(self) -> Path:
        return self.output / "bundle"

    @property
    def state(self) -> Path:
        return self.output / "state"

    @property
    def adapter(self) -> Path:
        return self.output / "adapter"

    @property
    def training_file(self) -> Path:
        return self.output / "data" / "train.jsonl"

    @property
    def held_out_file(self) -> Path:
        return self.output / "data" / "heldout.jsonl"

    def write_device_file(self, index: int, share: float) -> Path:
        """Write the first `share` of a device's rows: a file that grows, as data does."""
        path = self.output / "data" / f"device-{index + 1}.jsonl"
        write_labelled(path, self.first_rows(index, share))
        return path

    def first_rows(self, index: int, share: float) -> list[Labelled]:
        """The first `share` of a device's rows, one at least."""
        part = self.parts[index]
        return part[: max(1, round(share * len(part)))]

    def fewest_per_label(self, share: float) -> int:
        """How many examples every label has once each device has sent `share` of its rows."""
        sent = [
            row.label for index in range(len(self.parts)) for row in self.first_rows(index, share)
        ]
        return min(sent.count(label) for label in self.labels)

    def device_state(self, name: str) -> Path:
        """State directory of one device."""
        return self.output / "devices" / name


def make_plan(inputs: Inputs, settings: Settings, output: Path) -> Plan:
    """Deal the training rows to the devices. DataError for labels that a flag cannot carry."""
    labels = label_names(inputs.training)
    unfit = [name for name in labels if "," in name or name != name.strip()]
    if unfit:
        raise DataError(f"the label {unfit[0]!r} has a comma or blanks around it; rename it")
    parts = [mix(part) for part in deal(inputs.training, settings.devices) if part]
    return Plan(inputs.model, labels, parts, inputs.held_out, settings, output.absolute())


def prepare_output(plan: Plan) -> None:
    """Empty the output directory of an earlier demo and write the data files.

    Raises FileExistsError for a directory that no demo wrote.
    """
    if plan.output.exists() and any(plan.output.iterdir()):
        if not (plan.output / MARK).is_file():
            raise FileExistsError(f"{plan.output} holds files that no demo wrote; choose --output")
        shutil.rmtree(plan.output)
    (plan.output / "data").mkdir(parents=True)
    (plan.output / MARK).write_text("This directory is replaced by the next demo.\n")
    write_labelled(plan.training_file, [row for part in plan.parts for row in part])
    write_labelled(plan.held_out_file, plan.held_out)


@dataclass(frozen=True)
class BundleFacts:
    """What the demo needs to know of an exported bundle."""

    hidden_size: int
    max_length: int  # tokens of the longest example
    bytes: int  # of all its files


def read_facts(bundle: Path) -> BundleFacts:
    """Read them from the manifest."""
    manifest = parse_manifest((bundle / MANIFEST_NAME).read_bytes())
    size = sum(entry.size for entry in manifest.files.values())
    return BundleFacts(manifest.hidden_size, manifest.preprocess.max_length, size)
