"""A served model as kserve knows it: read the request, ask the scheduler, write the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import kserve

from camrt.engine.serving.answers import explained_outputs, predicted_outputs
from camrt.engine.serving.calls import Call
from camrt.engine.serving.errors import UnknownModelError
from camrt.engine.serving.limits import ServingLimits
from camrt.engine.serving.model_metadata import describe_inputs, describe_outputs
from camrt.engine.serving.request_making import make_request
from camrt.engine.serving.request_parsing import ParsedRequest, parse_request
from camrt.engine.serving.requests import ExplainRequest
from camrt.engine.serving.served_model import LoadedFile, ServedModel
from camrt.engine.serving.tensors import Inference
from camrt.errors import ClosedError

__all__ = ["KServeModel"]


@dataclass(frozen=True, eq=False)
class Prepared:
    """A request that can be queued."""

    call: Call
    asked: Inference
    parsed: ParsedRequest
    request: ExplainRequest
    loaded: LoadedFile


@dataclass(frozen=True, eq=False)
class Answered:
    """A request with the engine's answer."""

    prepared: Prepared
    found: Any


class KServeModel(kserve.Model):  # type: ignore[misc]  # kserve has no types
    """Answers calls; kserve measures how long each step takes.

    Args:
        served: The model.
        limits: What a request may be.
        workers: The threads that decode and encode.
    """

    def __init__(self, served: ServedModel, limits: ServingLimits, workers: Executor) -> None:
        super().__init__(served.name)
        self.served = served
        self._limits = limits
        self._workers = workers

    async def healthy(self) -> bool:
        """Whether it can be asked."""
        return self.served.at_work is not None

    def stop(self) -> None:
        """Takes it out of service."""
        self.served.unload()

    def validate(self, payload: Any) -> Any:
        """Nothing: a request is checked when it is prepared."""
        return payload

    async def preprocess(self, payload: Any, headers: Mapping[str, str] | None = None) -> Any:
        """The request decoded, checked and ready for the model, by another thread."""
        return await self._in_thread(self._prepare, payload)

    async def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
        """The engine's answer."""
        prepared: Prepared = payload
        while True:
            try:
                future = prepared.loaded.scheduler.submit(prepared.request)
                break
            except ClosedError:  # its scheduler was retired meanwhile
                if self.served.at_work in (None, prepared.loaded):
                    raise
                prepared = await self.preprocess(prepared.call)
        return Answered(prepared, await asyncio.wrap_future(future))

    async def explain(self, payload: Any, headers: Any = None) -> Any:
        """The engine's answer."""
        return await self.predict(payload, headers)

    async def postprocess(self, result: Any, headers: Any = None, response_headers: Any = None) -> Any:
        """The answer in the form that goes back, by another thread."""
        return await self._in_thread(self._encode, result)

    def get_input_types(self) -> list[dict[str, Any]]:
        """What the protocol's metadata say of inputs."""
        return describe_inputs(self.served.require().engine)

    def get_output_types(self) -> list[dict[str, Any]]:
        """What the protocol's metadata say of outputs."""
        return describe_outputs(self.served.require().engine)

    async def _in_thread(self, work: Any, argument: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._workers, work, argument)

    def _prepare(self, call: Call) -> Prepared:
        loaded = self.served.require()
        if call.version not in ("", loaded.version):
            raise UnknownModelError(
                f"the model {self.name!r} has no version {call.version!r:.40}; it serves {loaded.version}"
            )
        assert call.decode is not None
        asked = call.decode()
        parsed = parse_request(asked, self._limits)
        call.method = "predict" if parsed.method is None else parsed.method.name
        call.images = len(parsed.batch)
        if parsed.seconds is not None:
            call.end_time = min(call.end_time, call.started + parsed.seconds)
        request = make_request(
            loaded.engine, parsed, self._limits, deadline=call.end_time, client=call.client
        )
        return Prepared(call, asked, parsed, request, loaded)

    def _encode(self, answered: Answered) -> Any:
        prepared = answered.prepared
        engine = prepared.loaded.engine
        if prepared.parsed.method is None:
            outputs = predicted_outputs(prepared.parsed, answered.found, engine.probabilities)
        else:
            outputs = explained_outputs(prepared.parsed, answered.found.numpy())
        self._limits.check_answer("outputs", sum(array.nbytes for array in outputs.values()), 1)
        return prepared.call.encode(prepared.asked, outputs, self.name, prepared.loaded.version)
