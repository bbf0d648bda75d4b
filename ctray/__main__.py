"""`python -m ctray` is the same program as `ctray`."""

from ctray.cli import main

if __name__ == "__main__":
    main()
