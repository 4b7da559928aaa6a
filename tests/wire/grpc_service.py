"""Qdrant's gRPC API on a socket: messages become the client's REST models and results messages again."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import grpc  # type: ignore[import-untyped]  # grpcio comes without types
from qdrant_client import grpc as q
from qdrant_client.conversions.conversion import (
    GrpcToRest,
    RestToGrpc,
    grpc_field_type_to_payload_schema,
    grpc_to_payload,
)
from qdrant_client.http import models as m

from tests.wire.collection import Upsert, dense
from tests.wire.engine import version
from tests.wire.errors import Refusal, WireError
from tests.wire.faults import Fault, Trouble
from tests.wire.handler import Request, RequestHandler, Struck
from tests.wire.parameters import from_message

MAX_HEADERS = 16 * 1024
"""Bytes that a call's headers may have, among them the key."""


class _Wire:
    """The base of all services: every request goes through the handler."""

    def __init__(self, handler: RequestHandler) -> None:
        self._handler = handler

    def _serve(
        self, context: grpc.ServicerContext, operation: str, message: Any, parse: Callable[[], Any]
    ) -> Any:
        """Return the result of one request; faults and refusals end the call instead."""
        collection = getattr(message, "collection_name", None)
        try:
            _check_size(context)
            node = self._handler.nodes.join(context.peer())
            request = Request("grpc", operation, collection, _key(context), node, from_message(message))
            result, trouble = self._handler.serve(request, parse)
        except WireError as error:
            _abort(context, error)
        except Struck as struck:
            _strike(context, struck.trouble)
        except Exception as error:
            # A mistake in the double: tell the test what it was.
            _abort(context, WireError(Refusal.INTERNAL, f"the test double failed: {error!r}"))
        if trouble is not None and trouble.fault is Fault.slow:
            _wait(context, trouble.seconds)
        elif trouble is not None:
            context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        return result


class CollectionsService(_Wire, q.CollectionsServicer):
    """Collections and aliases."""

    def Create(self, request: Any, context: Any) -> Any:
        self._serve(context, "create_collection", request, lambda: _create(request))
        return q.CollectionOperationResponse(result=True)

    def Get(self, request: Any, context: Any) -> Any:
        info = self._serve(context, "get_collection", request, _nothing)
        return q.GetCollectionInfoResponse(result=RestToGrpc.convert_collection_info(info))

    def List(self, request: Any, context: Any) -> Any:
        found = self._serve(context, "list_collections", request, _nothing).collections
        names = [q.CollectionDescription(name=item.name) for item in found]
        return q.ListCollectionsResponse(collections=names)

    def CollectionExists(self, request: Any, context: Any) -> Any:
        found = self._serve(context, "collection_exists", request, _nothing)
        return q.CollectionExistsResponse(result=q.CollectionExists(exists=found.exists))

    def Update(self, request: Any, context: Any) -> Any:
        self._serve(
            context,
            "update_collection",
            request,
            lambda: GrpcToRest.convert_update_collection(request),
        )
        return q.CollectionOperationResponse(result=True)

    def CollectionClusterInfo(self, request: Any, context: Any) -> Any:
        told = self._serve(context, "collection_cluster", request, _nothing)
        return RestToGrpc.convert_collection_cluster_info(told)

    def Delete(self, request: Any, context: Any) -> Any:
        found = self._serve(context, "delete_collection", request, _nothing)
        return q.CollectionOperationResponse(result=found)

    def UpdateAliases(self, request: Any, context: Any) -> Any:
        def parse() -> m.ChangeAliasesOperation:
            actions = [GrpcToRest.convert_alias_operations(item) for item in request.actions]
            return m.ChangeAliasesOperation(actions=actions)

        self._serve(context, "update_aliases", request, parse)
        return q.CollectionOperationResponse(result=True)

    def ListAliases(self, request: Any, context: Any) -> Any:
        return _aliases(self._serve(context, "list_aliases", request, _nothing))

    def ListCollectionAliases(self, request: Any, context: Any) -> Any:
        return _aliases(self._serve(context, "collection_aliases", request, _nothing))


