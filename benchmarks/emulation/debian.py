"""Files of Debian packages of any suite and architecture, without root and without installing.

apt itself fetches and checks them, with the mirror, proxy and keys of this machine's own
configuration but a state of its own, in which nothing is installed: so it resolves every
dependency down to the C library. `dpkg-deb` unpacks; no maintainer script runs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.emulation.commands import fetch, need
from benchmarks.emulation.kept import PlatformUnavailable

_RELEASES = {"bullseye", "bookworm", "trixie", "forky", "sid", "stable", "testing", "unstable"}
_KEYRINGS = [Path(f"/usr/share/keyrings/debian-archive-keyring.{end}") for end in ("pgp", "gpg")]
_DEBIAN = "emulated boards are built from Debian packages, on Debian or a container of it"


def unpack(packages: Sequence[str], suite: str, architecture: str, target: Path) -> None:
    """Put the files of `packages` and all they depend on below `target`.

    Raises PlatformUnavailable when this machine has no Debian mirror or cannot reach it.
    """
    dpkg_deb = need("dpkg-deb", _DEBIAN)
    with tempfile.TemporaryDirectory(prefix="splitfrozen-apt-") as scratch:
        for archive in _download(packages, suite, architecture, Path(scratch)):
            fetch([dpkg_deb, "--extract", archive, target], archive.name)


def _download(packages: Sequence[str], suite: str, architecture: str, scratch: Path) -> list[Path]:
    apt = need("apt-get", _DEBIAN)
    sources = scratch / "sources"
    cache = scratch / "cache"
    for folder in (sources, scratch / "state/lists/partial", cache / "archives/partial"):
        folder.mkdir(parents=True)
    status = scratch / "status"
    status.touch()
    (sources / "debian.sources").write_text(
        f"Types: deb\nURIs: {_mirror(apt)}\nSuites: {suite}\nComponents: main\n"
        f"Architectures: {architecture}\nSigned-By: {_keyring()}\n"
    )
    settings = {
        "Dir::State": scratch / "state",
        "Dir::State::status": status,
        "Dir::Cache": cache,
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": sources,
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "APT::Architecture": architecture,
        "APT::Architectures::": architecture,
        "APT::Sandbox::User": "root",  # as root, apt would read the private state as another user
        "Acquire::Languages": "none",
    }
    options = [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]
    what = f"Debian {suite} {architecture} packages"
    fetch([apt, *options, "-q", "update"], what)
    install = ["-q", "-y", "--download-only", "--no-install-recommends", "install"]
    fetch([apt, *options, *install, *packages], what)
    return sorted(cache.glob("archives/*.deb"))


def _mirror(apt: str) -> str:
    """The first Debian mirror in the machine's own apt configuration."""
    listed = fetch([apt, "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)"], "apt")
    for line in listed.splitlines():
        address, release, component = (*line.split(), "", "", "")[:3]
        if release in _RELEASES and component == "main":
            return address
    raise PlatformUnavailable(f"apt on this machine has no Debian mirror: {_DEBIAN}")


def _keyring() -> Path:
    for keyring in _KEYRINGS:
        if keyring.exists():
            return keyring
    raise PlatformUnavailable("no Debian keys: install the package debian-archive-keyring")
