"""The demo page in Chromium, with clicks and keys as a reader of it makes them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

import camrt
from camrt.default import model_path, scene_path
from camrt.engine.images.overlay import overlay
from camrt.engine.images.style import DrawingStyle
from helpers.annotated_images import COLOURS, PREPROCESSING, colour_model
from helpers.demo_page import build_page, serve_folder

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="playwright is missing: pip install 'camrt[dev]'"
)

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is missing")

PATIENCE = 60_000  # milliseconds: a busy machine compiles WebAssembly in some seconds
LEVEL = 1 / 255  # of a colour
WEBGPU = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan,WebGPU"]
"""A WebGPU in software, so that no card is needed."""
FLAGS = ["--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    build_page(folder)
    return folder


@pytest.fixture(scope="module")
def address(site) -> Iterator[str]:
    with serve_folder(site) as address:
        yield address


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        yield partial(playwright.chromium.launch, executable_path=CHROMIUM)


@pytest.fixture(scope="module")
def browser(chromium) -> Iterator[Any]:
    browser = chromium(args=FLAGS)
    yield browser
    browser.close()


@contextmanager
def open_page(browser: Any, address: str, **options: Any) -> Iterator[tuple[Any, list[str]]]:
    """The page, once it has explained its own picture, and the errors that it reports in the console."""
    context = browser.new_context(accept_downloads=True, permissions=["camera"], **options)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(address)
    page.wait_for_selector("body.ready")
    yield page, said
    context.close()


@pytest.fixture(scope="module")
def opened(browser, address) -> Iterator[tuple[Any, list[str]]]:
    with open_page(browser, address, viewport={"width": 1400, "height": 900}) as opened:
        yield opened


@pytest.fixture
def said(opened) -> list[str]:
    """What the page reports in the console, that is, what is wrong with it."""
    opened[1].clear()
    return opened[1]


@pytest.fixture
def page(opened, said) -> Iterator[Any]:
    """The page with its own picture, whatever another test has done with it."""
    page, _ = opened
    page.get_by_role("button", name="Example").click()
    page.get_by_text("Both", exact=True).click()
    expect(page.locator("#busy")).to_be_hidden()
    yield page
    assert said == []


@pytest.fixture(scope="module")
def engine() -> camrt.Engine:
    return camrt.load("default")


def expect(locator: Any) -> Any:
    sync_api.expect.set_options(timeout=PATIENCE)
    return sync_api.expect(locator)


def save_drawing(page: Any, folder: Path) -> tuple[str, np.ndarray]:
    """What the page's button saves: the file's name, and its pixels."""
    with page.expect_download() as download:
        page.get_by_role("button", name="Save").click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    with Image.open(path) as image:
        return path.name, np.asarray(image.convert("RGB"))


def levels_of(pixels: np.ndarray) -> np.ndarray:
    """The saliency of each pixel of a map that is drawn alone."""
    place = np.array([1 << 16, 1 << 8, 1])
    known, found = DrawingStyle().colours.astype(int) @ place, pixels.astype(int) @ place
    order = np.argsort(known)
    levels = order[np.searchsorted(known, found, sorter=order).clip(max=255)]
    assert (known[levels] == found).all()
    return levels / 255


def drop(page: Any, path: Path, kind: str) -> None:
    """Drops a file onto the page."""
    content = list(path.read_bytes())
    script = """([content, name, type]) => {
      const transfer = new DataTransfer();
      transfer.items.add(new File([Uint8Array.from(content)], name, { type }));
      document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true }));
    }"""
    page.evaluate(script, [content, path.name, kind])


def test_the_map_is_the_engines(page, engine, tmp_path):
    """Of every method, for two classes, on a photograph and on a picture that is stored without loss."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (20, 33, 3), np.uint8)).resize((500, 300))
    noise.save(tmp_path / "noise.png")
    page.get_by_text("Map", exact=True).click()
    methods = page.locator("#method option").all_inner_texts()
    for name, path in (("example", scene_path()), ("noise.png", tmp_path / "noise.png")):
        if name != "example":
            page.locator("#picture-file").set_input_files(path)
            expect(page.locator("#canvas")).to_have_attribute("aria-label", re.compile("noise"))
        for method, row in [(method, row) for method in methods for row in (0, 1)]:
            page.locator("#method").select_option(label=method)
            label = page.locator("#classes .name").nth(row).inner_text()
            page.locator("#classes label").nth(row).click()
            expect(page.locator("#canvas")).to_have_attribute(
                "aria-label", f"{name} with the {method} map of {label}"
            )
            saved, pixels = save_drawing(page, tmp_path)
            assert saved == f"{name.removesuffix('.png')}-{method}-{label.replace(' ', '-')}.png"
            explanation = engine.explain([path], method, targets=engine.labels.index(label))
            size = pixels.shape[1::-1]
            expected = Image.fromarray(explanation.maps[0]).resize(size, Image.Resampling.BILINEAR)
            assert np.max(expected) > 0.5
            np.testing.assert_allclose(levels_of(pixels), expected, atol=2 * LEVEL)
    page.get_by_text("Both", exact=True).click()
    _, pixels = save_drawing(page, tmp_path)
    np.testing.assert_allclose(pixels, overlay(noise, explanation.maps[0]), atol=2)


