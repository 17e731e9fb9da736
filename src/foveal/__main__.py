"""The command line as `python -m foveal`."""

import sys

from foveal.cli import main

if __name__ == "__main__":
    sys.argv[0] = "foveal"  # so that results record the command as anyone can type it
    main()
