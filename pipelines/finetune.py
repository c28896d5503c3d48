"""The command `koasr finetune`, for `ray job submit` and friends."""

import cyclopts

from koasr.finetune import finetune

if __name__ == "__main__":
    cyclopts.run(finetune)
