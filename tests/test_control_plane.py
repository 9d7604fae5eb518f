"""Parts of the control plane die: sessions go on, nodes find each other again, and new ones are found."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import psutil
import pytest

from tests.streams import Stream
from tests.swarm import Node, Swarm, running_swarm
from tests.tiny_models import make_tiny_model

pytestmark = pytest.mark.slow

TOKENS = 500
MESSAGES = [{"role": "user", "content": "Tell me about petals."}]


class Site:
    """A gateway and two peers with a copy of the model between them; nobody but the gateway is joined to begin with."""

    def __init__(self, swarm: Swarm) -> None:
        self.swarm = swarm
        first, second = (swarm.add_peer(blocks) for blocks in ("0:3", "3:6"))
        (_, _, self.address, _), _ = first.ready(), second.ready()
        self.peer = first
        swarm.gateway.ready()
        self.calm = self.finished(self.stream())
        assert len(self.calm) > 200

    def stream(self, url: str | None = None) -> Stream:
        """A long answer that has begun."""
        body = {"model": "tiny", "messages": MESSAGES, "temperature": 0, "max_tokens": TOKENS}
        stream = Stream(url or self.swarm.url, **body)
        stream.until(tokens=5)
        return stream

    def finished(self, stream: Stream) -> list[int]:
        """The whole answer of a stream that ends without an error."""
        stream.finish()
        assert stream.error is None
        return stream.ids

    def until_found(self, peer: Node, url: str | None = None) -> None:
        """Return when the gateway there has announcement and link of a peer that was just started."""
        name = peer.ready()[1]
        self.swarm.wait_for(lambda: linked(url or self.swarm.url).get(name) is not None, 30)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    model = make_tiny_model(tmp_path_factory.mktemp("model"), blocks=6, seed=1, context=1024)
    with running_swarm(tmp_path_factory.mktemp("swarm"), {"tiny": model}) as swarm:
        yield Site(swarm)


def linked(url: str) -> dict[str, int | None]:
    """The peers that a gateway sees, and what each answers on its control link."""
    return {each["peer"]: each["sessions"] for each in httpx.get(f"{url}/swarm").json()["peers"]}


def libp2p(node: Node) -> list[psutil.Process]:
    """The libp2p process of a node; none while it is started again."""
    return psutil.Process(node.process.pid).children()


def test_the_libp2p_process_of_a_gateway_dies_and_comes_back(site: Site) -> None:
    dies_and_comes_back(site, site.swarm.gateway, lambda: site.swarm.add_peer("0:6"))


def test_the_libp2p_process_of_a_peer_dies_and_comes_back(site: Site) -> None:
    dies_and_comes_back(site, site.peer, lambda: site.swarm.add_peer("0:6", join=site.address))


def dies_and_comes_back(site: Site, node: Node, add_peer: Callable[[], Node]) -> None:
    """A stream that runs over the node meanwhile goes on; whoever joins through the node afterwards is found."""
    stream = site.stream()
    (killed,) = libp2p(node)
    killed.kill()
    stream.until(tokens=len(stream.ids) + 20)
    assert site.finished(stream) == site.calm
    site.swarm.wait_for(lambda: any(each.pid != killed.pid for each in libp2p(node)))
    newcomer = add_peer()
    site.until_found(newcomer)
    assert newcomer.stop() == 0


def test_a_gateway_through_which_all_have_joined_dies_and_comes_back(site: Site) -> None:
    """Without it sessions go on and nodes find each other; it is found again, though it comes back knowing nobody."""
    swarm, bootstrap = site.swarm, site.swarm.gateway
    other, url = swarm.add_gateway()
    other.ready()
    stream, children = site.stream(url), libp2p(bootstrap)
    bootstrap.kill()
    stream.until(tokens=len(stream.ids) + 20)
    assert site.finished(stream) == site.calm

    newcomer, early = swarm.add_peer("0:6", join=site.address), swarm.add_peer("0:6")
    site.until_found(newcomer, url)

    psutil.wait_procs(children, 5)
    swarm.nodes.append(Node(*bootstrap.command))
    swarm.nodes[-1].ready()
    site.until_found(early, url)
    swarm.wait_for(lambda: set(linked(swarm.url)) == set(linked(url)))
    assert len(linked(url)) == 4
    assert site.finished(site.stream()) == site.calm
