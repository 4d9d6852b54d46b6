"""Metal to C++: what the rewriter changes, and that it changes nothing else."""

import pytest

from metal_simulator.rewriter import RewriteError, rewrite
from metal_simulator.signature import entry_point, find_kernel
from metal_simulator.tokens import text_of, tokenize


def squeezed(text):
    return " ".join(text.split())


SOURCES = [
    "float x = 1.5e-3f; // threadgroup float t[4];\n/* device\n int */ x >>= 1;",
    'const char* s = "threadgroup float t[2]; [[buffer(0)]]";',
    "int a[2][2]; int b = a[a[0][1]][1];",
    "#define TILE 16 \\\n  + 0\nauto f = [&](int i) { return i + TILE; };",
    "template <typename T> T id(T x) { return x; }",
    "device float* p = out + 3; const threadgroup float* q = tile;",
]


@pytest.mark.parametrize("source", SOURCES)
def test_what_needs_no_change_is_kept(source):
    assert text_of(tokenize(source)) == source
    assert rewrite(source) == source


def test_threadgroup_variables_become_shared_references():
    out = squeezed(rewrite("threadgroup float tile[16][17];\ntile[0][1] = 2;"))
    assert out.startswith("typedef float tile__type[16][17];")
    assert "tile__type& tile = threadgroup_variable<tile__type>(&tile__id, " in out


@pytest.mark.parametrize(
    ("declaration", "names"),
    [
        ("threadgroup T a[4], b[8];", ["a", "b"]),
        ("threadgroup uint count;", ["count"]),
        ("threadgroup atomic<uint> bins[N * 2];", ["bins"]),
        ("threadgroup metal::vec<float, 4> v[3];", ["v"]),
        ("threadgroup unsigned int u[3];", ["u"]),
        ("if (x) { threadgroup half h[3]; }", ["h"]),
        ("threadgroup alignas(16) char bytes[64];", ["bytes"]),
        ("static threadgroup float s[2];", ["s"]),
        ("threadgroup float a[2]; threadgroup float b[2];\nthreadgroup int c;", ["a", "b", "c"]),
    ],
)
def test_every_form_of_threadgroup_variable_is_found(declaration, names):
    out = rewrite(declaration)
    for name in names:
        assert f"& {name} = threadgroup_variable<{name}__type>" in out


@pytest.mark.parametrize(
    "source",
    [
        "threadgroup float* p = tile;",
        "const threadgroup float* p = tile + 1;",
        "float sum(threadgroup float* x, threadgroup const float& y);",
        "auto p = (threadgroup float*)tile;",
        "reinterpret_cast<threadgroup float4*>(tile);",
        "struct S { float x; operator float() const threadgroup { return x; } };",
    ],
)
def test_pointers_to_threadgroup_memory_declare_nothing(source):
    assert rewrite(source) == source


def test_literals_of_half_and_bfloat_are_constructed():
    assert rewrite("x = 1.5h + 2.H - 3e-2bf + 0xbf;") == (
        "x = half(1.5) + half(2.) - bfloat(3e-2) + 0xbf;"
    )


def test_an_initializer_of_a_threadgroup_variable_is_refused_with_its_line():
    with pytest.raises(RewriteError, match="initializer") as error:
        rewrite("int x;\n\nthreadgroup float t[2] = {1, 2};")
    assert error.value.line == 3


def test_lines_keep_their_numbers():
    source = (
        "[[kernel]] void f(\n  device float* a [[buffer(0)]],\n"
        "  uint i [[thread_position_in_grid]]) {\n  threadgroup float t[2];\n  a[i] = t[0];\n}"
    )
    lines = rewrite(source).split("\n")
    assert len(lines) == len(source.split("\n"))
    assert "a[i] = t[0]" in lines[4]
    assert "[[" not in rewrite(source)


def test_overloads_on_address_spaces_are_kept_once():
    source = (
        "float head(device float* p) { return p[0]; }\n"
        "float head(threadgroup float* p) { return p[0]; }\n"
        "float head(device float* p, int i) { return p[i]; }\n"
        "template <typename T> T load(const device T* p) { return *p; }\n"
        "template <typename T> T load(const threadgroup T* p) { return *p; }\n"
    )
    out = rewrite(source)
    assert out.count("float head(") == 2
    assert out.count("T load(") == 1
    assert len(out.split("\n")) == len(source.split("\n"))


def test_members_that_differ_by_address_space_are_kept_once():
    source = (
        "struct Pair {\n  float x;\n  Pair(float v) : x(v) {}\n"
        "  float get() const device { return x; }\n  float get() const thread { return x; }\n};\n"
        "struct Other {\n  float x;\n  float get() const device { return x; }\n};"
    )
    out = rewrite(source)
    assert out.count("float get()") == 2  # one in each


def test_function_constants_become_values_from_macros():
    out = squeezed(rewrite("constant bool causal [[function_constant(300)]];"))
    assert out.replace(" ;", ";") == (
        "static constexpr const bool causal = bool(SIM_FUNCTION_CONSTANT_300);"
    )


KERNELS = """
kernel void plain(device float* a [[buffer(1)]], constant int& n [[buffer(0)]],
                  uint2 at [[thread_position_in_grid]]) { a[at.x] = n; }
template <typename T, int N>
[[kernel]] void templated(const device T* a, device T* b, uint lane [[thread_index_in_simdgroup]],
                          threadgroup T* t [[threadgroup(0)]]) {}
void kernels(int kernel) {}
"""


def test_parameters_of_a_kernel_function():
    parameters = find_kernel(KERNELS, "plain")
    assert [(p.name, p.attributes) for p in parameters] == [
        ("a", {"buffer": "1"}),
        ("n", {"buffer": "0"}),
        ("at", {"thread_position_in_grid": ""}),
    ]
    assert [p.name for p in find_kernel(KERNELS, "templated")] == ["a", "b", "lane", "t"]
    assert find_kernel(KERNELS, "kernels") is None


def test_buffers_without_an_index_are_counted():
    _, buffers = entry_point("plain", find_kernel(KERNELS, "plain"))
    assert [(i, p.name) for i, p in buffers] == [(1, "a"), (0, "n")]
    _, buffers = entry_point("t<float, 1>", find_kernel(KERNELS, "templated")[:3])
    assert [(i, p.name) for i, p in buffers] == [(0, "a"), (1, "b")]
