"""The command line: a sweep of any Hydra overrides, or one of a few other commands."""

import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # worker processes inherit it: cells spread over cores, threads do not

from bench.cli import main

if __name__ == "__main__":
    sys.exit(main())
