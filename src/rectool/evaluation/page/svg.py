"""A figure as part of a page: what draws is kept, by name, and nothing else."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from html import escape

SPACE = "{http://www.w3.org/2000/svg}"
LINK = "{http://www.w3.org/1999/xlink}href"
ELEMENTS = {
    *("svg", "g", "defs", "clipPath", "path", "rect", "circle", "ellipse", "line", "polyline", "polygon"),
    *("text", "tspan", "use"),
}
PLACES = {
    *(
        "id",
        "x",
        "y",
        "dx",
        "dy",
        "cx",
        "cy",
        "r",
        "rx",
        "ry",
        "x1",
        "y1",
        "x2",
        "y2",
        "d",
        "points",
        "width",
        "height",
    ),
    *("viewBox", "transform", "clip-path", "preserveAspectRatio"),
}
LOOKS = {
    *("fill", "fill-opacity", "fill-rule", "stroke", "stroke-width", "stroke-opacity", "stroke-dasharray"),
    *("stroke-dashoffset", "stroke-linecap", "stroke-linejoin", "stroke-miterlimit", "opacity"),
    *("font-size", "font-family", "font-weight", "font-style", "text-anchor", "clip-rule"),
}
"""Written into `style` by matplotlib, and as attributes here, so that a page need not allow styles of elements."""
PIXELS = 1.25
"""To a unit of a figure where there is room."""


def inline(source: str, prefix: str, label: str) -> str:
    """A figure as an element of HTML: no scripts, styles, images or links to elsewhere, and ids of its own.

    Args:
        source: an SVG document.
        prefix: of its ids, such as no other figure of the page has.
        label: read out in place of the figure.
    """
    root = ElementTree.fromstring(source)  # noqa: S314 - expat loads nothing from elsewhere and bounds what entities grow to
    left, top, width, height = (root.get("viewBox") or "0 0 100 100").split()
    opening = (
        f'<svg role="img" aria-label="{escape(label)}" viewBox="{escape(f"{left} {top} {width} {height}")}" '
        f'width="{float(width) * PIXELS:.0f}" stroke-linejoin="round" stroke-linecap="butt">'
    )
    return opening + "".join(part for child in root for part in _element(child, prefix)) + "</svg>"


def _element(element: ElementTree.Element, prefix: str) -> Iterator[str]:
    name = element.tag.removeprefix(SPACE)
    if not element.tag.startswith(SPACE) or name not in ELEMENTS:
        return
    content = "".join(part for child in element for part in _element(child, prefix))
    words = escape(element.text or "", quote=False) if name in ("text", "tspan") else ""
    if name in ("g", "defs") and not content:
        return
    attributes = "".join(f' {key}="{escape(value)}"' for key, value in _attributes(element, prefix))
    yield f"<{name}{attributes}>{words}{content}</{name}>"
    if element.tail and element.tail.strip():
        yield escape(element.tail, quote=False)


def _attributes(element: ElementTree.Element, prefix: str) -> Iterator[tuple[str, str]]:
    looks = _looks(element.get("style", ""))
    for key, value in {**element.attrib, **looks}.items():
        if key == "id":
            yield key, prefix + value
        elif key in (LINK, "href") and value.startswith("#"):
            yield "href", f"#{prefix}{value[1:]}"
        elif key in PLACES | LOOKS:
            if found := re.fullmatch(r"url\(#([^)]+)\)", value):
                yield key, f"url(#{prefix}{found[1]})"
            elif "url" not in value.lower():
                yield key, re.sub(r"(\.\d\d)\d+", r"\1", value) if key in ("d", "x", "y", "points") else value


def _looks(style: str) -> dict[str, str]:
    """The declarations of a `style`, with `font` taken apart."""
    found = {}
    for declaration in style.split(";"):
        key, _, value = (part.strip() for part in declaration.partition(":"))
        if key == "font" and (font := re.fullmatch(r"(?:(italic|oblique) )?(?:(bold|\d+) )?([\d.]+px) (.+)", value)):
            slant, weight, size, family = font.groups()
            found.update({"font-size": size, "font-family": family})
            found.update({"font-style": slant} if slant else {})
            found.update({"font-weight": weight} if weight else {})
        elif key in LOOKS:
            found[key] = value
    return found
