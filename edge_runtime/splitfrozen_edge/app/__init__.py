"""What apps use: a device, its bundles and its queue as objects. Built on the same parts as the
commands; `splitfrozen_edge` itself offers the names."""
