"""Generate from a whole model on the device alone: ONNX Runtime, tokenizers, NumPy, nothing else.

splitfrozen-export --model gpt2 --adapter my-adapter --whole --precision int8 --output home
python generate_on_device.py home "Once upon a time"
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

USAGE = 'Usage: python generate_on_device.py DIRECTORY "how the text begins"'


def generate(directory: str, text: str, new_tokens: int = 40) -> str:
    """Greedy continuation of `text`."""
    tokenizer = Tokenizer.from_file(f"{directory}/tokenizer.json")
    session = onnxruntime.InferenceSession(f"{directory}/model.onnx")
    inputs = {put.name: put for put in session.get_inputs()}
    past = {name: put.shape for name, put in inputs.items() if name.startswith("past")}
    state = {name: np.zeros((1, s[1], 0, s[3]), np.float32) for name, s in past.items()}
    ids = tokenizer.encode(text).ids
    new = ids
    for _ in range(new_tokens):
        feed = {"input_ids": [new], "attention_mask": [[1] * len(ids)]}
        if "position_ids" in inputs:
            feed["position_ids"] = [list(range(len(ids) - len(new), len(ids)))]
        feed = {name: np.array(value, np.int64) for name, value in feed.items()}
        logits, *present = session.run(None, feed | state)
        state = dict(zip(past, present, strict=True))
        new = [int(logits[0, -1].argmax())]
        ids = ids + new
    return tokenizer.decode(ids)


def check(directory: str) -> None:
    """Leave with exit code 2 where there is no whole language model to generate from."""
    record = Path(directory, "export.json")
    wrong = "its export.json is missing"
    if Path(directory, "splitfrozen.json").is_file():
        wrong = "it is a bundle, which holds only the first blocks"
    elif record.is_file():
        what = json.loads(record.read_text("utf-8"))
        if what["kind"] == "whole" and what["task"] == "causal_lm":
            return
        kind = "whole model" if what["kind"] == "whole" else "upper half"
        wrong = f"it holds a {kind} for {what['task']}"
    print(f"{directory} is no whole language model: {wrong}.", file=sys.stderr)
    print("splitfrozen-export --model NAME --whole --output DIRECTORY makes one.", file=sys.stderr)
    sys.exit(2)


def main(arguments: list[str]) -> None:
    """Print the continuation of a text, or say how this is used."""
    if len(arguments) != 2:
        print(USAGE, file=sys.stderr)
        sys.exit(2)
    directory, text = arguments
    check(directory)
    print(generate(directory, text))


if __name__ == "__main__":
    main(sys.argv[1:])
