"""Look at a base model in a process of its own: `python -m splitfrozen_server.inspect_model`.

Prints one JSON object. The API process never imports torch; this one does, and ends.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from splitfrozen.errors import SplitFrozenError


def main() -> None:
    """Print {"model": {...}} and exit 0, or {"error": {...}} and exit 1."""
    options = _parser().parse_args()
    try:
        answer = {"model": inspect(options)}
    except SplitFrozenError as error:
        answer = {"error": {"code": error.code, "message": error.message}}
    print(json.dumps(answer))
    sys.exit("error" in answer)


def inspect(options: argparse.Namespace) -> dict[str, Any]:
    """Facts of a model, with the prefix digest if a cut is given."""
    from transformers.utils import logging as transformers_logging

    from splitfrozen_export.split import check_cut, prefix_digest, resolve_model
    from splitfrozen_export.split.source import fetch_weights

    # stderr is for what an operator should act on.
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    source = resolve_model(
        options.source, revision=options.revision, trust_remote_code=options.trust_remote_code
    )
    check_cut(source.config, options.cut or 1, code=source.code)
    fetch_weights(source)  # the worker reads the directory and never the Hub
    text = source.config.get_text_config()
    found: dict[str, Any] = {
        "path": str(source.path.resolve()),
        "revision": source.revision,
        "family": source.config.model_type,
        "num_layers": text.num_hidden_layers,
        "hidden_size": text.hidden_size,
        "vocab_size": text.vocab_size,
    }
    if options.cut:
        found["prefix_digest"] = prefix_digest(source, options.cut)
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m splitfrozen_server.inspect_model")
    parser.add_argument("source", help="Hub id or directory")
    parser.add_argument("--revision")
    parser.add_argument("--cut", type=int)
    parser.add_argument("--trust-remote-code", action="store_true")
    return parser


if __name__ == "__main__":
    main()
