"""Metal to the C++ of `language/metal.h`: the few constructs that headers alone cannot give.

Address spaces are empty macros for the host's compiler, so a function overloaded on them only would
be defined twice, and `threadgroup float tile[16]` would be every thread's own array. Line numbers
stay as they are: what is removed leaves its line ends.
"""

import re

from .tokens import (
    ADDRESS_SPACES,
    Token,
    is_code,
    matching,
    neighbor,
    text_of,
    tokenize,
)

_SMALL_LITERAL = re.compile(r"(?P<value>\d*\.?\d*(?:[eE][+-]?\d+)?)(?P<suffix>[hH]|bf|BF)$")
FUNCTION_CONSTANT = "SIM_FUNCTION_CONSTANT_"
_CLASSES = ("struct", "class", "union")
_INTEGER_WORDS = {"unsigned", "signed", "long", "short", "int", "char"}
_BEFORE_A_DECLARATION = {";", "{", "}", ":", ")", ">", "]]", "else", "do"}


class RewriteError(ValueError):
    """A construct that is no Metal, or that the rewriter cannot classify."""

    def __init__(self, line: int, message: str) -> None:
        """Remember the line, 1-based."""
        self.line = line
        super().__init__(message)


def rewrite(source: str) -> str:
    """Metal source as C++ for `language/metal.h`.

    Raises:
        RewriteError: a threadgroup variable with an initializer, or one in an unknown form.
    """
    tokens = tokenize(source)
    _give_function_constants_a_value(tokens)
    _drop_attributes(tokens)
    _construct_small_literals(tokens)
    _OverloadRemover(tokens).run()
    _share_threadgroup_variables(tokens)
    return text_of(tokens)


def _give_function_constants_a_value(tokens: list[Token]) -> None:
    """`constant bool x [[function_constant(3)]];` takes its value from a macro at compile time."""
    for i, token in enumerate(tokens):
        if not token.is_name("constant"):
            continue
        type_place = neighbor(tokens, i, 1)
        opening = neighbor(tokens, neighbor(tokens, type_place, 1), 1)
        if opening >= len(tokens) or not tokens[opening].is_symbol("[["):
            continue
        if not tokens[neighbor(tokens, opening, 1)].is_name("function_constant"):
            continue
        closing = matching(tokens, opening)
        index = next(t.text for t in tokens[opening:closing] if t.kind == "number")
        for unused in tokens[opening : closing + 1]:
            unused.blank()
        token.text = "static constexpr const"
        tokens[closing].text = f"= {tokens[type_place].text}({FUNCTION_CONSTANT}{index})"


def _drop_attributes(tokens: list[Token]) -> None:
    """`[[buffer(0)]]` and the like mean nothing to the host's compiler."""
    place = 0
    while place < len(tokens):
        if tokens[place].is_symbol("[["):
            closing = matching(tokens, place)
            for token in tokens[place : closing + 1]:
                token.blank()
            place = closing
        place += 1


def _construct_small_literals(tokens: list[Token]) -> None:
    """`1.5h` and `1.5bf` as constructor calls: clang has no such suffixes."""
    for token in tokens:
        literal = _SMALL_LITERAL.match(token.text) if token.kind == "number" else None
        if literal is not None:
            kind = "half" if literal["suffix"] in "hH" else "bfloat"
            token.text = f"{kind}({literal['value']})"


