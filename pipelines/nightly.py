"""Do a whole night: the same as `koasr nightly …`; what `ray job submit` runs."""

import sys

from koasr.cli import main

if __name__ == "__main__":
    main(["nightly", *sys.argv[1:]], sys.argv[0])
