"""`python -m underlay`."""

from underlay.cli import main

if __name__ == "__main__":
    main()
