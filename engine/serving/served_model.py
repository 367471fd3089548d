"""A model that is served: its file, the engine made of it, and the scheduler that batches requests."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from camrt.engine.engine import Engine
from camrt.engine.serving.errors import NotReadyError
from camrt.engine.serving.metrics import LOADS, READY
from camrt.engine.serving.scheduler import Scheduler
from camrt.errors import CamrtError

__all__ = ["LoadedFile", "ServedModel"]

log = logging.getLogger("camrt.serving")


@dataclass(frozen=True, eq=False)
class LoadedFile:
    """An engine at work.

    Attributes:
        engine: Made of the file.
        scheduler: Batches what it is asked.
        version: The beginning of the file's hash.
    """

    engine: Engine
    scheduler: Scheduler
    version: str


class ServedModel:
    """A model by its name; its file may be loaded again while requests are answered.

    Attributes:
        name: In addresses.
        failure: Why the file could not be loaded the last time; None where it could.

    Args:
        name: In addresses.
        path: The file.
        load: Makes an engine of it.
        schedule: Makes a scheduler for an engine.
        grace: Seconds in which a scheduler may end what it has taken, once another takes its place.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        load: Callable[[Path], Engine],
        schedule: Callable[[str, Engine], Scheduler],
        grace: float,
    ) -> None:
        self.name = name
        self.path = path
        self.failure: str | None = "it was not loaded yet"
        self._load = load
        self._schedule = schedule
        self._grace = grace
        self._at_work: LoadedFile | None = None
        self._seen: Any = None
        self._loading = threading.Lock()

    @property
    def at_work(self) -> LoadedFile | None:
        """What answers now; None where nothing does."""
        return self._at_work

    def require(self) -> LoadedFile:
        """What answers now.

        Raises:
            NotReadyError: Nothing does.
        """
        found = self._at_work
        if found is None:
            raise NotReadyError(f"the model {self.name!r} is not ready: {self.failure}")
        return found

    def load(self) -> None:
        """Loads the file, or loads it again; what was at work before stays so until the new engine is ready.

        A file that cannot be loaded changes nothing but `failure`.

        Raises:
            CamrtError: It cannot be loaded.
        """
        with self._loading:
            self._seen = self._signature()
            before = self._at_work
            try:
                engine = self._load(self.path)
            except (CamrtError, OSError) as error:
                self.failure = str(error)
                READY.labels(self.name).set(before is not None)
                LOADS.labels(self.name, "failed").inc()
                raise
            self._at_work = LoadedFile(engine, self._schedule(self.name, engine), engine.sha256[:12])
            self.failure = None
            READY.labels(self.name).set(1)
            LOADS.labels(self.name, "loaded").inc()
        if before is not None:
            self._retire(before)

    def unload(self) -> None:
        """Takes the model out of service; what it has begun is ended."""
        before, self._at_work = self._at_work, None
        self.failure = "it was unloaded"
        READY.labels(self.name).set(0)
        if before is not None:
            self._retire(before)

    def reload_if_changed(self) -> bool:
        """Loads the file again where it is another than the last time; whether it was.

        A file that cannot be loaded is logged, and tried again when it has changed once more.
        """
        if self._signature() == self._seen:
            return False
        try:
            self.load()
        except (CamrtError, OSError) as error:
            log.error("the changed file cannot be loaded", extra={"model": self.name, "error": str(error)})
            return False
        log.info("loaded again", extra={"model": self.name, "version": self.require().version})
        return True

    def stop(self, seconds: float) -> None:
        """Ends what was begun, within some time, and then everything."""
        before, self._at_work = self._at_work, None
        READY.labels(self.name).set(0)
        if before is not None:
            before.scheduler.drain(seconds)
            before.scheduler.close()

    def _retire(self, before: LoadedFile) -> None:
        def end() -> None:
            before.scheduler.drain(self._grace)
            before.scheduler.close()

        threading.Thread(target=end, name=f"camrt-retire-{self.name}", daemon=True).start()

    def _signature(self) -> tuple[int, int, int] | None:
        """What changes when the file does; None where there is none."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino
