"""`camrt serve` over loopback: beside a bare loop of its engine, and beside the obvious service of a peer.

    python benchmarks/serving.py mobilenet_v2.onnx --peer mobilenet_v2 --out benchmarks/results/serving.json
    python benchmarks/serving.py mobilenet_v2.onnx --soak 900

Clients are threads of this process that ask for one picture at a time and wait for the answer: for its
logits, its Pixab-CAM, or a mix of methods. The bare loop calls `engine.predict` and `engine.explain` on the
same pictures, one after the other. The peer is a service of forty lines on FastAPI and the pytorch-grad-cam
package (`peer_service` below), of torchvision's network of the same shape; both sides are asked for Grad-CAM
in the size of the image. Every answer's status is looked at; those of the service are compared with the
engine's first.

With --soak good and bad requests are mixed for so many seconds: no answer may be lost or wrong, and the
memory of the service may not grow.
"""

from __future__ import annotations

import base64
import http.client
import json
import random
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from measure import Comparison, compare, run_together, summarise, table, write
from PIL import Image

import camrt
from camrt.engine.engine import Engine

THROUGHPUT_GOAL = 0.85  # of a bare loop's, at 16 clients
CLIENTS = (1, 16, 64)
PICTURES = 8
SIDE = 256
MAP_TOLERANCE = 2e-3
GROWTH = 64 << 20
WARM = 256  # requests of each number of clients
STARTING_SECONDS = 120.0
KINDS: dict[str, list[dict[str, Any]]] = {
    "predict": [{}],
    "pixab": [{"method": "pixab"}],
    "mix": [{}, {"method": "pixab"}, {"method": "gradcam"}, {"method": "ablation"}],
}
"""The methods that are asked for in turn; none for a prediction."""
BAD: tuple[bytes, ...] = (
    b"",
    b"{}",
    b'{"instances": [{"b64": "AAAA"}]}',
    b'{"instances": [[[1.0]]]}',
    b'{"instances": [{"b64": ""}], "parameters": {"method": "none"}}',
)
"""Requests that are refused."""


@dataclass
class Answers:
    """What clients saw.

    Attributes:
        seconds: Of each request that was answered.
        statuses: Of those that were answered by something else than was due.
    """

    seconds: list[float] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)


def make_pictures() -> list[bytes]:
    """Pictures in JPEG, smooth as photographs are."""
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(PICTURES):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
        file = BytesIO()
        coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        pictures.append(file.getvalue())
    return pictures


def request_of(picture: bytes, asked: dict[str, Any], size: str = "map") -> tuple[str, bytes]:
    """The verb and the body of a request; maps in their own grid, unless said otherwise, keep JSON small."""
    body: dict[str, Any] = {"instances": [{"b64": base64.b64encode(picture).decode()}]}
    if not asked:
        return "predict", json.dumps(body).encode()
    body |= {"parameters": asked | {"size": size}, "outputs": ["saliency"]}
    return "explain", json.dumps(body).encode()


def ask_from(
    address: str, clients: int, requests: Sequence[tuple[str, bytes]], count: int, *, due: int = 200
) -> Answers:
    """Has so many clients ask together, each over a connection that it keeps.

    Args:
        address: HOST:PORT.
        clients: How many.
        requests: Paths and bodies, taken in turn.
        count: Requests in all.
        due: The status that every answer must have.
    """
    found, lock = Answers(), threading.Lock()

    def work(client: int) -> None:
        connection = http.client.HTTPConnection(address, timeout=300)
        for number in range(client, count, clients):
            path, body = requests[number % len(requests)]
            started = time.perf_counter()
            connection.request("POST", path, body)
            answer = connection.getresponse()
            answer.read()
            spent = time.perf_counter() - started
            with lock:
                found.seconds.append(spent)
                if answer.status != due:
                    found.statuses.append(answer.status)
        connection.close()

    run_together(work, clients)
    return found


@contextmanager
def running(command: list[str], address: Callable[[str], str | None]) -> Iterator[tuple[str, int]]:
    """A service in a process of its own: its HOST:PORT, and the process's number.

    Args:
        command: What is run.
        address: Finds the address in what it has printed; None before it is there.
    """
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "out"
        with out.open("w") as printed:
            process = subprocess.Popen(command, stdout=printed, stderr=subprocess.STDOUT)
        try:
            until = time.monotonic() + STARTING_SECONDS
            while (found := address(out.read_text())) is None:
                if process.poll() is not None or time.monotonic() > until:
                    raise SystemExit(f"{' '.join(command)} did not begin: {out.read_text()}")
                time.sleep(0.1)
            yield found, process.pid
        finally:
            process.terminate()
            process.wait(60)


