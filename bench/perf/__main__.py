"""Measure the engine beside a plain torch loop and beside JAX.

python -m bench.perf                     every cell and both figures, at most 20 minutes
python -m bench.perf --quick             a few cells, about a minute
python -m bench.perf --cells 'op_lora'   the cells whose names match
"""

import os
import sys

if __name__ == "__main__":  # the children import this file as well, and need nothing of it
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from bench.perf.command import main

    sys.exit(main())
