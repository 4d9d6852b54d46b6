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
METAL_FUNC bool is_normal(T x) {
  uint32_t bits = magnitude_bits(float(x));
  return bits >= magnitude_bits(float(metal::numeric_limits<T>::min())) && bits < 0x7f800000;
}
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

}  // namespace metal

// ---- Integer functions.
namespace language {

template <class T>
constexpr int bits_v = int(sizeof(T)) * 8;
// Holds a product of two values.
template <class T>
using wide_t = std::conditional_t<
    sizeof(T) == 8, std::conditional_t<std::is_signed<T>::value, __int128, unsigned __int128>,
    std::conditional_t<std::is_signed<T>::value, long, ulong>>;
template <class T>
METAL_FUNC T saturated(wide_t<T> value) {
  constexpr T low = metal::numeric_limits<T>::min(), high = metal::numeric_limits<T>::max();
  return value < wide_t<T>(low) ? low : value > wide_t<T>(high) ? high : T(value);
}
template <class T>
METAL_FUNC T saturated_difference(T x, T y) {
  if (!std::is_signed<T>::value) return x < y ? T(0) : T(x - y);
  return saturated<T>(wide_t<T>(x) - wide_t<T>(y));
}
template <class U>
METAL_FUNC int leading_zeros(U bits) {
  return bits == 0 ? bits_v<U> : __builtin_clzll(bits) - (64 - bits_v<U>);
}
template <class U>
METAL_FUNC U rotated(U bits, U count) {
  count %= bits_v<U>;
  return count == 0 ? bits : U(bits << count | bits >> (bits_v<U> - count));
}
// The lowest `count` bits.
template <class T>
METAL_FUNC T low_bits(uint count) {
  using U = std::make_unsigned_t<T>;
  return count >= uint(bits_v<T>) ? T(~U(0)) : T((U(1) << count) - 1);
}
template <class T>
METAL_FUNC T reversed(T value) {
  ulong result = 0;
  for (int i = 0; i < bits_v<T>; i++) result = result << 1 | (ulong(value) >> i & 1);
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
template <class T>
METAL_FUNC T inserted(T base, T value, uint offset, uint count) {
  if (count == 0) return base;
  using U = std::make_unsigned_t<T>;
  U mask = U(U(low_bits<T>(count)) << offset);
  return T((U(base) & U(~mask)) | (U(U(value) << offset) & mask));
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
    return language::map<V>([](T x) SIM_INLINE_LAMBDA { return T(formula); }, V(a));      \
  }
#define SIM_INTEGER_2(name, formula)                                                      \
  template <class A, class B, class V = language::integer_t<A, B>>                        \
  METAL_FUNC V name(A a, B b) {                                                           \
    using T = language::element_t<V>;                                                     \
    return language::map<V>(                                                              \
        [](T x, T y) SIM_INLINE_LAMBDA { return T(formula); }, V(a), V(b));               \
  }
#define SIM_INTEGER_3(name, formula)                                                      \
  template <class A, class B, class C, class V = language::integer_t<A, B, C>>            \
  METAL_FUNC V name(A a, B b, C c) {                                                      \
    using T = language::element_t<V>;                                                     \
    return language::map<V>(                                                              \
        [](T x, T y, T z) SIM_INLINE_LAMBDA { return T(formula); }, V(a), V(b), V(c));    \
  }

SIM_INTEGER_2(addsat, language::saturated<T>(language::wide_t<T>(x) + y))
SIM_INTEGER_2(subsat, language::saturated_difference(x, y))
SIM_INTEGER_2(hadd, (language::wide_t<T>(x) + y) >> 1)
SIM_INTEGER_2(rhadd, (language::wide_t<T>(x) + y + 1) >> 1)
SIM_INTEGER_2(mulhi, (language::wide_t<T>(x) * y) >> language::bits_v<T>)
SIM_INTEGER_3(madhi, ((language::wide_t<T>(x) * y) >> language::bits_v<T>) + z)
SIM_INTEGER_3(madsat, language::saturated<T>(language::wide_t<T>(x) * y + z))
SIM_INTEGER_1(clz, language::leading_zeros(language::bits_of(x)))
SIM_INTEGER_1(ctz, x == 0 ? language::bits_v<T> : __builtin_ctzll(ulong(x)))
SIM_INTEGER_1(popcount, __builtin_popcountll(language::bits_of(x)))
SIM_INTEGER_1(reverse_bits, language::reversed(x))
SIM_INTEGER_2(rotate, language::rotated(language::bits_of(x), language::bits_of(y)))

template <class A, class B, class V = language::integer_t<A, B>>
METAL_FUNC V mul24(A a, B b) {
  using T = language::element_t<V>;
  static_assert(sizeof(T) == 4, "mul24 takes int, uint and vectors of them.");
  return language::map<V>(
      [](T x, T y) SIM_INLINE_LAMBDA { return language::low_24(x) * language::low_24(y); }, V(a),
      V(b));
}
template <class A, class B, class C, class V = language::integer_t<A, B, C>>
METAL_FUNC V mad24(A a, B b, C c) {
  return mul24(V(a), V(b)) + V(c);
}

template <class A, class B, class V = language::integer_t<A, B>>
METAL_FUNC auto absdiff(A a, B b) {
  using T = language::element_t<V>;
  using U = std::make_unsigned_t<T>;
  return language::map<language::with_element_t<V, U>>(
      [](T x, T y) SIM_INLINE_LAMBDA { return x < y ? U(U(y) - U(x)) : U(U(x) - U(y)); }, V(a),
      V(b));
}

template <class A, class V = language::integer_t<A>>
METAL_FUNC V extract_bits(A a, uint offset, uint bits) {
  using T = language::element_t<V>;
  return language::map<V>(
      [=](T x) SIM_INLINE_LAMBDA { return language::extracted(x, offset, bits); }, V(a));
}
template <class A, class B, class V = language::integer_t<A, B>>
METAL_FUNC V insert_bits(A base, B insert, uint offset, uint bits) {
  using T = language::element_t<V>;
  return language::map<V>(
      [=](T x, T y) SIM_INLINE_LAMBDA { return language::inserted(x, y, offset, bits); },
      V(base), V(insert));
}

// ---- Relational functions.
#define SIM_TEST_1(name, formula)                                                          \
  template <class A, class V = language::floating_t<A>>                                    \
  METAL_FUNC language::with_element_t<V, bool> name(A a) {                                 \
    return language::map<language::with_element_t<V, bool>>(                               \
        [](language::element_t<V> x) SIM_INLINE_LAMBDA { return formula; }, V(a));         \
  }
SIM_TEST_1(isfinite, language::magnitude_bits(float(x)) < 0x7f800000)
SIM_TEST_1(isinf, language::magnitude_bits(float(x)) == 0x7f800000)
SIM_TEST_1(isnan, language::magnitude_bits(float(x)) > 0x7f800000)
SIM_TEST_1(isnormal, language::is_normal(x))
SIM_TEST_1(signbit, (language::bits_of(float(x)) >> 31 != 0))

template <class A, class B, class V = language::floating_t<A, B>>
METAL_FUNC auto isordered(A a, B b) {
  return !isnan(V(a)) && !isnan(V(b));
}
template <class A, class B, class V = language::floating_t<A, B>>
METAL_FUNC auto isunordered(A a, B b) {
  return isnan(V(a)) || isnan(V(b));
}

// b where c is true, else a.
template <class A, class B, class C, class V = language::any_t<A, B>>
METAL_FUNC V select(A a, B b, C c) {
  using T = language::element_t<V>;
  static_assert(std::is_same<language::element_t<C>, bool>::value,
                "select takes its condition as bool or a vector of bool.");
  return language::map<V>([](T x, T y, bool chosen) SIM_INLINE_LAMBDA { return chosen ? y : x; },
                          V(a), V(b), language::with_element_t<V, bool>(c));
}

template <class A, language::require<std::is_same<language::element_t<A>, bool>::value> = 0>
METAL_FUNC bool all(A a) {
  if constexpr (language::size_v<A> == 1) {
    return a;
  } else {
    language::value_t<A> vector = a;
    bool result = true;
    for (int i = 0; i < language::size_v<A>; i++) result &= vector.v[i];
    return result;
  }
}
template <class A, language::require<std::is_same<language::element_t<A>, bool>::value> = 0>
METAL_FUNC bool any(A a) {
  return !all(!language::value_t<A>(a));
}

// ---- Geometric functions.
template <class A, class B, class V = language::floating_t<A, B>>
METAL_FUNC auto dot(A a, B b) -> language::require_vector<V, language::element_t<V>> {
  V products = V(a) * V(b);
  auto sum = products.v[0];
  for (int i = 1; i < language::size_v<V>; i++) sum = sum + products.v[i];
  return sum;
}
template <class A, class V = language::floating_t<A>>
METAL_FUNC auto length_squared(A a) {
  return dot(V(a), V(a));
}
template <class A, class V = language::floating_t<A>>
METAL_FUNC auto length(A a) {
  return sqrt(length_squared(V(a)));
}
template <class A, class B, class V = language::floating_t<A, B>>
METAL_FUNC auto distance_squared(A a, B b) {
  return length_squared(V(a) - V(b));
}
template <class A, class B, class V = language::floating_t<A, B>>
METAL_FUNC auto distance(A a, B b) {
  return length(V(a) - V(b));
}
template <class A, class V = language::floating_t<A>>
METAL_FUNC V normalize(A a) {
  return V(a) * rsqrt(length_squared(V(a)));
}
template <class A, class B, class V = language::floating_t<A, B>,
          language::require<language::size_v<V> == 3> = 0>
METAL_FUNC V cross(A a, B b) {
  V x = a, y = b;
  return x.yzx * y.zxy - x.zxy * y.yzx;
}
template <class A, class B, class C, class V = language::floating_t<A, B, C>>
METAL_FUNC V faceforward(A n, B incident, C reference) {
  return float(dot(V(incident), V(reference))) < 0.0f ? V(n) : -V(n);
}
template <class A, class B, class V = language::floating_t<A, B>>
METAL_FUNC V reflect(A incident, B n) {
  V i = incident, normal = n;
  return i - normal * (dot(normal, i) * language::element_t<V>(2));
}
template <class A, class B, class T, class V = language::floating_t<A, B>>
METAL_FUNC V refract(A incident, B n, T eta) {
  V i = incident, normal = n;
  float along = dot(normal, i), ratio = eta;
  float k = 1.0f - ratio * ratio * (1.0f - along * along);
  if (k < 0.0f) return V(0.0f);
  using E = language::element_t<V>;
  return i * E(ratio) - normal * E(ratio * along + __builtin_sqrtf(k));
}

// ---- Packing functions: normalized integers in one word, the first component in the low bits.
}  // namespace metal

namespace language {

template <class V, class Integer>
METAL_FUNC V unpack(uint word) {
  V result{zeros()};
  for (int i = 0; i < size_v<V>; i++) {
    float value = float(Integer(word >> (bits_v<Integer> * i)));
    float fraction = value / float(metal::numeric_limits<Integer>::max());
    result.v[i] = element_t<V>(fraction < -1.0f ? -1.0f : fraction);
  }
  return result;
}
template <class Integer, class V>
METAL_FUNC uint pack(const V& vector) {
  float lowest = std::is_signed<Integer>::value ? -1.0f : 0.0f;
  uint word = 0;
  for (int i = 0; i < size_v<V>; i++) {
    float fraction = limited(float(vector.v[i]), lowest, 1.0f);
    int value = int(__builtin_rintf(fraction * float(metal::numeric_limits<Integer>::max())));
    word |= uint(bits_t<Integer>(value)) << (bits_v<Integer> * i);
  }
  return word;
}

}  // namespace language

namespace metal {

#define SIM_PACKING(T, name, size, Integer)                                    \
  METAL_FUNC vec<T, size> unpack_##name##_to_##T(uint word) {                  \
    return language::unpack<vec<T, size>, Integer>(word);                      \
  }                                                                            \
  METAL_FUNC uint pack_##T##_to_##name(vec<T, size> vector) {                  \
    return language::pack<Integer>(vector);                                    \
  }
