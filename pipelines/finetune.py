"""Fine-tune or train a model: the same as `koasr finetune …`; what `ray job submit` runs."""

import sys

from koasr.cli import main

if __name__ == "__main__":
    main(["finetune", *sys.argv[1:]], sys.argv[0])
