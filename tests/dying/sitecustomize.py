"""On PYTHONPATH this makes the model's process of any koasr die on marked segments."""

import sys
from pathlib import Path

if "koasr.recognizer" in sys.orig_argv:
    sys.path.append(str(Path(__file__).parent.parent))
    import dying_recognizer

    dying_recognizer.install()
