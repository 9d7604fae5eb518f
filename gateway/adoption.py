"""A gateway without --model serves what the swarm announces, if it comes from a hub and is what it says it is."""

from __future__ import annotations

import asyncio
import logging
import re

from gateway.serving import Serving, load
from gateway.settings import GatewaySettings
from gateway.swarm.peers import Peers
from shared.checkpoint import open_checkpoint
from shared.errors import CorollaError
from shared.program import beside
from shared.types import Fingerprint

logger = logging.getLogger(__name__)

MODELS_LIMIT = 8
TRIED_LIMIT = 256
SPACING_S = 1.0  # between two looks at the hub, however many models are announced
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


async def adopt_models(settings: GatewaySettings, serving: Serving, peers: Peers) -> None:
    """Follow the announcements for ever. A name that a peer announces is never taken for a path on this machine."""
    tried: set[Fingerprint] = set()
    changes = peers.changes.follow()
    while True:
        for each in peers.announced():
            if each.fingerprint in tried or not _HUB_ID.fullmatch(each.model):
                continue
            if len(serving.models) >= MODELS_LIMIT or len(tried) >= TRIED_LIMIT:
                continue
            tried.add(each.fingerprint)
            await _adopt(each.model, each.fingerprint, settings, serving)
            peers.refresh()
            await asyncio.sleep(SPACING_S)
        await anext(changes)


async def _adopt(model: str, fingerprint: Fingerprint, settings: GatewaySettings, serving: Serving) -> None:
    try:
        checkpoint = await beside(lambda: open_checkpoint(model, name=None, cache_dir=settings.cache_dir))
        if checkpoint.fingerprint != fingerprint:
            logger.warning("peers announce %s with other files than the hub has: it is not served", model)
            return
        serving.add(await beside(load, checkpoint, settings), model)
    except CorollaError as error:
        logger.warning("%s is in the swarm but cannot be served here: %s", model, error)
    except Exception as error:  # noqa: BLE001 - somebody else's files meet transformers here
        logger.warning("%s is in the swarm but its files cannot be read: %r", model, error)
