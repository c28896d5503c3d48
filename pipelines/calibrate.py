"""Calibrate confidence: the same as `koasr calibrate …`; what `ray job submit` runs."""

import sys

from koasr.cli import main

if __name__ == "__main__":
    main(["calibrate", *sys.argv[1:]], sys.argv[0])
