"""A written graph against torch: errors, losses, and when they refuse a bundle."""
