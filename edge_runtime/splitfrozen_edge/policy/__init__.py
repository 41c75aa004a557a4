"""When this device works: rules over readings, readers of the system, and what is stored."""
