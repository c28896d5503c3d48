"""Log-probabilities of frames → best path, and how far to trust it."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

from koasr.ctc import BestPath, collapse

TOP_K = 16
"""Entropy over the best 16 tokens only. Over a whole syllable vocabulary of 1,200 it measures the
tail, which half precision makes up: at the same best probability of 0.999 Tsallis entropy gives
0.14 or 4e-8 by how the rest is spread."""


def _certainty(log_probs: torch.Tensor) -> torch.Tensor:
    """Gibbs entropy over the top 16 of each frame, mapped so that 1 is sure and 0 even odds.

    Source:
        Laptev & Ginsburg 2022, arXiv 2212.08703, exponential normalization.
    """
    k = min(TOP_K, log_probs.shape[-1])
    top = log_probs.topk(k, dim=-1).values.log_softmax(dim=-1)
    entropy = -(top.exp() * top).sum(dim=-1)
    return (k * torch.exp(-entropy) - 1.0) / (k - 1.0)


def _sequence_log_probs(
    utterances: Sequence[torch.Tensor], targets: Sequence[Sequence[int]], blank_id: int
) -> torch.Tensor:
    """Log-probability of each utterance's tokens over all their alignments. Shape (batch,)."""
    device = utterances[0].device
    tokens = [token for row in targets for token in row]
    losses = F.ctc_loss(
        pad_sequence(list(utterances)),
        torch.tensor(tokens, dtype=torch.long, device=device),
        torch.tensor([len(utterance) for utterance in utterances]),
        torch.tensor([len(row) for row in targets]),
        blank=blank_id,
        reduction="none",
    )
    return -losses


@torch.inference_mode()
def best_paths(utterances: Sequence[torch.Tensor], blank_id: int) -> list[BestPath]:
    """Best path and evidence of each utterance; all of it computed in float32 on the device.

    Args:
        utterances: Log-probabilities (nats), one tensor an utterance. Shapes
            (num_frames, vocab_size), each of at least one frame.
        blank_id: Index of the CTC blank in the vocabulary.

    Source:
        The sequence log-probability is minus the CTC loss of the hypothesis: Graves et al. 2006.
    """
    log_probs = torch.cat(list(utterances))
    best, ids = log_probs.max(dim=-1)
    second = log_probs.scatter(-1, ids[:, None], -torch.inf).amax(dim=-1)
    doubt = 1.0 - log_probs[:, blank_id].exp()
    token_ids = ids.cpu().numpy()
    ends = np.cumsum([len(utterance) for utterance in utterances])
    rows = [slice(end - len(u), end) for end, u in zip(ends.tolist(), utterances, strict=True)]
    spans = [collapse(token_ids[row], blank_id) for row in rows]
    # Blanks, most of the frames, have no use for it, and sorting out the best 16 is dear.
    certainty = torch.zeros_like(best)
    tokens = torch.from_numpy(np.flatnonzero(token_ids != blank_id)).to(best.device)
    certainty[tokens] = _certainty(log_probs[tokens])
    targets = [[span.token_id for span in found] for found in spans]
    sequence = _sequence_log_probs(utterances, targets, blank_id)
    frames = torch.stack([certainty, doubt, best - second])
    evidence = torch.cat([frames.view(-1), sequence]).cpu().numpy()
    sure, doubts, margins = evidence[: frames.numel()].reshape(3, -1)
    # A mean a token by itself would take a GPU's host as long as the forward pass.
    total = np.concatenate([[0.0], np.cumsum(sure, dtype=np.float64)])
    paths = []
    for row, found, seq_logprob in zip(rows, spans, evidence[frames.numel() :], strict=True):
        is_blank = token_ids[row] == blank_id
        edges = np.array([(s.start, s.end) for s in found], np.int64).reshape(-1, 2)
        first, last = (row.start + edges).T
        paths.append(
            BestPath(
                num_frames=row.stop - row.start,
                spans=found,
                token_confidence=((total[last] - total[first]) / (last - first)).tolist(),
                seq_logprob=float(seq_logprob),
                blank_doubt=float(doubts[row][is_blank].mean()) if is_blank.any() else 0.0,
                margin_min=float(margins[row].min()),
            )
        )
    return paths