def camrt_service(model: Path, preprocessing: str) -> list[str]:
    """The command of our service."""
    options = ["--preprocessing", preprocessing, "--port", "0", "--grpc-port", "-1", "--no-request-log"]
    return [
        sys.executable,
        "-m",
        "camrt",
        "serve",
        str(model),
        "--name",
        "model",
        "--deadline",
        "280",
        *options,
    ]


def camrt_address(printed: str) -> str | None:
    """The address of our service, in what it prints."""
    _, found, rest = printed.partition("listening: http://")
    return rest.split(";")[0].split()[0] if found and ";" in rest else None


def peer_service(network: str, port: int) -> list[str]:
    """The command of the obvious service: FastAPI around torch and the pytorch-grad-cam package."""
    program = f"""
        import base64, io, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from networks import torchvision_models
        model = torchvision_models().get_model({network!r}, weights=None).eval()

        import torch, uvicorn
        from fastapi import FastAPI, Request
        from PIL import Image
        from pytorch_grad_cam import GradCAM
        from torchvision import transforms

        layer = model.features[-1] if hasattr(model, "features") else model.layer4[-1]
        cam = GradCAM(model=model, target_layers=[layer])
        prepare = transforms.Compose([
            transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ])
        app = FastAPI()

        async def read(request):
            body = await request.json()
            pictures = [io.BytesIO(base64.b64decode(one["b64"])) for one in body["instances"]]
            return torch.stack([prepare(Image.open(picture).convert("RGB")) for picture in pictures])

        @app.post("/v1/models/model:predict")
        async def predict(request: Request):
            with torch.no_grad():
                return {{"predictions": model(await read(request)).tolist()}}

        @app.post("/v1/models/model:explain")
        async def explain(request: Request):
            return {{"explanations": cam(await read(request), targets=None).tolist()}}

        print("ready", flush=True)
        uvicorn.run(app, port={port}, log_level="warning")
    """
    return [sys.executable, "-c", textwrap.dedent(program)]


def check_answers(address: str, engine: Engine, pictures: list[bytes]) -> str:
    """A note that the service's maps are the engine's.

    Raises:
        SystemExit: They are not; nothing is timed.
    """
    worst = 0.0
    for picture in pictures:
        connection = http.client.HTTPConnection(address, timeout=300)
        verb, body = request_of(picture, {"method": "pixab"})
        connection.request("POST", f"/v1/models/model:{verb}", body)
        rows = json.loads(connection.getresponse().read())["explanations"]
        connection.close()
        expected = engine.explain([picture], "pixab", size="map").maps[0]
        worst = max(worst, float(np.abs(np.array(rows[0]["saliency"]) - expected).max()))
    if not worst <= MAP_TOLERANCE:
        raise SystemExit(f"maps differ by {worst:.2g} (limit {MAP_TOLERANCE:g}); nothing was timed")
    return f"largest difference of a map {worst:.1e}"


def beside_a_loop(
    address: str, engine: Engine, pictures: list[bytes], count: int, pairs: int
) -> list[Comparison]:
    """The service's throughput over a bare loop's, and how long its clients wait."""
    note = check_answers(address, engine, pictures)
    results = []
    for kind, asked in KINDS.items():
        works = [(pictures[n % PICTURES], asked[n % len(asked)]) for n in range(PICTURES * len(asked))]
        requests = [
            (f"/v1/models/model:{verb}", body) for verb, body in (request_of(*work) for work in works)
        ]

        def loop(works: list[tuple[bytes, dict[str, Any]]] = works) -> None:
            for number in range(count):
                picture, given = works[number % len(works)]
                engine.explain([picture], size="map", **given) if given else engine.predict([picture])

        for clients in CLIENTS:
            waits: list[float] = []

            def serve(
                clients: int = clients,
                requests: list[tuple[str, bytes]] = requests,
                waits: list[float] = waits,
            ) -> None:
                answers = ask_from(address, clients, requests, count)
                if answers.statuses:
                    raise SystemExit(f"answers had the statuses {sorted(set(answers.statuses))}")
                waits.extend(answers.seconds)

            timed = compare(
                f"{kind}, {clients} client{'s' * (clients > 1)}",
                ("bare loop", loop),
                ("service", serve),
                at_least=THROUGHPUT_GOAL if clients == 16 else None,
                pairs=pairs,
                notes=[note, "the ratio of times, a loop's over the service's, is that of throughputs"],
            )
            found = replace(timed, processor_ratio=None)  # of this process, and the service is another
            middle, late = np.percentile(waits, [50, 99])
            found.notes.append(
                f"{count / found.seconds[1]:.1f} requests a second; p50 {1e3 * middle:.1f} ms, "
                f"p99 {1e3 * late:.1f} ms"
            )
            results.append(found)
    return results


