"""One module per command of `splitfrozen-edge`: its flags and its output."""