def test_a_model_that_looks_at_the_middle(page, tmp_path):
    """What it did not see is dark, as camrt draws it; a file with one method offers no choice of methods."""
    colour_model(tmp_path / "colours.onnx")
    camrt.export.with_maps(
        tmp_path / "colours.onnx", "cam", tmp_path / "crop.onnx", preprocessing="imagenet", labels=COLOURS
    )
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (6, 10, 3), np.uint8))
    picture = picture.resize((520, 300))
    picture.save(tmp_path / "wide.png")
    drop(page, tmp_path / "crop.onnx", "")
    expect(page.locator("#model-facts")).to_contain_text("crop.onnx")
    drop(page, tmp_path / "wide.png", "image/png")
    expect(page.locator("#canvas")).to_have_attribute("aria-label", re.compile("wide.png with the cam map"))
    expect(page.locator("#method")).to_be_hidden()
    _, pixels = save_drawing(page, tmp_path)
    engine = camrt.load(tmp_path / "crop.onnx")
    explanation = engine.explain([tmp_path / "wide.png"], "cam")
    np.testing.assert_allclose(pixels, explanation.overlay(), atol=2)
    page.get_by_role("button", name="Embedded classifier").click()
    expect(page.locator("#method")).to_be_visible()


def test_files_for_the_predicted_class_and_for_several(page, engine, tmp_path):
    """The first offers no choice, the second is asked for one class."""
    for targets in ("predicted", "several"):
        camrt.export.with_maps("default", "gradcam", tmp_path / f"{targets}.onnx", targets=targets)
        page.locator("#model-file").set_input_files(tmp_path / f"{targets}.onnx")
        expect(page.locator("#model-facts")).to_contain_text(f"{targets}.onnx")
        expect(page.locator("#canvas")).to_have_attribute(
            "aria-label", re.compile("example with the gradcam map")
        )
        expect(page.locator("#busy")).to_be_hidden()
        assert page.locator("#search").is_disabled() == (targets == "predicted")
    second = page.locator("#classes .name").nth(1).inner_text()
    page.locator("#classes label").nth(1).click()
    expect(page.locator("#caption")).to_contain_text(second)
    page.get_by_text("Map", exact=True).click()
    _, pixels = save_drawing(page, tmp_path)
    explanation = engine.explain([scene_path()], "gradcam", targets=engine.labels.index(second))
    expected = Image.fromarray(explanation.maps[0]).resize(pixels.shape[1::-1], Image.Resampling.BILINEAR)
    np.testing.assert_allclose(levels_of(pixels), expected, atol=2 * LEVEL)
    page.get_by_role("button", name="Embedded classifier").click()
    expect(page.locator("#method")).to_be_visible()


