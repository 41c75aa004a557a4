"""What a refused shard means for the push. Pure: a table."""

from __future__ import annotations

from enum import Enum

from splitfrozen.errors import RefusedError
from splitfrozen_edge.http.refusals import ForeignRefusal


class Verdict(Enum):
    """What to do after a refusal."""

    WAIT = "the same bytes may be taken later"
    STOP = "nothing of this device is taken as things are: all stays queued"
    RESEND = "the bytes broke on the way: a few more tries, then aside"
    PARK = "this shard is never taken: aside with it, on with the others"
    PARK_DATASET = "nothing of the dataset is taken any more"
    PARK_BUNDLE = "nothing of the bundle is taken any more: another one replaced it"


_BY_CODE = {
    "unauthorized": Verdict.STOP,
    "forbidden": Verdict.STOP,
    "unsupported_protocol": Verdict.STOP,
    "bad_certificate": Verdict.STOP,
    "digest_mismatch": Verdict.RESEND,
    "truncated": Verdict.RESEND,
    "bad_encoding": Verdict.RESEND,
    "dataset_sealed": Verdict.PARK_DATASET,
    "not_found": Verdict.PARK_DATASET,
    "unknown_bundle": Verdict.PARK_BUNDLE,
}
# What a proxy in between may say about one body; any other answer of a stranger is about the way.
_FOREIGN_PARKED = frozenset({400, 409, 413, 415, 422})


def judge(error: RefusedError) -> Verdict:
    """The verdict on a shard that was refused with `error`."""
    if error.retryable:
        return Verdict.WAIT
    if isinstance(error, ForeignRefusal):
        return Verdict.PARK if error.answered in _FOREIGN_PARKED else Verdict.STOP
    return _BY_CODE.get(error.code, Verdict.PARK)
