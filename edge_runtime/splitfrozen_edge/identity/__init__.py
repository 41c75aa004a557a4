"""Whom this device trusts and how it proves itself: certificates, pins, signatures, tokens."""
