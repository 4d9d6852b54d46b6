// Common, math, integer, relational, geometric, packing functions
// (Metal Shading Language specification, sections 6.3 to 6.8 and 6.14).
//
// A function of floating-point values computes in float and rounds once, for `half` and `bfloat`
// too. Each function takes scalars and vectors; a macro writes the template around its formula.
#pragma once
#include "vectors.h"

namespace msl {
namespace metal {

// ------------------------------------------------------------------ math functions

#define SIM_MATH_1(name, formula)                                                           \
  template <class A, class V = language::floating_t<A>>                                     \
  METAL_FUNC V name(A a) {                                                                  \
    return language::map<V>([](float x) SIM_INLINE_LAMBDA { return formula; }, V(a));       \
  }
#define SIM_MATH_2(name, formula)                                                           \
  template <class A, class B, class V = language::floating_t<A, B>>                         \
  METAL_FUNC V name(A a, B b) {                                                             \
    return language::map<V>([](float x, float y) SIM_INLINE_LAMBDA { return formula; },     \
                            V(a), V(b));                                                    \
  }
#define SIM_MATH_3(name, formula)                                                           \
  template <class A, class B, class C, class V = language::floating_t<A, B, C>>             \
  METAL_FUNC V name(A a, B b, C c) {                                                        \
    return language::map<V>(                                                                \
        [](float x, float y, float z) SIM_INLINE_LAMBDA { return formula; },                \
        V(a), V(b), V(c));                                                                  \
  }

}  // namespace metal

namespace language {

// NaN loses against a number.
METAL_FUNC float larger(float x, float y) { return x != x || x < y ? y : x; }
METAL_FUNC float smaller(float x, float y) { return x != x || y < x ? y : x; }
METAL_FUNC float limited(float x, float low, float high) { return smaller(larger(x, low), high); }

// Sine and cosine of pi * x, exact where they are 0 or 1.
METAL_FUNC float sine_of_pi(float x) {
  return float(__builtin_sin(3.14159265358979323846L * __builtin_fmod(double(x), 2.0L)));
}

}  // namespace language

namespace metal {

SIM_MATH_1(acos, __builtin_acosf(x))
SIM_MATH_1(acosh, __builtin_acoshf(x))
SIM_MATH_1(asin, __builtin_asinf(x))
SIM_MATH_1(asinh, __builtin_asinhf(x))
SIM_MATH_1(atan, __builtin_atanf(x))
SIM_MATH_2(atan2, __builtin_atan2f(x, y))
SIM_MATH_1(atanh, __builtin_atanhf(x))
SIM_MATH_1(ceil, __builtin_ceilf(x))
SIM_MATH_2(copysign, __builtin_copysignf(x, y))
SIM_MATH_1(cos, __builtin_cosf(x))
SIM_MATH_1(cosh, __builtin_coshf(x))
SIM_MATH_2(divide, x / y)
SIM_MATH_1(exp, __builtin_expf(x))
SIM_MATH_1(exp2, __builtin_exp2f(x))
SIM_MATH_1(exp10, __builtin_powf(10.0f, x))
SIM_MATH_1(fabs, __builtin_fabsf(x))
SIM_MATH_2(fdim, __builtin_fdimf(x, y))
SIM_MATH_1(floor, __builtin_floorf(x))
SIM_MATH_3(fma, __builtin_fmaf(x, y, z))
SIM_MATH_2(fmax, language::larger(x, y))
SIM_MATH_2(fmin, language::smaller(x, y))
SIM_MATH_3(fmax3, language::larger(language::larger(x, y), z))
SIM_MATH_3(fmin3, language::smaller(language::smaller(x, y), z))
SIM_MATH_3(fmedian3, language::limited(x, language::smaller(y, z), language::larger(y, z)))
SIM_MATH_2(fmod, __builtin_fmodf(x, y))
SIM_MATH_1(fract, __builtin_fminf(x - __builtin_floorf(x), 0x1.fffffep-1f))
SIM_MATH_1(log, __builtin_logf(x))
SIM_MATH_1(log2, __builtin_log2f(x))
SIM_MATH_1(log10, __builtin_log10f(x))
SIM_MATH_2(pow, __builtin_powf(x, y))
SIM_MATH_2(powr, x < 0.0f ? __builtin_nanf("") : __builtin_powf(x, y))
SIM_MATH_1(rint, __builtin_rintf(x))
SIM_MATH_1(round, __builtin_roundf(x))
SIM_MATH_1(rsqrt, 1.0f / __builtin_sqrtf(x))
SIM_MATH_1(sin, __builtin_sinf(x))
SIM_MATH_1(sinh, __builtin_sinhf(x))
SIM_MATH_1(sqrt, __builtin_sqrtf(x))
SIM_MATH_1(tan, __builtin_tanf(x))
SIM_MATH_1(tanh, __builtin_tanhf(x))
SIM_MATH_1(trunc, __builtin_truncf(x))
SIM_MATH_1(cospi, language::sine_of_pi(__builtin_fabsf(x) + 0.5f))
SIM_MATH_1(sinpi, language::sine_of_pi(x))
SIM_MATH_1(tanpi, language::sine_of_pi(x) / language::sine_of_pi(__builtin_fabsf(x) + 0.5f))

// The next number, of the argument's own type.
template <class A, class B, class V = language::floating_t<A, B>>
METAL_FUNC V nextafter(A a, B b) {
  using T = language::element_t<V>;
  return language::map<V>(
      [](T x, T y) SIM_INLINE_LAMBDA -> T {
        using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint16_t>;
        if (float(x) != float(x) || float(y) != float(y)) return T(float(x) + float(y));
        if (float(x) == float(y)) return y;
        Bits bits = __builtin_bit_cast(Bits, x), sign = Bits(Bits(1) << (sizeof(T) * 8 - 1));
        if (float(x) == 0.0f) return __builtin_bit_cast(T, Bits(float(y) < 0.0f ? sign | 1 : 1));
        bool away_from_zero = (float(x) < float(y)) == (float(x) > 0.0f);
        return __builtin_bit_cast(T, Bits(away_from_zero ? bits + 1 : bits - 1));
      },
      V(a), V(b));
}

// Functions with a second result.
template <class A, class V = language::floating_t<A>>
METAL_FUNC V sincos(A a, language::value_t<A>& cosine) {
  cosine = cos(a);
  return sin(a);
}
template <class A, class V = language::floating_t<A>>
METAL_FUNC V modf(A a, language::value_t<A>& whole) {
  V x = a;
  whole = trunc(x);
  return isinf_or_whole(x) ? copysign(V(0.0f), x) : copysign(V(x - whole), x);
}

}  // namespace metal
}  // namespace msl
