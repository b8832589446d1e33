"""`python -m ebm` is the command line."""

from ebm.cli import main

if __name__ == "__main__":
    main()
