"""What both servers do with a request: let it in, ask the model, tell what went wrong, count and log it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from typing import Any

from kserve.model import InferenceVerb
from kserve.protocol.dataplane import DataPlane
from starlette.requests import ClientDisconnect

import camrt
from camrt.engine.serving.admission import Admission
from camrt.engine.serving.calls import Call, Decode
from camrt.engine.serving.errors import MOST_LETTERS, NotReadyError, UnknownModelError, status_of
from camrt.engine.serving.limits import ServingLimits
from camrt.engine.serving.metrics import IN_FLIGHT, REQUESTS
from camrt.engine.serving.model_metadata import describe_model
from camrt.engine.serving.served_model import ServedModel
from camrt.engine.serving.tracing import trace_request
from camrt.errors import CamrtError, InputError

__all__ = ["Front"]

CLIENT_LEFT = 499  # in logs and metrics, as nginx has it
request_log = logging.getLogger("camrt.serving.requests")


class Front(DataPlane):  # type: ignore[misc]  # kserve has no types
    """kserve's data plane, over models that are served.

    Args:
        models: kserve's repository of them.
        limits: What requests may be.
        admission: Lets requests in.
        workers: The threads that decode, encode and load.
        controlled: Whether clients may load and unload models.
    """

    def __init__(
        self, models: Any, limits: ServingLimits, admission: Admission, workers: Executor, *, controlled: bool
    ) -> None:
        super().__init__(models)
        self.limits = limits
        self.admission = admission
        self.workers = workers
        self.controlled = controlled

    def metadata(self) -> dict[str, Any]:
        """What the protocol's metadata say of the service."""
        extensions = ["binary_tensor_data", *(["model_repository"] if self.controlled else [])]
        return {"name": "camrt", "version": camrt.__version__, "extensions": extensions}

    async def ready(self) -> bool:
        """Whether requests are taken: a model is ready, and the service is not about to stop."""
        served = (model.served for model in self.model_registry.get_models().values())
        return not self.admission.closed and any(one.at_work is not None for one in served)

    def get_model_from_registry(self, name: str) -> Any:
        """Kserve's model of a name.

        Raises:
            UnknownModelError: There is none.
        """
        found = self.model_registry.get_model(name)
        if found is None:
            known = ", ".join(self.model_registry.get_models())
            raise UnknownModelError(f"there is no model {name!r:.100}; there are {known}")
        return found

    async def get_model(self, name: str) -> Any:
        """Kserve's model of a name, ready or not."""
        return self.get_model_from_registry(name)

    async def model_ready(self, model_name: str, disable_predictor_health_check: bool = False) -> bool:
        """Whether a model can be asked."""
        return bool(await self.get_model_from_registry(model_name).healthy())

    def describe(self, name: str, version: str = "") -> dict[str, Any]:
        """What is said of a model, see `describe_model`.

        Raises:
            UnknownModelError: There is no such model or version.
            NotReadyError: It could not be loaded.
        """
        self.check_ready(name, version)
        loaded = self.served(name).require()
        return describe_model(name, loaded.engine, loaded.version)

    def check_ready(self, name: str, version: str = "") -> None:
        """Refuses a model that cannot be asked.

        Raises:
            UnknownModelError: There is no such model or version.
            NotReadyError: It could not be loaded.
        """
        if version not in ("", self.served(name).require().version):
            raise UnknownModelError(f"the model {name!r} has no version {version!r:.40}")

    def served(self, name: str) -> ServedModel:
        """The model of a name.

        Raises:
            UnknownModelError: There is none.
        """
        found: ServedModel = self.get_model_from_registry(name).served
        return found

    async def load(self, name: str) -> None:
        """Loads a model's file again, as a client asks.

        Raises:
            InputError: That is not allowed.
            UnknownModelError: There is no such model.
            NotReadyError: The file cannot be loaded; what was loaded of it before stays at work.
        """
        self.check_controlled()
        served = self.served(name)
        try:
            await asyncio.get_running_loop().run_in_executor(self.workers, served.load)
        except (CamrtError, OSError) as error:
            raise NotReadyError(f"the model {name!r} cannot be loaded: {error}") from error

    def unload(self, name: str) -> None:
        """Takes a model out of service, as a client asks.

        Raises:
            InputError: That is not allowed.
            UnknownModelError: There is no such model.
        """
        self.check_controlled()
        self.served(name).unload()

    def check_controlled(self) -> None:
        """Refuses that a client loads or unloads a model, where that was not allowed.

        Raises:
            InputError: It was not.
        """
        if not self.controlled:
            raise InputError(
                "models are loaded and unloaded by clients only after camrt serve --model-control explicit"
            )

    async def answer(
        self,
        call: Call,
        headers: Mapping[str, str],
        verb: InferenceVerb,
        read: Callable[[], Awaitable[Decode]],
    ) -> Any:
        """The encoded answer of a request, which is counted, traced and logged.

        Args:
            call: The request.
            headers: What came with it.
            verb: What kserve is to do.
            read: Reads the request's bytes once it was let in.

        Raises:
            Exception: Whatever is wrong with it, see `status_of`.
        """
        status, reason = 200, None
        with trace_request(f"{call.protocol} {verb.name.lower()}", headers) as attributes:
            try:
                model = await self.get_model(call.model)
                with IN_FLIGHT.track_inprogress(), self.admission.admit(call.client):
                    call.decode = await read()
                    answer, _ = await model(call, headers=headers, verb=verb)
                return answer
            except (asyncio.CancelledError, ClientDisconnect):
                status, reason = CLIENT_LEFT, "the client left"
                raise
            except Exception as error:
                status, reason = status_of(error).http, str(error)[:MOST_LETTERS]
                raise
            finally:
                self.report(call, status, reason)
                attributes |= {"camrt.model": call.model[:100], "camrt.method": call.method}
                attributes |= {"camrt.images": call.images, "camrt.status": status}

    def report(self, call: Call, status: int, reason: str | None) -> None:
        """Counts and logs a request that has ended; a model's name that is a caller's alone is no label."""
        known = call.model if self.model_registry.get_model(call.model) else ""
        REQUESTS.labels(known, call.protocol, str(status)).inc()
        said = {
            "request_id": call.request_id,
            "client": call.client,
            "protocol": call.protocol,
            "model": call.model[:100],
            "method": call.method,
            "images": call.images,
            "status": status,
            "seconds": round(time.monotonic() - call.started, 6),
        }
        request_log.info("answered", extra=said if reason is None else said | {"error": reason})
