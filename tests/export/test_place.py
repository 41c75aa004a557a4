"""What needs neither weights nor torch is refused first, and fast."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from splitfrozen.errors import ModelError
from splitfrozen_export.place import check_place, model_directory, unsupported
from splitfrozen_export.split import resolve_model
from tests.export.commands import start

LIGHT = """
import atexit, sys
heavy = ("torch", "transformers", "onnx", "onnxruntime", "huggingface_hub")
atexit.register(lambda: print("LOADED", *[name for name in heavy if name in sys.modules]))
from splitfrozen_export.cli import main; main()
"""


def write_config(directory: Path, **fields: Any) -> Path:
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(fields))
    return directory


def refusal(tmp_path: Path, *options: object) -> str:
    """What the command says, having imported nothing heavy."""
    wanted = ["--output", tmp_path / "out", *options]
    output, errors = (process := start(*wanted, program=LIGHT)).communicate(timeout=60)
    assert (process.returncode, output.split()) == (2, ["LOADED"])
    return errors


def test_mistakes_that_need_no_torch_import_none(
    tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    model = tiny_model("gpt2")
    assert "no directory './none'" in refusal(tmp_path, "--model", "./none", "--cut", 1)
    assert "from 1 to 3" in refusal(tmp_path, "--model", model, "--cut", 4)
    assert "--cut says how many" in refusal(tmp_path, "--model", model)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    assert "is no bundle; choose another" in refusal(tmp_path, "--model", model, "--cut", 1)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"model_type": "t5", "is_encoder_decoder": True}, "two block lists"),
        ({"model_type": "llama", "quantization_config": {"bits": 4}}, "quantized already"),
        ({"model_type": "gemma3n", "num_kv_shared_layers": 2}, "reuse keys and values"),
    ],
)
def test_a_configuration_that_cannot_be_cut_is_blamed_before_missing_weights(
    tmp_path: Path, fields: dict[str, Any], reason: str
) -> None:
    directory = write_config(tmp_path / "model", **fields)
    with pytest.raises(ModelError, match=reason):
        check_place(str(directory), None)


def test_what_only_transformers_knows_of_a_configuration_comes_before_weights_too(
    tmp_path: Path,
) -> None:
    """T5's own default says that it is an encoder-decoder; its file need not."""
    directory = write_config(tmp_path / "model", model_type="t5")
    check_place(str(directory), None)
    with pytest.raises(ModelError, match="two block lists"):
        resolve_model(directory)


def test_a_directory_without_configuration_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no config\.json"):
        check_place(str(tmp_path), 1)


def test_a_broken_configuration_is_left_to_transformers(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[")
    check_place(str(tmp_path), 1)
    (tmp_path / "config.json").write_text("[]")
    check_place(str(tmp_path), 1)


def test_a_hub_id_is_not_judged_here() -> None:
    assert model_directory("gpt2") is None
    assert model_directory("openai-community/gpt2") is None
    check_place("openai-community/gpt2", 99)


def test_a_mixture_of_experts_is_refused_as_a_whole_model_too(
    tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    from splitfrozen_export.home.plan import make_home_plan
    from splitfrozen_export.plan import make_plan
    from splitfrozen_export.request import Request

    model = Path(shutil.copytree(tiny_model("llama"), tmp_path / "model"))
    config = json.loads((model / "config.json").read_text())
    config |= {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"]}
    (model / "config.json").write_text(json.dumps(config | {"num_local_experts": 4}))
    request = Request(model=str(model), cut=1, output=tmp_path / "out")
    with pytest.raises(ModelError, match="mixture of 4 experts"):
        make_plan(request)
    whole = Request(model=str(model), cut=0, output=tmp_path / "out", whole=True)
    with pytest.raises(ModelError, match="mixture of 4 experts"):
        make_home_plan(whole)


def test_a_configuration_with_words_for_numbers_is_left_to_transformers() -> None:
    assert unsupported({"num_kv_shared_layers": "many", "hidden_size_per_layer_input": []}) is None
