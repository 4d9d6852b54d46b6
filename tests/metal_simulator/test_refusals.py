"""What Apple's compiler refuses is refused, at its line, and nothing else is."""

import pytest

from metal_simulator import address_spaces
from metal_simulator.refusals import Refusal, find_refusals

SIGNATURE = """template <typename T, int N, bool flag>
[[kernel]] void custom_kernel_test(
  const device T* x [[buffer(0)]],
  const constant int* x_shape [[buffer(1)]],
  const constant T* small [[buffer(2)]],
  device T* out [[buffer(3)]],
  uint3 thread_position_in_grid [[thread_position_in_grid]]) {
"""
HELPERS = """#include <metal_stdlib>
using namespace metal;
inline float sum4(const device float* p) { return p[0] + p[1] + p[2] + p[3]; }
inline float first(threadgroup float* p) { return p[0]; }
inline void set(device float* p) { p[0] = 1; }
inline void add(thread float& total, float value) { total += value; }
template <typename T> T head(threadgroup const T* p) { return p[0]; }
template <typename T> void clear(thread T& value) { value = T(0); }
inline float both(const device float* p) { return p[0]; }
inline float both(const threadgroup float* p) { return p[0]; }
"""


def refusals(body: str, header: str = "", template: str = "float, 64, true") -> list[Refusal]:
    sections = [("header", header), ("signature", SIGNATURE), ("body", body + "\n}")]
    return find_refusals("test", sections, template=template)


