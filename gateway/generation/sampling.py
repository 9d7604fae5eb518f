"""From logits to one token id. Knows nothing of sessions, text or other nodes.

A token is drawn by the Gumbel-max trick: the arg max of log p(i) + g(i), where the g(i) are standard Gumbel noise, is
distributed as p. The noise is a pure function of (seed, choice, position), made by a counter-based generator
(Philox: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), so a replay, another batch or
speculation never shifts it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

_WORD = 2**64 - 1
_HEAD = 4096  # candidates that nearly always hold the nucleus; sorting these costs a tenth of sorting a 128k vocabulary


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one choice of one request is sampled, and where it ends.

    `temperature` 0 is greedy; `top_p` 1 and `top_k` 0 are off; `seed` is any integer, of which 64 bits count;
    `stop_ids` end the sequence and `max_tokens` (at least 1) bounds it.
    """

    temperature: float
    top_p: float
    top_k: int
    seed: int
    max_tokens: int
    stop_ids: frozenset[int]
    choice: int = 0


def sample(logits: torch.Tensor, params: SamplingParams, position: int) -> int:
    """The token id for `position`, from finite (or -inf) float32 logits of shape (vocabulary,)."""
    if params.temperature == 0:
        return int(torch.argmax(logits))  # the first of equals
    logits = logits.cpu().double()  # float64: a tiny temperature must not overflow
    scores = (logits - logits.max()) / params.temperature
    ids, scores = _keep_top_p(*_keep_top_k(scores, params.top_k), params.top_p)
    noise = gumbel_noise(logits.shape[0], params.seed, params.choice, position, ids)
    winner = int(torch.argmax(scores + noise))
    return winner if ids is None else int(ids[winner])


def gumbel_noise(
    vocabulary: int, seed: int, choice: int, position: int, ids: torch.Tensor | None = None
) -> torch.Tensor:
    """Standard Gumbel noise, float64, of every token id, or of `ids` alone (each the same as among all)."""
    # The lowest counter word numbers the blocks of one vector, the others say whose vector it is: none overlap.
    generator = np.random.Philox(key=seed & _WORD, counter=[0, position & _WORD, choice & _WORD, 0])
    raw = generator.random_raw(vocabulary)
    if ids is not None:
        raw = raw[ids.numpy()]
    uniform = ((raw >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53  # in (0, 1), ends excluded
    return torch.from_numpy(-np.log(-np.log1p(-uniform)))


def _keep_top_k(scores: torch.Tensor, top_k: int) -> tuple[torch.Tensor | None, torch.Tensor]:
    """The `top_k` best as (ids, scores), best first; ids are None where nothing was taken away."""
    if not 0 < top_k < scores.shape[0]:
        return None, scores
    best = torch.topk(scores, top_k)
    return best.indices, best.values


def _keep_top_p(
    ids: torch.Tensor | None, scores: torch.Tensor, top_p: float
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """The fewest best tokens whose probabilities add up to `top_p`, never none (Holtzman et al., 2020)."""
    if top_p >= 1:
        return ids, scores
    total = torch.logsumexp(scores, 0)
    for size in (min(_HEAD, scores.shape[0]), scores.shape[0]):
        best = torch.topk(scores, size)
        mass = torch.exp(best.values - total).cumsum(0)
        if mass[-1] >= top_p:
            break
    kept = min(int((mass < top_p).sum()) + 1, size)
    return (best.indices if ids is None else ids[best.indices])[:kept], best.values[:kept]
