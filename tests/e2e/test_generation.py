"""Generation by two halves: real bundles, a real server, its worker; faults that do not show."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from splitfrozen import read_bundle
from splitfrozen_edge.connect import open_client
from splitfrozen_edge.http.client import Client
from splitfrozen_edge.inference.chat import Conversation
from splitfrozen_edge.inference.generate import Generation
from splitfrozen_edge.inference.sessions import SessionRequest
from splitfrozen_edge.inference.texts import Writer, generate_text, open_text
from splitfrozen_edge.state import StateDirectory
from tests.e2e.stack import Device, Stack, export, write_rows

PROMPT = "Once upon a time, there was a little"
TOKENS = 48
SEED = 3


@pytest.fixture(scope="module")
def stories(shared_models: Path) -> Path:
    """A real language model of 260 thousand weights."""
    return shared_models / "stories260K"


@pytest.fixture(scope="module")
def bundles(stories: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Cut 2 of 5, by precision."""
    directory = tmp_path_factory.mktemp("stories")
    return {
        precision: export(stories, 2, directory / precision, "--precision", precision)
        for precision in ("fp32", "int8")
    }


@pytest.fixture(scope="module")
def stack(
    stories: Path, bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    running = Stack(tmp_path_factory.mktemp("stack"))
    running.start()
    running.admin("models", "add", "stories", stories)
    for bundle in bundles.values():
        running.admin("bundles", "add", bundle)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def device(stack: Stack) -> Device:
    return stack.device("pi")


@pytest.fixture
def client(device: Device) -> Iterator[Client]:
    found = open_client(StateDirectory(device.state).enrolment(), 120, threading.Event())
    yield found
    found.close()


def whole_model(stories: Path, ids: list[int], count: int) -> list[int]:
    """Greedy tokens of the model in one piece."""
    model = AutoModelForCausalLM.from_pretrained(stories).eval()
    with torch.inference_mode():
        found = model.generate(torch.tensor([ids]), max_new_tokens=count, do_sample=False)
    return list(found[0, len(ids) :].tolist())


def generate(client: Client, bundle: Path, **options: object) -> Iterator[str]:
    fixed = {"max_tokens": TOKENS, "seed": SEED, "wire": "fp32", "threads": 1}
    return generate_text(PROMPT, "stories", read_bundle(bundle), client, **(fixed | options))  # type: ignore[arg-type]


def test_both_halves_write_what_the_whole_model_writes(
    stories: Path, bundles: dict[str, Path], client: Client
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(stories)
    ids = tokenizer(PROMPT).input_ids
    wanted = whole_model(stories, ids, TOKENS)
    found = "".join(generate(client, bundles["fp32"], temperature=0.0))
    assert PROMPT + found == tokenizer.decode([*ids, *wanted], skip_special_tokens=True)


def test_the_command_streams_and_the_same_seed_gives_the_same_text(
    bundles: dict[str, Path], device: Device
) -> None:
    flags = ("--model", "stories", "--bundle", bundles["int8"], "--prompt", PROMPT)
    more = ("--seed", SEED, "--max-tokens", TOKENS, "--threads", 1)
    shown = device.run("generate", *flags, *more)
    found = json.loads(device.run("generate", *flags, *more, "--format", "json", "--logprobs", 3))
    assert shown == found["text"] + "\n"
    assert len(found["text"]) > TOKENS
    assert found["finish_reason"] in ("length", "stop")
    for token in found["tokens"]:
        assert token["logprob"] <= 0
        assert len(token["top_logprobs"]) == 3


def test_without_a_bundle_the_server_says_which(device: Device) -> None:
    shown = device.run(
        "generate", "--model", "stories", "--prompt", PROMPT, "--temperature", 0,
        "--max-tokens", 8, "--threads", 1,
    )  # fmt: skip
    assert shown.strip()


def test_a_chat_of_two_turns_equals_one_prefill_of_the_same_ids(
    stories: Path, bundles: dict[str, Path], client: Client
) -> None:
    bundle = read_bundle(bundles["fp32"])
    request = SessionRequest("stories", bundle.id, temperature=0.0)
    with open_text(bundle, client, request, wire="fp32", threads=1) as text:
        conversation = Conversation(text, Writer(bundle), max_tokens=12)
        for question in ("Once upon a time", "The dog said"):
            answer = "".join(conversation.ask(question))
            assert answer
            ids = conversation.ids
            assert ids[-12:] == whole_model(stories, ids[:-12], 12)


@pytest.mark.long
def test_an_adapter_writes_what_stock_peft_writes_on_the_whole_model(
    stories: Path, bundles: dict[str, Path], stack: Stack, device: Device, client: Client,
    tmp_path: Path,
) -> None:  # fmt: skip
    rows = [{"prompt": f"Tim had {n} cats.", "completion": " The end."} for n in range(32)]
    stack.admin(
        "datasets", "create", "cats", "--model", "stories", "--cut", 2, "--task", "causal_lm"
    )
    device.push(bundles["fp32"], "cats", write_rows(tmp_path / "rows.jsonl", rows))
    stack.admin("datasets", "seal", "cats")
    job = stack.admin(
        "jobs", "create", "--dataset", "cats", "--suffix", "cats", "--epochs", 20,
        "--batch-size", 8, "--learning-rate", 0.01,
    )["id"]  # fmt: skip
    end = time.monotonic() + 200
    while stack.admin("jobs", "get", job)["status"] != "succeeded":
        assert time.monotonic() < end, stack.log.read_text()[-3000:]
        time.sleep(0.5)
    stack.admin("jobs", "download", job, "--output", tmp_path / "adapter")

    base = AutoModelForCausalLM.from_pretrained(stories)
    whole = PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
    writer = Writer(read_bundle(bundles["fp32"]))
    ids = writer.encode_prompt("Tim had 7 cats.")
    with torch.inference_mode():
        wanted = whole.generate(
            input_ids=torch.tensor([ids]), max_new_tokens=TOKENS, do_sample=False
        )[0].tolist()
    bundle = read_bundle(bundles["fp32"])
    request = SessionRequest("ft:cats", bundle.id, temperature=0.0)
    with open_text(bundle, client, request, wire="fp32", threads=1) as text:
        generation = Generation(text, ids, writer.decode, max_tokens=TOKENS)
        shown = "".join(generation)
    assert "The end." in shown
    assert [step.token for step in generation.steps] == wanted[len(ids) :]


def kill_worker(stack: Stack) -> None:
    """As the kernel does when memory is short; the server starts another."""
    assert stack.process is not None
    for process in psutil.Process(stack.process.pid).children(recursive=True):
        if any("splitfrozen_server.worker" in part for part in process.cmdline()):
            process.kill()
            return
    raise AssertionError("the server has no worker")


def restart_server(stack: Stack) -> None:
    stack.kill()
    stack.start()


@pytest.mark.parametrize(
    "disturb", [kill_worker, pytest.param(restart_server, marks=pytest.mark.long)]
)
def test_what_happens_to_the_server_in_the_middle_does_not_show(
    bundles: dict[str, Path],
    client: Client,
    stack: Stack,
    disturb: Callable[[Stack], None],
) -> None:
    bundle = read_bundle(bundles["fp32"])
    writer = Writer(bundle)
    undisturbed = "".join(generate(client, bundles["fp32"]))
    request = SessionRequest("stories", bundle.id, seed=SEED)
    with open_text(bundle, client, request, wire="fp32", threads=1) as text:
        ids = writer.encode_prompt(PROMPT)
        pieces = iter(Generation(text, ids, writer.decode, max_tokens=TOKENS))
        begin = "".join(next(pieces) for _ in range(TOKENS // 3))
        disturb(stack)
        assert begin + "".join(pieces) == undisturbed
        assert text.timing.sessions_lost >= 1