# name, header, body, section and line of the refusal, a fragment of the message
WORDS = [
    ("double", "", "out[0] = 0;\ndouble d = 1.0;", "body", 2, "no `double`"),
    ("double_in_cast", "", "out[0] = float((double)x[0]);", "body", 1, "no `double`"),
    ("double_in_helper", "inline double f(float a) { return a; }", "", "header", 1, "no `double`"),
    ("std_function", "", "\n\nout[0] = std::max(x[0], x[1]);", "body", 3, "`metal::max`"),
    ("using_std", "using namespace std;", "", "header", 1, "no C++ standard library"),
    ("vector", "#include <vector>", "", "header", 1, "`<vector>`"),
    ("cmath", "// math\n#  include <cmath>", "", "header", 2, "`<cmath>`"),
    ("stdio", "#include <stdio.h>", "", "header", 1, "`<stdio.h>`"),
    ("new", "", "thread float* p = new float[4];", "body", 1, "no `new`"),
    ("delete", "", "thread float* p; delete p;", "body", 1, "no `delete`"),
    ("virtual", "struct S {\n virtual float f();\n};", "", "header", 2, "no virtual functions"),
    ("try", "", "try { out[0] = 1; } catch (int e) {}", "body", 1, "no exceptions"),
    ("throw", "", "if (x[0] < 0) throw 1;", "body", 1, "no exceptions"),
    ("goto", "", "again:\nout[0] += 1;\nif (out[0] < 3) goto again;", "body", 3, "no `goto`"),
    ("thread_local", "", "thread_local float f = 0;", "body", 1, "no `thread_local`"),
    ("typeid", "", "bool same = typeid(T) == typeid(float);", "body", 1, "no `typeid`"),
    ("dynamic_cast", "", "out[0] = *dynamic_cast<device T*>(out);", "body", 1, "no `dynamic_cast`"),
    ("printf", "", 'printf("%f", x[0]);', "body", 1, "no `printf`"),
    ("static", "", "static float total = 0;\nout[0] = total;", "body", 1, "cannot be `static`"),
    ("static_const", "", "static const int size[2] = {1, 2};", "body", 1, "cannot be `static`"),
    ("static_helper", "float f() {\n static int n;\n return n;\n}", "", "header", 2, "`static`"),
]
FUNCTIONS = [
    (
        "recursion",
        "int f(int n) {\n return n < 2 ? 1 : n * f(n - 1);\n}",
        "",
        "header",
        2,
        "`f` calls",
    ),
    (
        "recursion_in_a_template",
        "template <typename T>\nT power(T x, int n) {\n  if (n == 0) return T(1);\n"
        "  return x * power(x, n - 1);\n}",
        "",
        "header",
        4,
        "`power` calls itself",
    ),
    (
        "mutual_recursion",
        "bool odd(uint n);\nbool even(uint n) { return n == 0 || odd(n - 1); }\n"
        "bool odd(uint n) { return n != 0 && even(n - 1); }",
        "",
        "header",
        2,
        "through `odd`",
    ),
    ("initializer", "", "threadgroup float t[2] = {1, 2};", "body", 1, "have an initializer"),
    ("initializer_scalar", "", "threadgroup int n = 0;", "body", 1, "have an initializer"),
    ("initializer_braces", "", "threadgroup int n{0};", "body", 1, "have an initializer"),
    (
        "threadgroup_in_a_helper",
        "void f() {\n  threadgroup float tile[32];\n  tile[0] = 0;\n}",
        "",
        "header",
        2,
        "`tile` is declared in the function `f`",
    ),
    (
        "threadgroup_in_a_template",
        "template <typename T>\nMETAL_FUNC void f(T x) {\n  threadgroup T tile[8];\n}",
        "",
        "header",
        3,
        "in the function `f`",
    ),
]
SPACES = [
    ("pointer", "", "\nconst float* p = x;", "body", 2, "`p` is a pointer without"),
    ("pointer_T", "", "const T* p = x;", "body", 1, "`p` is a pointer without"),
    ("pointer_T_const", "", "T const * p = x;", "body", 1, "`p` is a pointer without"),
    ("pointer_array", "", "float* rows[4];", "body", 1, "`rows` is a pointer without"),
    ("pointer_to_local", "", "float v = 0; float* p = &v;", "body", 1, "`p` is a pointer without"),
    ("pointer_vector", "", "const float4 *p;", "body", 1, "`p` is a pointer without"),
    ("reference", "", "const float& r = x[0];", "body", 1, "`r` is a reference without"),
    ("parameter", "float f(const float* p) { return p[0]; }", "", "header", 1, "`p` is a pointer"),
    (
        "parameter_2",
        "float f(int n,\n float *p) { return *p; }",
        "",
        "header",
        2,
        "`p` is a pointer",
    ),
    ("parameter_reference", "void f(float& r) { r = 1; }", "", "header", 1, "`r` is a reference"),
    (
        "parameter_template",
        "template <typename T>\nT f(const T* p, int n) { return p[n]; }",
        "out[0] = f(x, 1);",
        "header",
        2,
        "`p` is a pointer without",
    ),
    (
        "reference_template",
        "template <typename T>\nvoid f(T& a, thread T& b) { b = a; }",
        "",
        "header",
        2,
        "`a` is a reference without",
    ),
    (
        "after_another_kernel",
        "template <typename U>\n[[kernel]] void other(device U* p) {}",
        "\nconst T* p = x;",
        "body",
        2,
        "`p` is a pointer without",
    ),
    ("in_a_lambda", "", "auto f = [](float* p) { return p[0]; };", "body", 1, "`p` is a pointer"),
    ("member", "struct S {\n  float* data;\n};", "", "header", 2, "`data` is a pointer"),
    (
        "operator",
        "struct S {\n S operator+(const S& o);\n};",
        "",
        "header",
        2,
        "`o` is a reference",
    ),
    ("cast", "", "out[0] = ((float*)x)[0];", "body", 1, "cast's type is a pointer"),
    ("cast_T", "", "out[0] = ((const T *)x)[0];", "body", 1, "cast's type is a pointer"),
    (
        "cast_vector",
        "",
        "float4 v = *(const float4*)(x + 4);",
        "body",
        1,
        "cast's type is a pointer",
    ),
    (
        "cast_reinterpret",
        "",
        "out[0] = *reinterpret_cast<const uint*>(x);",
        "body",
        1,
        "cast's type is a pointer",
    ),
    (
        "wrong_space",
        "",
        "threadgroup T* p = x;",
        "body",
        1,
        "`device` address space is used as `thr",
    ),
    (
        "wrong_space_array",
        "",
        "threadgroup T t[4];\ndevice T* p = t;",
        "body",
        2,
        "`threadgroup` address space is used as `device`",
    ),
    (
        "wrong_space_2d",
        "",
        "threadgroup T t[4][N];\nthread T* p = t[1];",
        "body",
        2,
        "`threadgroup` address space is used as `thread`",
    ),
    (
        "wrong_space_local",
        "",
        "float v[4];\ndevice float* p = v;",
        "body",
        2,
        "`thread` address space is used as `device`",
    ),
    ("assigned", "", "device T* p;\nthreadgroup T t[4];\np = t;", "body", 3, "is used as `device`"),
    (
        "small_input",
        "",
        "const device T* p = small;",
        "body",
        1,
        "`constant` address space is used",
    ),
    (
        "cast_to_wrong_space",
        "",
        "threadgroup T t[4];\ndevice float4* p = (device float4*)t;",
        "body",
        2,
        "is cast to `device`",
    ),
    (
        "nested_tile",
        "",
        "{ threadgroup T t[4];\n device T* p = t; }",
        "body",
        2,
        "used as `device`",
    ),
    ("passed", HELPERS, "out[0] = first(out);", "body", 1, "`first` expects `threadgroup`"),
    ("passed_const", HELPERS, "out[0] = first(x);", "body", 1, "`first` expects `threadgroup`"),
    (
        "passed_tile",
        HELPERS,
        "threadgroup T t[4];\nout[0] = sum4(t);",
        "body",
        2,
        "`sum4` expects `device`",
    ),
    (
        "passed_small",
        HELPERS,
        "out[0] = sum4(small);",
        "body",
        1,
        "in the `constant` address space",
    ),
    (
        "passed_local",
        HELPERS,
        "float v[4];\nout[0] = both(v);",
        "body",
        2,
        "the argument is in the `thread` address space",
    ),
    ("passed_template", HELPERS, "out[0] = head(x);", "body", 1, "`head` expects `threadgroup`"),
    ("passed_reference", HELPERS, "add(out[0], 1.0f);", "body", 1, "`add` expects `thread`"),
    ("template_reference", HELPERS, "clear(out[0]);", "body", 1, "`clear` expects `thread`"),
    ("write_input", "", "x[0] = 1;", "body", 1, "`x` is const"),
    ("add_to_input", "", "\nx[thread_position_in_grid.x + 1] += 2;", "body", 2, "`x` is const"),
    ("count_input", "", "x[0]++;", "body", 1, "`x` is const"),
    ("write_shape", "", "x_shape[0] = 3;", "body", 1, "`x_shape` is const"),
    ("write_constant", "constant int n = 3;", "n = 4;", "body", 1, "`n` is const"),
    ("passed_as_writable", HELPERS, "set(x);", "body", 1, "`set` may write"),
    ("dynamic_size", "", "uint n = x_shape[0];\nfloat v[n];", "body", 2, "depends on `n`"),
    ("dynamic_shape", "", "float v[x_shape[0]];", "body", 1, "depends on `x_shape`"),
    (
        "dynamic_parameter",
        "float f(int n) {\n  float v[n];\n  return v[0];\n}",
        "",
        "header",
        2,
        "depends on `n`",
    ),
    ("bfloat", "", "bfloat16_t b = 1.0f;", "body", 1, "A float does not become a bfloat"),
    ("bfloat_of_input", "", "bfloat16_t b = x[0] * 2;", "body", 1, "A float does not become"),
    ("bfloat_assigned", "", "bfloat b;\nb = x[0];", "body", 2, "A float does not become"),
    ("max", "", "out[0] = max(x[0], 0);", "body", 1, "The arguments of `max`"),
    ("max_unsigned", "", "uint n = max(uint(3), x_shape[0]);", "body", 1, "The arguments of `max`"),
    ("clamp", "", "out[0] = metal::clamp(x[0], 0, 1);", "body", 1, "The arguments of `clamp`"),
    (
        "min_in_a_helper",
        "template <typename T>\nT f(T a) { return min(a, 1); }",
        "out[0] = f(x[0]);",
        "header",
        2,
        "The arguments of `min`",
    ),
]


