"""Management commands of fine-tuning jobs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from splitfrozen_server.cli_options import Terminal, management
from splitfrozen_server.job_following import (
    download_adapter,
    follow,
    print_json,
    print_text,
)

_COLUMNS = ("id", "status", "model", "user_provided_suffix", "steps_completed", "total_steps")


@click.group()
def jobs() -> None:
    """Fine-tuning jobs: LoRA above the cut, over the activations of a dataset."""


def _training_options(command: Callable[..., None]) -> Callable[..., None]:
    """Flags that shape the training, each with the server's default when it is not given."""
    options = (
        click.option("--lora-r", type=click.IntRange(1), help="Rank of the adapter. [default: 8]"),
        click.option("--lora-alpha", type=click.IntRange(1), help="Its scaling. [default: 16]"),
        click.option("--lora-dropout", type=click.FloatRange(0, 1, max_open=True)),
        click.option(
            "--target-modules",
            help="Comma-separated suffixes of linear layers, or all-linear. [default: all-linear]",
        ),
        click.option("--epochs", type=click.IntRange(1), help="Visits per example. [default: 3]"),
        click.option(
            "--batch-size",
            type=click.IntRange(1),
            help="Examples per step. [default: 32; 8 for causal_lm]",
        ),
        click.option(
            "--learning-rate",
            type=click.FloatRange(0, 1, min_open=True),
            help="Of AdamW. [default: 1e-3; 2e-4 for models wider than 1,024]",
        ),
        click.option("--lr-schedule", type=click.Choice(["constant", "linear", "cosine"])),
        click.option("--seed", type=click.IntRange(0), help="[default: 0]"),
        click.option("--min-examples", type=click.IntRange(1), help="Start with so many examples."),
        click.option("--min-devices", type=click.IntRange(1), help="Start with so many devices."),
        click.option(
            "--min-per-label", type=click.IntRange(1), help="Start with so many of each label."
        ),
        click.option(
            "--eval-fraction",
            type=click.FloatRange(0, 0.9),
            help="Part of the examples held out for evaluation. [default: 0]",
        ),
        click.option(
            "--save-every", type=click.IntRange(1), help="Steps per checkpoint. [default: 50]"
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@jobs.command("create")
@click.option("--dataset", required=True, help="Name or id of the dataset to train on.")
@click.option("--validation-dataset", help="Name or id of a dataset to evaluate on.")
@click.option("--suffix", help="The adapter is ft:{base}:{suffix}:{id}. [default: the dataset]")
@_training_options
@click.option("--wait", is_flag=True, help="Follow the events, then download the adapter.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("adapter"),
    show_default=True,
    help="Where --wait puts the adapter.",
)
@click.option("--force", is_flag=True, help="Let --wait write into a directory that holds files.")
@management
def create_job(
    dataset: str,
    validation_dataset: str | None,
    suffix: str | None,
    wait: bool,
    output: Path,
    force: bool,
    terminal: Terminal,
    **options: Any,
) -> None:
    """Queue a job over a dataset. It ends when the dataset is sealed and all visits are made."""
    if wait and not force:
        _require_free(output)
    client = terminal.client
    training = client.get(f"/v1/activation_datasets/{dataset}")
    body = {
        "model": training["base_model"],
        "training_file": dataset,
        "validation_file": validation_dataset,
        "suffix": suffix,
        **_body(options),
    }
    job = client.post("/v1/fine_tuning/jobs", body)
    if not wait:
        terminal.item(job)
        if not training["sealed"]:
            click.echo(
                f"Next: splitfrozen-server datasets seal {dataset} (the job ends after that)\n"
                f"Next: splitfrozen-server jobs events {job['id']} --follow",
                err=True,
            )
        return
    click.echo(
        f"Job {job['id']}. It ends when the dataset is sealed (splitfrozen-server datasets seal "
        f"{dataset}); Ctrl-C ends this command, not the job.",
        err=True,
    )
    # With JSON, standard output is the finished job and nothing else.
    job = follow(terminal.client, job["id"], print_text(err=terminal.format == "json"))
    _require_success(job)
    download_adapter(client, job, output)
    if terminal.format == "json":
        terminal.json(job)
    else:
        click.echo(f"{job['fine_tuned_model']} in {output}")


@jobs.command("list")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True)
@management
def list_jobs(limit: int, terminal: Terminal) -> None:
    """List jobs, newest first."""
    terminal.rows(terminal.client.list_all("/v1/fine_tuning/jobs", limit=limit), _COLUMNS)


@jobs.command("get")
@click.argument("job")
@management
def get_job(job: str, terminal: Terminal) -> None:
    """Show JOB."""
    terminal.item(terminal.client.get(f"/v1/fine_tuning/jobs/{job}"))


@jobs.command("events")
@click.argument("job")
@click.option("--follow", "following", is_flag=True, help="Stay until the job ends.")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True)
@management
def list_events(job: str, following: bool, limit: int, terminal: Terminal) -> None:
    """Print the newest events of JOB, or with --follow all of them as they come."""
    if following:
        follow(terminal.client, job, print_json if terminal.format == "json" else print_text())
        return
    found = terminal.client.list_all(f"/v1/fine_tuning/jobs/{job}/events", limit=limit)
    terminal.rows(found[::-1], ("id", "created_at", "level", "message"))


