"""``python -m hamsb``: the command `hamsb`."""

import sys

from hamsb.inference.cli import main

if __name__ == "__main__":
    sys.exit(main())