SIM_PACKING(float, unorm4x8, 4, uint8_t)
SIM_PACKING(float, snorm4x8, 4, int8_t)
SIM_PACKING(float, unorm2x16, 2, uint16_t)
SIM_PACKING(float, snorm2x16, 2, int16_t)
SIM_PACKING(half, unorm4x8, 4, uint8_t)
SIM_PACKING(half, snorm4x8, 4, int8_t)
SIM_PACKING(half, unorm2x16, 2, uint16_t)
SIM_PACKING(half, snorm2x16, 2, int16_t)

// The accuracy of these variants is not modelled: both are the functions above.
#define SIM_VARIANTS                                                                          \
  using metal::abs, metal::acos, metal::acosh, metal::asin, metal::asinh, metal::atan,        \
      metal::atan2, metal::atanh, metal::ceil, metal::clamp, metal::copysign, metal::cos,     \
      metal::cosh, metal::cospi, metal::divide, metal::exp, metal::exp10, metal::exp2,        \
      metal::fabs, metal::fdim, metal::floor, metal::fma, metal::fmax, metal::fmax3,          \
      metal::fmedian3, metal::fmin, metal::fmin3, metal::fmod, metal::fract, metal::frexp,    \
      metal::ilogb, metal::ldexp, metal::log, metal::log10, metal::log2, metal::max,          \
      metal::max3, metal::median3, metal::min, metal::min3, metal::mix, metal::modf,          \
      metal::nextafter, metal::pow, metal::powr, metal::rint, metal::round, metal::rsqrt,     \
      metal::saturate, metal::sign, metal::sin, metal::sincos, metal::sinh, metal::sinpi,     \
      metal::smoothstep, metal::sqrt, metal::step, metal::tan, metal::tanh, metal::tanpi,     \
      metal::trunc, metal::cross, metal::distance, metal::distance_squared, metal::dot,       \
      metal::faceforward, metal::length, metal::length_squared, metal::normalize,             \
      metal::reflect, metal::refract
namespace fast {
SIM_VARIANTS;
}
namespace precise {
SIM_VARIANTS;
}

#undef SIM_FLOATING_1
#undef SIM_FLOATING_2
#undef SIM_FLOATING_3
#undef SIM_NUMBER_2
#undef SIM_INTEGER_1
#undef SIM_INTEGER_2
#undef SIM_INTEGER_3
#undef SIM_TEST_1
#undef SIM_PACKING
#undef SIM_VARIANTS

}  // namespace metal
}  // namespace msl
