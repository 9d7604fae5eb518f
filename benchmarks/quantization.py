"""What quantization costs and gains on a CPU, on the demo model's blocks: `python -m benchmarks.quantization`.

Every kind is loaded first, then measured in turn, round after round, since machines drift: compare within one run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer

from gateway.demo_model import fetch_demo_model
from gateway.generation.ends import Ends
from peer.model.blocks import Blocks
from peer.model.cache import SessionCache
from peer.model.load import load_model
from peer.model.quantize import held_bytes, llm_int8_way, quantize_block
from shared.anatomy import core_of, layers_name
from shared.options import default_cache_dir
from shared.types import BlockRange

CPU = torch.device("cpu")
BASE = "none, float32"
TEXT = """
The lighthouse stood at the end of a long spit of sand, and for most of the year nobody came to it. Martha had kept
the light for nineteen years. She knew the sound of every wind: the one from the north that made the shutters rattle,
the one from the sea that smelled of salt and weed, and the warm one in late spring that brought butterflies over the
water. Each evening she climbed the hundred and twelve steps with a can of oil, cleaned the glass, trimmed the wick
and wrote a line in the book. Most of the lines said the same thing: clear, calm, two ships to the south.

One morning in March she found a flower growing in a crack beside the door. It had five petals, pale blue at the edge
and white in the middle, and it had not been there the day before. Nothing grew on the spit but grass. She knelt down
to look at it, and as she did so the petals turned, slowly, until they faced her. She laughed, because it was a silly
thought, and went in to make her tea. But when she came out again the flower was facing the door.

She wrote to her brother in the town, who taught at the school and had many books. His answer came after two weeks.
There is no such plant, he wrote, in any list that I could find, but you should keep it out of the wind. So she built
a small wall of stones around it, and every day she gave it a cup of water from the well. By the end of April there
were three of them, and in the evening, when the lamp was lit, all three leaned towards the light and stayed awake
until the dawn.
"""


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to hold the blocks. `quantization` is the programs', or `llm_int8`, which they use on CUDA alone."""

    name: str
    quantization: str
    dtype: torch.dtype


