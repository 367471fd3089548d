"""Lightning's checkpoints without pickle, see `camrt.training.state_files`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.fabric.plugins.io import CheckpointIO

from camrt.training.state_files import read_state, write_state

__all__ = ["SafetensorsCheckpointIO"]


class SafetensorsCheckpointIO(CheckpointIO):
    """Lightning's checkpoints as safetensors."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes a run's state.

        Raises:
            TrainingError: It holds something that is neither a tensor nor plain data.
        """
        write_state(Path(path), checkpoint)

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Reads a run's state.

        Raises:
            TrainingError: The file is missing or damaged, or no checkpoint.
        """
        return read_state(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        """Removes a checkpoint that is no longer wanted."""
        Path(path).unlink(missing_ok=True)
