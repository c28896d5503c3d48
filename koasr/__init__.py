"""koasr: bulk speech transcription for Korean, wav2vec2-CTC on Ray Data."""

__version__ = "0.1.0"