def test_probabilities_and_opacity(page, engine, tmp_path):
    logits = engine.predict([scene_path()])
    order = np.argsort(-logits[0])[:5]
    rows = page.locator("#classes label")
    assert rows.locator(".name").all_inner_texts() == [engine.labels[index] for index in order]
    shown = [float(text.split()[0]) for text in rows.locator(".percent").all_inner_texts()]
    chances = np.exp(logits[0] - logits[0].max())
    np.testing.assert_allclose(shown, 100 * (chances / chances.sum())[order], atol=0.11)
    method = page.locator("#method option:checked").inner_text()
    explanation = engine.explain([scene_path()], method)
    for opacity in ("0", "50", "100"):
        page.locator("#opacity").fill(opacity)
        expect(page.locator("#opacity-value")).to_have_text(f"{opacity} %")
        _, pixels = save_drawing(page, tmp_path)
        expected = explanation.overlay(opacity=int(opacity) / 100)
        assert np.abs(pixels - np.asarray(expected, int)).mean() < 1  # two decoders of JPEG
    page.locator("#opacity").fill("75")


def test_by_keyboard_alone(page, engine):
    """Every control is reached by Tab; arrows change the class and the opacity, Enter searches."""
    wanted = {
        *("show", "opacity", "save", "class", "search", "picture-file", "camera", "example"),
        *("model-file", "embedded"),
    }
    reached: set[str] = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        name = page.evaluate("document.activeElement.id || document.activeElement.name || ''")
        if name in reached:
            continue
        reached.add(name)
        if name == "opacity":
            before = page.locator("#opacity-value").inner_text()
            page.keyboard.press("ArrowLeft")
            assert page.locator("#opacity-value").inner_text() != before
        if name == "class":
            second = page.locator("#classes .name").nth(1).inner_text()
            page.keyboard.press("ArrowDown")
            expect(page.locator("#caption")).to_contain_text(second)
            expect(page.locator("#classes input:checked")).to_be_focused()
        if name == "search":
            page.keyboard.type("pizz")
            page.keyboard.press("Enter")
            expect(page.locator("#caption")).to_contain_text("pizza")
            expect(page.locator("#classes input:checked + .name")).to_have_text("pizza")
        if wanted <= reached:
            break
    assert wanted - reached == set()


def test_classes_by_number_and_what_is_none(page, engine):
    page.locator("#search").fill(str(len(engine.labels) - 1))
    page.get_by_role("button", name="Explain").click()
    expect(page.locator("#caption")).to_contain_text(engine.labels[-1])
    for text in ("unicorn", "99"):
        page.locator("#search").fill(text)
        page.get_by_role("button", name="Explain").click()
        expect(page.get_by_role("alert")).to_contain_text(text)
    page.locator("#classes label").first.click()
    expect(page.get_by_role("alert")).to_be_hidden()


def test_pictures_from_the_camera_and_dropped(page, tmp_path):
    page.get_by_role("button", name="Camera").click()
    expect(page.locator("#video")).to_be_visible()
    page.get_by_role("button", name="Take picture").click()
    expect(page.locator("#canvas")).to_have_attribute("aria-label", re.compile("^camera"))
    page.get_by_role("button", name="Camera").click()
    expect(page.locator("#camera-close")).to_be_visible()
    before = page.locator("#camera-close").bounding_box()
    expect(page.get_by_role("button", name="Take picture")).to_be_enabled()
    assert page.locator("#camera-close").bounding_box() == before  # it does not move when the camera begins
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#video")).to_be_hidden()
    Image.new("RGBA", (60, 40), (0, 90, 0, 128)).save(tmp_path / "green.png")
    drop(page, tmp_path / "green.png", "image/png")
    expect(page.locator("#canvas")).to_have_attribute("aria-label", re.compile("^green"))
    page.get_by_role("button", name="Example").click()
    expect(page.locator("#canvas")).to_have_attribute("aria-label", re.compile("^example"))


