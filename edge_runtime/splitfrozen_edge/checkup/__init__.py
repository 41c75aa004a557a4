"""Is this device fit for the work: `doctor` looks for faults, `bench` measures."""
