"""What Apple's Metal compiler refuses, but the host's C++ compiler accepts.

Metal is C++ without some of its parts, plus address spaces. The parts are found in the tokens here;
the address spaces are left to `address_spaces.py`, which needs libclang. To refuse a right kernel
is worse than to let a wrong one pass: in doubt nothing is said.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from . import address_spaces
from .address_spaces import Found, threadgroup_variables
from .tokens import Token, is_code, matching, neighbor, text_of, tokenize

_WORDS = {
    "double": "Metal has no `double`: use `float`.",
    "new": "Metal has no `new`: declare an array of constant size, or pass a buffer to the kernel.",
    "delete": "Metal has no `delete`: there is no memory to allocate.",
    "virtual": "Metal has no virtual functions: use templates or overloads.",
    "try": "Metal has no exceptions: return a value that tells the error.",
    "catch": "Metal has no exceptions: return a value that tells the error.",
    "throw": "Metal has no exceptions: return a value that tells the error.",
    "goto": "Metal has no `goto`: use a loop with `break` or `continue`.",
    "thread_local": "Metal has no `thread_local`: local variables already belong to one thread.",
    "typeid": "Metal has no `typeid`: compare types with `metal::is_same_v`.",
    "dynamic_cast": "Metal has no `dynamic_cast`: use templates or overloads.",
}
_PRINTING = {"printf", "fprintf", "puts"}
_STANDARD_HEADERS = frozenset(
    re.findall(
        r"\S+",
        """
        algorithm array assert.h atomic bit bitset cassert cctype cfloat chrono climits cmath
        complex cstddef cstdint cstdio cstdlib cstring ctime deque exception fstream functional
        initializer_list iomanip iostream iterator limits list map math.h memory mutex new numeric
        optional ostream queue random ratio set span sstream stack stdexcept stdio.h stdlib.h
        string string.h string_view thread time.h tuple type_traits typeinfo unordered_map
        unordered_set utility variant vector
        """,
    )
)
# Functions that may declare threadgroup variables, or whose rules are others.
_ENTRY_POINTS = {"kernel", "vertex", "fragment", "mesh", "object", "visible", "stitchable"}
_NOT_FUNCTIONS = {"if", "for", "while", "switch", "decltype", "sizeof", "alignas", "return"}


@dataclass(frozen=True)
class Refusal:
    """A place that Apple's compiler refuses."""

    file: str  # the section's name, such as "matmul.metal" or "matmul [source]"
    line: int  # 1-based in that section
    message: str  # one sentence or two: what is wrong and what to write instead


def find_refusals(
    kernel_name: str, sections: list[tuple[str, str]], *, template: str = ""
) -> list[Refusal]:
    """What Apple's compiler would refuse in a kernel, in the order of the text.

    Args:
        kernel_name: names places that belong to no section.
        sections: (name, Metal text), which together are the kernel: headers, signature, body.
        template: the arguments of the kernel's template, such as `float, 64, true`.
    """
    starts, source = [], ""
    for _, text in sections:
        starts.append(source.count("\n") + 1)
        source += text if text.endswith("\n") else text + "\n"
    tokens = _unconditional(tokenize(source))
    functions = list(_functions(tokens))
    found = {
        *_forbidden_words(tokens),
        *_standard_library(tokens),
        *_static_variables(tokens, functions),
        *_threadgroup_variables(tokens, functions),
        *_recursion(tokens, functions),
        *address_spaces.find(source, template),
    }
    refusals = []
    for line, message in sorted(found):
        section = bisect_right(starts, line) - 1
        name = sections[section][0] if sections else kernel_name
        refusals.append(Refusal(name, line - starts[section] + 1, message))
    return refusals


