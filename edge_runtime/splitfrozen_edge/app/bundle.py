"""A bundle as apps see it: what it is, and whether it is intact."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from splitfrozen.bundle import Bundle as Verified


class Bundle:
    """The device's half of a model: the first blocks as a graph, the tokenizer, the rules.

    Every file was compared with the manifest's hashes when this was made. Never changes; threads
    may share it.
    """

    def __init__(self, verified: Verified) -> None:
        """For this package; apps call `Bundle.open`, or get one from `Device.bundle`."""
        self._verified = verified

    @classmethod
    def open(cls, directory: str | os.PathLike[str]) -> Bundle:
        """Open a bundle's directory and check every byte of it.

        Raises ManifestError: it is no bundle, a file is missing, or a hash differs.
        """
        from splitfrozen.bundle import read_bundle

        return cls(read_bundle(Path(directory)))

    def verify(self) -> None:
        """Check every byte again, as `open` did; ManifestError if the files changed since."""
        from splitfrozen.bundle import read_bundle
        from splitfrozen.errors import ManifestError

        found = read_bundle(self.directory)
        if found.id != self.id:
            message = f"{self.directory} holds another bundle now: {found.id[:12]}…"
            raise ManifestError("hash_mismatch", message)

    @property
    def id(self) -> str:
        """SHA-256 of the manifest, 64 hexadecimal digits: the bundle's name everywhere."""
        return self._verified.id

    @property
    def directory(self) -> Path:
        """Where its files are."""
        return self._verified.directory

    @property
    def base_model(self) -> str:
        """Name of the model that was cut."""
        return self._verified.manifest.base_model.id

    @property
    def cut(self) -> int:
        """How many of the model's blocks run on the device."""
        return self._verified.manifest.cut

    @property
    def hidden_size(self) -> int:
        """Width d of an activation: values per token."""
        return self._verified.manifest.hidden_size

    @property
    def precision(self) -> str:
        """How the weights are stored: fp32, int8, int8-hq, int4 or int4-all."""
        return self._verified.manifest.precision

    @property
    def max_length(self) -> int:
        """Tokens of a text that are used; what is longer is truncated."""
        return self._verified.manifest.preprocess.max_length

    def __repr__(self) -> str:
        what = f"{self.base_model} cut {self.cut} {self.precision}"
        return f"<Bundle {self.id[:12]} {what} at {self.directory}>"


BundleLike = Bundle | str | os.PathLike[str]  # a string is a directory or an id


def unwrap(bundle: Bundle) -> Verified:
    """The bundle as the rest of this package uses it."""
    return bundle._verified