class PointsService(_Wire, q.PointsServicer):
    """Points and their indexes."""

    def CreateFieldIndex(self, request: Any, context: Any) -> Any:
        return self._write(request, context, "create_index", lambda: _index(request))

    def Upsert(self, request: Any, context: Any) -> Any:
        return self._write(request, context, "upsert", lambda: _upsert(request))

    def Delete(self, request: Any, context: Any) -> Any:
        return self._write(
            request, context, "delete", lambda: GrpcToRest.convert_points_selector(request.points)
        )

    def Get(self, request: Any, context: Any) -> Any:
        def parse() -> m.PointRequest:
            return m.PointRequest(
                ids=[GrpcToRest.convert_point_id(item) for item in request.ids],
                with_payload=_if_set(request, "with_payload", GrpcToRest.convert_with_payload_selector),
                with_vector=_if_set(request, "with_vectors", GrpcToRest.convert_with_vectors_selector),
            )

        found = self._serve(context, "retrieve", request, parse)
        return q.GetResponse(result=[_record(item) for item in found])

    def Scroll(self, request: Any, context: Any) -> Any:
        def parse() -> m.ScrollRequest:
            return m.ScrollRequest(
                offset=_if_set(request, "offset", GrpcToRest.convert_point_id),
                limit=_if_set(request, "limit"),
                filter=_if_set(request, "filter", GrpcToRest.convert_filter),
                with_payload=_if_set(request, "with_payload", GrpcToRest.convert_with_payload_selector),
                with_vector=_if_set(request, "with_vectors", GrpcToRest.convert_with_vectors_selector),
                order_by=_if_set(request, "order_by", GrpcToRest.convert_order_by),
            )

        page = self._serve(context, "scroll", request, parse)
        following = page.next_page_offset
        return q.ScrollResponse(
            result=[_record(item) for item in page.points],
            next_page_offset=None if following is None else RestToGrpc.convert_extended_point_id(following),
        )

    def Count(self, request: Any, context: Any) -> Any:
        def parse() -> m.CountRequest:
            return m.CountRequest(
                filter=_if_set(request, "filter", GrpcToRest.convert_filter), exact=_if_set(request, "exact")
            )

        counted = self._serve(context, "count", request, parse)
        return q.CountResponse(result=q.CountResult(count=counted.count))

    def Facet(self, request: Any, context: Any) -> Any:
        def parse() -> m.FacetRequest:
            return m.FacetRequest(
                key=request.key,
                filter=_if_set(request, "filter", GrpcToRest.convert_filter),
                limit=_if_set(request, "limit"),
                exact=_if_set(request, "exact"),
            )

        found = self._serve(context, "facet", request, parse)
        return q.FacetResponse(hits=[RestToGrpc.convert_facet_value_hit(hit) for hit in found.hits])

    def Query(self, request: Any, context: Any) -> Any:
        found = self._serve(context, "query", request, lambda: GrpcToRest.convert_query_points(request))
        return q.QueryResponse(result=[RestToGrpc.convert_scored_point(item) for item in found.points])

    def QueryBatch(self, request: Any, context: Any) -> Any:
        def parse() -> m.QueryRequestBatch:
            searches = [GrpcToRest.convert_query_points(item) for item in request.query_points]
            return m.QueryRequestBatch(searches=searches)

        found = self._serve(context, "query_batch", request, parse)
        return q.QueryBatchResponse(
            result=[
                q.BatchResult(result=[RestToGrpc.convert_scored_point(item) for item in some.points])
                for some in found
            ]
        )

    def _write(self, request: Any, context: Any, operation: str, parse: Callable[[], Any]) -> Any:
        result = self._serve(context, operation, request, parse)
        return q.PointsOperationResponse(result=RestToGrpc.convert_update_result(result))


class RootService(_Wire, q.QdrantServicer):
    """The server's name and version."""

    def HealthCheck(self, request: Any, context: Any) -> Any:
        self._serve(context, "version", request, _nothing)
        return q.HealthCheckReply(title="qdrant - vector search engine", version=version())


class GrpcServer:
    """The listening socket and its worker threads."""

    def __init__(self, handler: RequestHandler, port: int, tls: tuple[Path, Path] | None) -> None:
        """Listen on 127.0.0.1; `port` 0 takes a free one; `tls` is the certificate's and its key's file."""
        options = [
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            # More than the server allows: `_check_size` refuses what is too large as the server does.
            ("grpc.max_metadata_size", 4 * MAX_HEADERS),
            ("grpc.absolute_max_metadata_size", 4 * MAX_HEADERS),
            # Otherwise a second server could take the same port unnoticed.
            ("grpc.so_reuseport", 0),
        ]
        self._server = grpc.server(ThreadPoolExecutor(8, "double-grpc"), options=options)
        # Typed here because the generated functions are not.
        services: list[tuple[Callable[[Any, Any], None], _Wire]] = [
            (q.add_CollectionsServicer_to_server, CollectionsService(handler)),
            (q.add_PointsServicer_to_server, PointsService(handler)),
            (q.add_QdrantServicer_to_server, RootService(handler)),
        ]
        for add_to_server, service in services:
            add_to_server(service, self._server)
        address = f"127.0.0.1:{port}"
        if tls is None:
            self.port: int = self._server.add_insecure_port(address)
        else:
            pair = (tls[1].read_bytes(), tls[0].read_bytes())
            self.port = self._server.add_secure_port(address, grpc.ssl_server_credentials([pair]))

    def begin(self) -> None:
        """Accept calls."""
        self._server.start()

    def end(self) -> None:
        """Stop at once; calls under way are broken off."""
        self._server.stop(None).wait()


