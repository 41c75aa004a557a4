"""Names that exporter, edge and every other client share: graph inputs, outputs, bundle files."""

INPUT_IDS = "input_ids"  # int64 [batch, seq]
ATTENTION_MASK = "attention_mask"  # int64 [batch, seq], 1 on tokens, 0 on padding
HIDDEN = "hidden"  # float32 [batch, seq, d]
HIDDEN_Q = "hidden_q"  # int8 [batch, seq, d]
SCALE = "scale"  # float16 [batch, seq, ceil(d / 64)]

DEVICE_GRAPH = "device.onnx"
DEVICE_WEIGHTS = "device.onnx.data"
TOKENIZER = "tokenizer.json"
