"""Address spaces, checked by clang's "C++ for OpenCL" mode, in which they are part of the types.

For the host's compiler `device`, `threadgroup`, `constant` and `thread` are empty macros; for clang
they are OpenCL's `__global`, `__local`, `__constant` and `__private`. The kernel is parsed behind
`language/address_spaces.h`. Clang says much about Metal that is not so, since it does not know
Metal: only messages of the kinds that are listed here count, all others are dropped.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from .tokens import ADDRESS_SPACES, Token, is_code, matching, neighbor, text_of, tokenize

try:
    from clang import cindex
except ImportError:  # the wheel is missing: nothing is found
    cindex = None

_HEADER = Path(__file__).parent / "language" / "address_spaces.h"
_FILE = "kernel.clcpp"
_ARGUMENTS = (
    *("-x", "clcpp", "-cl-std=clc++2021", "-target", "spir64", "-cl-single-precision-constant"),
    *("-nostdinc", "-cl-no-stdinc", "-Wno-everything", "-ferror-limit=0"),
    *("-D__METAL__=1", "-D__METAL_VERSION__=320", "-include", str(_HEADER)),
)
_METAL_SPACES = {
    "__global": "device",
    "__local": "threadgroup",
    "__constant": "constant",
    "__private": "thread",
}
_SPACE = re.compile("|".join(_METAL_SPACES))
_VECTOR = re.compile(r"(u?char|u?short|u?int|u?long|half|float)[234]")
_CLASSES = ("struct", "class", "union", "threadgroup")
_BEFORE_A_DECLARATION = (";", "{", "}", ":", ")", ">", "]]", "else", "do")

Found = tuple[int, str]  # a line and what is wrong there


def available() -> bool:
    """Whether libclang can be loaded; without it nothing is found."""
    return _index() is not None


@cache
def declared_names() -> frozenset[str]:
    """The names in the declarations of Metal."""
    return frozenset(re.findall(r"\w\w+", _HEADER.read_text()))


@cache
def _index() -> Any:
    if cindex is None:
        return None
    try:
        return cindex.Index.create()
    except (cindex.LibclangError, OSError):
        return None


def find(source: str, template: str = "") -> list[Found]:
    """What is wrong with the address spaces of a kernel, by line.

    Args:
        source: Metal text: headers, the kernel's signature and its body.
        template: the arguments of the kernel's template, such as `float, 64, true`.
    """
    index = _index()
    if index is None:
        return []
    tokens = tokenize(source.encode("ascii", "replace").decode())  # clang counts bytes
    _prepare(tokens, template)
    text = text_of(tokens)
    try:
        unit = index.parse(_FILE, args=_ARGUMENTS, unsaved_files=[(_FILE, text)])
    except cindex.TranslationUnitLoadError:
        return []
    optional = list(_optional_lines(tokens))
    found = [*_from_diagnostics(unit, text), *_unqualified(unit, tokens)]
    return [(line, message) for line, message in found if not any(line in r for r in optional)]


# --- the source for clang -------------------------------------------------------------------------


def _prepare(tokens: list[Token], template: str) -> None:
    """Rewrite what this mode of clang does not accept; all lines keep their numbers."""
    for token in tokens:
        if token.kind == "directive" and re.match(
            r"\s*#\s*(include|import|pragma|line)", token.text
        ):
            token.blank()
    if template:
        _fill_in_the_template(tokens, template)
    for i, token in enumerate(tokens):
        if token.is_symbol("[["):
            for unused in tokens[i : matching(tokens, i) + 1]:
                unused.blank()
    for variable in threadgroup_variables(tokens):
        variable.bind(tokens)
    for i, token in enumerate(tokens):
        if token.kind == "name" and _VECTOR.fullmatch(token.text):
            _vector_literal(tokens, i)


def _fill_in_the_template(tokens: list[Token], template: str) -> None:
    """`template <typename T, int D> [[kernel]]` becomes `using T = float; constexpr int D = 64;`.

    Clang stops at the first wrong declaration when it instantiates a template; a plain function is
    checked to its end.
    """
    for i in reversed(range(len(tokens))):  # the kernel itself is the last one
        opening = neighbor(tokens, i, 1)
        if not tokens[i].is_name("template") or opening >= len(tokens):
            continue
        if not tokens[opening].is_symbol("<"):
            continue
        closing = matching(tokens, opening)
        attribute = neighbor(tokens, closing, 1)
        if "".join(t.text for t in tokens[attribute : attribute + 3]) != "[[kernel]]":
            continue
        parameters = _split(text_of(tokens[opening + 1 : closing]))
        arguments = _split(template)
        if len(parameters) != len(arguments):
            return
        for unused in tokens[i : closing + 1]:
            unused.blank()
        for parameter, argument in zip(parameters, arguments, strict=True):
            kind, _, name = parameter.rpartition(" ")
            is_type = kind in ("typename", "class")
            definition = (
                f"using {name} = {argument};" if is_type else f"constexpr {parameter} = {argument};"
            )
            tokens[closing].text += definition
        return


def _split(text: str) -> list[str]:
    """The parts between the commas that no bracket encloses."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "(<[{") - (character in ")>]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [" ".join(part.split()) for part in parts]


def _vector_literal(tokens: list[Token], place: int) -> None:
    """`float4(a, b, c, d)` is `(float4)(a, b, c, d)` in OpenCL."""
    before, after = neighbor(tokens, place, -1), neighbor(tokens, place, 1)
    if after >= len(tokens) or not tokens[after].is_symbol("(") or before < 0:
        return
    if tokens[before].is_symbol("::"):
        owner = neighbor(tokens, before, -1)
        if not tokens[owner].is_name("metal"):
            return
        tokens[owner].blank()
        tokens[before].blank()
        before = neighbor(tokens, owner, -1)
    if tokens[before].kind == "symbol" or tokens[before].is_name("return"):
        tokens[place].text = f"({tokens[place].text})"


@dataclass
class ThreadgroupVariable:
    """One variable of a declaration `threadgroup TYPE name[SIZE];`."""

    place: int  # of its name in the tokens
    type_places: range  # of TYPE
    dimensions: range  # of `[SIZE]`
    end: int  # the place of the comma or semicolon after it
    initialized: bool
    first: int  # the place of the word `threadgroup`

    def bind(self, tokens: list[Token]) -> None:
        """Make it a reference, which clang allows in every block and in every function."""
        kind = _joined(tokens, self.type_places)
        dimensions = _joined(tokens, self.dimensions)
        name = tokens[self.place]
        start = "" if self.place == self.type_places.stop else f"threadgroup {kind} "
        name.text = (
            f"{start}(&{name.text}){dimensions} = threadgroup_variable<{kind}{dimensions}>()"
        )
        for token in tokens[self.place + 1 : self.end]:
            token.blank()
        tokens[self.end].text = ";"


def _joined(tokens: list[Token], places: range) -> str:
    return " ".join(tokens[i].text for i in places if is_code(tokens[i]))


def threadgroup_variables(tokens: list[Token]) -> list[ThreadgroupVariable]:
    """The threadgroup variables that the tokens declare: no pointers, references or parameters."""
    variables: list[ThreadgroupVariable] = []
    depth = 0  # of parentheses: in a parameter list no variable is declared
    for i, token in enumerate(tokens):
        if token.is_symbol("(", ")"):
            depth += 1 if token.text == "(" else -1
        elif token.is_name("threadgroup") and depth == 0:
            variables.extend(_declared_by(tokens, i))
    return variables


def _declared_by(tokens: list[Token], first: int) -> Iterator[ThreadgroupVariable]:
    before = neighbor(tokens, first, -1)
    while before >= 0 and tokens[before].text in ("const", "volatile", "static"):
        before = neighbor(tokens, before, -1)
    if before >= 0 and tokens[before].text not in _BEFORE_A_DECLARATION:
        return
    name = neighbor(tokens, first, 1)
    while True:  # the name is the one that an array size, comma, semicolon or initializer follows
        if name >= len(tokens) or tokens[name].kind != "name":
            return
        after = neighbor(tokens, name, 1)
        while after < len(tokens) and tokens[after].is_symbol("<", "::"):
            closing = matching(tokens, after) if tokens[after].text == "<" else after
            after = neighbor(tokens, closing, 1)
            if tokens[closing].is_symbol("::"):
                after = neighbor(tokens, after, 1)
        if after >= len(tokens):
            return
        if tokens[after].is_symbol("{") and tokens[neighbor(tokens, name, -1)].text in _CLASSES:
            return  # a structure that is declared here
        if tokens[after].is_symbol("[", ",", ";", "=", "{"):
            break
        name = after
    type_places = range(first + 1, name)
    while True:
        place = name
        end = neighbor(tokens, place, 1)
        while end < len(tokens) and tokens[end].is_symbol("["):
            end = neighbor(tokens, matching(tokens, end), 1)
        dimensions = range(place + 1, end)
        initialized = end < len(tokens) and tokens[end].is_symbol("=", "{")
        while end < len(tokens) and not tokens[end].is_symbol(",", ";"):
            closing = matching(tokens, end) if tokens[end].is_symbol("(", "{", "[") else end
            end = neighbor(tokens, closing, 1)
        if end >= len(tokens):
            return
        yield ThreadgroupVariable(place, type_places, dimensions, end, initialized, first)
        name = neighbor(tokens, end, 1)
        if tokens[end].is_symbol(";") or name >= len(tokens) or tokens[name].kind != "name":
            return


def _optional_lines(tokens: list[Token]) -> Iterator[range]:
    """The lines of `if constexpr` with its branches: clang checks even those that are not taken."""
    for i, token in enumerate(tokens):
        opening = neighbor(tokens, i, 1)
        if not token.is_name("constexpr") or opening >= len(tokens):
            continue
        if not tokens[neighbor(tokens, i, -1)].is_name("if") or tokens[opening].text != "(":
            continue
        place = neighbor(tokens, matching(tokens, opening), 1)
        while place < len(tokens):
            end = _end_of_statement(tokens, place)
            otherwise = neighbor(tokens, end, 1)
            if otherwise >= len(tokens) or not tokens[otherwise].is_name("else"):
                yield range(token.line, tokens[end].line + 1)
                break
            place = neighbor(tokens, otherwise, 1)


def _end_of_statement(tokens: list[Token], place: int) -> int:
    while place < len(tokens) - 1 and not tokens[place].is_symbol(";"):
        if tokens[place].is_symbol("{"):
            return matching(tokens, place)
        closing = matching(tokens, place) if tokens[place].is_symbol("(") else place
        place = neighbor(tokens, closing, 1)
    return min(place, len(tokens) - 1)


# --- clang's messages -----------------------------------------------------------------------------

_QUOTED = r"'([^']*)'(?: \(aka '([^']*)'\))?"
_TO_FROM = re.compile(
    rf"(?:cannot initialize .* of type|assigning to|binding reference of type) {_QUOTED} "
    rf"(?:with an? .value of type|from incompatible type|to value of type) {_QUOTED}"
)
_FROM_TO = re.compile(
    rf"(?:(?:\S+ cast|reinterpret_cast|static_cast) from|assigning|no known conversion from) "
    rf"{_QUOTED} to {_QUOTED}"
)
# Notes on a candidate for a call: what is given, then what is expected, or the reverse.
_GIVEN_EXPECTED = (
    re.compile(
        r"cannot pass pointer to address space '(\w+)' as a pointer to address space '(\w+)'"
    ),
    re.compile(
        r"cannot bind reference in address space '(\w+)' to object in address space '(\w+)'"
    ),
)
_EXPECTED_GIVEN = (
    re.compile(r"cannot deduce a type for '\w+' that would make '([^']*)' equal '([^']*)'"),
    re.compile(r"deduced type '([^']*)' of .* parameter does not match adjusted type '([^']*)'"),
    re.compile(r"could not match '([^']*)' against '([^']*)'"),
)
_TO_BFLOAT = re.compile(
    rf"no (?:viable|known) conversion from (?:returned value of type )?{_QUOTED} to "
    r"(?:function return type )?'[^']*\bbfloat(?:16_t)?\b[ &]*(?:__private)?'"
)
_NOT_CONSTANT = re.compile(
    r"read of non-const variable '(\w+)'|function parameter '(\w+)' with unknown value"
    r"|initializer of '(\w+)' is not a constant expression"
)


def _from_diagnostics(unit: Any, text: str) -> Iterator[Found]:
    for diagnostic in unit.diagnostics:
        place = diagnostic.location
        if diagnostic.severity < cindex.Diagnostic.Error or not _in_kernel(place):
            continue
        message = _message(diagnostic, text)
        if message:
            yield place.line, message


def _in_kernel(place: Any) -> bool:
    return place.file is not None and place.file.name == _FILE


def _message(diagnostic: Any, text: str) -> str | None:
    """What a diagnostic means to a student; None if it is of no kind that counts."""
    said = diagnostic.spelling
    pair = _spaces(said)
    if pair:
        return _wrong_space(*pair, "cast to" if "cast from" in said else "used as")
    if said.startswith("no matching"):
        return _no_matching_function(diagnostic)
    if said.startswith(("no viable conversion from", "no viable overloaded '='")):
        texts = [said, *(note.spelling for note in diagnostic.children)]
        # Of `c ? a : b` with bfloat in two address spaces, clang makes a float.
        if "?" in _statement(text, diagnostic.location.offset):
            return None
        return _FLOAT_TO_BFLOAT if any(_float_to_bfloat(t) for t in texts) else None
    if said.startswith(("array size is not a constant", "variable length array")):
        return _dynamic_size(diagnostic, text)
    if said.startswith(("read-only variable is not assignable", "cannot assign to variable")):
        return _write_to_const(text, diagnostic.location.offset)
    ambiguous = re.fullmatch(r"call to '(max|min|clamp)' is ambiguous", said)
    if ambiguous:
        example = "clamp(x, 0.0f, 1.0f)" if ambiguous[1] == "clamp" else f"{ambiguous[1]}(x, 0.0f)"
        return (
            f"The arguments of `{ambiguous[1]}` have different types, so Metal cannot choose one "
            f"of its versions: convert them to one type, as in `{example}`."
        )
    return None


def _statement(text: str, offset: int) -> str:
    """The statement around a place of the text."""
    start = max(text.rfind(mark, 0, offset) for mark in ";{}")
    return text[start + 1 : text.find(";", offset)]


def _dynamic_size(diagnostic: Any, text: str) -> str | None:
    for note in diagnostic.children:
        reason = _NOT_CONSTANT.search(note.spelling)
        if reason is None:
            continue
        name = reason[1] or reason[2] or reason[3]
        if reason[3]:
            # A function of Metal may be constant there. Without a call there is no doubt.
            value = re.search(rf"\b{name}\s*=([^;]*);", text)
            if value is None or "(" in value[1]:
                return None
        return (
            f"The size of this array depends on `{name}`, which is known only when the kernel "
            "runs: Metal needs a constant, such as a template argument."
        )
    return None


_FLOAT_TO_BFLOAT = (
    "A float does not become a bfloat by itself in Metal: write the conversion, as in "
    "`bfloat16_t(x)` or `T(x)`."
)


def _float_to_bfloat(said: str) -> bool:
    found = _TO_BFLOAT.search(said)
    return found is not None and (found[2] or found[1]).split()[-1] == "float"


def _spaces(said: str) -> tuple[str, str] | None:
    """The two different address spaces, from and to, that a message is about."""
    match = _TO_FROM.match(said)
    if match:
        target, source = match[2] or match[1], match[4] or match[3]
    else:
        match = _FROM_TO.search(said)
        if not match:
            return None
        source, target = match[2] or match[1], match[4] or match[3]
    pair = _space(source), _space(target)
    return (pair[0], pair[1]) if pair[0] and pair[1] and pair[0] != pair[1] else None


def _space(kind: str) -> str | None:
    """Metal's word for the memory that a pointer, reference or array type is about, if known."""
    pointee, star, _ = kind.rpartition("*")
    if not star and "[" not in kind and "&" not in kind:
        return None  # a value: its address space does not matter
    return None if "*" in pointee else _only_space(kind)


def _only_space(kind: str) -> str | None:
    """Metal's word for the one address space in a type. That of a pointer itself is left out."""
    spaces = _SPACE.findall(re.sub(r"\*\s*(const\s+)?__private", "*", kind).split("<")[0])
    return _METAL_SPACES[spaces[0]] if len(spaces) == 1 else None


def _wrong_space(source: str, target: str, used: str) -> str:
    return (
        f"Memory in the `{source}` address space is {used} `{target}` memory: "
        f"write `{source}` in the type of the pointer or reference, or copy the values."
    )


def _no_matching_function(diagnostic: Any) -> str | None:
    """A call of one of the kernel's own functions that fails for an address space or a const."""
    name = diagnostic.spelling.split("'")[1].removeprefix("__private ")
    reasons = []
    for note in diagnostic.children:
        said = note.spelling
        if not said.startswith("candidate"):
            continue
        if not _in_kernel(note.location):
            return None  # a function of Metal: our declarations may be incomplete
        if re.search(r"requires .* arguments?, but|\(the implicit ", said):
            continue
        reason = _why_not(said, name)
        if reason is None:
            return None
        reasons.append(reason)
    return reasons[0] if reasons else None


def _why_not(said: str, name: str) -> str | None:
    """Why a candidate for a call does not fit, if it is for a reason that counts."""
    if "would lose const qualifier" in said:
        return (
            f"`{name}` may write through its parameter, but the argument is const, as all inputs "
            "of a kernel are: declare the parameter as a pointer to const."
        )
    if _float_to_bfloat(said):
        return _FLOAT_TO_BFLOAT
    given, expected = _spaces(said) or (None, None)
    for pattern in (*_GIVEN_EXPECTED, *_EXPECTED_GIVEN):
        match = pattern.search(said)
        if match:
            given, expected = _only_space(match[1]), _only_space(match[2])
            if pattern in _EXPECTED_GIVEN:
                given, expected = expected, given
    if not given or not expected or given == expected:
        return None
    return (
        f"`{name}` expects `{expected}` memory, but the argument is in the `{given}` address "
        f"space: give `{name}` a version whose parameter is `{given}`."
    )


def _write_to_const(text: str, offset: int) -> str:
    """The name stands before the operator, or after it as in `++x[0]`."""
    line = text[text.rfind("\n", 0, offset) + 1 : offset]
    before = re.search(r"(\w+)\s*(?:\[.*\])?(?:\.\w+)?\s*$", line)
    after = re.match(r"\W*(\w+)", text[offset:])
    name = before[1] if before else after[1] if after else "this"
    return (
        f"`{name}` is const and cannot be written: inputs of a kernel and `constant` memory are "
        "only read; write to an output or to a variable of your own."
    )


# --- pointers and references without an address space --------------------------------------------


def _unqualified(unit: Any, tokens: list[Token]) -> Iterator[Found]:
    """Each `*` or `&` of a declaration or cast in which no address space is written."""
    file = unit.get_file(_FILE)
    offset = 0
    for i, token in enumerate(tokens):
        if token.is_symbol("*", "&") and _may_declare(tokens, i):
            place = cindex.SourceLocation.from_offset(unit, file, offset)
            message = _missing_space(cindex.Cursor.from_location(unit, place), token.text)
            if message:
                yield token.line, message
        offset += len(token.text)


def _may_declare(tokens: list[Token], place: int) -> bool:
    """Whether the tokens before read like a type without an address space."""
    i = neighbor(tokens, place, -1)
    words = []
    depth = 0
    while i >= 0 and (depth or tokens[i].kind == "name" or tokens[i].is_symbol("::", ">")):
        depth += tokens[i].is_symbol(">") - tokens[i].is_symbol("<")
        if not depth:
            words.append(tokens[i].text)
        if tokens[i].is_symbol(";", "{", "}"):
            return False
        i = neighbor(tokens, i, -1)
    if not words or words[0] in ("return", "operator"):
        return False
    if ADDRESS_SPACES & set(words) or {"auto", "decltype", "using", "typedef"} & set(words):
        return False
    end = neighbor(tokens, place, 1)
    if end < len(tokens) and tokens[end].text in ADDRESS_SPACES:
        return False
    while end < len(tokens) and not tokens[end].is_symbol("{", ";"):
        if tokens[end].text in ("default", "delete"):
            return False
        end = neighbor(tokens, end, 1)
    return True


def _missing_space(cursor: Any, symbol: str) -> str | None:
    kinds = cindex.CursorKind
    casts = (kinds.CSTYLE_CAST_EXPR, kinds.CXX_STATIC_CAST_EXPR, kinds.CXX_REINTERPRET_CAST_EXPR)
    if cursor.kind not in (kinds.VAR_DECL, kinds.PARM_DECL, kinds.FIELD_DECL, *casts):
        return None
    cursor = _as_written(cursor)
    kind = cursor.type
    while kind.kind == cindex.TypeKind.CONSTANTARRAY:
        kind = kind.element_type
    if kind.kind not in (cindex.TypeKind.POINTER, cindex.TypeKind.LVALUEREFERENCE):
        return None
    canonical = kind.get_pointee().get_canonical()
    if canonical.kind == cindex.TypeKind.FUNCTIONPROTO:
        return None
    pointee = canonical.spelling
    if not (_is_generic(pointee) or _is_of_template(pointee, cursor)):
        return None
    what = "pointer" if symbol == "*" else "reference"
    where = "This cast's type" if cursor.kind in casts else f"`{cursor.spelling}`"
    return (
        f"{where} is a {what} without an address space: write `device`, `threadgroup`, `constant` "
        f"or `thread` before its type."
    )


def _as_written(cursor: Any) -> Any:
    """The declaration in the template, if the cursor stands in an instance of it."""
    function = cursor.semantic_parent
    if function is None or function.kind != cindex.CursorKind.FUNCTION_DECL:
        return cursor
    template = cindex.conf.lib.clang_getSpecializedCursorTemplate(function)
    for other in template.walk_preorder() if template else ():
        if other.kind == cursor.kind and other.location.offset == cursor.location.offset:
            return other
    return cursor


def _is_generic(pointee: str) -> bool:
    """Clang adds `__generic` where no address space is written."""
    return "__generic" in pointee.split("<")[0]


def _is_of_template(pointee: str, cursor: Any) -> bool:
    """Clang adds nothing to the types that depend on the parameters of a function template."""
    if "type-parameter" not in pointee or "typename" in pointee or "__" in pointee:
        return False
    function = cursor.semantic_parent
    if function is None or function.kind != cindex.CursorKind.FUNCTION_TEMPLATE:
        return False
    return function.semantic_parent.kind in (
        cindex.CursorKind.TRANSLATION_UNIT,
        cindex.CursorKind.NAMESPACE,
    )
