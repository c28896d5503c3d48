"""Log-probabilities of frames → best path, and how far to trust it."""

from collections.abc import Sequence

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
    lengths = [len(utterance) for utterance in utterances]
    log_probs = pad_sequence(list(utterances), batch_first=True)
    top2 = log_probs.topk(2, dim=-1)
    margins = (top2.values[..., 0] - top2.values[..., 1]).cpu().numpy()
    token_ids = top2.indices[..., 0].cpu().numpy()
    certainty = _certainty(log_probs).cpu().numpy()
    doubt = (1.0 - log_probs[..., blank_id].exp()).cpu().numpy()
    spans = [collapse(ids[:n], blank_id) for ids, n in zip(token_ids, lengths, strict=True)]
    targets = [torch.tensor([s.token_id for s in row], dtype=torch.long) for row in spans]
    losses = F.ctc_loss(
        log_probs.transpose(0, 1),
        torch.cat(targets).to(log_probs.device),
        torch.tensor(lengths),
        torch.tensor([len(row) for row in spans]),
        blank=blank_id,
        reduction="none",
    )
    paths = []
    for i, (n, loss) in enumerate(zip(lengths, losses.tolist(), strict=True)):
        is_blank = token_ids[i, :n] == blank_id
        paths.append(
            BestPath(
                num_frames=n,
                spans=spans[i],
                token_confidence=[float(certainty[i, s.start : s.end].mean()) for s in spans[i]],
                seq_logprob=-loss,
                blank_doubt=float(doubt[i, :n][is_blank].mean()) if is_blank.any() else 0.0,
                margin_min=float(margins[i, :n].min()),
            )
        )
    return paths
