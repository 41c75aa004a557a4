"""Names that exporter, edge and every other client share: graph inputs, outputs, bundle files."""

INPUT_IDS = "input_ids"  # int64 [batch, seq]
ATTENTION_MASK = "attention_mask"  # int64 [batch, seq], 1 on tokens, 0 on padding
HIDDEN = "hidden"  # float32 [batch, seq, d]
HIDDEN_Q = "hidden_q"  # int8 [batch, seq, d]
SCALE = "scale"  # float16 [batch, seq, ceil(d / 64)]

DEVICE_GRAPH = "device.onnx"
DEVICE_WITH_PAST = "device_with_past.onnx"  # the same segment for decoding, over the same weights
DEVICE_WEIGHTS = "device.onnx.data"
TOKENIZER = "tokenizer.json"


def past_names(blocks: int) -> list[str]:
    """Inputs of the graph with past, block by block: float32 [batch, heads, past, width]."""
    return _pairs("past_key_values", blocks)


def present_names(blocks: int) -> list[str]:
    """Its outputs that go in as the next call's past: float32 [batch, heads, total, width]."""
    return _pairs("present", blocks)


def _pairs(prefix: str, blocks: int) -> list[str]:
    return [f"{prefix}.{index}.{part}" for index in range(blocks) for part in ("key", "value")]