@pytest.mark.parametrize(
    ("header", "body", "section", "line", "fragment"),
    [case[1:] for case in WORDS + FUNCTIONS],
    ids=[case[0] for case in WORDS + FUNCTIONS],
)
def test_words_and_functions(
    header: str, body: str, section: str, line: int, fragment: str
) -> None:
    found = refusals(body, header)
    assert any((r.file, r.line) == (section, line) and fragment in r.message for r in found), found


@pytest.mark.skipif(not address_spaces.available(), reason="libclang cannot be loaded")
@pytest.mark.parametrize(
    ("header", "body", "section", "line", "fragment"),
    [case[1:] for case in SPACES],
    ids=[case[0] for case in SPACES],
)
def test_address_spaces(header: str, body: str, section: str, line: int, fragment: str) -> None:
    found = refusals(body, header)
    assert any((r.file, r.line) == (section, line) and fragment in r.message for r in found), found
    assert not any("__" in r.message for r in found), "a word of OpenCL"


def test_bfloat_kernel() -> None:
    """With T = bfloat16_t, `out[0] = 2 * float(x[0])` is wrong, which is right with float."""
    body = "float twice = 2 * float(x[0]);\nT y = twice;\nout[0] = y;"
    assert refusals(body) == []
    if address_spaces.available():
        found = refusals(body, template="bfloat16_t, 64, true")
        assert [(r.file, r.line) for r in found] == [("body", 2)]


