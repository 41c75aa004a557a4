"""What is computed and not yet confirmed, on disk."""
