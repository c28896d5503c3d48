"""Select pseudo-labels: the same as `koasr select …`; what `ray job submit` runs.

Not select.py: every script beside it would get that for Python's own module `select`.
"""

import sys

from koasr.cli import main

if __name__ == "__main__":
    main(["select", *sys.argv[1:]], sys.argv[0])
