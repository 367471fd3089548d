"""A service that explains pictures.

    pip install fastapi uvicorn python-multipart
    CAMRT_MODEL=resnet50.onnx CAMRT_PREPROCESSING=imagenet uvicorn --app-dir examples service:app
    curl -F picture=@cat.jpg 'http://127.0.0.1:8000/explain?method=pixab' -o overlay.png

The answer is the overlay as PNG; its headers say the class and how sure the model is of it. Without
CAMRT_MODEL the embedded classifier is served.
"""

from __future__ import annotations

import io
import os

from fastapi import FastAPI, HTTPException, Request, Response, UploadFile
from fastapi.responses import JSONResponse

import camrt

MOST_BYTES = 10 << 20

engine = camrt.load(
    os.environ.get("CAMRT_MODEL", "default"),
    preprocessing=os.environ.get("CAMRT_PREPROCESSING"),
    labels=os.environ.get("CAMRT_LABELS"),
    call_deadline=10,
    max_memory=2 << 30,
)
app = FastAPI(title="camrt")

STATUS = {
    camrt.errors.ImageError: 415,  # no picture, or one of a kind that is not read
    camrt.errors.DeadlineError: 503,
    camrt.errors.MemoryLimitError: 503,
    camrt.errors.CamrtError: 422,  # a class or a method that there is not
}
"""What each kind of error means in HTTP; the first that fits."""


@app.exception_handler(camrt.errors.CamrtError)
def say_what_was_wrong(request: Request, error: camrt.errors.CamrtError) -> JSONResponse:
    """Answers with the error's own text."""
    status = next(status for kind, status in STATUS.items() if isinstance(error, kind))
    return JSONResponse({"detail": str(error)}, status)


@app.post("/explain", response_class=Response)
def explain(picture: UploadFile, method: str = "pixab", target: str | None = None) -> Response:
    """Draws where the model looked; not `async`, so that pictures are explained in the pool's threads."""
    sent = picture.file.read(MOST_BYTES + 1)
    if len(sent) > MOST_BYTES:
        raise HTTPException(413, f"a picture may have {MOST_BYTES} bytes")
    found = engine.explain(sent, method, targets=target)
    png = io.BytesIO()
    found.overlay(0, image=sent).save(png, "PNG")
    headers = {"X-Class": found.label(0), "X-Answer": found.answer(0)}
    return Response(png.getvalue(), media_type="image/png", headers=headers)
