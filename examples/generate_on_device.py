"""Generate from a whole model on the device alone: ONNX Runtime, tokenizers, NumPy, nothing else.

splitfrozen-export --model gpt2 --adapter my-adapter --whole --precision int8 --output home
python generate_on_device.py home "Once upon a time"
"""

import sys

import numpy as np
import onnxruntime
from tokenizers import Tokenizer


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


if __name__ == "__main__":
    print(generate(*sys.argv[1:3]))
