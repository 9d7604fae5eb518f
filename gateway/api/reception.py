"""What every request that asks for work meets first: its body is read and checked, its model found, itself counted."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request

from gateway.api.body import check, read_json
from gateway.api.caller import caller_of
from gateway.api.charges import Charge, Charges
from gateway.api.deadline import deadline_in
from gateway.api.models import Models
from gateway.api.observation import Observation
from gateway.api.request_model import RequestModel
from gateway.generation.completion import ServedModel
from gateway.metrics import RequestMetrics

Schema = TypeVar("Schema", bound=RequestModel)


@dataclass(frozen=True, slots=True)
class Reception:
    """What the handlers of such requests share. `closing` is set when the program ends."""

    models: Models
    metrics: RequestMetrics
    closing: asyncio.Event
    body_limit_bytes: int
    body_seconds: float
    charges: Charges

    @contextmanager
    def observe(self, request: Request) -> Iterator[Observation]:
        """Count the request, from now on: to its end in here, when it fails, else to that of what is watched."""
        charge = Charge(self.charges, caller_of(request))
        observation = Observation(self.metrics.arrived(), self.closing, charge, deadline_in(request.scope))
        try:
            yield observation
        except BaseException as error:
            observation.failed(error)
            raise

    async def read(self, request: Request, schema: type[Schema]) -> Schema:
        """The body as `schema` has it. Raises HTTPException 408 or 413, InvalidRequest."""

        def checked(body: dict[str, Any]) -> Schema:
            schema.refuse_unsupported(body)
            return check(schema, body)

        return await read_json(request, self.body_limit_bytes, self.body_seconds, checked)

    def model(self, name: str, observation: Observation) -> ServedModel:
        """The model to answer with. Raises UnknownModel, or NoRoute while a part of it is missing."""
        model = self.models.get(name)
        observation.asks(model.id)
        return model
