"""Runs in Optimum's own environment: load a directory as a user would, print its answers as JSON.

python answers.py generate DIRECTORY TEXT NEW_TOKENS
python answers.py classify DIRECTORY TEXT [TEXT ...]
"""

import json
import sys

import torch
from optimum.onnxruntime import (  # noqa: TID251, this file runs where it is installed
    ORTModelForCausalLM,
    ORTModelForSequenceClassification,
)
from transformers import AutoConfig, AutoTokenizer, pipeline


def generate(directory, text, new_tokens):
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = ORTModelForCausalLM.from_pretrained(directory)
    inputs = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
    ids = model.generate(
        **inputs, max_new_tokens=int(new_tokens), min_new_tokens=int(new_tokens), do_sample=False
    )
    both = tokenizer([text, text + " and then"], return_token_type_ids=False)["input_ids"]
    return {"ids": ids[0].tolist(), "padded": _padded(model, both, int(new_tokens))}


def _padded(model, texts, new_tokens):
    """The shorter text beside a longer one, padded on the left."""
    longest = max(len(ids) for ids in texts)
    ids = torch.tensor([[0] * (longest - len(text)) + text for text in texts])
    mask = torch.tensor([[0] * (longest - len(text)) + [1] * len(text) for text in texts])
    found = model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        do_sample=False,
    )
    return found[0, longest - len(texts[0]) :].tolist()


def classify(directory, *texts):
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = ORTModelForSequenceClassification.from_pretrained(directory)
    answers = pipeline("text-classification", model=model, tokenizer=tokenizer)(list(texts))
    return {part: [answer[part] for answer in answers] for part in ("label", "score")}


if __name__ == "__main__":
    command, directory, *rest = sys.argv[1:]
    answer = {"generate": generate, "classify": classify}[command](directory, *rest)
    config = AutoConfig.from_pretrained(directory)
    answer["rope_theta"] = getattr(config, "rope_theta", None)
    answer["rope_scaling"] = getattr(config, "rope_scaling", None)
    print(json.dumps(answer))
