"""Golden scenarios, one function a group; built by hand, without the codec they test."""