def _unconditional(tokens: list[Token]) -> list[Token]:
    """Blank what stands between `#if` and `#endif`: it may not be compiled. Include guards stay."""
    directives = [t for t in tokens if t.kind == "directive"]
    following = dict(zip(map(id, directives), directives[1:], strict=False))
    conditions: list[bool] = []  # of each open `#if`: whether it may leave out its text
    for token in tokens:
        if token.kind != "directive":
            if any(conditions):
                token.blank()
            continue
        words = re.findall(r"\w+", token.text)
        if words and words[0].startswith("if"):
            after = following.get(id(token))
            guard = words[0] == "ifndef" and after is not None
            defined = re.findall(r"\w+", after.text)[:2] if guard and after else []
            conditions.append(defined != ["define", words[-1]])
        elif words and words[0] == "endif" and conditions:
            conditions.pop()
        if any(conditions):
            token.blank()
    return tokens


# --- words ----------------------------------------------------------------------------------------


def _forbidden_words(tokens: list[Token]) -> Iterator[Found]:
    for i, token in enumerate(tokens):
        if token.kind != "name":
            continue
        before, after = _around(tokens, i)
        if token.text in _WORDS:
            # `= delete` removes a function; `operator new` is a name.
            if not (before == "=" and token.text == "delete") and before != "operator":
                yield token.line, _WORDS[token.text]
        elif token.text in _PRINTING and after == "(" and before in (";", "{", "}", ")", ""):
            yield (
                token.line,
                f"Metal has no `{token.text}`: write values to an output, and print it in Python.",
            )


def _around(tokens: list[Token], place: int) -> tuple[str, str]:
    """The texts of the tokens before and after a place; empty at the ends."""
    before, after = neighbor(tokens, place, -1), neighbor(tokens, place, 1)
    return (
        tokens[before].text if before >= 0 else "",
        tokens[after].text if after < len(tokens) else "",
    )


def _standard_library(tokens: list[Token]) -> Iterator[Found]:
    places = [i for i, token in enumerate(tokens) if token.is_name("std")]
    is_own = any(_around(tokens, i) == ("namespace", "{") for i in places)
    for i in [] if is_own else places:
        before, after = _around(tokens, i)
        if before == "namespace" or after == "::":
            yield (
                tokens[i].line,
                "Metal has no C++ standard library: use Metal's own functions, such as "
                "`metal::max` for `std::max`.",
            )
    for token in tokens:
        header = re.match(r"\s*#\s*include\s*<([^>]*)>", token.text)
        if token.kind == "directive" and header and header[1] in _STANDARD_HEADERS:
            yield (
                token.line,
                f"Metal has no C++ standard library, so no `<{header[1]}>`: Metal's own functions "
                "are in the namespace `metal`.",
            )


# --- functions ------------------------------------------------------------------------------------


@dataclass
class _Function:
    """A function with a body."""

    name: str
    name_place: int
    head: range  # from the start of the declaration to the body
    body: range
    is_entry_point: bool

    def holds(self, place: int) -> bool:
        """Whether the place is in the body."""
        return place in self.body


def _functions(tokens: list[Token]) -> Iterator[_Function]:
    """The functions at namespace or class scope."""
    macros = _entry_point_macros(tokens)
    start = place = 0
    while place < len(tokens):
        token = tokens[place]
        if token.is_symbol(";", "}") or token.kind == "directive":
            start = place + 1
        elif token.is_symbol("("):
            place = matching(tokens, place)
        elif token.is_symbol("{"):
            name = _name_of_function(tokens, start, place)
            closing = matching(tokens, place)
            if name is not None:
                head = range(start, place)
                words = {tokens[i].text for i in head if is_code(tokens[i])}
                is_entry = bool(words & (_ENTRY_POINTS | macros))
                yield _Function(tokens[name].text, name, head, range(place, closing), is_entry)
            words = {tokens[i].text for i in range(start, place) if is_code(tokens[i])}
            if name is not None or not words & {"namespace", "struct", "class", "union", "extern"}:
                place = closing
            start = place + 1
        place += 1


