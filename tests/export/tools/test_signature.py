"""Signatures: Ed25519 as RFC 8032 has it, in a file of which no byte can change unnoticed."""

from __future__ import annotations

import pytest

from splitfrozen.errors import ManifestError
from splitfrozen.signature import (
    Signature,
    check_signature,
    parse_key,
    parse_signature,
    signature_bytes,
)
from splitfrozen_export.tools.signed import verify_ed25519
from splitfrozen_server.signing import BundleSigner

# RFC 8032 section 7.1, tests 1 to 3: secret key, public key, message, signature.
RFC_8032 = (
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
        "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
        "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
)


@pytest.mark.parametrize(("secret", "public", "message", "signature"), RFC_8032)
def test_the_server_signs_and_a_reader_checks_as_the_standard_says(
    secret: str, public: str, message: str, signature: str
) -> None:
    signer = BundleSigner(bytes.fromhex(secret))
    assert signer.public_key == public
    raw = signer.sign(bytes.fromhex(message))
    assert parse_signature(raw) == Signature(public, signature)
    check_signature(raw, bytes.fromhex(message), verify_ed25519, key=public)
    with pytest.raises(ManifestError, match="not the signature of this manifest") as refused:
        check_signature(raw, bytes.fromhex(message) + b"\0", verify_ed25519, key=public)
    assert refused.value.code == "bad_signature"


def test_no_bit_of_the_file_can_change() -> None:
    raw = BundleSigner(bytes(32)).sign(b"manifest")
    for at in range(len(raw)):
        for bit in range(8):
            changed = bytearray(raw)
            changed[at] ^= 1 << bit
            with pytest.raises(ManifestError):
                check_signature(bytes(changed), b"manifest", verify_ed25519, key=None)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "not JSON"),
        (b"[]", "not an object"),
        (b'{"format": 1, "key": "00", "signature": "00"}', "key"),
        (b'{"format": 2, "key": "00", "signature": "00"}', "format 2"),
        (b'{"format": true, "key": "00", "signature": "00"}', "format True"),
        (b'{"key": "00", "signature": "00"}', "exactly format, key and signature"),
        (b"[" * 4000, "not JSON"),
        (b" " * 5000, "more than 4096"),
        (signature_bytes(Signature("0" * 64, "0" * 128)) + b"\n", "canonical"),
    ],
)
def test_a_malformed_file_is_refused_with_its_reason(raw: bytes, reason: str) -> None:
    with pytest.raises(ManifestError, match=reason) as refused:
        parse_signature(raw)
    assert refused.value.code == "bad_signature"


def test_a_key_that_is_no_point_verifies_nothing() -> None:
    assert not verify_ed25519(b"\xff" * 32, bytes(64), b"")
    assert not verify_ed25519(b"", b"", b"")


def test_a_key_is_read_as_people_paste_it() -> None:
    assert parse_key(f"  {'AB' * 32}\n") == "ab" * 32
    with pytest.raises(ManifestError, match="64 hex digits"):
        parse_key("ab")
