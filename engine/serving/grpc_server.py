"""The service over gRPC: kserve's server, with our reading and writing of requests."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from kserve.model import InferenceVerb
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc
from kserve.protocol.grpc.servicer import InferenceServicer
from kserve.protocol.model_repository_extension import ModelRepositoryExtension

from camrt.engine.serving.calls import Call, Decode, clean_request_id
from camrt.engine.serving.errors import describe_error, status_of
from camrt.engine.serving.front import Front
from camrt.engine.serving.grpc_messages import decode_message, encode_message
from camrt.engine.serving.http_server import REQUEST_ID, in_thread
from camrt.errors import InputError, QueueFullError

__all__ = ["GrpcServer"]


class GrpcServer:
    """Serves a front over gRPC.

    Args:
        front: What answers.
        address: Where requests come to, HOST:PORT.

    Attributes:
        port: The port, which the system chooses where that of the address is 0.
    """

    def __init__(self, front: Front, address: str) -> None:
        limits = front.limits
        self._server = grpc.aio.server(
            interceptors=(ErrorTeller(),),
            options=[
                ("grpc.max_receive_message_length", limits.payload),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),
            ],
            maximum_concurrent_rpcs=2 * limits.requests,  # health is asked too
        )
        servicer = Servicer(front, ModelRepositoryExtension(front.model_registry))
        grpc_predict_v2_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, self._server)
        try:
            self.port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise InputError(f"gRPC cannot listen on {address}: {error}") from None

    async def start(self) -> None:
        """Serves until `stop`."""
        await self._server.start()
        await self._server.wait_for_termination()

    async def stop(self, grace: float) -> None:
        """Ends `start`, when what was asked has been answered, or `grace` seconds have passed."""
        await self._server.stop(grace)


class Servicer(InferenceServicer):  # type: ignore[misc]  # kserve has no types
    """Answers requests; health and metadata of the service are kserve's."""

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802  # the protocol's name
        """A request about images."""
        front: Front = self._data_plane
        headers = headers_of(context)
        left = context.time_remaining()
        call = Call(
            client=client_of(context.peer()),
            request_id=clean_request_id(headers.get(REQUEST_ID)),
            protocol="grpc",
            model=request.model_name,
            version=request.model_version,
            end_time=time.monotonic()
            + min(front.limits.deadline, front.limits.deadline if left is None else left),
            encode=encode_message,
        )

        async def read() -> Decode:
            return partial(decode_message, request)

        return await front.answer(call, headers, InferenceVerb.PREDICT, read)

    async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        """What is said of a model; its methods have no place in KServe's message."""
        said = await in_thread(self._data_plane, self._data_plane.describe, request.name, request.version)
        del said["parameters"]
        return pb.ModelMetadataResponse(**said)

    async def RepositoryModelLoad(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Loads a model's file again, where that is allowed."""
        await self._data_plane.load(request.model_name)
        return pb.RepositoryModelLoadResponse(model_name=request.model_name, isLoaded=True)

    async def RepositoryModelUnload(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Takes a model out of service, where that is allowed."""
        self._data_plane.unload(request.model_name)
        return pb.RepositoryModelUnloadResponse(model_name=request.model_name, isUnloaded=True)


class ErrorTeller(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Tells errors by gRPC's statuses, messages that cannot be parsed among them."""

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        """The handler of a call, with errors told."""
        handler = await continuation(details)
        if handler is None or handler.unary_unary is None:
            return handler
        return grpc.unary_unary_rpc_method_handler(
            told(handler.unary_unary),
            request_deserializer=partial(parse, handler.request_deserializer),
            response_serializer=handler.response_serializer,
        )


def parse(deserialize: Callable[[bytes], Any], content: bytes) -> Any:
    """A message, or why it is none."""
    try:
        return deserialize(content)
    except DecodeError as error:
        return InputError(f"the message cannot be parsed: {error}")


def told(answer: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """The handler that answers so, and tells errors by statuses."""

    async def handle(message: Any, context: Any) -> Any:
        request_id = clean_request_id(headers_of(context).get(REQUEST_ID))
        try:
            if isinstance(message, InputError):
                raise message
            return await answer(message, context)
        except Exception as error:
            status = getattr(grpc.StatusCode, status_of(error).grpc)
            trailing = [(REQUEST_ID, request_id)]
            if isinstance(error, QueueFullError):
                trailing.append(("retry-after", str(max(1, round(error.retry_after)))))
            await context.abort(status, describe_error(error, request_id), tuple(trailing))

    return handle


def headers_of(context: Any) -> dict[str, str]:
    """What came with a call as text."""
    return {name: value for name, value in context.invocation_metadata() or () if isinstance(value, str)}


def client_of(peer: str) -> str:
    """The address of a peer such as "ipv4:127.0.0.1:5000" without its port."""
    return peer.partition(":")[2].rpartition(":")[0]