# Ends of calls


def _abort(context: grpc.ServicerContext, error: WireError) -> NoReturn:
    if error.retry_after is not None:
        context.set_trailing_metadata((("retry-after", str(error.retry_after)),))
    context.abort(grpc.StatusCode[error.refusal.code], str(error))
    raise AssertionError("abort always raises")


def _strike(context: grpc.ServicerContext, trouble: Trouble) -> NoReturn:
    error = trouble.error()
    if error is None and trouble.fault is Fault.hang:
        _wait(context, trouble.seconds)
    if error is None:
        context.abort(grpc.StatusCode.UNAVAILABLE, "Connection reset by peer")
    else:
        _abort(context, error)
    raise AssertionError("abort always raises")


def _wait(context: grpc.ServicerContext, seconds: float) -> None:
    gone = threading.Event()
    # Called back once the client gives up, or the server stops.
    if context.add_callback(gone.set):
        gone.wait(seconds)


def _check_size(context: grpc.ServicerContext) -> None:
    """Refuse headers as HTTP/2 libraries do that allow 16 kB, counting 32 bytes for each besides its text."""
    size = sum(len(name) + len(value) + 32 for name, value in context.invocation_metadata() or ())
    if size > MAX_HEADERS:
        raise WireError(Refusal.HEADERS_TOO_LARGE, "")


def _key(context: grpc.ServicerContext) -> str | None:
    headers = dict(context.invocation_metadata() or ())
    bearer = str(headers.get("authorization", ""))
    key = headers.get("api-key")
    if key is not None:
        return str(key)
    return bearer.removeprefix("Bearer ") if bearer.startswith("Bearer ") else None


# Messages


def _nothing() -> None:
    return None


def _if_set(message: Any, field: str, convert: Callable[[Any], Any] | None = None) -> Any:
    if not message.HasField(field):
        return None
    value = getattr(message, field)
    return convert(value) if convert else value


def _create(request: Any) -> m.CreateCollection:
    return m.CreateCollection(
        vectors=_if_set(request, "vectors_config", GrpcToRest.convert_vectors_config),
        shard_number=_if_set(request, "shard_number"),
        sharding_method=_if_set(request, "sharding_method", GrpcToRest.convert_sharding_method),
        replication_factor=_if_set(request, "replication_factor"),
        write_consistency_factor=_if_set(request, "write_consistency_factor"),
        on_disk_payload=_if_set(request, "on_disk_payload"),
        payload=_if_set(request, "payload", GrpcToRest.convert_payload_storage_params),
        id_tracker=_if_set(request, "id_tracker", GrpcToRest.convert_id_tracker_params),
        hnsw_config=_if_set(request, "hnsw_config", GrpcToRest.convert_hnsw_config_diff),
        wal_config=_if_set(request, "wal_config", GrpcToRest.convert_wal_config_diff),
        optimizers_config=_if_set(request, "optimizers_config", GrpcToRest.convert_optimizers_config_diff),
        quantization_config=_if_set(request, "quantization_config", GrpcToRest.convert_quantization_config),
        sparse_vectors=_if_set(request, "sparse_vectors_config", GrpcToRest.convert_sparse_vector_config),
        strict_mode_config=_if_set(request, "strict_mode_config", GrpcToRest.convert_strict_mode_config),
        metadata=grpc_to_payload(request.metadata) or None,
    )


def _index(request: Any) -> m.CreateFieldIndex:
    schema: Any = None
    if request.HasField("field_index_params"):
        schema = GrpcToRest.convert_payload_schema_params(request.field_index_params)
    elif request.HasField("field_type"):
        schema = GrpcToRest.convert_payload_schema_type(grpc_field_type_to_payload_schema(request.field_type))
    return m.CreateFieldIndex(field_name=request.field_name, field_schema=schema)


def _upsert(request: Any) -> Upsert:
    # No REST models for the points: they would check every number of every vector again.
    points = [
        (
            GrpcToRest.convert_point_id(point.id),
            dense(GrpcToRest.convert_vectors(point.vectors)),
            grpc_to_payload(point.payload),
        )
        for point in request.points
    ]
    return Upsert(
        points,
        _if_set(request, "update_filter", GrpcToRest.convert_filter),
        _if_set(request, "update_mode", GrpcToRest.convert_update_mode),
    )


def _record(found: m.Record) -> Any:
    payload = found.payload or {}
    return RestToGrpc.convert_retrieved_point(found.model_copy(update={"payload": payload}))


def _aliases(found: m.CollectionsAliasesResponse) -> Any:
    return q.ListAliasesResponse(
        aliases=[RestToGrpc.convert_alias_description(item) for item in found.aliases]
    )
