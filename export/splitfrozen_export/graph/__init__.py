"""From torch to ONNX: tracing, and the passes that every device graph undergoes."""
