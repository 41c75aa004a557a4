"""Answers that the device and the server compute together."""
