"""What the figures of the book are drawn with: an SVG drawing in the book's colours."""

import math
from html import escape

from tiny_llm_lab import PROJECT_ROOT

FIGURES = PROJECT_ROOT / "book" / "src" / "figures"

# The book's style sheet sets these; the fallbacks are for a figure that is opened by itself.
INK = "currentColor"
ACCENT = "var(--fig-accent, #b4460a)"
ACCENT_2 = "var(--fig-accent-2, #1a6fb0)"
MUTED = "var(--fig-muted, #777)"
FILL = "var(--fig-fill, #8881)"

TIMES = "\N{MULTIPLICATION SIGN}"

Point = tuple[float, float]


class Figure:
    """An SVG drawing, 360 units wide, so that a unit is about a pixel on a phone."""

    WIDTH = 360

    def __init__(self, height: int, title: str, description: str) -> None:
        """Start an empty drawing; title and description are what a screen reader reads."""
        self.lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.WIDTH} {height}" '
            'role="img" font-size="13" fill="currentColor" '
            'style="font-family: inherit; max-width: 450px; max-height: none; '
            'margin-inline: auto">',
            f"<title>{escape(title)}</title>",
            f"<desc>{escape(description)}</desc>",
        ]

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = 13,
        anchor: str = "middle",
        color: str = INK,
        bold: bool = False,
    ) -> None:
        """Write a line of text with its vertical middle at `y`."""
        weight = ' font-weight="bold"' if bold else ""
        self.lines.append(
            f'<text x="{x:g}" y="{y + 0.35 * size:.4g}" text-anchor="{anchor}" '
            f'font-size="{size:g}" fill="{color}"{weight}>{escape(text)}</text>'
        )

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        text: str = "",
        *,
        size: float = 13,
        fill: str = FILL,
        opacity: float = 1,
        stroke: str = INK,
        radius: float = 5,
    ) -> None:
        """Draw a rectangle with a text in its middle."""
        self.lines.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}" '
            f'fill="{fill}" fill-opacity="{opacity:g}" stroke="{stroke}" stroke-width="1.2"/>'
        )
        if text:
            self.text(x + width / 2, y + height / 2, text, size=size)

    def line(
        self, *points: Point, color: str = INK, width: float = 1.4, dashed: bool = False
    ) -> None:
        """Draw a line through points."""
        path = "M" + "L".join(f"{x:.4g} {y:.4g}" for x, y in points)
        dashes = ' stroke-dasharray="4 3"' if dashed else ""
        self.lines.append(
            f'<path d="{path}" fill="none" stroke="{color}" stroke-width="{width:g}"{dashes}/>'
        )

    def arrow(self, *points: Point, color: str = INK, width: float = 1.4) -> None:
        """Draw a line through points with a head at the last one."""
        (x0, y0), (x1, y1) = points[-2:]
        angle = math.atan2(y1 - y0, x1 - x0)
        head = 7.0
        base = (x1 - head * math.cos(angle), y1 - head * math.sin(angle))
        self.line(*points[:-1], base, color=color, width=width)
        side = (3.5 * math.sin(angle), -3.5 * math.cos(angle))
        corners = [(x1, y1), (base[0] + side[0], base[1] + side[1])]
        corners.append((base[0] - side[0], base[1] - side[1]))
        path = "L".join(f"{x:.4g} {y:.4g}" for x, y in corners)
        self.lines.append(f'<path d="M{path}Z" fill="{color}"/>')

    def circle(self, x: float, y: float, radius: float, *, fill: str = FILL) -> None:
        """Draw a circle."""
        self.lines.append(
            f'<circle cx="{x:g}" cy="{y:g}" r="{radius:g}" fill="{fill}" stroke="{INK}" '
            'stroke-width="1.2"/>'
        )

    def shape(self, y: float, shape: str) -> None:
        """Write the shape of what is at height `y` at the right edge."""
        text = shape.replace(" x ", f" {TIMES} ")
        self.text(352, y, text, size=12, anchor="end", color=ACCENT)

    def operator(self, x: float, y: float, sign: str) -> None:
        """Draw a circled operator."""
        self.circle(x, y, 11)
        self.text(x, y, sign, size=16)

    def svg(self) -> str:
        """The finished file."""
        return "\n".join([*self.lines, "</svg>", ""])
