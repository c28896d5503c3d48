"""Where and in what numbers a model runs. Apart from the flags, which workers do not have."""

from typing import Literal

Device = Literal["auto", "cpu", "cuda"]
FloatType = Literal["float32", "float16", "bfloat16"]
Precision = Literal["auto", FloatType]
