"""What tracing changes in a configuration is not written beside the graph."""

from __future__ import annotations

import copy

from transformers import Gemma3Config

from splitfrozen_export.home.answering import restore_padding


def test_the_padding_of_an_inner_text_configuration_is_restored() -> None:
    declared = Gemma3Config(text_config={"pad_token_id": 7})
    changed = copy.deepcopy(declared)
    assert changed.get_text_config() is not changed
    changed.get_text_config().pad_token_id = -1  # as for tracing a classifier
    restore_padding(changed, declared)
    assert changed.get_text_config().pad_token_id == 7
    assert changed.to_dict()["text_config"]["pad_token_id"] == 7
