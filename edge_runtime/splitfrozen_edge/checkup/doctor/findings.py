"""What a check found. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    check: str  # stable name, for programs
    status: Status  # warn: it works, but; fail: the device cannot do its work like this
    found: str
    advice: str = ""  # what to do; empty where nothing is


def ok(check: str, found: str, advice: str = "") -> Finding:
    return Finding(check, "ok", found, advice)


def warn(check: str, found: str, advice: str) -> Finding:
    return Finding(check, "warn", found, advice)


def fail(check: str, found: str, advice: str) -> Finding:
    return Finding(check, "fail", found, advice)


def finding_lines(finding: Finding) -> list[str]:
    """For a person: one line, and one with what to do."""
    lines = [f"{finding.status:4}  {finding.check:12}  {finding.found}"]
    if finding.advice:
        lines.append(f"{'':20}-> {finding.advice}")
    return lines


def document(findings: Iterable[Finding]) -> dict[str, Any]:
    """For a program; `healthy` is false when a check failed."""
    rows = [asdict(finding) for finding in findings]
    return {"healthy": all(row["status"] != "fail" for row in rows), "checks": rows}


def size(count: float) -> str:
    """Bytes as a person reads them."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
