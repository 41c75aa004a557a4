"""Commands that measure every number the README claims, and the demo."""
