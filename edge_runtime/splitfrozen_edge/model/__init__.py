"""The bundle on this device: finding it, checking it, running it."""
