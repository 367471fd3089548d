"""The service over HTTP: kserve's server, with our reading and writing of requests in front of its own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import fastapi
from fastapi.requests import Request
from fastapi.responses import JSONResponse, Response
from kserve.errors import ModelNotReady, ServerNotReady
from kserve.model import InferenceVerb
from kserve.protocol.model_repository_extension import ModelRepositoryExtension
from kserve.protocol.rest.server import RESTServer
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from camrt.engine.serving.calls import Call, Decode, clean_request_id
from camrt.engine.serving.errors import NotReadyError, describe_error, status_of
from camrt.engine.serving.first_version import decode_instances, encode_rows
from camrt.engine.serving.front import Front
from camrt.engine.serving.http_messages import decode_request, encode_answer
from camrt.errors import CamrtError, DeadlineError, QueueFullError

__all__ = ["HttpServer"]

JSON_LENGTH = "inference-header-content-length"
REQUEST_ID = "x-request-id"
FORGOTTEN = 4  # times the largest request: so much is read of a larger one before the connection is closed


class HttpServer(RESTServer):  # type: ignore[misc]  # kserve has no types
    """Serves a front over HTTP.

    Args:
        front: What answers.
        listening: The socket that requests come to.
        grace: Seconds that answers may take to be written, once the server stops.
    """

    def __init__(self, front: Front, listening: socket.socket, grace: float) -> None:
        self._application = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        super().__init__(
            self._application,
            front,
            ModelRepositoryExtension(front.model_registry),
            listening.getsockname()[1],
            grace_period=max(1, round(grace)),
        )
        self._front = front
        self._listening = listening
        self.config.server_header = False
        self._server.capture_signals = contextlib.nullcontext  # signals are for the whole service

    async def start(self) -> None:
        """Serves until `stop`."""
        self._add_routes()
        self._register_endpoints(self._application)  # health, metrics and lists are kserve's
        for kind in (Exception, HTTPException, CamrtError, ModelNotReady, ServerNotReady):
            self._application.add_exception_handler(kind, tell_error)
        await self._server.serve(sockets=[self._listening])

    def stop(self) -> None:
        """Ends `start`, when what was asked has been answered."""
        self._server.should_exit = True

    def _add_routes(self) -> None:
        """Ours, which come before kserve's of the same addresses."""
        model = "/v2/models/{name}"
        posted: dict[str, Callable[[Request], Any]] = {
            "/v1/models/{name}:predict": partial(self._infer_first_version, explain=False),
            "/v1/models/{name}:explain": partial(self._infer_first_version, explain=True),
            f"{model}/infer": self._infer,
            f"{model}/versions/{{version}}/infer": self._infer,
            "/v2/repository/models/{name}/load": self._load,
            "/v2/repository/models/{name}/unload": self._unload,
        }
        for address, answer in posted.items():
            self._application.add_route(address, told(answer), methods=["POST"])
        for address, answer in {
            model: self._describe,
            f"{model}/versions/{{version}}": self._describe,
            f"{model}/versions/{{version}}/ready": self._model_ready,
            f"{model}/ready": self._model_ready,
        }.items():
            self._application.add_route(address, told(answer), methods=["GET"])

    async def _infer(self, request: Request) -> Response:
        """A request of version 2 of the protocol."""
        call = self._make_call(request, "http v2", encode_answer)

        async def read() -> Decode:
            body = await self._read_body(request, call)
            return partial(decode_request, body, request.headers.get(JSON_LENGTH))

        content, json_length = await self._answer(request, call, InferenceVerb.PREDICT, read)
        headers = {REQUEST_ID: call.request_id}
        if json_length is None:
            return Response(content, headers=headers, media_type="application/json")
        headers |= {JSON_LENGTH: str(json_length)}
        return Response(content, headers=headers, media_type="application/octet-stream")

    async def _infer_first_version(self, request: Request, *, explain: bool) -> Response:
        """A request of version 1 of the protocol."""

        def encode(asked: Any, outputs: Mapping[str, Any], model: str, version: str) -> bytes:
            return encode_rows(outputs, explain=explain)

        call = self._make_call(request, "http v1", encode)

        async def read() -> Decode:
            return partial(decode_instances, await self._read_body(request, call), explain=explain)

        verb = InferenceVerb.EXPLAIN if explain else InferenceVerb.PREDICT
        content = await self._answer(request, call, verb, read)
        return Response(content, headers={REQUEST_ID: call.request_id}, media_type="application/json")

    def _make_call(self, request: Request, protocol: str, encode: Any) -> Call:
        return Call(
            client=request.client.host if request.client else "",
            request_id=request.state.request_id,
            protocol=protocol,
            model=request.path_params["name"],
            version=request.path_params.get("version", ""),
            end_time=time.monotonic() + self._front.limits.deadline,
            encode=encode,
        )

    async def _read_body(self, request: Request, call: Call) -> bytes:
        """The bytes of a request, of which no more than the limit are kept.

        Some more are read and forgotten: a client that is still sending would not see the answer.
        """
        limits = self._front.limits
        parts, count = [], 0
        try:
            async with asyncio.timeout(call.end_time - time.monotonic()):
                async for part in request.stream():
                    count += len(part)
                    if count <= limits.payload:
                        parts.append(part)
                    elif count > FORGOTTEN * limits.payload:
                        break
                    else:
                        parts.clear()
        except TimeoutError:
            raise DeadlineError("the request did not arrive before its deadline") from None
        limits.check_payload(count)
        return b"".join(parts)

    async def _answer(self, request: Request, call: Call, verb: InferenceVerb, read: Any) -> Any:
        """The answer, given up when the client leaves."""
        was_read = asyncio.Event()

        async def read_and_note() -> Decode:
            decode: Decode = await read()
            was_read.set()
            return decode

        async def wait_for_leaving() -> None:
            await was_read.wait()
            while (await request.receive())["type"] != "http.disconnect":
                pass

        work = asyncio.create_task(self._front.answer(call, request.headers, verb, read_and_note))
        leaving = asyncio.create_task(wait_for_leaving())
        try:
            await asyncio.wait({work, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise ClientDisconnect
            return work.result()
        finally:
            leaving.cancel()
            work.cancel()

    async def _describe(self, request: Request) -> Response:
        asked = request.path_params
        found = await in_thread(self._front, self._front.describe, asked["name"], asked.get("version", ""))
        return JSONResponse(found)

    async def _model_ready(self, request: Request) -> Response:
        name = request.path_params["name"]
        self._front.check_ready(name, request.path_params.get("version", ""))
        return JSONResponse({"name": name, "ready": True})

    async def _load(self, request: Request) -> Response:
        name = request.path_params["name"]
        await self._front.load(name)
        return JSONResponse({"name": name, "load": True})

    async def _unload(self, request: Request) -> Response:
        name = request.path_params["name"]
        self._front.unload(name)
        return JSONResponse({"name": name, "unload": True})


async def in_thread(front: Front, work: Callable[..., Any], *arguments: Any) -> Any:
    """What some work gives that would hold up the loop."""
    return await asyncio.get_running_loop().run_in_executor(front.workers, work, *arguments)


def told(answer: Callable[[Request], Any]) -> Callable[[Request], Any]:
    """The endpoint that answers so, and tells errors as the protocol does."""

    async def endpoint(request: Request) -> Response:
        request.state.request_id = clean_request_id(request.headers.get(REQUEST_ID))
        try:
            answered: Response = await answer(request)
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it
        except Exception as error:
            return await tell_error(request, error)
        return answered

    return endpoint


async def tell_error(request: Request, error: Exception) -> Response:
    """An error as the protocol tells it."""
    request_id = getattr(request.state, "request_id", "")
    if isinstance(error, HTTPException):
        return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)
    if isinstance(error, (ModelNotReady, ServerNotReady)):
        error = NotReadyError(str(error))
    headers = {REQUEST_ID: request_id}
    if isinstance(error, QueueFullError):
        headers["retry-after"] = str(max(1, round(error.retry_after)))
    return JSONResponse({"error": describe_error(error, request_id)}, status_of(error).http, headers=headers)
