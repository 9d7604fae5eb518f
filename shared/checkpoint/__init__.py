"""Models on disk and on hubs: what they are, what a part of them takes, and a folder with just that part."""

from shared.checkpoint.checkpoint import Checkpoint
from shared.checkpoint.folders import digest_memory, model_folder
from shared.checkpoint.gguf import convert_gguf
from shared.checkpoint.source import open_checkpoint
from shared.checkpoint.tensor_names import Part, block_of

__all__ = ["Checkpoint", "Part", "block_of", "convert_gguf", "digest_memory", "model_folder", "open_checkpoint"]
