"""`python -m splitfrozen_edge` is `splitfrozen-edge`."""

from splitfrozen_edge.cli import main

if __name__ == "__main__":
    main()