class _OverloadRemover:
    """Of functions and specializations that differ by address space only, keeps the first."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.scopes: list[tuple[int, str]] = [(0, "")]  # where it was opened, and by which word
        self.seen: set[tuple[int, str]] = set()
        self.start = 0  # of the present declaration

    def run(self) -> None:
        """Walk over declarations; bodies of functions are skipped."""
        tokens = self.tokens
        place = 0
        while place < len(tokens):
            token = tokens[place]
            if token.kind == "directive" or token.is_symbol(";"):
                self.start = place + 1
            elif token.is_symbol("}"):
                if len(self.scopes) > 1:
                    self.scopes.pop()
                self.start = place + 1
            elif token.is_symbol(":") and tokens[neighbor(tokens, place, -1)].text in (
                "public",
                "private",
                "protected",
            ):
                self.start = place + 1
            elif token.is_symbol("{"):
                place = self._open(place)
            place += 1

    def _open(self, place: int) -> int:
        """Handle the brace at `place`; returns the place after which to go on."""
        tokens = self.tokens
        declaration = [i for i in range(self.start, place) if is_code(tokens[i])]
        words = [tokens[i].text for i in declaration]
        before_parameters = words[: words.index("(")] if "(" in words else None
        if before_parameters is not None and self._is_function(before_parameters):
            closing = matching(tokens, place)
            self._function(declaration, words, place)
            self.start = closing + 1
            return closing
        if not words or any(w in (*_CLASSES, "namespace", "extern") for w in words):
            return self._scope(declaration, words, place)
        return matching(tokens, place)

    @staticmethod
    def _is_function(before_parameters: list[str]) -> bool:
        if {"namespace", "enum"} & set(before_parameters):
            return False
        return "=" not in before_parameters or "template" in before_parameters

    def _function(self, declaration: list[int], words: list[str], place: int) -> None:
        tokens = self.tokens
        if words[:3] == ["template", "<", ">"] and self.scopes[-1][1] in _CLASSES:
            # g++ below 14 refuses an explicit specialization in a class. An overload does the same.
            for i in declaration[:3]:
                tokens[i].blank()
        signature = declaration[: self._initializer_list(declaration)]
        self._keep_first(signature, place, self.start)

    def _initializer_list(self, declaration: list[int]) -> int | None:
        """Where a constructor's initializer list begins in the declaration."""
        depth = 0
        for n, i in enumerate(declaration):
            token = self.tokens[i]
            if token.is_symbol("(", "[", "<", "[["):
                depth += 1
            elif token.is_symbol(")", "]", ">", "]]"):
                depth -= 1
            elif token.is_symbol(":") and depth == 0 and n > 0:
                before = self.tokens[declaration[n - 1]].text
                if before in (")", "const") or before in ADDRESS_SPACES:
                    return n
        return None

    def _scope(self, declaration: list[int], words: list[str], place: int) -> int:
        if words and "namespace" not in words:
            closing = matching(self.tokens, place)
            if not self._keep_first(declaration, place, self.start):
                self.start = closing + 1
                return closing
        kind = next((w for w in words if w in (*_CLASSES, "namespace")), "")
        self.scopes.append((place, kind))
        self.start = place + 1
        return place

    def _keep_first(self, signature: list[int], place: int, start: int) -> bool:
        """Remove the definition if one like it, but for address spaces, was there before."""
        tokens = self.tokens
        words = [tokens[i].text for i in signature]
        key = (self.scopes[-1][0], " ".join(w for w in words if w not in ADDRESS_SPACES))
        if key not in self.seen or not ADDRESS_SPACES & set(words):
            self.seen.add(key)
            return True
        end = matching(tokens, place)
        after = neighbor(tokens, end, 1)
        if after < len(tokens) and tokens[after].is_symbol(";"):
            end = after
        for token in tokens[start : end + 1]:
            if token.kind != "directive":
                token.blank()
        return False


def _share_threadgroup_variables(tokens: list[Token]) -> None:
    """`threadgroup T tile[16];` becomes a reference to storage that the runtime gives the group."""
    depth = 0  # of parentheses: in a parameter list `threadgroup` declares no variable
    place = 0
    while place < len(tokens):
        token = tokens[place]
        if token.is_symbol("(", ")"):
            depth += 1 if token.text == "(" else -1
        elif token.is_name("threadgroup") and depth == 0:
            place = _share(tokens, place)
        place += 1


