"""splitfrozen-bundle: look into a bundle, check it, time it, publish it, compare two."""
