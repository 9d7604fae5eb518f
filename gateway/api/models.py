"""`/v1/models`: what is served."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from gateway.generation.completion import ServedModel
from shared.errors import UnknownModel


class ModelInfo(Protocol):
    """What a list of models says of one; a ServedModel will do."""

    @property
    def id(self) -> str: ...
    @property
    def created(self) -> int: ...
    @property
    def context_length(self) -> int: ...


class Models(Protocol):
    """What the API needs to know of the models that this gateway serves."""

    def get(self, model: str, /) -> ServedModel:
        """The model to answer with. Raises UnknownModel, or NoRoute while a part of it is missing."""
        ...

    def list(self) -> Sequence[ModelInfo]:
        """Those whose blocks have all been seen."""
        ...


class ModelList:
    """Handlers of the model resource."""

    def __init__(self, models: Models) -> None:
        self._models = models

    async def all(self) -> dict[str, Any]:
        return {"object": "list", "data": [_shape(info) for info in self._models.list()]}

    async def one(self, model: str) -> dict[str, Any]:
        for info in self._models.list():
            if info.id == model:
                return _shape(info)
        raise UnknownModel(model)


def _shape(info: ModelInfo) -> dict[str, Any]:
    """OpenAI's model object, with its context as OpenRouter (`context_length`) and vLLM (`max_model_len`) name it."""
    return {
        "id": info.id,
        "object": "model",
        "created": info.created,
        "owned_by": "corolla",
        "context_length": info.context_length,
        "max_model_len": info.context_length,
    }
