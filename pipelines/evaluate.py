"""Compare transcripts with references: the same as `koasr evaluate …`."""

import sys

from koasr.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]], sys.argv[0])
