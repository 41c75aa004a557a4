"""One module per command of `splitfrozen-bundle`: its options and its output."""
