"""Transcribe speech in bulk: the same as `koasr transcribe …`; what `ray job submit` runs."""

import sys

from koasr.cli import main

if __name__ == "__main__":
    main(["transcribe", *sys.argv[1:]], sys.argv[0])
