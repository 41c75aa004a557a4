"""What people would otherwise do with the same data, implemented plainly and counted alike."""
