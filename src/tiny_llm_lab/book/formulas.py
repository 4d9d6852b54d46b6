"""Formulas: LaTeX to MathML, which every current browser shows without a script."""

import re
from itertools import zip_longest
from xml.etree import ElementTree

from latex2mathml.converter import convert

# Elements with a fixed number of children: one missing means that an argument was forgotten.
_ARITY = {
    "mfrac": 2, "mroot": 2, "msub": 2, "msup": 2, "munder": 2, "mover": 2,
    "msubsup": 3, "munderover": 3,
}  # fmt: skip
# Characters that Markdown would read as its own in the text of the formula.
_MARKDOWN = re.compile(r"[\\`*_{}\[\]#|~$]")
# The converter takes a colon and most arrows for names, which have no space around them.
_RELATION = re.compile("[:\u2190-\u21ff\u27f0-\u27ff]")
_THIN_SPACE = "0.167em"


def render_formula(latex: str, display: bool) -> str:
    """Translate a formula.

    Args:
        latex: the formula, without its dollar signs.
        display: True for a formula in a line of its own.

    Returns:
        A `<math>` element in one line, safe to stand in Markdown.

    Raises:
        ValueError: the LaTeX is wrong, or uses a command that is not supported.
    """
    bare = re.sub(r"\\[{}]", "", latex)
    if bare.count("{") != bare.count("}"):
        raise ValueError("its braces do not match")
    # The converter knows align* only; aligned is the usual name inside a formula.
    source = re.sub(r"\\(begin|end)\{aligned\}", r"\\\1{align*}", latex)
    try:
        # Parsing removes the prefix that the namespace would otherwise get on every element.
        mathml = convert(source, display="block" if display else "inline")
        math = ElementTree.fromstring(
            mathml.replace(' xmlns="http://www.w3.org/1998/Math/MathML"', "")
        )
    except ElementTree.ParseError:
        raise ValueError("an & stands outside of a matrix") from None
    except Exception as error:  # The converter raises many unrelated classes.
        raise ValueError(f"LaTeX error: {type(error).__name__} {error}".rstrip()) from None
    _check(math)
    _improve(math)
    if not display:
        del math.attrib["display"]
    text = ElementTree.tostring(math, encoding="unicode", short_empty_elements=False)
    parts = re.split(r"(<[^>]*>)", " ".join(text.split()))
    return "".join(
        part if part.startswith("<") else _MARKDOWN.sub(lambda m: f"&#{ord(m[0])};", part)
        for part in parts
    )


def _check(math: ElementTree.Element) -> None:
    for element in math.iter():
        if element.text and element.tag == "mtext":
            element.text = re.sub(r"\\([_&%#$])", r"\1", element.text)
        if element.text and "\\" in element.text:
            raise ValueError(f"{element.text} is not a supported command")
        if element.get("linebreak"):
            raise ValueError("a line break stands outside of an environment")
        if len(element) != _ARITY.get(element.tag, len(element)):
            raise ValueError("an argument is missing")


def _improve(parent: ElementTree.Element) -> None:
    r"""Make words whole and give function names the space that TeX gives them.

    The converter spells `\mathrm{softmax}` as seven letters, and puts no space into `\cos x`, but
    too much into `a / b`.
    """
    children: list[ElementTree.Element] = []
    for child in parent:
        _improve(child)
        previous = children[-1] if children else None
        if _is_upright_letter(child) and previous is not None and _is_upright_letter(previous):
            previous.text = f"{previous.text}{child.text}"
            continue
        children.append(child)
    parent[:] = []
    for child, following in zip_longest(children, children[1:]):
        parent.append(child)
        if _is_upright_letter(child) and len(child.text or "") > 1:
            # Names of several letters are upright by themselves; the attribute is only for one.
            del child.attrib["mathvariant"]
        if child.tag == "mo" and (child.text or "").isalpha() and (child.text or "").isascii():
            child.tag = "mi"
            child.attrib.clear()
        if child.tag == "mi" and _RELATION.fullmatch(child.text or ""):
            child.tag = "mo"
        if child.tag == "mo" and child.text == "/":
            child.attrib.update(lspace="0", rspace="0")
        starts_group = following is not None and (following.text or "") in ("(", "[", "{")
        if (
            parent.tag in ("mrow", "math", "mtd")
            and _is_function(child)
            and not (following is None or starts_group or following.tag in ("mo", "mspace"))
        ):
            parent.append(ElementTree.Element("mspace", width=_THIN_SPACE))


def _is_upright_letter(element: ElementTree.Element) -> bool:
    return element.tag == "mi" and element.get("mathvariant") == "normal"


def _is_function(element: ElementTree.Element) -> bool:
    """Whether an element is the name of a function, such as `max` with or without a subscript."""
    if element.tag in ("msub", "msup", "msubsup", "munder", "munderover"):
        return _is_function(element[0])
    text = element.text or ""
    return element.tag == "mi" and len(text) > 1 and text.isalpha() and text.isascii()
