"""Every way a SplitFrozen exchange can fail, as one table of stable codes.

    SplitFrozenError
    ├── WireError        bytes of a shard break a rule (SPEC 2)
    ├── QuantizeError    activations that cannot be coded (SPEC 3)
    ├── ManifestError    a bundle or its manifest breaks a rule (SPEC 6)
    ├── RefusedError     the server's refusal of a request (SPEC 4)
    ├── ModelError       a model that cannot be cut, found or loaded
    └── DataError        a row of training data that cannot be used

The same code is the exception's `code`, the `expect` of a golden vector, the `code` of an HTTP
error body, and a row of SPEC section 5. The text of a message is for people and may change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ErrorCode:
    """One row of the table: what the code means and how a client acts on it."""

    code: str
    status: int  # HTTP status when a server refuses with it
    retryable: bool  # the same bytes may succeed later
    meaning: str


_TABLE = (
    # Shard bytes (SPEC 2)
    ErrorCode("too_large", 413, False, "the body, or its decompressed form, exceeds the limit"),
    ErrorCode("truncated", 400, False, "the body ends before its declared content does"),
    ErrorCode("header_too_large", 400, False, "the header exceeds 64 KiB"),
    ErrorCode("bad_header", 400, False, "the header is not a JSON object of the profile"),
    ErrorCode("duplicate_key", 400, False, "a JSON object of the header repeats a key"),
    ErrorCode("bad_metadata", 400, False, "__metadata__ lacks, adds or mistypes a field"),
    ErrorCode("unsupported_protocol", 400, False, "the protocol version is not supported"),
    ErrorCode("unknown_codec", 400, False, "the wire codec is not one of fp32, bf16, int8"),
    ErrorCode("unknown_task", 400, False, "the task is not one of the profile"),
    ErrorCode("unknown_tensor", 400, False, "a tensor that the task and codec do not have"),
    ErrorCode("missing_tensor", 400, False, "a tensor that the task and codec need is absent"),
    ErrorCode("bad_dtype", 400, False, "a tensor has another dtype than its codec prescribes"),
    ErrorCode("bad_shape", 400, False, "shapes contradict each other or are empty"),
    ErrorCode("bad_offsets", 400, False, "tensors leave holes, overlap or are out of order"),
    ErrorCode("trailing", 400, False, "bytes follow the last tensor"),
    ErrorCode("not_canonical", 400, False, "the header is not in its one canonical form"),
    ErrorCode("bad_encoding", 400, False, "the body cannot be decompressed as declared"),
    ErrorCode(
        "not_finite", 422, False, "an activation or scale is NaN or infinite, or a scale negative"
    ),
    ErrorCode("bad_lengths", 422, False, "lengths are not positive or do not add up to tokens"),
    ErrorCode("duplicate_in_shard", 422, False, "an example id occurs twice in one shard"),
    ErrorCode("label_out_of_range", 422, False, "a label is not an index of the label list"),
    ErrorCode("token_out_of_range", 422, False, "a target is neither -100 nor a token id"),
    # Bundles (SPEC 6)
    ErrorCode("bad_manifest", 422, False, "splitfrozen.json lacks, adds or mistypes a field"),
    ErrorCode("unsupported_format", 422, False, "the manifest's format version is not supported"),
    ErrorCode("bad_path", 422, False, "a file name is not a plain name"),
    ErrorCode("missing_file", 422, False, "a file of the manifest is not in the bundle"),
    ErrorCode("hash_mismatch", 422, False, "a file does not have its declared size or SHA-256"),
    # Requests (SPEC 4)
    ErrorCode("invalid_request", 400, False, "the request is malformed; param names the field"),
    ErrorCode("unauthorized", 401, False, "no valid bearer token"),
    ErrorCode("forbidden", 403, False, "the token's role may not do this"),
    ErrorCode("not_found", 404, False, "there is no such object"),
    ErrorCode("name_taken", 409, False, "another object has this name"),
    ErrorCode("in_use", 409, False, "other objects still need this one"),
    ErrorCode("digest_mismatch", 422, False, "the body does not hash to the digest in the URL"),
    ErrorCode("unknown_bundle", 409, False, "the bundle is not published on this server"),
    ErrorCode("unknown_label", 409, False, "the dataset is closed and lacks the label"),
    ErrorCode("dataset_sealed", 409, False, "the dataset takes no more shards"),
    ErrorCode("dataset_mismatch", 409, False, "dataset, task, cut, bundle or width do not agree"),
    ErrorCode("base_model_mismatch", 409, False, "the weights differ from the base model's"),
    ErrorCode("duplicate_example", 409, False, "example ids already stored by another shard"),
    ErrorCode("data_erased", 409, False, "data that the job was trained on was erased"),
    ErrorCode("job_not_active", 409, False, "the job's status does not allow the action"),
    ErrorCode("model_not_ready", 409, False, "the model cannot answer this kind of request"),
    ErrorCode("out_of_order", 409, False, "the split session expects another step number"),
    ErrorCode("session_lost", 410, False, "the split session is gone: prefill again"),
    ErrorCode("rate_limited", 429, True, "too many requests at once: wait for Retry-After"),
    ErrorCode("internal_error", 500, True, "a fault of the server; it is logged there"),
    ErrorCode("unavailable", 503, True, "the server or its worker is not ready"),
    ErrorCode("insufficient_storage", 507, True, "the server's disk is full"),
    # Local work: never on the wire, so the status is only a classification
    ErrorCode("model_not_supported", 422, False, "the model cannot be cut this way"),
    ErrorCode("model_not_found", 404, False, "no such model directory or Hub repository"),
    ErrorCode("bad_data", 422, False, "a row of training data cannot be used"),
    ErrorCode("check_failed", 422, False, "a numeric check of the exporter exceeds its limit"),
    ErrorCode("bad_certificate", 422, False, "the server's certificate is not the trusted one"),
    ErrorCode("bad_signature", 422, False, "splitfrozen.sig is malformed or not of the right key"),
)

CODES: dict[str, ErrorCode] = {row.code: row for row in _TABLE}


class SplitFrozenError(Exception):
    """Root of the tree; `code` is a key of CODES."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        param: str | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.entry = CODES[code]
        self.message = message
        self.param = param
        self.details = dict(details or {})

    @property
    def code(self) -> str:
        """Which row of CODES: stable, for programs."""
        return self.entry.code

    @property
    def status(self) -> int:
        """HTTP status that goes with the code."""
        return self.entry.status

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later."""
        return self.entry.retryable


class WireError(SplitFrozenError):
    """Bytes that are not a shard of SPEC section 2."""


class QuantizeError(SplitFrozenError):
    """Activations that no wire codec may carry."""


class ManifestError(SplitFrozenError):
    """A bundle directory or manifest that breaks SPEC section 6."""


class RefusedError(SplitFrozenError):
    """A request that the server refused, on both sides of the wire."""


class ModelError(SplitFrozenError):
    """A model that cannot be found, cut or loaded."""


class DataError(SplitFrozenError):
    """A row of training data that cannot be used.

    `path`, `line` (1-based, where the row starts) and `field` say where.
    """

    def __init__(
        self, message: str, *, path: str = "", line: int | None = None, field: str | None = None
    ) -> None:
        where = path if line is None else f"{path}:{line}"
        parts = [part for part in (where, field) if part]
        super().__init__("bad_data", ": ".join([*parts, message]), param=field)
        self.path = path
        self.line = line
        self.field = field
