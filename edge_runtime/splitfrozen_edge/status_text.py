"""The status for a person. Pure: the status's document in, lines out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

_SHOWN = 3  # bad lines of a file
_NOTHING = {"compute": "computes nothing", "upload": "sends nothing"}


def status_lines(status: Mapping[str, Any], now: float) -> list[str]:
    """One subject per line; `now`: seconds since 1970."""
    lines = [
        f"device   {_device(status['device'])}",
        f"state    {status['state_dir']}",
        f"server   {_server(status, now)}",
        f"daemon   {_daemon(status['daemon'], status['joined'], now)}",
    ]
    daemon = status["daemon"]
    if daemon is not None and daemon["running"]:
        lines += [f"waits    {_reason(item)}" for item in daemon["reasons"]]
        lines += [f"warning  {item}" for item in daemon["warnings"]]
    lines.append(f"policy   {_policy(status['policy'])}")
    lines += [f"dataset  {_dataset(item)}" for item in status["datasets"]]
    lines += _watched(status)
    lines += [f"bundle   {_bundle(item)}" for item in status["bundles"]]
    return lines


def _device(device: Mapping[str, str] | None) -> str:
    if device is None:
        return "not enrolled: run splitfrozen-edge enroll --server URL --token …"
    return f"{device['name']} ({device['id']}) at {device['server']}"


def _server(status: Mapping[str, Any], now: float) -> str:
    server, daemon = status["server"], status["daemon"]
    if server is None or server["reachable"] is None:
        return "not asked: only watch and run keep an eye on it"
    if not server["reachable"]:
        return f"away for {_ago(now - server['since'])}: {server['message']}"
    heard = [daemon[name] for name in ("last_heartbeat", "last_upload") if daemon[name]]
    last = max(heard, default=server["since"])
    return f"answered {_ago(now - last)} ago"


def _daemon(daemon: Mapping[str, Any] | None, joined: Sequence[Any], now: float) -> str:
    names = ", ".join(item["dataset"] for item in joined) or "none"
    if daemon is None or not daemon["running"]:
        ended = "not running"
        if daemon is not None:
            last = daemon["ended_at"] or daemon["updated_at"]
            ended += f"; it {'ended' if daemon['ended_at'] else 'died'} {_ago(now - last)} ago"
        return f"{ended}; joined datasets: {names}"
    since = _ago(now - daemon["started_at"])
    return f"running for {since} (process {daemon['pid']})"


def _reason(reason: Mapping[str, Any]) -> str:
    held = " and ".join(_NOTHING[stage] for stage in reason["blocks"])
    until = f", until {_clock(reason['until'])}" if reason["until"] else ""
    return f"{reason['message']}{until}" + (f" ({held})" if held else "")


def _policy(policy: Mapping[str, Any]) -> str:
    if "error" in policy:
        return str(policy["error"])
    found = []
    if policy["only_unmetered"]:
        names = ", ".join(policy["metered_interfaces"])
        found.append("only unmetered" + (f" (not {names})" if names else ""))
    if policy["only_charging"]:
        found.append("only charging")
    if policy["pause_above_temp"] is not None:
        found.append(f"pause above {policy['pause_above_temp']:g} °C")
    if policy["max_rate"] is not None:
        found.append(f"at most {_bytes(policy['max_rate'])}/s")
    if policy["cpu_share"] < 1:
        found.append(f"{policy['cpu_share']:.0%} of a core")
    if policy["quiet_hours"]:
        found.append(f"quiet {policy['quiet_hours']}")
    return ", ".join(found) or "no limits"


def _dataset(item: Mapping[str, Any]) -> str:
    waiting = f"{item['queued_examples']} examples wait in {item['queued_shards']} shards"
    line = (
        f"{item['name']}: {item['done_examples']} sent, {waiting} ({_bytes(item['queued_bytes'])})"
    )
    if item["parked_examples"]:
        line += f", {item['parked_examples']} were refused (see queue list)"
    return line


def _watched(status: Mapping[str, Any]) -> Iterator[str]:
    following = {_key(item, status["watched"]): item for item in status["following"]}
    seen = set()
    for watch in status["watched"]:
        key = (watch["dataset"], watch["path"])
        seen.add(key)
        yield f"watched  {_watch(watch, following.get(key))}"
        for item in watch["files"]:
            yield from _bad_lines(item)
        yield from _problems(following.get(key))
    for key, item in following.items():
        if key not in seen:
            state = item["message"] or item["state"]
            yield f"watched  {item['path']} for {item['dataset']}: {state}"
            yield from _problems(item)


def _key(following: Mapping[str, Any], watched: Sequence[Mapping[str, Any]]) -> tuple[Any, Any]:
    """The watch it belongs to. One that is just starting has no id yet: then its path tells."""
    path, known = following["path"], following["id"]
    if known is None:
        same = [watch["dataset"] for watch in watched if watch["path"] == path]
        known = same[0] if len(same) == 1 else None
    return known, path


def _watch(watch: Mapping[str, Any], following: Mapping[str, Any] | None) -> str:
    files = watch["files"]
    size, read = sum(item["size"] for item in files), sum(item["offset"] for item in files)
    rows, bad = sum(item["rows"] for item in files), sum(item["bad"] for item in files)
    name = following["dataset"] if following else watch["dataset"]
    line = f"{watch['path']} for {name}: {_count(len(files), 'file')}, {_count(rows, 'row')}"
    if size:
        line += f", {min(read, size) / size:.0%} read"
    if bad:
        line += f", {_count(bad, 'bad line')}"
    if following and following["waiting_rows"]:
        line += f", {_count(following['waiting_rows'], 'row')} about to be taken"
    return line


def _bad_lines(item: Mapping[str, Any]) -> Iterator[str]:
    for line, reason in item["bad_lines"][:_SHOWN]:
        yield f"         {item['path']}:{line}: {reason}"
    if item["bad"] > _SHOWN:
        yield f"         {item['path']}: {item['bad'] - _SHOWN} more bad lines (--format json)"


def _problems(following: Mapping[str, Any] | None) -> Iterator[str]:
    for path, reason in (following["problems"] if following else {}).items():
        yield f"         {path} {reason}"
    for ending, count in (following.get("unread", {}) if following else {}).items():
        why = ".txt needs --texts" if ending == ".txt" else f"{ending or 'no ending'} is no rows"
        yield f"         {_count(count, 'file')} not read ({why})"


def _bundle(item: Mapping[str, Any]) -> str:
    size = "gone" if item["bytes"] is None else _bytes(item["bytes"])
    return f"{item['id'][:12]}…  {size}  {item['directory']}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _bytes(size: float) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 or size == 0 else f"{size / 1e3:.1f} kB"


def _ago(seconds: float) -> str:
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}s"
    return f"{max(0.0, seconds):.0f} seconds"


def _clock(moment: str) -> str:
    return f"{datetime.fromisoformat(moment):%H:%M}"
