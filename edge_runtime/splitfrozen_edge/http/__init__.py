"""How a device speaks to its server."""
