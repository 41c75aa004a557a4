"""What the edge runtime costs on a device: disk, start, memory, idle and busy processor time."""
