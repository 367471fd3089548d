"""A few hundred changed requests; `python -m tests.fuzz.requests` sends a hundred thousand."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from helpers.calm_models import calm_model
from helpers.served import serve

pytestmark = pytest.mark.skipif(find_spec("kserve") is None, reason="kserve is not installed")
pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")

COUNT = 500


def test_no_request_is_answered_by_an_internal_error(tmp_path: Path) -> None:
    from fuzz.requests.seeds import MODEL, SIDE
    from fuzz.requests.sending import send_many

    model = calm_model(classes=3).save(tmp_path / f"{MODEL}.onnx", side=SIDE)
    with serve(tmp_path, str(model), "--preprocessing", "unit", "--deadline", "2") as served:
        found = send_many(served.http, served.grpc, COUNT, seed=7, threads=4)
        assert found.wrong == []
        assert found.statuses.total() == COUNT
        assert found.statuses["HTTP 200"] > 0
        assert found.statuses["gRPC OK"] > 0
        assert served.ask("/v2/health/ready").status == 200