KINDS = (
    Kind(BASE, "none", torch.float32),
    Kind("none, bfloat16", "none", torch.bfloat16),
    Kind("int8, float32", "int8", torch.float32),
    Kind("int8, bfloat16", "int8", torch.bfloat16),
    Kind("LLM.int8(), float32", "llm_int8", torch.float32),
    Kind("nf4, float32", "nf4", torch.float32),
    Kind("nf4, bfloat16", "nf4", torch.bfloat16),
)


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured of one kind. Rates are one entry a round; decoding is one stream, a token at a time."""

    name: str
    bytes: int
    decode_ms: list[float]
    prefill_tokens_s: list[float]
    perplexity: float
    agreement: float

    @property
    def decode(self) -> float:
        return statistics.median(self.decode_ms)

    @property
    def prefill(self) -> float:
        return statistics.median(self.prefill_tokens_s)


class Held:
    """Blocks of one kind, measured by themselves: no gateway, no links."""

    def __init__(self, directory: Path, kind: Kind, blocks: BlockRange) -> None:
        llm_int8 = kind.quantization == "llm_int8"
        model = load_model(directory, blocks, kind.dtype, CPU, "none" if llm_int8 else kind.quantization)
        if llm_int8:
            for layer in getattr(core_of(model), layers_name(core_of(model))):
                quantize_block(layer, llm_int8_way(kind.dtype, CPU), CPU)
        self.kind = kind
        self.blocks = Blocks(model, blocks, kind.dtype, CPU)
        self.bytes = held_bytes(model)
        self.decode_ms: list[float] = []
        self.prefill_tokens_s: list[float] = []

    def new_cache(self, tokens: int) -> SessionCache:
        return self.blocks.new_cache(self.blocks.range, tokens)

    def measure(self, hidden: torch.Tensor, prompt: int, steps: int) -> None:
        """One round: all of `hidden` (tokens, hidden) at once; then, after `prompt` of its tokens, one by one."""
        started = time.perf_counter()
        self.blocks.forward(hidden, self.new_cache(len(hidden)), 0)
        self.prefill_tokens_s.append(len(hidden) / (time.perf_counter() - started))
        cache, times = self.new_cache(prompt + steps), []
        self.blocks.forward(hidden[:prompt], cache, 0)
        for position in range(prompt, prompt + steps):
            started = time.perf_counter()
            self.blocks.forward(hidden[position : position + 1], cache, position)
            times.append(time.perf_counter() - started)
        self.decode_ms.append(1e3 * statistics.median(times))

    def outputs(self, hidden: torch.Tensor) -> torch.Tensor:
        """The first half as a prompt, the rest token by token: both ways through the weights."""
        cache, half = self.new_cache(len(hidden)), len(hidden) // 2
        rows = [self.blocks.forward(hidden[:half], cache, 0)]
        rows += [self.blocks.forward(hidden[p : p + 1], cache, p) for p in range(half, len(hidden))]
        return torch.cat(rows).float()


def quality(ends: Ends, held: list[Held], ids: list[int]) -> dict[str, tuple[float, float]]:
    """For each kind the perplexity of the text, and how often its likeliest token is the one of BASE."""
    hidden = ends.embed(ids, 0)
    logits = {each.kind.name: ends.logits(each.outputs(hidden)) for each in held}
    likeliest = logits[BASE].argmax(dim=1)
    targets = torch.tensor(ids[1:])
    return {
        name: (
            cross_entropy(scores[:-1], targets).exp().item(),
            (scores.argmax(dim=1) == likeliest).float().mean().item(),
        )
        for name, scores in logits.items()
    }


def measure(arguments: argparse.Namespace, directory: Path) -> list[Figures]:
    ends = Ends.load(directory, dtype=torch.float32, device=CPU)
    ids = AutoTokenizer.from_pretrained(directory)(" ".join(TEXT.split()))["input_ids"]
    held = [Held(directory, kind, BlockRange(0, arguments.blocks)) for kind in KINDS]
    many = (ids * (arguments.prefill // len(ids) + 1))[: arguments.prefill]
    hidden = ends.embed(many, 0)
    for each in held:
        each.measure(hidden, 64, 4)
        each.decode_ms.clear()
        each.prefill_tokens_s.clear()
    for _ in range(arguments.rounds):
        for each in held:
            each.measure(hidden, arguments.context, arguments.steps)
    found = quality(ends, held, ids)
    return [
        Figures(each.kind.name, each.bytes, each.decode_ms, each.prefill_tokens_s, *found[each.kind.name])
        for each in held
    ]


def table(figures: list[Figures]) -> Iterator[str]:
    """Lines of Markdown."""
    base = figures[0]
    yield "| weights, activations | MB | decode ms | speed | prefill tokens/s | speed | perplexity | top-1 agreement |"
    yield "|---|---|---|---|---|---|---|---|"
    for each in figures:
        yield (
            f"| {each.name} | {each.bytes / 1e6:.0f} | {each.decode:.1f} | {base.decode / each.decode:.2f} | "
            f"{each.prefill:.0f} | {each.prefill / base.prefill:.2f} | {each.perplexity:.2f} | {each.agreement:.3f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=30, help="how many, from the first")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--context", type=int, default=128, help="tokens before the ones that are decoded")
    parser.add_argument("--steps", type=int, default=32, help="tokens that are decoded in a round")
    parser.add_argument("--prefill", type=int, default=512, help="tokens of the prompt")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    figures = measure(arguments, fetch_demo_model(default_cache_dir()))
    print(f"{arguments.blocks} blocks, {arguments.threads} threads, {arguments.rounds} rounds\n")
    print("\n".join(table(figures)))
    found = {"blocks": arguments.blocks, "threads": arguments.threads, "kinds": [asdict(each) for each in figures]}
    print(json.dumps(found))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
