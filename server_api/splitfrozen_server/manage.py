"""Management commands but those of jobs: models, bundles, datasets, tokens, devices."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from splitfrozen_server.cli_options import Duration, Terminal, management
from splitfrozen_server.client import ServerClient


@click.group()
def models() -> None:
    """Base models that bundles and jobs build on."""


@models.command("add")
@click.argument("name")
@click.argument("source")
@click.option("--revision", help="Branch, tag or commit of a Hub repository.")
@click.option("--trust-remote-code", is_flag=True, help="Run the model's own Python code.")
@management
def add_model(
    name: str, source: str, revision: str | None, trust_remote_code: bool, terminal: Terminal
) -> None:
    """Register SOURCE (a Hub id or a directory of the server) as NAME."""
    body = {"name": name, "source": _absolute(source), "revision": revision}
    terminal.item(
        terminal.client.post("/v1/base_models", {**body, "trust_remote_code": trust_remote_code})
    )


@models.command("list")
@management
def list_models(terminal: Terminal) -> None:
    """List base models."""
    terminal.rows(
        terminal.client.list_all("/v1/base_models"),
        ("name", "family", "num_layers", "hidden_size", "source"),
    )


@click.group()
def bundles() -> None:
    """Device bundles, as the exporter writes them."""


@bundles.command("add")
@click.argument("directory")
@management
def add_bundle(directory: str, terminal: Terminal) -> None:
    """Publish the bundle in DIRECTORY (a path of the server)."""
    terminal.item(terminal.client.post("/v1/bundles", {"path": _absolute(directory)}))


@bundles.command("list")
@click.option("--model", help="Only of this base model.")
@click.option("--cut", type=int, help="Only of this cut.")
@management
def list_bundles(model: str | None, cut: int | None, terminal: Terminal) -> None:
    """List published bundles."""
    terminal.rows(
        terminal.client.list_all("/v1/bundles", base_model=model, cut=cut),
        ("id", "base_model", "cut", "precision", "wire", "size"),
    )


@click.group()
def datasets() -> None:
    """Activation datasets that devices push to."""


@datasets.command("create")
@click.argument("name")
@click.option("--task", type=click.Choice(["classification", "causal_lm"]), required=True)
@click.option("--model", help="Base model; with --cut.")
@click.option("--cut", type=int, help="Layer at which the devices' bundle is cut.")
@click.option("--bundle", help="Id of a published bundle, instead of --model and --cut.")
@click.option("--labels", help="Comma-separated; closes the list. Default: devices add labels.")
@click.option("--max-examples", type=click.IntRange(1), help="Seal when this many are there.")
@click.option("--idle-seal", type=Duration(), help="Seal this long after the last shard: 60s, 1h.")
@management
def create_dataset(
    name: str,
    task: str,
    model: str | None,
    cut: int | None,
    bundle: str | None,
    labels: str | None,
    max_examples: int | None,
    idle_seal: float | None,
    terminal: Terminal,
) -> None:
    """Create the dataset NAME."""
    body = {
        "name": name,
        "task": task,
        "base_model": model,
        "cut": cut,
        "bundle": bundle,
        "labels": None if labels is None else [part.strip() for part in labels.split(",")],
        "max_examples": max_examples,
        "idle_seal": idle_seal,
    }
    made = terminal.client.post("/v1/activation_datasets", body)
    terminal.item(made)
    for warning in _dataset_warnings(terminal.client, made):
        click.echo(f"warning: {warning}", err=True)


@datasets.command("list")
@management
def list_datasets(terminal: Terminal) -> None:
    """List datasets."""
    terminal.rows(
        terminal.client.list_all("/v1/activation_datasets"),
        ("name", "id", "base_model", "cut", "task", "sealed", "examples", "devices", "bytes"),
    )


@datasets.command("get")
@click.argument("dataset")
@management
def get_dataset(dataset: str, terminal: Terminal) -> None:
    """Show DATASET (name or id)."""
    terminal.item(terminal.client.get(f"/v1/activation_datasets/{dataset}"))


@datasets.command("seal")
@click.argument("dataset")
@management
def seal_dataset(dataset: str, terminal: Terminal) -> None:
    """End the uploads of DATASET; its jobs finish what is there."""
    terminal.item(terminal.client.post(f"/v1/activation_datasets/{dataset}/seal"))


@datasets.command("delete")
@click.argument("dataset")
@click.confirmation_option("--yes", prompt="Erase the dataset with all its activations?")
@management
def delete_dataset(dataset: str, terminal: Terminal) -> None:
    """Erase DATASET with all its activations."""
    terminal.item(terminal.client.delete(f"/v1/activation_datasets/{dataset}"))


@click.group()
def tokens() -> None:
    """Bearer tokens of administrators and for enrolment."""


@tokens.command("create")
@click.option("--role", type=click.Choice(["admin", "enrol"]), required=True)
@click.option("--uses", type=click.IntRange(1), help="Devices it can enrol; default: no limit.")
@click.option("--expires", type=Duration(), help="Lifetime: 60s, 5m, 1h, 7d; default: no end.")
@click.option("--name", help="For your own list.")
@management
def create_token(
    role: str, uses: int | None, expires: float | None, name: str | None, terminal: Terminal
) -> None:
    """Make a token. Its secret is printed this once; text output is the secret alone.

    For role enrol the whole command for the device is printed too, on standard error.
    """
    lifetime = None if expires is None else max(1, round(expires))
    body = {"role": role, "uses": uses, "expires_in": lifetime, "name": name}
    made = terminal.client.post("/v1/tokens", body)
    command = None if role == "admin" else terminal.enrol_command(made["token"])
    if terminal.format == "json":
        terminal.json(made if command is None else {**made, "enroll": command})
        return
    click.echo(made["token"])
    if command is not None:
        click.echo(f"On the device:\n  {command}", err=True)


@tokens.command("list")
@management
def list_tokens(terminal: Terminal) -> None:
    """List tokens without their secrets."""
    terminal.rows(
        terminal.client.list_all("/v1/tokens"),
        ("id", "role", "name", "uses_left", "expires_at", "revoked_at"),
    )


@tokens.command("revoke")
@click.argument("token_id")
@management
def revoke_token(token_id: str, terminal: Terminal) -> None:
    """Revoke the token with id TOKEN_ID at once."""
    terminal.item(terminal.client.delete(f"/v1/tokens/{token_id}"))


@click.group()
def devices() -> None:
    """Enrolled devices."""


@devices.command("list")
@management
def list_devices(terminal: Terminal) -> None:
    """List devices."""
    terminal.rows(
        terminal.client.list_all("/v1/devices"),
        ("id", "name", "created_at", "last_seen_at", "revoked_at"),
    )


@devices.command("revoke")
@click.argument("device_id")
@management
def revoke_device(device_id: str, terminal: Terminal) -> None:
    """Revoke the tokens of the device with id DEVICE_ID; what it pushed stays."""
    terminal.item(terminal.client.delete(f"/v1/devices/{device_id}"))


@devices.command("erase")
@click.argument("device_id")
@click.option("--dataset", help="Only what it pushed to this dataset (name or id).")
@click.confirmation_option("--yes", prompt="Erase what the device pushed, and stop jobs on it?")
@management
def erase_device(device_id: str, dataset: str | None, terminal: Terminal) -> None:
    """Erase what the device with id DEVICE_ID pushed. Adapters that saw it are named; they stay."""
    query = "" if dataset is None else f"?dataset={quote(dataset, safe='')}"
    terminal.item(terminal.client.delete(f"/v1/devices/{device_id}/data{query}"))


def _dataset_warnings(client: ServerClient, made: dict[str, Any]) -> Iterator[str]:
    """What will keep devices or jobs from using a new dataset."""
    model, cut = made["base_model"], made["cut"]
    if not client.list_all("/v1/bundles", base_model=model, cut=cut):
        yield (
            f"no bundle of {model} at cut {cut} is published, so no device can push: "
            "splitfrozen-server bundles add DIR"
        )
    if made["task"] == "classification" and len(made["labels"]) == 1 and not made["open_labels"]:
        yield f"one label, {made['labels'][0]!r}, leaves nothing to learn"


def _absolute(source: str) -> str:
    """A directory that is here, as a server elsewhere in the file system would name it."""
    path = Path(source).expanduser()
    return str(path.resolve()) if path.is_dir() else source
