"""Refusals as a server sends them, and whether a client may send the same bytes again.

One vector per code: the table of SPEC 5 once more, written by hand, so that no status and no
retry rule changes unnoticed.
"""

from __future__ import annotations

from collections.abc import Iterator

from vector_scenarios.shard_bytes import Vector

STATUS = {
    400: "truncated header_too_large bad_header duplicate_key bad_metadata unsupported_protocol "
    "unknown_codec unknown_task unknown_tensor missing_tensor bad_dtype bad_shape bad_offsets "
    "trailing not_canonical bad_encoding invalid_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found model_not_found",
    409: "name_taken in_use unknown_bundle unknown_label dataset_sealed dataset_mismatch "
    "base_model_mismatch duplicate_example job_not_active model_not_ready out_of_order "
    "data_erased",
    410: "session_lost",
    413: "too_large",
    422: "not_finite bad_lengths duplicate_in_shard label_out_of_range token_out_of_range "
    "bad_manifest unsupported_format bad_path missing_file hash_mismatch digest_mismatch "
    "model_not_supported bad_data check_failed bad_signature "
    "bad_certificate",
    429: "rate_limited",
    500: "internal_error",
    503: "unavailable",
    507: "insufficient_storage",
}
RETRYABLE = {"rate_limited", "internal_error", "unavailable", "insufficient_storage"}


def answer_vectors() -> Iterator[tuple[str, Vector]]:
    for status, codes in STATUS.items():
        for code in codes.split():
            error = {"message": "for people", "type": "any", "param": None, "code": code}
            yield (
                code,
                {
                    "expect": code,
                    "comment": "a client raises this code and retries or not",
                    "status": status,
                    "body": {"error": error},
                    "retry": code in RETRYABLE,
                },
            )