def test_what_cannot_be_used_is_said(page, tmp_path):
    """And the page goes on with what it had."""
    caption = page.locator("#caption").inner_text()
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "notes.onnx").write_text("no model")
    model = onnx.load(model_path())
    model.graph.node[0].op_type = "Unheard"
    model.metadata_props.add(key="camrt.maps", value=json.dumps({"maps": [], "target": None}))
    onnx.save(model, tmp_path / "unheard.onnx")
    alert = page.get_by_role("alert")
    page.locator("#picture-file").set_input_files(tmp_path / "notes.txt")
    expect(alert).to_have_text("notes.txt is no picture that this browser can read.")
    page.locator("#model-file").set_input_files(tmp_path / "notes.onnx")
    expect(alert).to_have_text("notes.onnx is no ONNX model, or is damaged.")
    page.locator("#model-file").set_input_files(tmp_path / "unheard.onnx")
    expect(alert).to_contain_text("unheard.onnx cannot be run here")
    page.locator("#model-file").set_input_files(model_path())
    expect(alert).to_contain_text("classifier.onnx holds no maps")
    assert page.locator("#caption").inner_text() == caption
    page.locator("#classes label").nth(1).click()
    expect(alert).to_be_hidden()
    page.get_by_role("button", name="Embedded classifier").click()
    expect(page.locator("#caption")).to_have_text(caption)


def test_nothing_else_is_asked_for_anything(page, said):
    """The page's policy stops what would be sent elsewhere, in its worker too."""
    assert page.evaluate("fetch('http://127.0.0.2:9/').then(() => 'sent', () => 'stopped')") == "stopped"
    worker = page.workers[0]
    assert worker.evaluate("fetch('http://127.0.0.2:9/').then(() => 'sent', () => 'stopped')") == "stopped"
    assert len(said) == 2
    assert all("Content Security Policy" in text for text in said)
    said.clear()


def test_the_map_is_the_engines_on_webgpu(chromium, tmp_path):
    """Of a small model, since a card in software is slow."""
    model = tmp_path / "maps.onnx"
    colour_model(tmp_path / "colours.onnx")
    camrt.export.with_maps(
        tmp_path / "colours.onnx", "activation", model, preprocessing=PREPROCESSING, labels=COLOURS
    )
    build_page(tmp_path / "site", model)
    browser = chromium(args=[*FLAGS, *WEBGPU])
    try:
        with serve_folder(tmp_path / "site") as address, open_page(browser, address) as (page, said):
            if not page.evaluate("async () => Boolean(await navigator.gpu?.requestAdapter())"):
                pytest.skip("this Chromium has no WebGPU in software")
            expect(page.locator("#model-facts")).to_contain_text("WebGPU")
            page.get_by_text("Map", exact=True).click()
            _, pixels = save_drawing(page, tmp_path)
            explanation = camrt.load(model).explain([scene_path()], "activation")
            expected = Image.fromarray(explanation.maps[0]).resize(
                pixels.shape[1::-1], Image.Resampling.BILINEAR
            )
            assert np.max(expected) > 0.5
            np.testing.assert_allclose(levels_of(pixels), expected, atol=3 * LEVEL)
            assert said == []
    finally:
        browser.close()


def test_on_a_small_screen(browser, address):
    small = {"viewport": {"width": 360, "height": 740}, "color_scheme": "dark"}
    with open_page(browser, address, **small) as (page, said):
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        for control in page.locator(
            "button, .button, .segments span, #opacity, #search, #classes label"
        ).all():
            if control.is_visible():
                box = control.bounding_box()
                assert box["x"] >= 0, control.inner_text()
                assert box["x"] + box["width"] <= 360, control.inner_text()
                assert control.evaluate("(one) => one.scrollWidth <= one.clientWidth + 1"), (
                    control.inner_text()
                )
                assert box["height"] >= 24, control.inner_text()
        page.locator("#classes label").nth(1).click()
        expect(page.locator("#classes input").nth(1)).to_be_checked()
        assert said == []
