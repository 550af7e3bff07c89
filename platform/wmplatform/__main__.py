"""`python -m wmplatform`: the command line."""

import sys

from wmplatform.cli import main

if __name__ == "__main__":
    sys.exit(main())
