"""Turn what a user calls a model (a directory or a Hub id) into files and a configuration.

Nothing here reads a weight: models that we must refuse are refused before any is downloaded.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers import AutoConfig, PretrainedConfig

from splitfrozen.errors import ModelError

WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
_SMALL_FILES = ["*.json", "*.txt", "*.model", "*.jinja"]


@dataclass(frozen=True)
class ModelSource:
    """One model on disk, not yet loaded."""

    path: Path  # directory with config.json; a Hub snapshot may still lack its weights
    id: str  # what the user wrote: a Hub id or a directory
    revision: str | None  # commit of a Hub snapshot, None for a directory
    config: PretrainedConfig
    trust_remote_code: bool = False

    @property
    def code(self) -> str | None:
        """Directory whose own modelling code may run, if any."""
        return str(self.path) if self.trust_remote_code else None


def resolve_model(
    model: str | os.PathLike[str], *, revision: str | None = None, trust_remote_code: bool = False
) -> ModelSource:
    """Find `model` and read its configuration.

    A Hub id is looked up with huggingface_hub, which honours HF_HOME, HF_TOKEN and
    HF_HUB_OFFLINE itself.

    Raises ModelError `model_not_found`, or `model_not_supported` for a model type that
    Transformers does not know and for weights that are not safetensors.
    """
    name = os.fspath(model)
    if Path(name).expanduser().is_dir():
        path = Path(name).expanduser()
        found, files = None, _file_names(path)
    elif _looks_like_path(name):
        raise ModelError("model_not_found", f"no directory {name!r}; check the path of the model")
    else:
        path, files = _hub_snapshot(name, revision, trust_remote_code)
        found = path.name
    _require_files(name, files)
    config = _read_config(name, path, trust_remote_code)
    return ModelSource(path, name, found, config, trust_remote_code)


def fetch_weights(source: ModelSource) -> None:
    """Download the safetensors of a Hub snapshot that are not in the local cache yet."""
    if source.revision is None:
        return
    with _hub_errors(source.id):
        snapshot_download(
            source.id, revision=source.revision, allow_patterns=_weight_names(source.path)
        )


def _weight_names(path: Path) -> list[str]:
    index = path / WEIGHTS_INDEX
    if not index.is_file():
        return [WEIGHTS]
    return sorted(set(json.loads(index.read_text())["weight_map"].values()))


def _looks_like_path(name: str) -> bool:
    return name.startswith((".", "~", os.sep)) or name.count("/") > 1 or os.path.exists(name)


def _hub_snapshot(name: str, revision: str | None, code: bool) -> tuple[Path, set[str]]:
    patterns = [*_SMALL_FILES, "*.py"] if code else _SMALL_FILES
    with _hub_errors(name):
        path = Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    try:
        files = set(HfApi().list_repo_files(name, revision=path.name))
    except (OfflineModeIsEnabled, LocalEntryNotFoundError, HfHubHTTPError, OSError):
        files = _file_names(path)  # offline: what an earlier download left
    return path, files


@contextmanager
def _hub_errors(name: str) -> Iterator[None]:
    try:
        yield
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise ModelError(
            "model_not_found",
            f"{name!r} is neither a directory nor in the local Hub cache, and the Hub cannot be "
            "reached; go online, or give a directory",
        ) from error
    except GatedRepoError as error:
        raise ModelError(
            "model_not_found",
            f"{name!r} is gated on the Hub; accept its licence there and set HF_TOKEN",
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise ModelError(
            "model_not_found",
            f"{name!r} is neither a directory nor a readable Hub repository at that revision; "
            "check the spelling, and HF_TOKEN if it is private",
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise ModelError("model_not_found", f"{name!r}: the Hub failed: {error}") from error


def _file_names(path: Path) -> set[str]:
    return {entry.name for entry in path.iterdir()}


def _require_files(name: str, files: set[str]) -> None:
    if "config.json" not in files:
        raise ModelError(
            "model_not_found", f"{name!r} has no config.json; give a Transformers model"
        )
    if files & {WEIGHTS, WEIGHTS_INDEX}:
        return
    pickled = sorted(file for file in files if file.endswith((".bin", ".pt", ".pth")))
    if pickled:
        raise ModelError(
            "model_not_supported",
            f"{name!r} has only pickled weights ({pickled[0]}), which can run code when read; "
            "load it once where you trust it and save_pretrained() it, which writes safetensors",
        )
    raise ModelError(
        "model_not_found", f"{name!r} has no weights: neither {WEIGHTS} nor {WEIGHTS_INDEX}"
    )


def _read_config(name: str, path: Path, trust_remote_code: bool) -> PretrainedConfig:
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(
            path, trust_remote_code=trust_remote_code
        )
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ModelError(
            "model_not_supported",
            f"{name!r}: Transformers cannot read its configuration: {error}",
        ) from error
    return config
