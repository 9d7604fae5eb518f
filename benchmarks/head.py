"""What the head of a large model costs a gateway on a CPU: `python -m benchmarks.head`.

Random weights in the shape of a 70B-class head, as `Ends` holds them. All kinds are made first (7.4 GB), then measured
in turn, round after round, since machines drift. For the loss, the head of the demo model over a text, in int8 against
float32.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear
from transformers import AutoTokenizer

from benchmarks.quantization import TEXT
from gateway.demo_model import fetch_demo_model
from gateway.generation.ends import Ends
from peer.model.blocks import Blocks
from shared.int8 import Int8Linear
from shared.options import default_cache_dir
from shared.partial_model import read_config
from shared.types import BlockRange

CPU = torch.device("cpu")
ROWS = (1, 4, 8, 16)
THREADS = (1, 2)


class Float(nn.Module):
    """A head whose weights (vocabulary, hidden) are in the dtype that it computes in."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return linear(hidden.to(self.weight.dtype), self.weight).float()


def make_heads(vocabulary: int, hidden: int) -> dict[str, nn.Module]:
    narrow = torch.empty(vocabulary, hidden, dtype=torch.bfloat16).normal_(std=hidden**-0.5)
    wide = torch.empty(hidden, vocabulary)  # float32 lies column by column in memory: shared/few_rows.py
    wide.copy_(narrow.T)
    return {"float32": Float(wide.T), "bfloat16": Float(narrow), "int8": Int8Linear(narrow, None, torch.float32)}


@torch.inference_mode()
def measure(heads: dict[str, nn.Module], hidden: int, rounds: int) -> list[dict[str, Any]]:
    """Milliseconds of one product with each head, for each number of rows and threads; of several, the median."""
    inputs = {rows: torch.randn(rows, hidden) for rows in ROWS}
    times: dict[tuple[int, int, str], list[float]] = {}
    for _, threads, rows, (name, head) in product(range(rounds + 1), THREADS, ROWS, heads.items()):
        torch.set_num_threads(threads)
        started = time.perf_counter()
        head(inputs[rows])
        times.setdefault((threads, rows, name), []).append(1e3 * (time.perf_counter() - started))
    return [  # the first of each is a warm-up
        {"threads": threads, "rows": rows, "weights": name, "ms": statistics.median(taken[1:])}
        for (threads, rows, name), taken in times.items()
    ]


@torch.inference_mode()
def agreement(directory: Path) -> dict[str, Any]:
    """How often the demo model's best token is the same with an int8 head, over the positions of a text."""
    ids = AutoTokenizer.from_pretrained(directory)(TEXT)["input_ids"]
    everything = BlockRange(0, read_config(directory).num_hidden_layers)
    blocks = Blocks.load(directory, everything, dtype=torch.float32, device=CPU, quantization="none")
    plain = Ends.load(directory, dtype=torch.float32, device=CPU)
    small = Ends.load(directory, dtype=torch.float32, device=CPU, head="int8")
    hidden = blocks.forward(plain.embed(ids, 0), blocks.new_cache(everything, len(ids)), 0)
    expected, scores = plain.logits(hidden).log_softmax(1), small.logits(hidden).log_softmax(1)
    return {
        "positions": len(ids),
        "top_1": float((expected.argmax(1) == scores.argmax(1)).float().mean()),
        "divergence_nats": float((expected.exp() * (expected - scores)).sum(1).mean()),
        "mb": {"float32": plain.parameter_bytes / 1e6, "int8": small.parameter_bytes / 1e6},
    }


def table(figures: list[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(each["weights"] for each in figures))
    found = {(each["threads"], each["rows"], each["weights"]): each["ms"] for each in figures}
    print(f"{'threads':>8} {'rows':>5} " + " ".join(f"{name:>22}" for name in names))
    for threads, rows in product(THREADS, ROWS):
        cells = (
            f"{found[threads, rows, name]:>7.1f} ms {found[threads, rows, name] / rows:>6.1f} a row" for name in names
        )
        print(f"{threads:>8} {rows:>5} " + " ".join(f"{cell:>22}" for cell in cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocabulary", type=int, default=128 * 1024)
    parser.add_argument("--hidden", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    loss = agreement(fetch_demo_model(default_cache_dir()))
    times = measure(make_heads(arguments.vocabulary, arguments.hidden), arguments.hidden, arguments.rounds)
    figures = {"shape": [arguments.vocabulary, arguments.hidden], "heads": times, "demo_model": loss}
    print(f"a head of {arguments.vocabulary:,} x {arguments.hidden:,}, random weights")
    table(times)
    print(
        f"the demo model's head in int8, {loss['positions']} positions: best token the same {loss['top_1']:.1%}, "
        f"divergence {loss['divergence_nats']:.5f} nats, {loss['mb']['int8']:.0f} MB of {loss['mb']['float32']:.0f}"
    )
    print(json.dumps(figures))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