RIGHT = {
    "comments": ("// double std::max goto\n", "/* new float[3] */ out[0] = x[0]; // printf(x)"),
    "strings_and_names": ("", "float newest = 1, std_dev = 2, catcher = 3; out[0] = newest;"),
    "deleted_function": ("struct S { S() = default; S(const thread S&) = delete; };", ""),
    "other_platform": (
        "#ifndef __METAL_VERSION__\n#include <vector>\ntypedef double real;\n#endif\n",
        "out[0] = x[0];",
    ),
    "include_guard": (
        "#ifndef A_H\n#define A_H\ninline float f(float a) { return a; }\n#endif",
        "",
    ),
    "helpers": (
        HELPERS,
        "threadgroup T t[4]; float v = 0; t[0] = x[0]; add(v, 1.0f); clear(v); set(out);\n"
        "out[0] = sum4(x + 4) + first(t) + both(x) + both(t) + head(t);",
    ),
    "nested_tiles": (
        "",
        "if (x[0] > 0) { threadgroup float a[4], b[N][N + 1]; a[0] = x[0]; out[0] = "
        "a[0] + b[0][1]; }\n"
        "for (int i = 0; i < 2; i++) { threadgroup simdgroup_matrix<float, 8, 8> m[2]; }",
    ),
    "tile_of_a_class": (
        "template <typename T, int K> struct Pair { T a[K]; };",
        "threadgroup Pair<T, 2> p[4]; threadgroup metal::float4 q; q = float4(1, 2, 3, 4);",
    ),
    "lambdas": ("", "float t = 2; auto f = [&](int i) { return t * x[i]; }; out[0] = f(1);"),
    "auto": ("", "auto p = x + 1; const device auto* q = x; auto r = *q; out[0] = p[0] + r;"),
    "products": (
        "",
        "float a = x[0], b = x[1]; float c = a * b; uint d = 3 & 5; out[0] = c * (a)*b;",
    ),
    "vectors": (
        "",
        "float4 v = *(const device float4*)x; v.xy += v.zw; device float4* o = "
        "(device float4*)out;\n"
        "*o = v * 2 + float4(1.0f); half4 h = half4(v); uint2 u = uint2(1, 2); "
        "out[0] = v[u.x] + h.y;",
    ),
    "all_spaces": (
        "constant float table[3] = {1, 2, 3};\nconstant constexpr const int ROWS = 4;\n"
        "constexpr constant int COLUMNS = 4;",
        "float v[ROWS][COLUMNS]; thread float* p = &v[0][0]; thread float& r = v[1][1];\n"
        "constant float* t = table; const constant int& rows = ROWS; r = t[1] + "
        "rows; out[0] = *p;\n"
        "const constant int* s = x_shape; device T* thread * list[2]; const thread T "
        "(&row)[4] = v[0];",
    ),
    "static_constants": (
        "struct Shape { static constexpr constant int rows = 4; static float f(float "
        "a) { return a; } };",
        "static constexpr int n = 4; float v[n + Shape::rows]; v[0] = 1;\n"
        'static_assert(n == 4, "n"); struct Local { static float f(float a) { return a; } };',
    ),
    "constant_sizes": (
        "template <int A> struct Size { static constexpr int value = 2 * A; };\n"
        "constexpr int up(int n) { return (n + 31) / 32 * 32; }",
        "constexpr int TS = N / 4; const int M = TS + 1; float a[TS][M], "
        "b[Size<N>::value], c[up(N)];\n"
        "out[0] = a[0][0] + b[0] + c[0];",
    ),
    "constexpr_recursion": (
        "constexpr int log2_of(int n) { return n < 2 ? 0 : 1 + log2_of(n / 2); }\n"
        "template <int K> float unrolled(const device float* p) {\n"
        "  if constexpr (K == 0) return 0; else return p[K] + unrolled<K - 1>(p);\n}\n"
        "template <typename T> T total(T a) { return a; }\n"
        "template <typename T, typename... Rest> T total(T a, Rest... rest) { return "
        "a + total(rest...); }",
        "out[0] = unrolled<3>(x) + log2_of(8) + total(1.0f, 2.0f, 3.0f);",
    ),
    "overloads_of_metal": (
        "inline bfloat16_t simd_sum(bfloat16_t a) { return bfloat16_t(simd_sum(float(a))); }\n"
        "inline float erf(float a) { return metal::exp(a); }\n"
        "struct Exp { float operator()(float a) { return exp(a); } float exp2(float "
        "a) { return exp2(a); } };",
        "out[0] = Exp{}(x[0]) + erf(x[1]);",
    ),
    "kernel_in_the_header": (
        "template <typename U>\n[[kernel]] void other(device U* p) {\n  threadgroup "
        "U t[4]; t[0] = p[0];\n}\n"
        "kernel void plain(device float* p) { threadgroup float t[4]; t[0] = p[0]; }\n"
        "#define KERNEL(name) [[kernel]] void name\nKERNEL(third)(device float* p) { "
        "threadgroup int n; }",
        "",
    ),
    "threadgroup_parameters": (
        "void fill(threadgroup float tile[4][4], threadgroup float* row, threadgroup "
        "float& one) {\n"
        "  threadgroup float* p = row; p[0] = one; tile[0][0] = p[0];\n}",
        "threadgroup float t[4][4]; fill(t, t[0], t[1][1]);",
    ),
    "methods": (
        "struct S {\n  float v[4];\n  thread float* data() thread { return v; }\n"
        "  float get(int i) const { return v[i]; }\n  thread float& at(int i) thread "
        "{ return v[i]; }\n"
        "  void load(const device float* p) { for (int i = 0; i < 4; i++) v[i] = p[i]; }\n};",
        "S s; s.load(x); s.at(1) = 3; thread S& r = s; out[0] = s.get(0) + r.data()[2];",
    ),
    "branch_not_taken": (
        "",
        "if constexpr (!flag) { bfloat16_t b = x[0]; x[0] = 1; }\n"
        "else if constexpr (N == 3) x[0] = 2;\nelse { out[0] = x[0]; }",
    ),
    "unknown_things": (
        "unknown_type strange(texture2d<float> t) { return t.read(0); }\n"
        "template <typename T> T twice(T a) { return missing(a) * 2; }",
        "unknown_thing(x, out); simdgroup_float8x8 m; simdgroup_load(m, x, 8); "
        "out[0] = twice(x[0]);\n"
        "simdgroup_barrier(mem_flags::mem_none); float2x2 r = float2x2(1.0f); out[1] "
        "= quad_sum(x[0]);",
    ),
    "function_constants": (
        "constant int rows [[function_constant(0)]];\n"
        "constant bool fast_path [[function_constant(1)]];",
        "threadgroup float t[rows]; float v[rows]; if (fast_path) { v[0] = t[0]; out[0] = v[0]; }",
    ),
    "idioms": (
        "template <typename T>\ninline T sigmoid(T a) { return T(1) / (T(1) + metal::exp(-a)); }\n"
        "template <typename T>\ninline float load4(const device T* p, thread float* v) {\n"
        "  float sum = 0.0f;\n  for (int i = 0; i < 4; i++) { v[i] = p[i] / 16.0f; sum += p[i]; }\n"
        "  return sum;\n}\n"
        "template <typename T>\ninline void load_fragment(\n"
        "    thread simdgroup_matrix<T, 8, 8>& f, device const T* p, uint ld) {\n"
        "  thread auto& e = f.thread_elements(); e[0] = ld > 2 ? p[ld] : T(0);\n}\n"
        "template <typename T, short BM>\nstruct Loader {\n  threadgroup T* dst;\n"
        "  const device T* src;\n  Loader(const device T* s, threadgroup T* d, ushort lane)\n"
        "      : dst(d + lane), src(s + lane * BM) {}\n"
        "  void load() const { for (short i = 0; i < BM; i++) dst[i] = src[i]; }\n};",
        "thread float values[8]; thread uint count = 0u; constexpr uint LIMIT = 8u;\n"
        "threadgroup T tile[LIMIT], other [2]; uint n = min(count, LIMIT);\n"
        "const device uint8_t* bytes = (const device uint8_t*)x + n * 2; T s = sigmoid(x[0]);\n"
        "const device uint16_t* pairs = (const device uint16_t*)bytes; s = load4<T>(x, values);\n"
        "Loader<T, 4> loader(x, tile, 3); loader.load(); simdgroup_matrix<T, 8, 8> m;\n"
        "load_fragment(m, x, 8); float as_bits = as_type<float>(uint(pairs[0])); other[0] = s;\n"
        "uint bits = reinterpret_cast<thread uint&>(as_bits); (void)bits; out += 4; *out++ = s;",
    ),
    "opencl_words": (
        "",
        "float local = 1, global = 2, generic = 3, pipe = 4; out[0] = local + global;",
    ),
    "maximum": (
        "",
        "out[0] = max(x[0], 0.0f) + min(x_shape[0], 3) + max(float(x_shape[0]), x[1]);",
    ),
    "atomics": (
        "",
        "device atomic<float>* a = (device atomic<float>*)out; device atomic_uint* b "
        "= (device atomic_uint*)out;\n"
        "atomic_fetch_add_explicit(a, x[0], memory_order_relaxed); threadgroup atomic_int n;",
    ),
}
BFLOAT_RIGHT = {
    "arithmetic": (
        "T a = x[0], b = x[1]; T c = a * b + a - b / a; c += a; c *= 2; c = -c; out[0] = c;"
    ),
    "integers": "T a = x[0] * 2; a = 3 + a; out[0] = a;",
    "choice": "T a = flag ? x[0] : T(0); out[0] = select(a, x[1], flag);",
    "functions": (
        "T a = exp(x[0]); a = max(a, x[1]); a = metal::fast::tanh(a); out[0] = fma(a, a, a);"
    ),
    "simd": "T a = simd_sum(x[0]); a = simd_shuffle_xor(a, 1); out[0] = a;",
    "floats": "float a = x[0]; a += x[1] * 0.5f; float b = x[1]; out[0] = T(a + b); out[1] = (T)a;",
    "tiles": (
        "threadgroup T t[4][N]; t[0][1] = x[0]; float s = t[0][1]; out[0] = static_cast<T>(s);"
    ),
}


@pytest.mark.parametrize(("header", "body"), RIGHT.values(), ids=RIGHT)
def test_right_programs(header: str, body: str) -> None:
    assert refusals(body, header) == []


@pytest.mark.parametrize("body", BFLOAT_RIGHT.values(), ids=BFLOAT_RIGHT)
@pytest.mark.parametrize("kind", ["float", "half", "float16_t", "bfloat16_t"])
def test_right_programs_of_each_type(body: str, kind: str) -> None:
    assert refusals(body, template=f"{kind}, 64, false") == []


def test_without_libclang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address_spaces, "_index", lambda: None)
    assert not address_spaces.available()
    assert refusals("const float* p = x;") == []
    assert [r.line for r in refusals("\ndouble d = 1;")] == [2]


def test_signature_without_a_template() -> None:
    signature = "[[kernel]] void custom_kernel_test(\n  device float* out [[buffer(0)]]) {"
    found = find_refusals("test", [("signature", signature), ("body", "out[0] = 1;\n}")])
    assert found == []
    found = find_refusals("test", [("signature", signature), ("body", "\ndouble d = 1;\n}")])
    assert [(r.file, r.line) for r in found] == [("body", 2)]
