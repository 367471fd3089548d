"""What MkDocs is told beside mkdocs.yml: which documents are pages, and what draws formulas and diagrams.

The site is made of the Markdown that the repository is read by, links as they are there: README.md is the
first page, and a link to a file that is no page leads to a copy of it. Nothing that a page needs is fetched
from elsewhere.
"""

from __future__ import annotations

import posixpath
import re
import shutil
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer.main
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from typer.cli import get_docs_for_click

import camrt
from camrt.cli.main import app

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "build" / "docs-package" / "camrt"
ROOMS = ("engine", "evaluation", "export", "kernels", "training")
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "reporting.md",
    "examples/README.md": "examples/index.md",
    **{f"{room}/README.md": f"rooms/{room}.md" for room in ROOMS if (ROOT / room / "README.md").exists()},
    **{
        path.relative_to(ROOT).as_posix(): f"measured/{path.name}"
        for path in sorted((ROOT / "benchmarks" / "results").glob("*.md"))
    },
}
"""Documents beside docs/ that are pages, and where."""
SCRIPTS = {
    "arithmatex": ("mathjax", "static/mathjax/es5/tex-svg.js", "django-static-mathjax"),
    "mermaid": ("mermaidx", "assets/mermaid.js", "mermaidx"),
}
"""By the class of what it draws: the package that has a script, where, and what it is called on PyPI."""
LINK = re.compile(r"(?<=\]\()[^)\s]+|(?<=<img src=\")[^\"]+")
FENCE = re.compile(r"^```.*?^```|`[^`\n]+`", re.MULTILINE | re.DOTALL)
LISTED = re.compile(r"<!-- (commands|methods|kernels|names of ([\w.]+)) -->")
FETCHED = re.compile(
    r"<(?:script|img|iframe|source)[^>]+src=[\"']?(?:https?:)?//|<link[^>]+href=[\"']?(?:https?:)?//"
)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Lays the rooms out as the package that they are installed as, where mkdocstrings reads it."""
    shutil.rmtree(PACKAGE, ignore_errors=True)  # links alone
    PACKAGE.mkdir(parents=True)
    for source in (*(ROOT / "src" / "camrt").iterdir(), *(ROOT / room for room in ROOMS)):
        (PACKAGE / source.name).symlink_to(source)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that lie elsewhere, the files that pages link to, the scripts, and the commands."""
    for document, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / document)))
    for document in [_document(file.src_uri) for file in files.documentation_pages()]:
        if not (ROOT / document).exists():
            continue
        text = FENCE.sub("", (ROOT / document).read_text("utf-8"))
        for link in LINK.findall(text):
            path, place = _linked(document, link)
            if place and files.get_file_from_path(place) is None and (ROOT / path).is_file():
                files.append(File.generated(config, place, abs_src_path=str(ROOT / path)))
    for kind, (package, member, requirement) in SCRIPTS.items():
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise PluginError(f"the pages need {requirement}: pip install '.[docs]'")
        source = str(Path(spec.origin).parent / member)
        files.append(File.generated(config, f"assets/{kind}.js", abs_src_path=source))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Turns links between files of the repository into links between files of the site."""
    here = posixpath.dirname(page.file.src_uri)
    document = _document(page.file.src_uri)

    def replace(match: re.Match[str]) -> str:
        _, place = _linked(document, match[0])
        anchor = f"#{match[0].partition('#')[2]}" if "#" in match[0] else ""
        return posixpath.relpath(place, here or ".") + anchor if place else match[0]

    return LISTED.sub(_list, LINK.sub(replace, markdown))


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Adds the scripts that a page needs, and refuses what a browser would fetch from elsewhere."""
    if fetched := FETCHED.search(output):
        raise PluginError(f"{page.file.src_uri} has a browser fetch from another server: {fetched[0]}")
    root = posixpath.relpath(".", posixpath.dirname(page.file.dest_uri) or ".")
    scripts = "".join(
        f'<script src="{root}/assets/{kind}.js"{" defer" * (kind == "arithmatex")}></script>'
        for kind in SCRIPTS
        if f'class="{kind}' in output
    )
    output = output.replace("<img ", '<img loading="lazy" ')
    return output.replace("</head>", f"{scripts}</head>", 1)


def _list(marker: re.Match[str]) -> str:
    """What a marker in a page stands for."""
    match marker[1]:
        case "commands":
            command = typer.main.get_command(app)
            text = get_docs_for_click(
                obj=command, ctx=typer.Context(command, info_name="camrt"), name="camrt"
            )
            return text.partition("\n")[2]
        case "methods":
            kinds = {name: kind for name, kind in camrt.methods().items() if not hasattr(kind, "map_class")}
            return "\n".join(
                f"## `{name}`\n\n::: {kind.__module__}.{kind.__name__}\n    options:\n      members: false\n"
                for name, kind in kinds.items()
            )
        case "kernels":
            rooms = sorted(path.parent.name for path in (ROOT / "kernels").glob("*/__init__.py"))
            return "\n".join(f"::: camrt.kernels.{room}\n" for room in rooms)
        case _:
            return "\n".join(f"::: {marker[2]}.{name}\n" for name in import_module(marker[2]).__all__)


def _document(page: str) -> str:
    """The file of the repository that a page is made of."""
    return next((document for document, place in PAGES.items() if place == page), f"docs/{page}")


def _linked(document: str, link: str) -> tuple[str, str]:
    """The file that a link in a document names, and its place on the site; "" of links that name none."""
    name = link.partition("#")[0]
    if not name or "://" in link or link.startswith(("mailto:", "/")):
        return "", ""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(document), name))
    if path in PAGES:
        return path, PAGES[path]
    return path, path.removeprefix("docs/") if path.startswith("docs/") else f"files/{path}"
