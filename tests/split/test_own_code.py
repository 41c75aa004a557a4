"""A model that brings its own modelling code is cut like any other, once it is trusted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.tiny_models import write_tiny_model

CODE = """
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel, GPT2Model

class OwnConfig(GPT2Config):
    model_type = "own"

class OwnModel(GPT2Model):
    config_class = OwnConfig

class OwnForCausalLM(GPT2LMHeadModel):
    config_class = OwnConfig

class OwnForSequenceClassification(GPT2ForSequenceClassification):
    config_class = OwnConfig
"""
AUTO_MAP = {
    "AutoConfig": "own.OwnConfig",
    "AutoModel": "own.OwnModel",
    "AutoModelForCausalLM": "own.OwnForCausalLM",
    "AutoModelForSequenceClassification": "own.OwnForSequenceClassification",
}
PROGRAM = """
import sys
from splitfrozen_export.split import (
    load_device_segment, load_server_segment, prefix_digest, prove_cut, resolve_model
)
source = resolve_model(sys.argv[1], trust_remote_code=True)
print(prove_cut(source, 2, real=True))
print(type(load_server_segment(source, 2, "classification", num_labels=3).model).__name__)
print(type(load_device_segment(source, 2, stream=True).model).__name__)
print(prefix_digest(source, 2) == prefix_digest(resolve_model(sys.argv[2]), 2))
"""
UNTRUSTED = """
import sys
from splitfrozen_export.split import (
    load_device_segment, load_server_segment, load_whole_model, prefix_digest, prove_cut,
    resolve_model, worth_proving,
)
source = resolve_model(sys.argv[1])
for stream in (False, True):
    load_device_segment(source, 2, stream=stream)
    load_server_segment(source, 2, "causal_lm", stream=stream)
    load_whole_model(source, "causal_lm", stream=stream)
print(worth_proving(source), prove_cut(source, 2, real=True), len(prefix_digest(source, 2)))
"""


def test_code_that_is_not_trusted_never_runs(tmp_path: Path) -> None:
    """A stock model type with code beside it: everything works, with the library's classes."""
    model = write_tiny_model("gpt2", tmp_path / "model")
    (model / "own.py").write_text("raise SystemExit('the code of the model ran')\n")
    config = json.loads((model / "config.json").read_text())
    own = {"AutoModel": "own.OwnModel", "AutoModelForCausalLM": "own.OwnForCausalLM"}
    (model / "config.json").write_text(json.dumps({**config, "auto_map": own}))
    done = subprocess.run(
        [sys.executable, "-c", UNTRUSTED, str(model)],
        env={**os.environ, "HF_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "True Proof(twin_difference=0.0, real_difference=0.0) 64\n", done.stderr


def test_trusted_code_is_cut_without_a_difference(tmp_path: Path) -> None:
    stock = write_tiny_model("gpt2", tmp_path / "stock")
    own = write_tiny_model("gpt2", tmp_path / "own")
    (own / "own.py").write_text(CODE)
    config = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(
        json.dumps({**config, "model_type": "own", "auto_map": AUTO_MAP})
    )
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(own), str(stock)],
        env={**os.environ, "HF_HOME": str(tmp_path / "home")},  # it copies the code there
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == [
        "Proof(twin_difference=0.0, real_difference=0.0)",
        "OwnForSequenceClassification",
        "OwnModel",
        "True",
    ], done.stderr
