"""What one demo runs: model, data dealt to devices, settings, and where everything is written."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from benchmarks.inputs import Inputs
from benchmarks.labelled import Labelled, deal, label_names, write_labelled
from splitfrozen.errors import DataError

MARK = "splitfrozen-demo"  # a file that says: this directory may be replaced


@dataclass(frozen=True)
class Settings:
    """Numbers of the run; the server and both baselines get the same ones."""

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

    def device_file(self, index: int) -> Path:
        """Data of one device."""
        return self.output / "data" / f"device-{index + 1}.jsonl"

    def device_state(self, name: str) -> Path:
        """State directory of one device."""
        return self.output / "devices" / name


def make_plan(inputs: Inputs, settings: Settings, output: Path) -> Plan:
    """Deal the training rows to the devices. DataError for labels that a flag cannot carry."""
    labels = label_names(inputs.training)
    unfit = [name for name in labels if "," in name or name != name.strip()]
    if unfit:
        raise DataError(f"the label {unfit[0]!r} has a comma or blanks around it; rename it")
    parts = [part for part in deal(inputs.training, settings.devices) if part]
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
    for index, part in enumerate(plan.parts):
        write_labelled(plan.device_file(index), part)


def bundle_facts(bundle: Path) -> tuple[int, int, int]:
    """Hidden size, longest example in tokens, and bytes of the files of an exported bundle."""
    manifest = json.loads((bundle / "splitfrozen.json").read_text(encoding="utf-8"))
    size = sum(entry["size"] for entry in manifest["files"].values())
    return manifest["hidden_size"], manifest["preprocess"]["max_length"], size
