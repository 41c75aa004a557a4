"""Turn what a user calls a model (a directory or a Hub id) into files and a configuration.

Nothing here reads a weight: models that we must refuse are refused before any is downloaded.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator
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
from huggingface_hub.hf_api import RepoFile
from transformers import AutoConfig, PretrainedConfig

from splitfrozen.errors import ModelError, SplitFrozenError
from splitfrozen_export.place import CONFIG, model_directory, no_config
from splitfrozen_export.split.refuse import check_support

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
    Transformers does not know or that cannot be cut, and for weights that are not safetensors.
    """
    name = os.fspath(model)
    directory = model_directory(name)
    if directory is not None:
        path, found, files = directory, None, _file_names(directory)
    else:
        path, files = _hub_snapshot(name, revision, trust_remote_code)
        found = path.name
    if CONFIG not in files:
        raise no_config(name)
    config = _read_config(name, path, trust_remote_code)
    check_support(config)  # before its weights are blamed
    _require_weights(name, files)
    return ModelSource(path, name, found, config, trust_remote_code)


def fetch_weights(source: ModelSource, names: Iterable[str] | None = None) -> None:
    """Download the safetensors of a Hub snapshot that are not in the local cache yet.

    With `names`, as the checkpoint spells them, only the files that hold these tensors.
    """
    if source.revision is None:
        return
    with hub_errors(source.id):
        snapshot_download(
            source.id, revision=source.revision, allow_patterns=weight_files(source, names)
        )


def absent_files(source: ModelSource, names: Iterable[str] | None = None) -> dict[str, int | None]:
    """The files that `fetch_weights` would still download, and their sizes in bytes.

    Empty for a directory; a size is None where the Hub cannot be asked.
    """
    if source.revision is None:
        return {}
    absent = [file for file in weight_files(source, names) if not (source.path / file).exists()]
    if not absent:
        return {}
    try:
        entries = HfApi().list_repo_tree(source.id, revision=source.revision)
        sizes = {entry.path: entry.size for entry in entries if isinstance(entry, RepoFile)}
    except (OfflineModeIsEnabled, LocalEntryNotFoundError, HfHubHTTPError, OSError):
        sizes = {}
    return {file: sizes.get(file) for file in absent}


def weight_files(source: ModelSource, names: Iterable[str] | None = None) -> list[str]:
    """The safetensors files of a model, or those that hold the stored tensors `names`."""
    files = weight_map(source.path)
    if files is None:
        return [WEIGHTS]
    return sorted(set(files.values()) if names is None else {files[name] for name in names})


def weight_map(path: Path) -> dict[str, str] | None:
    """The file of every tensor of a sharded checkpoint; None for one that is a single file.

    Raises ModelError `model_not_supported` for an index that is not one, or that names files
    elsewhere.
    """
    index = path / WEIGHTS_INDEX
    if not index.is_file() or (path / WEIGHTS).is_file():  # Transformers prefers the single file
        return None
    try:
        files: dict[str, str] = dict(json.loads(index.read_text("utf-8"))["weight_map"])
        strange = [file for file in files.values() if Path(file).name != file]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError("model_not_supported", f"{index} is no index: {error!r}") from error
    if strange:
        raise ModelError(
            "model_not_supported", f"{index} names a file outside its directory: {strange[0]!r}"
        )
    return files


def _hub_snapshot(name: str, revision: str | None, code: bool) -> tuple[Path, set[str]]:
    patterns = [*_SMALL_FILES, "*.py"] if code else _SMALL_FILES
    with hub_errors(name):
        path = Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    try:
        files = set(HfApi().list_repo_files(name, revision=path.name))
    except (OfflineModeIsEnabled, LocalEntryNotFoundError, HfHubHTTPError, OSError):
        files = _file_names(path)  # offline: what an earlier download left
    return path, files


@contextmanager
def hub_errors(name: str) -> Iterator[None]:
    """Within the block, what the Hub's client raises about `name` becomes a ModelError."""
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
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SplitFrozenError(
                "insufficient_storage",
                f"there is no room for {name!r} in the Hub cache (HF_HOME): {error}",
            ) from error
        raise ModelError("model_not_found", f"{name!r}: the Hub failed: {error}") from error


def _file_names(path: Path) -> set[str]:
    return {entry.name for entry in path.iterdir()}


def _require_weights(name: str, files: set[str]) -> None:
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
