"""What the double tells about itself and its cluster, checked over HTTP and with the real client."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from qdrant_client import QdrantClient, models

from tests.qdrant_facts import METRICS
from tests.wire.cluster import FIRST_PEER
from tests.wire.double import QdrantDouble
from tests.wire.errors import Refusal
from tests.wire.samples import create, fill

Refused = Callable[[Callable[[], object]], tuple[Refusal | str, str]]
Ask = Callable[..., Any]


@pytest.fixture
def lab() -> Iterator[tuple[QdrantDouble, QdrantClient]]:
    """Provide a double of two peers, and a client."""
    with QdrantDouble(peers=2) as server:
        client = QdrantClient(url=server.url, check_compatibility=False, verify=False, timeout=60)
        yield server, client
        client.close()
        assert server.invalid_requests == []


def replicas(server: QdrantDouble) -> list[dict[int, str]]:
    return [
        {peer - FIRST_PEER: str(state.value) for peer, state in of.items()}
        for of in server.cluster.replicas("bank")
    ]


def test_a_joined_peer_gets_replicas(lab: tuple[QdrantDouble, QdrantClient], refusal: Refused) -> None:
    server, client = lab
    create(client)
    one = FIRST_PEER
    late = server.cluster.join()
    operation = models.ReplicateShardOperation(
        replicate_shard=models.ReplicateShard(shard_id=0, from_peer_id=one, to_peer_id=late)
    )
    assert client.cluster_collection_update("bank", operation)
    assert replicas(server) == [{0: "Active", late - one: "Partial"}]
    assert refusal(lambda: client.cluster_collection_update("bank", operation))[0] is Refusal.WRONG_INPUT
    assert len(client.collection_cluster_info("bank").shard_transfers) == 1
    assert client.collection_cluster_info("bank").shard_transfers == []
    assert replicas(server) == [{0: "Active", late - one: "Active"}]


def test_a_peer_is_drained_before_it_is_removed(
    lab: tuple[QdrantDouble, QdrantClient], refusal: Refused
) -> None:
    server, client = lab
    create(client, shard_number=2)
    one, two = server.cluster.peers
    assert replicas(server) == [{0: "Active"}, {two - one: "Active"}]
    kind, text = refusal(lambda: client.remove_peer(two))
    assert (kind, "there are shards on it" in text) == (Refusal.WRONG_INPUT, True)
    move = models.MoveShardOperation(
        move_shard=models.MoveShard(shard_id=1, from_peer_id=two, to_peer_id=one)
    )
    client.cluster_collection_update("bank", move)
    client.collection_cluster_info("bank")
    assert replicas(server) == [{0: "Active"}, {0: "Active"}]
    drop = models.DropReplicaOperation(drop_replica=models.Replica(shard_id=0, peer_id=one))
    kind, text = refusal(lambda: client.cluster_collection_update("bank", drop))
    assert (kind, "at least one active replica" in text) == (Refusal.WRONG_INPUT, True)
    assert client.remove_peer(two)
    assert server.cluster.peers == [one]


def test_replicas_are_dropped_and_transfers_aborted(lab: tuple[QdrantDouble, QdrantClient]) -> None:
    server, client = lab
    create(client, replication_factor=2)
    one, two = server.cluster.peers
    server.cluster.set_state("bank", 0, two, models.ReplicaState.DEAD)
    assert "\ncollection_dead_replicas 1\n" in httpx.get(server.url + "/metrics", timeout=60).text
    drop = models.DropReplicaOperation(drop_replica=models.Replica(shard_id=0, peer_id=two))
    client.cluster_collection_update("bank", drop)
    again = {"shard_id": 0, "from_peer_id": one, "to_peer_id": two}
    client.cluster_collection_update(
        "bank", models.ReplicateShardOperation(replicate_shard=models.ReplicateShard(**again))
    )
    client.cluster_collection_update(
        "bank", models.AbortTransferOperation(abort_transfer=models.AbortShardTransfer(**again))
    )
    assert replicas(server) == [{0: "Active"}]


def test_a_server_alone_cannot_replicate(server: QdrantDouble) -> None:
    httpx.put(server.url + "/collections/bank", json={"vectors": {}}, timeout=60)
    peers = {"shard_id": 0, "from_peer_id": 1, "to_peer_id": 2}
    answer = httpx.post(server.url + "/collections/bank/cluster", json={"replicate_shard": peers}, timeout=60)
    assert (answer.status_code, answer.json()["status"]["error"]) == (
        400,
        "Bad request: Distributed mode disabled",
    )


def test_metrics_have_the_names_that_a_server_gives(lab: tuple[QdrantDouble, QdrantClient]) -> None:
    server, client = lab
    create(client)
    fill(client)
    lines = httpx.get(server.url + "/metrics", timeout=60).text.splitlines()
    assert f'collection_points{{id="bank"}} {client.count("bank").count}' in lines
    assert "cluster_peers_total 2" in lines
    names = {line.split("{")[0].split(" ")[0] for line in lines if not line.startswith("#")}
    assert names <= METRICS.keys()


def test_telemetry_tells_more_with_each_level(lab: tuple[QdrantDouble, QdrantClient]) -> None:
    server, client = lab
    create(client)

    def told(level: int) -> dict[str, Any]:
        url = f"{server.url}/telemetry?details_level={level}"
        answer: dict[str, Any] = httpx.get(url, timeout=60).json()["result"]
        return answer

    assert (told(0)["app"]["version"], "system" in told(0)["app"], "memory" in told(0)) == (
        "1.18.2",
        False,
        False,
    )
    assert told(1)["cluster"]["status"]["number_of_peers"] == 2
    assert told(1)["collections"]["collections"][0]["optimizers_status"] == "ok"
    assert len(told(2)["cluster"]["peers"]) == 2


def test_issues_are_listed_and_cleared(server: QdrantDouble) -> None:
    server.issues.append({"id": "TOO_MANY_COLLECTIONS/", "description": "many"})
    with httpx.Client(base_url=server.url, timeout=60) as client:
        assert len(client.get("/issues").json()["result"]["issues"]) == 1
        assert client.delete("/issues").json()["result"] is True
        assert client.get("/issues").json()["result"] == {"issues": []}