@jobs.command("checkpoints")
@click.argument("job")
@management
def list_checkpoints(job: str, terminal: Terminal) -> None:
    """List the checkpoints of JOB, newest first."""
    found = terminal.client.list_all(f"/v1/fine_tuning/jobs/{job}/checkpoints", limit=1000)
    terminal.rows(found, ("id", "step_number", "metrics", "created_at"))


@jobs.command("cancel")
@click.argument("job")
@management
def cancel_job(job: str, terminal: Terminal) -> None:
    """End JOB for good."""
    terminal.item(terminal.client.post(f"/v1/fine_tuning/jobs/{job}/cancel"))


@jobs.command("pause")
@click.argument("job")
@management
def pause_job(job: str, terminal: Terminal) -> None:
    """Stop JOB for now; nothing is lost."""
    terminal.item(terminal.client.post(f"/v1/fine_tuning/jobs/{job}/pause"))


@jobs.command("resume")
@click.argument("job")
@management
def resume_job(job: str, terminal: Terminal) -> None:
    """Let a paused JOB go on."""
    terminal.item(terminal.client.post(f"/v1/fine_tuning/jobs/{job}/resume"))


@jobs.command("download")
@click.argument("job")
@click.option(
    "--type", "kind", type=click.Choice(["adapter"]), default="adapter", show_default=True
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Directory for the files; made if it is missing.",
)
@click.option("--force", is_flag=True, help="Write into a directory that holds files.")
@management
def download(job: str, kind: str, output: Path, force: bool, terminal: Terminal) -> None:
    """Download the adapter of JOB as a directory that `peft` loads."""
    if not force:
        _require_free(output)
    record = terminal.client.get(f"/v1/fine_tuning/jobs/{job}")
    _require_success(record)
    names = download_adapter(terminal.client, record, output)
    terminal.item({"output": str(output), "files": names})


def _body(options: dict[str, Any]) -> dict[str, Any]:
    """Flags -> request: what was not given is left to the server."""
    targets = options["target_modules"]
    if targets is not None and targets != "all-linear":
        targets = [name.strip() for name in targets.split(",") if name.strip()]
    lora = {
        "r": options["lora_r"],
        "alpha": options["lora_alpha"],
        "dropout": options["lora_dropout"],
        "target_modules": None if targets == "all-linear" else targets,
    }
    names = ("learning_rate", "lr_schedule", "min_examples", "min_devices", "min_per_label")
    ours = {name: options[name] for name in (*names, "eval_fraction", "save_every")}
    openai = {"n_epochs": options["epochs"], "batch_size": options["batch_size"]}
    return {
        "seed": options["seed"],
        "method": {"type": "supervised", "supervised": {"hyperparameters": _given(openai)}},
        "splitfrozen": {**_given(ours), "lora": _given(lora)},
    }


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _require_free(output: Path) -> None:
    """Another adapter must not be overwritten file by file without a word."""
    if output.is_dir() and any(output.iterdir()):
        raise click.UsageError(f"{output} holds files already: choose another --output, or --force")


def _require_success(job: dict[str, Any]) -> None:
    if job["status"] != "succeeded":
        reason = job["error"]["message"] if job["error"] else f"its status is {job['status']}"
        raise click.ClickException(f"job {job['id']} has no adapter: {reason}")
