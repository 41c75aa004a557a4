"""Models whose blocks choose between experts have no ONNX form yet."""

from __future__ import annotations

from splitfrozen.errors import ModelError
from splitfrozen_export.place import experts
from splitfrozen_export.split import ModelSource


def require_dense(source: ModelSource) -> None:
    """ModelError for a mixture of experts: the server could train it, but not export it."""
    count = experts(source.config)
    if count:
        raise ModelError(
            "model_not_supported",
            f"{source.id!r} ({source.config.model_type}) is a mixture of {count} experts, whose "
            "routing cannot be exported; use a dense model",
        )
