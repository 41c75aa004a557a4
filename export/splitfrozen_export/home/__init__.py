"""Take it home: a whole model, or the upper half of one, as ONNX with an adapter merged."""

from splitfrozen_export.home.export import HOME_STEPS, export_server_half, export_whole
from splitfrozen_export.home.record import HomeResult

__all__ = ["HOME_STEPS", "HomeResult", "export_server_half", "export_whole"]
