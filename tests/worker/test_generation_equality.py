"""Split generation, end to end, says what the whole model would have said."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from splitfrozen.wire import encode
from tests.worker.server import Server
from tests.worker.shards import ShardMaker, completion_examples
from tests.worker.streams import open_stream

PROMPT = [9, 30, 77, 12, 40]
COUNT = 12
DECODERS = ("stories", "gpt2", "llama", "gemma3")


def greedy(model: Any, prompt: list[int], count: int = COUNT) -> list[int]:
    """Tokens of a whole stock model, past any end of text."""
    model.generation_config.eos_token_id = None
    ids = torch.tensor([prompt])
    found = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=0,
        max_new_tokens=count,
    )  # fmt: skip
    return list(found[0, len(prompt) :].tolist())


def whole(path: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(path).eval()


@pytest.mark.parametrize("name", DECODERS)
def test_greedy_tokens_are_those_of_the_whole_model(
    generation: Server, makers: dict[str, ShardMaker], decoders: dict[str, Path], name: str
) -> None:
    stream = open_stream(generation, makers[name], name, temperature=0)
    assert stream.generate(PROMPT, COUNT) == greedy(whole(decoders[name]), PROMPT)
    assert stream.opened["model"] == name and stream.opened["max_positions"] == 512


def test_a_prompt_in_pieces_gives_the_same_as_in_one(
    generation: Server, makers: dict[str, ShardMaker]
) -> None:
    settings = {"temperature": 1, "top_p": 0.9, "seed": 5, "logprobs": 20}
    prompt = list(range(20, 60))
    at_once, pieces = (
        open_stream(generation, makers["gemma3"], "gemma3", **settings) for _ in range(2)
    )
    expected = at_once.step(prompt)
    for part in (prompt[:1], prompt[1:7], prompt[7:8], prompt[8:]):
        found = pieces.step(part)
    assert (found["token"], found["position"]) == (expected["token"], 40)
    assert found["logprob"] == pytest.approx(expected["logprob"], abs=1e-4)
    likely = [entry["token"] for entry in found["top_logprobs"]]
    assert likely == [entry["token"] for entry in expected["top_logprobs"]] and len(likely) == 20
    rest = [at_once.generate([expected["token"]], 8), pieces.generate([expected["token"]], 8)]
    assert rest[0] == rest[1]


def test_an_adapter_speaks_as_it_does_on_the_whole_model(
    generation: Server,
    makers: dict[str, ShardMaker],
    decoders: dict[str, Path],
    counting: dict[str, Any],
    tmp_path: Path,
) -> None:
    for name, content in generation.download_adapter(counting).items():
        (tmp_path / name).write_bytes(content)
    streams = [
        open_stream(generation, makers["llama"], model, temperature=0)
        for model in (counting["fine_tuned_model"], "llama", "ft:counts")
    ]
    assert streams[2].opened["model"] == counting["fine_tuned_model"]
    prompt = [20, 21, 22]
    found: list[list[int]] = [[], [], []]
    for _ in range(COUNT):  # in turns, so that each step changes the adapter
        for stream, tokens in zip(streams, found, strict=True):
            tokens.append(stream.step([tokens[-1]] if tokens else prompt)["token"])
    adapted, plain, again = found
    assert plain == greedy(whole(decoders["llama"]), prompt)
    assert (
        adapted
        == again
        == greedy(PeftModel.from_pretrained(whole(decoders["llama"]), tmp_path), prompt)
    )
    assert adapted != plain


def test_streams_at_once_give_what_each_alone_gives(
    generation: Server, makers: dict[str, ShardMaker], counting: dict[str, Any]
) -> None:
    def stream(number: int) -> list[int]:
        model = counting["fine_tuned_model"] if number % 4 == 3 else "llama"
        session = open_stream(
            generation, makers["llama"], model, device=f"pi-{number}", seed=number, temperature=0.8
        )
        return session.generate([9 + number] * (1 + 5 * number), 24)

    for number in range(8):
        generation.device_token(f"pi-{number}")
    alone = [stream(number) for number in range(8)]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(stream, range(8))) == alone
    assert len({tuple(tokens) for tokens in alone}) == 8


def test_streams_go_on_while_a_job_trains(
    generation: Server, makers: dict[str, ShardMaker], decoders: dict[str, Path]
) -> None:
    dataset = generation.create_dataset(task="causal_lm", base_model="llama")["id"]
    generation.push(
        makers["llama"].shard(completion_examples(32), dataset=dataset, task="causal_lm")
    )
    generation.seal(dataset)
    job = generation.create_job(dataset, model="llama", hyperparameters={"n_epochs": 1000})["id"]
    generation.wait_for_step(job, 1)
    stream = open_stream(generation, makers["llama"], "llama", temperature=0)
    assert stream.generate(PROMPT, COUNT) == greedy(whole(decoders["llama"]), PROMPT)
    found = generation.job(job)
    assert found["status"] == "running" and found["error"] is None
    generation.wait_for_step(job, found["steps_completed"] + 5)
    generation.http.post(f"/v1/fine_tuning/jobs/{job}/cancel")


def test_a_lost_session_goes_on_in_a_new_one_with_the_same_seed(
    generation: Server, makers: dict[str, ShardMaker]
) -> None:
    calm = open_stream(generation, makers["stories"], "stories", seed=11)
    expected = calm.generate(PROMPT, 20)
    stream = open_stream(generation, makers["stories"], "stories", seed=11)
    before = stream.generate(PROMPT, 8)
    body = encode(stream.shard([before[-1]]))
    assert generation.kill_worker()
    generation.wait(lambda: stream.send(body, 9).status_code == 410, "the session is lost")
    again = open_stream(generation, makers["stories"], "stories", seed=11)
    assert before + again.generate(PROMPT + before, 12) == expected


def test_a_drawn_seed_can_be_used_again(generation: Server, makers: dict[str, ShardMaker]) -> None:
    first = open_stream(generation, makers["stories"], "stories")
    again = open_stream(generation, makers["stories"], "stories", seed=first.opened["seed"])
    other = open_stream(generation, makers["stories"], "stories")
    assert other.opened["seed"] != first.opened["seed"]
    assert first.generate(PROMPT, 16) == again.generate(PROMPT, 16)
