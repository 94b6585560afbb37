"""`python -m limelm`: the command line."""

import sys

from limelm.cli import main

if __name__ == "__main__":
    sys.exit(main())
