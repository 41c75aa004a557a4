"""Build every platform: `python -m benchmarks.emulation`."""

from __future__ import annotations

import sys

from benchmarks.emulation.everywhere import OTHERS, prepare
from benchmarks.emulation.kept import PlatformUnavailable, cache_root


def main() -> int:
    """0 when every platform can run here, else 1."""
    missing = 0
    for platform in OTHERS:
        try:
            prepare(platform)
            print(f"{platform}: ready in {cache_root()}")
        except PlatformUnavailable as error:
            missing += 1
            print(f"{platform}: {error}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
