// Common, math, integer, relational, geometric and packing functions
// (Metal Shading Language specification, sections 6.2 to 6.8 and 6.14).
//
// Each function takes scalars and vectors: a macro writes the template around the formula of one
// element. Functions of floating-point values compute in float and round once to the type of the
// arguments, half and bfloat included.
#pragma once
#include "vectors.h"

namespace msl {
namespace language {

// As in Metal, NaN loses against a number.
METAL_FUNC float larger(float x, float y) { return x != x || x < y ? y : x; }
METAL_FUNC float smaller(float x, float y) { return x != x || y < x ? y : x; }
METAL_FUNC float limited(float x, float low, float high) { return smaller(larger(x, low), high); }

// Sine of pi * x, exact where it is 0, 1 or -1.
METAL_FUNC float sine_of_pi(float x) {
  double turn = __builtin_fmod(double(x), double(2.0L));
  if (turn == __builtin_trunc(turn)) return __builtin_copysignf(0.0f, x);
  return float(__builtin_sin(double(3.14159265358979323846L) * turn));
}
METAL_FUNC float cosine_of_pi(float x) {
  double turn = __builtin_fmod(__builtin_fabs(double(x)), double(2.0L));
  return sine_of_pi(float(turn > double(1.0L) ? turn - double(1.5L) : double(0.5L) - turn));
}

METAL_FUNC float between(float low, float high, float x) {
  return limited((x - low) / (high - low), 0.0f, 1.0f);
}

// The bits of a value, and the value of bits. Tests on bits also work with -ffast-math.
template <class T>
using bits_t = std::conditional_t<
    sizeof(T) == 1, uint8_t,
    std::conditional_t<sizeof(T) == 2, uint16_t,
                       std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>>>;
template <class T>
METAL_FUNC constexpr bits_t<T> bits_of(T value) {
  return __builtin_bit_cast(bits_t<T>, value);
}
METAL_FUNC uint32_t magnitude_bits(float x) { return bits_of(x) & 0x7fffffff; }

template <class T>
METAL_FUNC T next_after(T x, T y) {
  constexpr bits_t<T> sign = bits_t<T>(bits_t<T>(1) << (sizeof(T) * 8 - 1));
  float from = float(x), to = float(y);
  if (from != from || to != to) return T(from + to);
  if (from == to) return y;
  bits_t<T> bits = bits_of(x);
  if (from == 0.0f) {
    bits = bits_t<T>(to < 0.0f ? sign | 1 : 1);
  } else {
    bits = bits_t<T>((from < to) == (from > 0.0f) ? bits + 1 : bits - 1);
  }
  return __builtin_bit_cast(T, bits);
}

}  // namespace language

namespace metal {

#define SIM_FLOATING_1(name, formula)                                                     \
  template <class A, class V = language::floating_t<A>>                                   \
  METAL_FUNC V name(A a) {                                                                \
    return language::map<V>([](float x) SIM_INLINE_LAMBDA { return formula; }, V(a));     \
  }
#define SIM_FLOATING_2(name, formula)                                                     \
  template <class A, class B, class V = language::floating_t<A, B>>                       \
  METAL_FUNC V name(A a, B b) {                                                           \
    return language::map<V>(                                                              \
        [](float x, float y) SIM_INLINE_LAMBDA { return formula; }, V(a), V(b));          \
  }
#define SIM_FLOATING_3(name, formula)                                                     \
  template <class A, class B, class C, class V = language::floating_t<A, B, C>>           \
  METAL_FUNC V name(A a, B b, C c) {                                                      \
    return language::map<V>(                                                              \
        [](float x, float y, float z) SIM_INLINE_LAMBDA { return formula; }, V(a), V(b),  \
        V(c));                                                                            \
  }

// ---- Math functions.
SIM_FLOATING_1(acos, __builtin_acosf(x))
SIM_FLOATING_1(acosh, __builtin_acoshf(x))
SIM_FLOATING_1(asin, __builtin_asinf(x))
SIM_FLOATING_1(asinh, __builtin_asinhf(x))
SIM_FLOATING_1(atan, __builtin_atanf(x))
SIM_FLOATING_2(atan2, __builtin_atan2f(x, y))
SIM_FLOATING_1(atanh, __builtin_atanhf(x))
SIM_FLOATING_1(ceil, __builtin_ceilf(x))
SIM_FLOATING_2(copysign, __builtin_copysignf(x, y))
SIM_FLOATING_1(cos, __builtin_cosf(x))
SIM_FLOATING_1(cosh, __builtin_coshf(x))
SIM_FLOATING_1(cospi, language::cosine_of_pi(x))
SIM_FLOATING_2(divide, x / y)
SIM_FLOATING_1(exp, __builtin_expf(x))
SIM_FLOATING_1(exp2, __builtin_exp2f(x))
SIM_FLOATING_1(exp10, __builtin_powf(10.0f, x))
SIM_FLOATING_1(fabs, __builtin_fabsf(x))
SIM_FLOATING_2(fdim, __builtin_fdimf(x, y))
SIM_FLOATING_1(floor, __builtin_floorf(x))
SIM_FLOATING_3(fma, __builtin_fmaf(x, y, z))
SIM_FLOATING_2(fmax, language::larger(x, y))
SIM_FLOATING_3(fmax3, language::larger(language::larger(x, y), z))
SIM_FLOATING_3(fmedian3, language::limited(x, language::smaller(y, z), language::larger(y, z)))
SIM_FLOATING_2(fmin, language::smaller(x, y))
SIM_FLOATING_3(fmin3, language::smaller(language::smaller(x, y), z))
SIM_FLOATING_2(fmod, __builtin_fmodf(x, y))
SIM_FLOATING_1(fract, __builtin_fminf(x - __builtin_floorf(x), 0x1.fffffep-1f))
SIM_FLOATING_1(log, __builtin_logf(x))
SIM_FLOATING_1(log2, __builtin_log2f(x))
SIM_FLOATING_1(log10, __builtin_log10f(x))
SIM_FLOATING_2(pow, __builtin_powf(x, y))
SIM_FLOATING_2(powr, x < 0.0f ? __builtin_nanf("") : __builtin_powf(x, y))
SIM_FLOATING_1(rint, __builtin_rintf(x))
SIM_FLOATING_1(round, __builtin_roundf(x))
SIM_FLOATING_1(rsqrt, 1.0f / __builtin_sqrtf(x))
SIM_FLOATING_1(sin, __builtin_sinf(x))
SIM_FLOATING_1(sinh, __builtin_sinhf(x))
SIM_FLOATING_1(sinpi, language::sine_of_pi(x))
SIM_FLOATING_1(sqrt, __builtin_sqrtf(x))
SIM_FLOATING_1(tan, __builtin_tanf(x))
SIM_FLOATING_1(tanh, __builtin_tanhf(x))
SIM_FLOATING_1(tanpi, language::sine_of_pi(x) / language::cosine_of_pi(x))
SIM_FLOATING_1(trunc, __builtin_truncf(x))

template <class A, class B, class V = language::floating_t<A, B>>
METAL_FUNC V nextafter(A a, B b) {
  using T = language::element_t<V>;
  return language::map<V>(
      [](T x, T y) SIM_INLINE_LAMBDA { return language::next_after(x, y); }, V(a), V(b));
}

template <class A, class V = language::floating_t<A>>
METAL_FUNC V sincos(A a, V& cosine) {
  cosine = cos(a);
  return sin(a);
}

template <class A, class V = language::floating_t<A>>
METAL_FUNC V modf(A a, V& whole) {
  whole = trunc(a);
  return language::map<V>(
      [](float x, float w) SIM_INLINE_LAMBDA {
        return __builtin_copysignf(x == w ? 0.0f : x - w, x);
      },
      V(a), whole);
}

template <class A, class V = language::floating_t<A>>
METAL_FUNC V frexp(A a, language::with_element_t<V, int>& exponent) {
  V x = a;
  exponent = language::map<language::with_element_t<V, int>>(
      [](float x) SIM_INLINE_LAMBDA {
        int result = 0;
        __builtin_frexpf(x, &result);
        return result;
      },
      x);
  return language::map<V>(
      [](float x) SIM_INLINE_LAMBDA {
        int ignored;
        return __builtin_frexpf(x, &ignored);
      },
      x);
}

template <class A, class V = language::floating_t<A>>
METAL_FUNC V ldexp(A a, language::with_element_t<V, int> exponent) {
  return language::map<V>(
      [](float x, int k) SIM_INLINE_LAMBDA { return __builtin_ldexpf(x, k); }, V(a), exponent);
}

template <class A, class V = language::floating_t<A>>
METAL_FUNC language::with_element_t<V, int> ilogb(A a) {
  return language::map<language::with_element_t<V, int>>(
      [](float x) SIM_INLINE_LAMBDA { return __builtin_ilogbf(x); }, V(a));
}

// ---- Common functions.
SIM_FLOATING_1(saturate, language::limited(x, 0.0f, 1.0f))
SIM_FLOATING_1(sign, x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : x == 0.0f ? x : 0.0f)
SIM_FLOATING_2(step, y < x ? 0.0f : 1.0f)
SIM_FLOATING_3(smoothstep, language::between(x, y, z) * language::between(x, y, z) *
                               (3.0f - 2.0f * language::between(x, y, z)))

template <class A, class B, class C, class V = language::floating_t<A, B, C>>
METAL_FUNC V mix(A a, B b, C c) {
  V x = a, y = b, t = c;
  return x + (y - x) * t;
}

// ---- Functions of floating-point values and of integers.
#define SIM_NUMBER_2(name, floating, integer)                                               \
  template <class A, class B, class V = language::number_t<A, B>>                           \
  METAL_FUNC V name(A a, B b) {                                                             \
    if constexpr (is_floating_point_v<language::element_t<V>>) {                            \
      return floating(a, b);                                                                \
    } else {                                                                                \
      using T = language::element_t<V>;                                                     \
      return language::map<V>([](T x, T y) SIM_INLINE_LAMBDA { return integer; }, V(a), V(b)); \
    }                                                                                       \
  }
SIM_NUMBER_2(max, fmax, x < y ? y : x)
SIM_NUMBER_2(min, fmin, y < x ? y : x)

template <class A, class B, class C, class V = language::number_t<A, B, C>>
METAL_FUNC V max3(A a, B b, C c) {
  return max(max(V(a), V(b)), V(c));
}
template <class A, class B, class C, class V = language::number_t<A, B, C>>
METAL_FUNC V min3(A a, B b, C c) {
  return min(min(V(a), V(b)), V(c));
}
template <class A, class B, class C, class V = language::number_t<A, B, C>>
METAL_FUNC V clamp(A a, B low, C high) {
  return min(max(V(a), V(low)), V(high));
}
template <class A, class B, class C, class V = language::number_t<A, B, C>>
METAL_FUNC V median3(A a, B b, C c) {
  return clamp(V(a), min(V(b), V(c)), max(V(b), V(c)));
}
template <class A, class V = language::number_t<A>>
METAL_FUNC V abs(A a) {
  if constexpr (is_floating_point_v<language::element_t<V>>) {
    return fabs(a);
  } else {
    using T = language::element_t<V>;
    return language::map<V>([](T x) SIM_INLINE_LAMBDA { return x < T(0) ? T(-x) : x; }, V(a));
  }
}

// ---- Integer functions. `bits` is the size of an element; Wide holds a product of two of them.
}  // namespace metal

namespace language {
template <class T>
constexpr int bits_v = int(sizeof(T)) * 8;
template <class T>
using wide_t = std::conditional_t<
    sizeof(T) == 8, std::conditional_t<std::is_signed<T>::value, __int128, unsigned __int128>,
    std::conditional_t<std::is_signed<T>::value, long, ulong>>;
template <class T>
METAL_FUNC T saturated(wide_t<T> value) {
  constexpr T low = metal::numeric_limits<T>::min(), high = metal::numeric_limits<T>::max();
  return value < wide_t<T>(low) ? low : value > wide_t<T>(high) ? high : T(value);
}
// The lowest `count` bits.
template <class T>
METAL_FUNC T low_bits(uint count) {
  using U = std::make_unsigned_t<T>;
  return count >= uint(bits_v<T>) ? T(~U(0)) : T((U(1) << count) - 1);
}
template <class T>
METAL_FUNC T reversed(T value) {
  std::make_unsigned_t<T> result = 0;
  for (int i = 0; i < bits_v<T>; i++) result |= decltype(result)((ulong(value) >> i & 1) << (bits_v<T> - 1 - i));
  return T(result);
}
template <class T>
METAL_FUNC T extracted(T value, uint offset, uint count) {
  if (count == 0) return T(0);
  using U = std::make_unsigned_t<T>;
  U field = U(U(value) >> offset) & U(low_bits<T>(count));
  bool negative = std::is_signed<T>::value && (field >> (count - 1) & 1);
  return T(negative ? U(field | U(~U(low_bits<T>(count)))) : field);
}
// The lowest 24 bits, with sign.
METAL_FUNC int low_24(int x) { return int(uint(x) << 8) >> 8; }
METAL_FUNC uint low_24(uint x) { return x & 0xffffff; }
}  // namespace language

namespace metal {

#define SIM_INTEGER_1(name, formula)                                                      \
  template <class A, class V = language::integer_t<A>>                                    \
  METAL_FUNC V name(A a) {                                                                \
    using T = language::element_t<V>;                                                     \
    using U = std::make_unsigned_t<T>;                                                    \
    return language::map<V>([](T x) SIM_INLINE_LAMBDA { return T(formula); }, V(a));      \
  }
#define SIM_INTEGER_2(name, formula)                                                      \
  template <class A, class B, class V = language::integer_t<A, B>>                        \
  METAL_FUNC V name(A a, B b) {                                                           \
    using T = language::element_t<V>;                                                     \
    using Wide = language::wide_t<T>;                                                     \
    return language::map<V>(                                                              \
        [](T x, T y) SIM_INLINE_LAMBDA { return T(formula); }, V(a), V(b));               \
  }
#define SIM_INTEGER_3(name, formula)                                                      \
  template <class A, class B, class C, class V = language::integer_t<A, B, C>>            \
  METAL_FUNC V name(A a, B b, C c) {                                                      \
    using T = language::element_t<V>;                                                     \
    using Wide = language::wide_t<T>;                                                     \
    return language::map<V>(                                                              \
        [](T x, T y, T z) SIM_INLINE_LAMBDA { return T(formula); }, V(a), V(b), V(c));    \
  }