def _name_of_function(tokens: list[Token], start: int, brace: int) -> int | None:
    """The place of the function's name, if what is before the brace declares one."""
    place = neighbor(tokens, start - 1, 1)
    while place < brace:
        token = tokens[place]
        if token.is_symbol("[[") or token.is_symbol("<"):
            place = matching(tokens, place)
        elif token.is_symbol("=") or token.is_name("namespace"):
            return None
        elif token.is_symbol("("):
            name = neighbor(tokens, place, -1)
            if name < start or tokens[name].kind != "name" or tokens[name].text in _NOT_FUNCTIONS:
                return None
            return name
        place = neighbor(tokens, place, 1)
    return None


def _entry_point_macros(tokens: list[Token]) -> set[str]:
    """Macros that may stand for `kernel` in a function's head."""
    names = set()
    for token in tokens:
        macro = re.match(r"\s*#\s*define\s+(\w+)", token.text)
        if token.kind == "directive" and macro and re.search(r"\bkernel\b", token.text):
            names.add(macro[1])
    return names


def _static_variables(tokens: list[Token], functions: list[_Function]) -> Iterator[Found]:
    for function in functions:
        for i in function.body:
            if not tokens[i].is_name("static"):
                continue
            end = i
            while end < function.body.stop and not tokens[end].is_symbol(";", "=", "{", "("):
                end += 1
            words = {tokens[k].text for k in range(i, end)}
            is_function = end < len(tokens) and tokens[end].is_symbol("(")
            if not is_function and not words & {"constexpr", "constant"}:
                yield (
                    tokens[i].line,
                    "A variable in a Metal function cannot be `static`: use a plain variable, or "
                    "`constant` memory outside of the function.",
                )


def _threadgroup_variables(tokens: list[Token], functions: list[_Function]) -> Iterator[Found]:
    for variable in threadgroup_variables(tokens):
        name = tokens[variable.place]
        if variable.initialized:
            yield (
                name.line,
                f"The threadgroup variable `{name.text}` cannot have an initializer: let threads "
                "write it, then call `threadgroup_barrier`.",
            )
        for function in functions:
            if function.holds(variable.place) and not function.is_entry_point:
                yield (
                    name.line,
                    f"The threadgroup variable `{name.text}` is declared in the function "
                    f"`{function.name}`: declare it in the kernel, and pass a pointer to it.",
                )


def _recursion(tokens: list[Token], functions: list[_Function]) -> Iterator[Found]:
    """Functions that call themselves, directly or through others.

    Calls are told by name. So only names that the kernel defines once, and Metal does not, count;
    nor do functions that the compiler may run (`constexpr`) or unroll (packs, template arguments).
    """
    names = [function.name for function in functions]
    counted = {
        f.name: f
        for f in functions
        if names.count(f.name) == 1
        and not _is_metals(f.name)
        and not any(tokens[i].is_name("constexpr") for i in (*f.head, *f.body))
        and "..." not in text_of([tokens[i] for i in f.head])
    }
    calls = {name: list(_calls(tokens, f, set(counted))) for name, f in counted.items()}
    for name in counted:
        for callee, line in calls[name]:
            reached, waiting = set(), [callee]
            while waiting:
                one = waiting.pop()
                if one not in reached:
                    reached.add(one)
                    waiting.extend(next_name for next_name, _ in calls[one])
            if name in reached:
                through = "" if callee == name else f" through `{callee}`"
                yield (
                    line,
                    f"`{name}` calls itself{through}, but Metal has no recursion: use a loop.",
                )


def _is_metals(name: str) -> bool:
    return name.startswith(("simd_", "quad_", "atomic_")) or name in address_spaces.declared_names()


def _calls(tokens: list[Token], function: _Function, names: set[str]) -> Iterator[tuple[str, int]]:
    for i in function.body:
        token = tokens[i]
        if token.kind != "name" or token.text not in names:
            continue
        before, after = _around(tokens, i)
        # `x.f()` and `scope::f()` may be other functions; `T f(...)` declares a variable.
        is_name = before.isidentifier() and before not in ("return", "else", "do")
        if after == "(" and not is_name and before not in (".", "->", "::"):
            yield token.text, token.line
