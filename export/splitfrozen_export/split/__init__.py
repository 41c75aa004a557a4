"""Cut any Transformers model at layer k: the only part of the exporter that the server imports."""

from splitfrozen_export.split.checkpointing import checkpoint_blocks
from splitfrozen_export.split.device import load_device_segment
from splitfrozen_export.split.digest import prefix_digest
from splitfrozen_export.split.lora import enable_lora_dropout, lora_config
from splitfrozen_export.split.proof import Proof, prove_cut, worth_proving
from splitfrozen_export.split.refuse import check_cut
from splitfrozen_export.split.segment import DeviceSegment
from splitfrozen_export.split.server import (
    ServerSegment,
    load_server_segment,
    run_segment,
    start_cache,
)
from splitfrozen_export.split.source import ModelSource, resolve_model
from splitfrozen_export.split.whole import load_whole_model

__all__ = [
    "DeviceSegment",
    "ModelSource",
    "Proof",
    "ServerSegment",
    "check_cut",
    "checkpoint_blocks",
    "enable_lora_dropout",
    "load_device_segment",
    "load_server_segment",
    "load_whole_model",
    "lora_config",
    "prefix_digest",
    "prove_cut",
    "resolve_model",
    "run_segment",
    "start_cache",
    "worth_proving",
]
