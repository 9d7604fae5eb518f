"""How fast a few rows are multiplied by a large matrix on this CPU, in the ways that `shared.few_rows` chooses from.

`python -m benchmarks.products`: microseconds a product, float32, over more weights than a processor's cache holds.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn.functional import linear

from shared.few_rows import from_the_other_side

SHAPES = ((192, 576), (576, 576), (1536, 576), (576, 1536), (2048, 2048), (8192, 2048), (4096, 4096), (49152, 576))
ROWS = (1, 2, 3, 4, 6, 8, 10, 16)
WEIGHT_BYTES = 140_000_000
REPEATS = 5

Product = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def by_columns(weight: torch.Tensor) -> torch.Tensor:
    """The same matrix, laid out column by column."""
    return weight.T.contiguous().T


WAYS: dict[str, tuple[Product, Callable[[torch.Tensor], torch.Tensor]]] = {
    "linear, W by rows": (linear, lambda weight: weight),
    "linear, W by columns": (linear, by_columns),
    "(W @ x.T).T": (from_the_other_side, lambda weight: weight),
}


def measure(product: Product, weights: list[torch.Tensor], rows: int) -> float:
    """Best of some rounds, in microseconds a product."""
    x = torch.randn(rows, weights[0].shape[1])
    best = float("inf")
    for _ in range(REPEATS + 1):
        started = time.perf_counter()
        for weight in weights:
            product(x, weight)
        best = min(best, time.perf_counter() - started)
    return 1e6 * best / len(weights)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{'us a product, rows:':>34}" + "".join(f"{rows:>8}" for rows in ROWS))
    figures: dict[str, dict[str, list[float]]] = {}
    for shape in SHAPES:
        count = max(1, WEIGHT_BYTES // (shape[0] * shape[1] * 4))
        matrices = [torch.randn(shape) for _ in range(count)]
        name = "x".join(map(str, shape))
        for way, (product, lay_out) in WAYS.items():
            weights = [lay_out(matrix) for matrix in matrices]
            times = [measure(product, weights, rows) for rows in ROWS]
            figures.setdefault(name, {})[way] = times
            print(f"{name:>12} {way:>21}" + "".join(f"{each:>8.0f}" for each in times), flush=True)
    print(json.dumps({"threads": arguments.threads, "rows": ROWS, "us": figures}))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
