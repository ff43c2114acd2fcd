"""`python -m theus` is the `theus` command."""

from theus.cli import main

if __name__ == "__main__":
    main(prog_name="theus")
