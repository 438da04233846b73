"""`python -m rdgeodiff`: the same as the `rdgeodiff` command."""

import sys

from rdgeodiff.cli import main

if __name__ == "__main__":
    sys.exit(main())
