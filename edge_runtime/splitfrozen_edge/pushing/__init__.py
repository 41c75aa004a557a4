"""Rows of a file -> activations in a dataset, each exactly once."""
