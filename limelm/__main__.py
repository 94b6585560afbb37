"""`python -m limelm`: the command line."""

import sys

from limelm.cli import main

sys.exit(main())
