"""What all management commands share: where the server is, which token, how to print.

    @group.command("list")
    @management
    def list_things(terminal: Terminal) -> None:
        terminal.rows(terminal.client.list_all("/v1/things"), ("id", "name"))

The environment is read here, by click, and nowhere below.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import click

from splitfrozen_server.client import DEFAULT_SERVER, ServerClient
from splitfrozen_server.config import is_loopback
from splitfrozen_server.enrol_command import device_address, enrol_command

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_DATA_DIR = Path("state")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Terminal:
    """A connected client and the way its answers are printed."""

    client: ServerClient
    format: str  # text | json

    def rows(self, rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
        """Print a list: a table of `columns`, or everything as one JSON array."""
        if self.format == "json":
            self.json(list(rows))
            return
        from rich.console import Console
        from rich.table import Table

        table = Table(*columns, box=None, header_style="bold")
        for row in rows:
            table.add_row(*(field(column, row.get(column)) for column in columns))
        Console(width=None if _is_terminal() else 200, markup=False).print(table)

    def item(self, item: dict[str, Any]) -> None:
        """Print one object: a line per field, or JSON."""
        if self.format == "json":
            self.json(item)
            return
        width = max(len(name) for name in item)
        for name, value in item.items():
            click.echo(f"{name:<{width}}  {field(name, value)}")

    def enrol_command(self, token: str) -> str:
        """What to type on a device, with the pin of a server that has an authority of its own."""
        pem = self.client.own_authority()
        if pem is None:
            return enrol_command(self.client.server, token, None)
        from splitfrozen_server.tls import fingerprint

        address = device_address(self.client.server, self.client.own_names(pem))
        return enrol_command(address, token, fingerprint(pem))

    def json(self, value: Any) -> None:
        """Print JSON with an indent."""
        click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def data_dir_option(command: F) -> F:
    """`--data-dir`, the same for `serve` and for the commands that look for its token."""
    return click.option(
        "--data-dir",
        type=click.Path(file_okay=False, path_type=Path),
        default=DEFAULT_DATA_DIR,
        show_default=True,
        envvar="SPLITFROZEN_DATA_DIR",
        show_envvar=True,
        help="Directory of the server's state.",
    )(command)


def management(command: F) -> F:
    """Give a command `--server --token --data-dir --ca --format` and a `terminal` argument."""

    @functools.wraps(command)
    def connected(
        *arguments: Any,
        server: str,
        token: str | None,
        data_dir: Path,
        ca: Path | None,
        output_format: str,
        **options: Any,
    ) -> Any:
        secret = token or local_token(server, data_dir)
        trusted = ca or local_authority(server, data_dir)
        with ServerClient(server, secret, ca=trusted) as client:
            return command(*arguments, terminal=Terminal(client, output_format), **options)

    decorated: Any = connected
    for option in reversed(_options()):
        decorated = option(decorated)
    return data_dir_option(decorated)  # type: ignore[no-any-return]


def local_token(server: str, data_dir: Path) -> str:
    """The token of the server on this machine; a usage error for any other server.

    Whoever answers at another address must not be handed this server's secret.
    """
    try:
        host = urlsplit(server).hostname or ""
    except ValueError:
        host = ""
    if not is_loopback(host):
        raise click.UsageError(
            f"no token: {data_dir / 'admin.token'} is sent to this machine only, not to {server}. "
            "Give --token or set SPLITFROZEN_TOKEN."
        )
    return read_admin_token(data_dir)


def local_authority(server: str, data_dir: Path) -> Path | None:
    """The certificate that `tls init` made, for a server on this machine."""
    path = data_dir / "tls" / "ca.pem"
    is_local = server.startswith("https://") and is_loopback(urlsplit(server).hostname or "")
    return path if is_local and path.exists() else None


def read_admin_token(data_dir: Path) -> str:
    """The token that `serve` wrote; a usage error says what to do without one."""
    path = data_dir / "admin.token"
    try:
        return path.read_text().strip()
    except OSError as error:
        raise click.UsageError(
            f"no token: {path} cannot be read ({error.strerror}). Give --token, set "
            "SPLITFROZEN_TOKEN, or name the server's --data-dir."
        ) from None


def field(name: str, value: Any) -> str:
    """One value of an object: times as local date and time."""
    if name.endswith("_at") and isinstance(value, int | float) and not isinstance(value, bool):
        return f"{datetime.fromtimestamp(value):%Y-%m-%d %H:%M:%S}"
    return cell(value)


def cell(value: Any) -> str:
    """One value as people read it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ",".join(str(item) for item in value)
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


class Duration(click.ParamType[float]):
    """`90`, `60s`, `5m`, `1h`, `7d`: seconds as a float."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> float:
        if isinstance(value, int | float):
            return float(value)
        number, unit = (value[:-1], value[-1]) if value[-1:] in _UNITS else (value, "s")
        try:
            found = float(number) * _UNITS[unit]
        except ValueError:
            found = -1.0
        if not 0 < found < float("inf"):
            self.fail(f"{value!r} is not a duration such as 60s, 5m, 1h or 7d", param, context)
        return found


def _options() -> tuple[Callable[[Any], Any], ...]:
    return (
        click.option(
            "--server",
            default=DEFAULT_SERVER,
            show_default=True,
            envvar="SPLITFROZEN_SERVER",
            show_envvar=True,
            help="Address of the server.",
        ),
        click.option(
            "--token",
            envvar="SPLITFROZEN_TOKEN",
            show_envvar=True,
            help="Admin token. For a server on this machine: the admin.token file in --data-dir.",
        ),
        click.option(
            "--ca",
            type=click.Path(dir_okay=False, exists=True, path_type=Path),
            help="Certificate that signs the server's, if it is your own.",
        ),
        click.option(
            "--format",
            "output_format",
            type=click.Choice(["text", "json"]),
            default="text",
            show_default=True,
            help="How to print the answer.",
        ),
    )


def _is_terminal() -> bool:
    return sys.stdout.isatty()
