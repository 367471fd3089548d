"""A small, safe reader of XML: elements with their lines; no document types, so no entities to expand."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from camrt.errors import DataError
from camrt.export.io.text_files import read_file_bytes

__all__ = ["Element", "XmlError", "read_xml"]

_MAX_DEPTH = 32
_MAX_BYTES = 64 << 20


@dataclass
class Element:
    """One element.

    Attributes:
        tag: Its name.
        line: The line it begins in, from 1.
        text: The text directly in it, stripped.
        children: The elements directly in it.
    """

    tag: str
    line: int
    text: str = ""
    children: list[Element] = field(default_factory=list)

    def find_all(self, tag: str) -> list[Element]:
        """The children of a name."""
        return [child for child in self.children if child.tag == tag]

    def find(self, tag: str) -> Element | None:
        """The first child of a name, if there is one."""
        return next(iter(self.find_all(tag)), None)


class XmlError(DataError):
    """A file that is not sound or not safe XML.

    Args:
        what: What is wrong.
        line: Where, from 1.
    """

    def __init__(self, what: str, line: int) -> None:
        super().__init__(what)
        self.line = line


def read_xml(path: Path) -> Element:
    """The root element of a file.

    Raises:
        XmlError: Not well-formed, with a document type or entities, or nested deeper than any annotation.
        OSError: The file cannot be read, or is larger than any annotation.
    """
    parser = expat.ParserCreate()
    parser.buffer_text = True
    root: list[Element] = []
    stack: list[Element] = []
    texts: list[list[str]] = []

    def start(tag: str, _: dict[str, str]) -> None:
        if len(stack) >= _MAX_DEPTH:
            raise XmlError(f"elements nested more than {_MAX_DEPTH} deep", parser.CurrentLineNumber)
        element = Element(tag, parser.CurrentLineNumber)
        (stack[-1].children if stack else root).append(element)
        stack.append(element)
        texts.append([])

    def end(_: str) -> None:
        stack.pop().text = "".join(texts.pop()).strip()

    def text(content: str) -> None:
        texts[-1].append(content)

    def refuse(*_: object) -> None:
        raise XmlError("a document type, which annotations do not need", parser.CurrentLineNumber)

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(read_file_bytes(path, _MAX_BYTES), True)
    except expat.ExpatError as error:
        raise XmlError(f"not well-formed XML: {expat.ErrorString(error.code)}", error.lineno) from error
    except XmlError:
        raise
    except (ValueError, LookupError) as error:  # an encoding that is unknown
        raise XmlError(f"not readable XML: {error}", 1) from error
    return root[0]
