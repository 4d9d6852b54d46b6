"""Figures: SVG files put into the page itself, so that they follow its colours and print."""

import re
from pathlib import Path
from xml.etree import ElementTree

_SVG = "{http://www.w3.org/2000/svg}"
_XLINK_HREF = "{http://www.w3.org/1999/xlink}href"


def render_figure(path: Path, prefix: str) -> str:
    """Prepare an SVG for standing inside a page.

    Args:
        path: the SVG file. It needs a `viewBox`, a `<title>` and a `<desc>`; these two are what
            a screen reader reads.
        prefix: put before every id, so that figures on one page cannot clash.

    Returns:
        An `<svg>` element without an empty line in it.

    Raises:
        ValueError: the figure lacks something or reaches outside of itself. The message is a
            clause that goes with the file's name.
    """
    try:
        svg = ElementTree.fromstring(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError("does not exist") from None
    except ElementTree.ParseError as error:
        raise ValueError(f"is not well-formed XML ({error})") from None
    if svg.tag != _SVG + "svg":
        raise ValueError('is not an SVG with xmlns="http://www.w3.org/2000/svg"')
    if not svg.get("viewBox"):
        raise ValueError("has no viewBox")
    for name in ("width", "height"):
        if name in svg.attrib:
            raise ValueError(f"has a fixed {name}: the viewBox alone gives the proportions")
    labels = []
    for name in ("title", "desc"):
        element = svg.find(_SVG + name)
        if element is None or not (element.text or "").strip():
            raise ValueError(f"has no <{name}>, which readers who cannot see it need")
        element.set("id", element.get("id", name))
        labels.append(element.attrib["id"])
    for element in svg.iter():
        _check_element(element)
        _prefix_ids(element, prefix)
    svg.set("role", "img")
    svg.set("aria-labelledby", " ".join(prefix + label for label in labels))
    text = ElementTree.tostring(svg, encoding="unicode")
    return re.sub(r"\n\s*\n+", "\n", text)


def _check_element(element: ElementTree.Element) -> None:
    # A namespace prefix means nothing in HTML; without one the page's own rules apply.
    element.tag = element.tag.removeprefix(_SVG)
    if "}" in element.tag:
        raise ValueError(f"holds an element that is not SVG: {element.tag}")
    if element.tag in ("script", "foreignObject", "image"):
        raise ValueError(f"holds a <{element.tag}>")
    if element.tag == "style":
        raise ValueError("holds a <style>, which would reach beyond it: use attributes")
    if _XLINK_HREF in element.attrib:
        element.set("href", element.attrib.pop(_XLINK_HREF))
    if not element.get("href", "#").startswith("#"):
        raise ValueError(f"refers to {element.get('href')}, outside of itself")


def _prefix_ids(element: ElementTree.Element, prefix: str) -> None:
    for name, value in element.attrib.items():
        if name == "id":
            element.set(name, prefix + value)
        elif name == "href":
            element.set(name, "#" + prefix + value.removeprefix("#"))
        elif name in ("aria-labelledby", "aria-describedby"):
            element.set(name, " ".join(prefix + part for part in value.split()))
        else:
            element.set(name, value.replace("url(#", f"url(#{prefix}"))
