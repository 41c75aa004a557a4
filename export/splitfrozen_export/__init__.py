"""SplitFrozen exporter: a Hub model or directory becomes a device bundle."""