def _share(tokens: list[Token], place: int) -> int:
    """Rewrite the declaration whose `threadgroup` is at `place`, if it declares variables."""
    before = neighbor(tokens, place, -1)
    qualifiers = []
    while before >= 0 and tokens[before].text in ("const", "volatile", "static"):
        qualifiers.append(before)
        before = neighbor(tokens, before, -1)
    if before >= 0 and tokens[before].text not in _BEFORE_A_DECLARATION:
        return place  # a pointer to `const threadgroup T`, a template argument
    follows = neighbor(tokens, place, 1)
    if follows >= len(tokens) or tokens[follows].kind != "name":
        return place  # the qualifier of a member function
    name = _after_type(tokens, place)
    if name >= len(tokens):
        return place
    follows = neighbor(tokens, name, 1)
    if tokens[name].kind != "name" or not (
        follows < len(tokens) and tokens[follows].is_symbol("[", ";", ",", "=")
    ):
        if tokens[name].text in ("*", "&", "const", "volatile", "&&", ">", ")", "<"):
            return place
        raise RewriteError(
            tokens[place].line,
            f"This `threadgroup` declaration is not understood near {tokens[name].text!r}: "
            "write `threadgroup TYPE name[SIZE];`, and declare a structure before it.",
        )
    names, end = _declarators(tokens, name)
    tokens[place].text = "typedef"
    for i in qualifiers:
        if tokens[i].text == "static":
            tokens[i].blank()
    references = "".join(
        f" static const char {n}__id = 0; {n}__type& {n} = threadgroup_variable<{n}__type>("
        f'&{n}__id, "{n}", __FILE__, __LINE__);'
        for n in names
    )
    # A token of its own: the next declaration looks for the `;` in front of it.
    tokens.insert(end + 1, Token("space", references, tokens[end].line))
    return end + 1


def _after_type(tokens: list[Token], place: int) -> int:
    """The place after the type that follows `place`."""
    i = neighbor(tokens, place, 1)
    while i < len(tokens) and tokens[i].text in ("const", "volatile", "typename", "struct"):
        i = neighbor(tokens, i, 1)
    if i < len(tokens) and tokens[i].is_name("alignas"):
        i = neighbor(tokens, matching(tokens, neighbor(tokens, i, 1)), 1)
    if i >= len(tokens):
        return i
    if tokens[i].text in _INTEGER_WORDS:
        while tokens[neighbor(tokens, i, 1)].text in _INTEGER_WORDS:
            i = neighbor(tokens, i, 1)
    after = neighbor(tokens, i, 1)
    while after < len(tokens) and tokens[after].is_symbol("::", "<"):
        i = matching(tokens, after) if tokens[after].text == "<" else neighbor(tokens, after, 1)
        after = neighbor(tokens, i, 1)
    return after


def _declarators(tokens: list[Token], place: int) -> tuple[list[str], int]:
    """Rename the variables of a declaration to types; their names, and where it ends."""
    names = []
    while True:
        name = tokens[place]
        names.append(name.text)
        name.text += "__type"
        place = neighbor(tokens, place, 1)
        while tokens[place].is_symbol("["):
            place = neighbor(tokens, matching(tokens, place), 1)
        if tokens[place].is_symbol("="):
            raise RewriteError(
                name.line,
                f"The threadgroup variable {names[-1]!r} has an initializer, which Metal does not "
                "allow: let the threads write it, then a threadgroup_barrier.",
            )
        if not tokens[place].is_symbol(","):
            return names, place
        place = neighbor(tokens, place, 1)


def unclosed_bracket(source: str) -> tuple[int, str] | None:
    """The line and the symbol of a bracket without its partner, None if all have one."""
    partners = {")": "(", "]": "[", "}": "{"}
    open_ones: list[tuple[int, str]] = []
    for token in tokenize(source):
        for symbol in token.text if token.is_symbol("[[", "]]") else (token.text,):
            if token.kind != "symbol":
                continue
            if symbol in partners.values():
                open_ones.append((token.line, symbol))
            elif symbol in partners:
                if not open_ones or open_ones[-1][1] != partners[symbol]:
                    return open_ones[-1] if open_ones else (token.line, symbol)
                open_ones.pop()
    return open_ones[-1] if open_ones else None
