"""The double as a cluster behind a balancer: what reaches other nodes late, and what is seen at once."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from qdrant_client import QdrantClient, models

from tests.wire.double import QdrantDouble
from tests.wire.errors import Refusal
from tests.wire.nodes import LEAST
from tests.wire.samples import COUNT, create, field, fill, uid

Refused = Callable[[Callable[[], object]], tuple[Refusal | str, str]]
# On this machine, a client would connect anew for each request over REST, and gRPC's clients would share connections.
ONE_CONNECTION: dict[str, dict[str, Any]] = {
    "rest": {"limits": httpx.Limits(keepalive_expiry=None)},  # by default five seconds
    "grpc": {"pool_size": 1, "grpc_options": {"grpc.use_local_subchannel_pool": 1}},
}
LEDGER: dict[str, Any] = {"vectors_config": {}, "replication_factor": 3}


@pytest.fixture
def nodes(transport: str) -> Iterator[tuple[QdrantDouble, list[QdrantClient]]]:
    """Provide a lagging double of three peers, and a client of each: each client has one connection."""
    with ExitStack() as open_:
        server = open_.enter_context(QdrantDouble(lag=1, peers=LEAST))
        clients = []
        for _ in range(LEAST):
            client = QdrantClient(
                url=server.url,
                grpc_port=server.grpc_port,
                prefer_grpc=transport == "grpc",
                check_compatibility=False,
                verify=False,
                timeout=60,
                **ONE_CONNECTION[transport],
            )
            open_.callback(client.close)
            client.collection_exists("x")  # connects
            clients.append(client)
        yield server, clients
        assert server.invalid_requests == []


Nodes = tuple[QdrantDouble, list[QdrantClient]]


def mark(client: QdrantClient) -> object:
    return (client.get_collection("bank").config.metadata or {}).get("mark")


def test_metadata_reaches_other_nodes_late(nodes: Nodes) -> None:
    server, (one, two, three) = nodes
    create(one, metadata={"mark": 0})
    assert [mark(client) for client in (one, two, three)] == [0, 0, 0]
    one.update_collection("bank", metadata={"mark": 1})
    one.update_collection("bank", metadata={"mark": 2})
    assert [mark(client) for client in (one, two, two, three, three)] == [2, 0, 2, 0, 2]
    # A node that makes a change itself knows all changes before it.
    one.update_collection("bank", metadata={"mark": 3})
    two.update_collection("bank", metadata={"other": 1})
    assert [mark(client) for client in (two, one, one, three, three)] == [3, 3, 3, 2, 3]
    one.update_collection("bank", metadata={"mark": 4})
    server.settle()
    assert mark(two) == 4


def test_creation_and_new_aliases_are_known_everywhere_deletions_are_not(nodes: Nodes) -> None:
    _, (one, two, three) = nodes
    new = models.CreateAliasOperation(
        create_alias=models.CreateAlias(collection_name="bank", alias_name="current")
    )
    gone = models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name="current"))
    create(one)
    one.update_collection("bank", metadata={"mark": 1})
    one.update_collection_aliases([new])  # waits until all nodes know it and what came before
    assert [len(client.get_aliases().aliases) for client in (one, two)] == [1, 1]
    assert mark(three) == 1
    one.update_collection_aliases([gone])
    assert [len(client.get_aliases().aliases) for client in (one, two, two)] == [0, 1, 0]
    one.delete_collection("bank")
    assert [client.collection_exists("bank") for client in (one, two, two)] == [False, True, False]
    assert [len(three.get_collections().collections) for _ in range(2)] == [1, 0]
    create(two)
    assert one.collection_exists("bank")


def test_points_are_seen_at_once(nodes: Nodes) -> None:
    _, (one, two, three) = nodes
    create(one)
    fill(one)
    assert [client.count("bank").count for client in (two, three)] == [COUNT, COUNT]


def test_each_node_tells_its_own_shards(nodes: Nodes) -> None:
    _, (one, two, three) = nodes
    create(one, shard_number=3, replication_factor=2)
    fill(one)
    state = [client.cluster_status() for client in (one, two, three)]
    assert all(isinstance(item, models.ClusterStatusOneOf1) for item in state)
    names = {item.peer_id for item in state}
    assert all(set(map(int, item.peers)) == names for item in state)
    told = [client.collection_cluster_info("bank") for client in (one, two, three)]
    assert {item.peer_id for item in told} == names
    assert [(len(item.local_shards), len(item.remote_shards)) for item in told] == [(2, 4)] * 3
    assert sum(shard.points_count for item in told for shard in item.local_shards) == 2 * COUNT


def test_only_the_leader_lists_silent_nodes_and_every_node_asks_for_telemetry(nodes: Nodes) -> None:
    server, (one, two, _) = nodes
    create(one)
    away = server.cluster.peers[2]
    server.cluster.silence(away)
    states = {state.peer_id: state for state in (one.cluster_status(), two.cluster_status())}
    assert [bool(states[peer].message_send_failures) for peer in server.cluster.peers[:2]] == [True, False]
    for client in (one, two):
        answer = client.http.distributed_api.cluster_telemetry().result
        assert answer is not None
        assert answer.cluster is not None
        assert [name for name, peer in answer.cluster.peers.items() if not peer.responsive] == [str(away)]


def test_a_server_alone_has_no_cluster(client: QdrantClient) -> None:
    create(client, shard_number=2)
    assert client.cluster_status() == models.ClusterStatusOneOf(status="disabled")
    told = client.collection_cluster_info("bank")
    assert (told.shard_count, len(told.local_shards), told.remote_shards) == (2, 2, [])


# Collections without vectors, and writes on a condition


def record(number: int, version: int, by: str = "") -> list[models.PointStruct]:
    return [models.PointStruct(id=uid(number), vector={}, payload={"version": version, "by": by})]


def test_a_collection_may_hold_payload_alone(client: QdrantClient, refusal: Refused) -> None:
    create(client, "ledger", **LEDGER)
    info = client.get_collection("ledger")
    assert (info.config.params.vectors, info.config.params.replication_factor) == ({}, 3)
    client.upsert("ledger", record(1, 1) + record(2, 1))
    client.create_payload_index("ledger", "version", models.PayloadSchemaType.INTEGER)
    points, after = client.scroll("ledger", models.Filter(must=[field("version", range=models.Range(gte=1))]))
    assert ([item.id for item in points], after) == ([uid(1), uid(2)], None)
    assert client.retrieve("ledger", [uid(2)])[0].payload == {"version": 1, "by": ""}
    with_vector = [models.PointStruct(id=uid(3), vector=[0.5], payload={})]
    kind, text = refusal(lambda: client.upsert("ledger", with_vector))
    assert (kind, "Not existing vector name" in text) == (Refusal.WRONG_INPUT, True)
    client.delete("ledger", [uid(1)])
    assert client.count("ledger").count == 1


def test_it_survives_a_restart(server: QdrantDouble, client: QdrantClient) -> None:
    create(client, "ledger", **LEDGER)
    client.upsert("ledger", record(1, 1))
    client.update_collection("ledger", collection_params=models.CollectionParamsDiff(replication_factor=2))
    server.stop()
    server.start()
    assert server.points("ledger")[uid(1)][1]["version"] == 1


def test_an_update_filter_spares_what_does_not_match(client: QdrantClient, server: QdrantDouble) -> None:
    create(client, "ledger", **LEDGER)

    def put(version: int, after: int, by: str) -> None:
        condition = models.Filter(must=[field("version", match=models.MatchValue(value=after))])
        client.upsert(
            "ledger", record(1, version, by), ordering=models.WriteOrdering.STRONG, update_filter=condition
        )

    put(1, 0, "first")  # there is no such point: it is inserted
    put(2, 0, "late")
    assert server.points("ledger")[uid(1)][1] == {"version": 1, "by": "first"}
    put(2, 1, "next")
    assert server.points("ledger")[uid(1)][1] == {"version": 2, "by": "next"}


@pytest.mark.parametrize("consistency", ["majority", "quorum", "all", 2])
def test_ordering_and_consistency_are_recorded(
    client: QdrantClient, server: QdrantDouble, consistency: Any
) -> None:
    create(client, "ledger", **LEDGER)
    client.upsert("ledger", record(1, 1), ordering=models.WriteOrdering.MEDIUM)
    kind = consistency if isinstance(consistency, int) else models.ReadConsistencyType(consistency)
    client.retrieve("ledger", [uid(1)], consistency=kind)
    client.scroll("ledger", consistency=kind)
    given = [request.summary for request in server.requests][1:]
    assert (given[0]["ordering"], given[0]["wait"]) == ("medium", True)
    assert [item["consistency"] for item in given[1:]] == [consistency] * 2


def test_an_unknown_ordering_is_refused(client: QdrantClient, transport: str, refusal: Refused) -> None:
    if transport == "grpc":
        pytest.skip("gRPC's orderings are numbers")
    create(client, "ledger", **LEDGER)
    kind, text = refusal(lambda: client.upsert("ledger", record(1, 1), ordering="certain"))  # type: ignore[arg-type]
    assert (kind, "unknown variant `certain`" in text) == (Refusal.WRONG_INPUT, True)
