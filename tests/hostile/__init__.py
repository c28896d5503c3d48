"""Sources made to break a reader or a decoder, and what must come of each. Made, not shipped."""

from hostile.audio_cases import AUDIO
from hostile.cases import Case
from hostile.file_cases import FILES
from hostile.manifest_cases import MANIFESTS
from hostile.parquet_cases import PARQUETS
from hostile.tar_cases import TARS

CASES: tuple[Case, ...] = (*AUDIO, *FILES, *TARS, *PARQUETS, *MANIFESTS)

__all__ = ["CASES", "Case"]
