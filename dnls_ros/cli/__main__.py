"""``python -m dnls_ros.cli`` is ``dnls``."""

import sys

from dnls_ros.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