def beside_the_peer(
    ours: str, theirs: str, pictures: list[bytes], count: int, pairs: int
) -> list[Comparison]:
    """The peer's seconds over ours, for predictions and Grad-CAM."""
    results = []
    for kind, asked in {"predict": {}, "Grad-CAM": {"method": "gradcam"}}.items():
        bodies = [request_of(picture, asked, "image") for picture in pictures]
        requests = [(f"/v1/models/model:{verb}", body) for verb, body in bodies]
        for clients in CLIENTS:
            samples: tuple[list[float], list[float]] = ([], [])
            for number in range(1 + pairs):
                for side, address in enumerate((theirs, ours)):
                    started = time.perf_counter()
                    answers = ask_from(address, clients, requests, count)
                    if answers.statuses:
                        raise SystemExit(f"{address} answered {sorted(set(answers.statuses))}")
                    if number:
                        samples[side].append(time.perf_counter() - started)
            name = f"{kind}, {clients} client{'s' * (clients > 1)}"
            results.append(summarise(name, ("FastAPI + pytorch-grad-cam", "camrt serve"), samples))
    return results


def soak(address: str, process: int, engine: Engine, pictures: list[bytes], seconds: float) -> None:
    """Mixes good and bad requests for some time.

    Raises:
        SystemExit: An answer was lost or wrong, or the memory grew.
    """
    expected = [engine.explain([picture], "pixab", size="map").maps[0] for picture in pictures]
    bodies = [request_of(picture, {"method": "pixab"})[1] for picture in pictures]
    warm = [("/v1/models/model:explain", body) for body in bodies]
    for clients in CLIENTS:  # batches of every size that there will be: ONNX Runtime keeps what each took
        ask_from(address, clients, warm, WARM)
    until, wrong, done, lock = time.monotonic() + seconds, [], [0], threading.Lock()

    def work(client: int) -> None:
        rng = random.Random(client)
        connection = http.client.HTTPConnection(address, timeout=300)
        while time.monotonic() < until:
            number = rng.randrange(PICTURES)
            is_bad = rng.random() < 0.3
            body = rng.choice(BAD) if is_bad else bodies[number]
            connection.request("POST", "/v1/models/model:explain", body)
            answer = connection.getresponse()
            content = answer.read()
            good = answer.status == (400 if is_bad else 200)
            if good and not is_bad:
                maps = np.array(json.loads(content)["explanations"][0]["saliency"])
                good = bool(np.abs(maps - expected[number]).max() <= MAP_TOLERANCE)
            with lock:
                done[0] += 1
                if not good:
                    wrong.append(answer.status)
        connection.close()

    threads = [threading.Thread(target=work, args=(client,)) for client in range(16)]
    for thread in threads:
        thread.start()
    time.sleep(seconds / 3)
    before = resident(process)
    for thread in threads:
        thread.join()
    grown = resident(process) - before
    print(
        f"{done[0]} requests in {seconds:g} s, {len(wrong)} wrong; memory {before >> 20} + {grown >> 20} MiB"
    )
    if wrong or grown > GROWTH:
        raise SystemExit("answers were wrong, or the memory grew")


def resident(process: int) -> int:
    """Bytes of a process in memory (Linux)."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def main(
    model: Annotated[Path, typer.Argument(help="An ONNX classifier of ImageNet's shape.")],
    preprocessing: Annotated[str, typer.Option(help="As in camrt serve.")] = "imagenet",
    peer: Annotated[str, typer.Option(help="torchvision's network of the same shape; none: no peer.")] = "",
    port: Annotated[int, typer.Option(help="For the peer.")] = 18321,
    count: Annotated[int, typer.Option(help="Requests in a sample.")] = 64,
    pairs: Annotated[int, typer.Option(help="Pairs of samples.")] = 5,
    soak_seconds: Annotated[float, typer.Option("--soak", help="Mix good and bad requests instead.")] = 0.0,
    out: Annotated[Path | None, typer.Option(help="Where results are written.")] = None,
) -> None:
    """Measures the service."""
    engine = camrt.load(model, preprocessing=preprocessing)
    pictures = make_pictures()
    with running(camrt_service(model, preprocessing), camrt_address) as (ours, process):
        if soak_seconds:
            soak(ours, process, engine, pictures, soak_seconds)
            return
        results = beside_a_loop(ours, engine, pictures, count, pairs)
        if peer:
            theirs = f"127.0.0.1:{port}"
            with running(peer_service(peer, port), lambda text: theirs if "ready" in text else None):
                time.sleep(1.0)  # from "ready" to listening
                results += beside_the_peer(ours, theirs, pictures, count, pairs)
    print(table(results))
    if out is not None:
        write(out, results, " ".join(sys.argv))


if __name__ == "__main__":
    typer.run(main)
