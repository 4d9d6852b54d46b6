// The scalar types, their literals, traits and limits, and `as_type`
// (Metal Shading Language specification, sections 2.1, 2.17 and 5.4).
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <type_traits>

#define METAL_FUNC inline __attribute__((always_inline))

// For a lambda: at -O1, GCC inlines only what it is told to.
#define SIM_INLINE_LAMBDA __attribute__((always_inline))

// For the code that runs inside a SIMD-group operation: one thread runs it for all, so its loads
// and stores are not accesses of that thread.
#define SIM_NOT_CHECKED __attribute__((noinline, no_sanitize("thread"), no_sanitize("undefined")))

// The place of the call, as the last parameters of a function. The runtime knows an operation by
// its place in the source, for a compiler may make several call instructions of one.
#define SIM_PLACE const char *file = __builtin_FILE(), uint32_t line = __builtin_LINE()

namespace msl {

using uchar = unsigned char;
using ushort = unsigned short;
using uint = unsigned int;
using ulong = unsigned long;
using half = _Float16;

// 64 bits are a `long` in Metal; on some hosts, int64_t is another type of the same size.
using int64_t = long;
using uint64_t = unsigned long;

namespace language {
template <class T>
constexpr bool is_scalar_v = std::is_arithmetic<T>::value || std::is_same<T, half>::value;
template <bool Condition>
using require = std::enable_if_t<Condition, int>;
}  // namespace language

// The upper half of a float. As in Metal, it becomes a float implicitly, and an integer becomes a
// bfloat (`bfloat x = 0`); every other conversion has to be written.
struct bfloat {
  uint16_t bits;

  bfloat() = default;

  template <class T, language::require<std::is_integral<T>::value> = 0>
  constexpr bfloat(T value) : bits(round_to_nearest_even(float(value))) {}
  template <class T, language::require<language::is_scalar_v<T>> = 0,
            language::require<!std::is_integral<T>::value> = 0>
  explicit constexpr bfloat(T value) : bits(round_to_nearest_even(float(value))) {}

  // Conversion templates, because a plain `operator float` would also let `c ? b : 0` become an
  // int: the value would be cut without a word.
  template <class T, language::require<std::is_same<T, float>::value> = 0>
  constexpr operator T() const {
    return __builtin_bit_cast(float, uint32_t(bits) << 16);
  }
  template <class T, language::require<language::is_scalar_v<T>> = 0,
            language::require<!std::is_same<T, float>::value> = 0>
  explicit constexpr operator T() const {
    return T(float(*this));
  }

 private:
  static constexpr uint16_t round_to_nearest_even(float value) {
    uint32_t word = __builtin_bit_cast(uint32_t, value);
    if ((word & 0x7fffffff) > 0x7f800000) return uint16_t(word >> 16 | 0x40);  // a quiet NaN
    return uint16_t((word + 0x7fff + (word >> 16 & 1)) >> 16);
  }
};

namespace language {
template <>
inline constexpr bool is_scalar_v<bfloat> = true;
template <class T>
constexpr bool is_other_scalar_v = is_scalar_v<T> && !std::is_same<T, bfloat>::value;
}  // namespace language

constexpr METAL_FUNC bfloat operator-(bfloat a) { return bfloat(-float(a)); }

// bfloat with bfloat or an integer gives bfloat, bfloat with float gives float. All are written out,
// because the built-in operators do not see conversion templates.
#define SIM_BFLOAT_OPERATOR(op)                                                       \
  constexpr METAL_FUNC bfloat operator op(bfloat a, bfloat b) {                       \
    return bfloat(float(a) op float(b));                                              \
  }                                                                                   \
  template <class I, language::require<std::is_integral<I>::value> = 0>               \
  constexpr METAL_FUNC bfloat operator op(bfloat a, I b) {                            \
    return bfloat(float(a) op float(b));                                              \
  }                                                                                   \
  template <class I, language::require<std::is_integral<I>::value> = 0>               \
  constexpr METAL_FUNC bfloat operator op(I a, bfloat b) {                            \
    return bfloat(float(a) op float(b));                                              \
  }                                                                                   \
  constexpr METAL_FUNC float operator op(bfloat a, float b) { return float(a) op b; } \
  constexpr METAL_FUNC float operator op(float a, bfloat b) { return a op float(b); } \
  constexpr METAL_FUNC bfloat& operator op##=(bfloat& a, bfloat b) { return a = a op b; } \
  constexpr METAL_FUNC float& operator op##=(float& a, bfloat b) { return a = a op b; } \
  template <class I, language::require<std::is_integral<I>::value> = 0>               \
  constexpr METAL_FUNC bfloat& operator op##=(bfloat& a, I b) {                       \
    return a = a op b;                                                                \
  }
SIM_BFLOAT_OPERATOR(+)
SIM_BFLOAT_OPERATOR(-)
SIM_BFLOAT_OPERATOR(*)
SIM_BFLOAT_OPERATOR(/)
#undef SIM_BFLOAT_OPERATOR

#define SIM_BFLOAT_COMPARISON(op)                                                        \
  constexpr METAL_FUNC bool operator op(bfloat a, bfloat b) { return float(a) op float(b); } \
  template <class T, language::require<language::is_other_scalar_v<T>> = 0>             \
  constexpr METAL_FUNC bool operator op(bfloat a, T b) {                                \
    return float(a) op b;                                                               \
  }                                                                                     \
  template <class T, language::require<language::is_other_scalar_v<T>> = 0>             \
  constexpr METAL_FUNC bool operator op(T a, bfloat b) {                                \
    return a op float(b);                                                               \
  }
SIM_BFLOAT_COMPARISON(==)
SIM_BFLOAT_COMPARISON(!=)
SIM_BFLOAT_COMPARISON(<)
SIM_BFLOAT_COMPARISON(>)
SIM_BFLOAT_COMPARISON(<=)
SIM_BFLOAT_COMPARISON(>=)
#undef SIM_BFLOAT_COMPARISON

// The literals 1.5h and 1.5bf.
#pragma GCC diagnostic push
#if defined(__clang__)
#pragma GCC diagnostic ignored "-Wuser-defined-literals"
#else
#pragma GCC diagnostic ignored "-Wliteral-suffix"
#endif
constexpr half operator"" h(long double value) { return half(value); }
constexpr half operator"" h(unsigned long long value) { return half(value); }
constexpr half operator"" H(long double value) { return half(value); }
constexpr bfloat operator"" bf(long double value) { return bfloat(value); }
constexpr bfloat operator"" bf(unsigned long long value) { return bfloat(value); }
constexpr bfloat operator"" BF(long double value) { return bfloat(value); }
#pragma GCC diagnostic pop

namespace metal {

using std::bool_constant;
using std::conditional;
using std::conditional_t;
using std::conjunction;
using std::decay;
using std::decay_t;
using std::disjunction;
using std::enable_if;
using std::enable_if_t;
using std::false_type;
using std::integral_constant;
using std::is_const;
using std::is_const_v;
using std::is_convertible;
using std::is_convertible_v;
using std::is_enum;
using std::is_enum_v;
using std::is_integral;
using std::is_integral_v;
using std::is_pointer;
using std::is_pointer_v;
using std::is_reference;
using std::is_reference_v;
using std::is_same;
using std::is_same_v;
using std::is_unsigned;
using std::is_unsigned_v;
using std::is_void;
using std::is_void_v;
using std::make_signed;
using std::make_signed_t;
using std::make_unsigned;
using std::make_unsigned_t;
using std::negation;
using std::remove_const;
using std::remove_const_t;
using std::remove_cv;
using std::remove_cv_t;
using std::remove_pointer;
using std::remove_pointer_t;
using std::remove_reference;
using std::remove_reference_t;
using std::true_type;

// What the standard library says of `half` and `bfloat` is not what Metal says.
template <class T>
constexpr bool is_floating_point_v =
    language::is_scalar_v<std::remove_cv_t<T>> && !std::is_integral<T>::value;
template <class T>
struct is_floating_point : bool_constant<is_floating_point_v<T>> {};
template <class T>
constexpr bool is_arithmetic_v = language::is_scalar_v<std::remove_cv_t<T>>;
template <class T>
struct is_arithmetic : bool_constant<is_arithmetic_v<T>> {};
template <class T>
constexpr bool is_scalar_v = is_arithmetic_v<T> || std::is_scalar<T>::value;
template <class T>
struct is_scalar : bool_constant<is_scalar_v<T>> {};
template <class T>
constexpr bool is_signed_v = std::is_signed<T>::value || is_floating_point_v<T>;
template <class T>
struct is_signed : bool_constant<is_signed_v<T>> {};

// A name inside of Apple's headers that MLX's headers use.
template <class... B>
struct _disjunction : std::disjunction<B...> {};

// Address spaces are gone by now, so what remains to remove is const and volatile.
template <class T>
using remove_addrspace_t = std::remove_cv_t<T>;

template <class T>
struct numeric_limits;

template <class T>
struct integer_limits {
  static constexpr bool is_specialized = true, is_integer = true, is_exact = true;
  static constexpr bool is_signed = T(-1) < T(0), is_bounded = true, is_modulo = !is_signed;
  static constexpr bool has_infinity = false, has_quiet_NaN = false, has_signaling_NaN = false;
  static constexpr bool is_iec559 = false;
  static constexpr int radix = 2;
  static constexpr int digits = std::is_same<T, bool>::value ? 1 : int(sizeof(T)) * 8 - is_signed;
  static constexpr int digits10 = digits * 3 / 10, max_digits10 = 0;
  static constexpr T max() {
    return T(std::is_same<T, bool>::value ? 1 : ~0ul >> (64 - digits));
  }
  static constexpr T min() { return is_signed ? T(-long(max()) - 1) : T(0); }
  static constexpr T lowest() { return min(); }
  static constexpr T epsilon() { return T(0); }
  static constexpr T round_error() { return T(0); }
  static constexpr T infinity() { return T(0); }
  static constexpr T quiet_NaN() { return T(0); }
  static constexpr T signaling_NaN() { return T(0); }
  static constexpr T denorm_min() { return T(0); }
};

// A floating-point type with this many bits of significand (the hidden one counts) and exponent.
template <class T, class Bits, int Digits, int ExponentBits>
struct floating_limits {
  static constexpr bool is_specialized = true, is_integer = false, is_exact = false;
  static constexpr bool is_signed = true, is_bounded = true, is_modulo = false;
  static constexpr bool has_infinity = true, has_quiet_NaN = true, has_signaling_NaN = true;
  static constexpr bool is_iec559 = true;
  static constexpr int radix = 2, digits = Digits;
  static constexpr int digits10 = (Digits - 1) * 3 / 10, max_digits10 = 2 + Digits * 3 / 10;
  static constexpr int max_exponent = 1 << (ExponentBits - 1), min_exponent = 3 - max_exponent;
  static constexpr T max() { return from_bits(infinity_bits - 1); }
  static constexpr T min() { return from_bits(1u << (Digits - 1)); }
  static constexpr T lowest() { return -max(); }
  static constexpr T epsilon() { return from_bits((max_exponent - Digits) << (Digits - 1)); }
  static constexpr T round_error() { return T(0.5f); }
  static constexpr T infinity() { return from_bits(infinity_bits); }
  static constexpr T quiet_NaN() { return from_bits(infinity_bits | 1u << (Digits - 2)); }
  static constexpr T signaling_NaN() { return from_bits(infinity_bits | 1u << (Digits - 3)); }
  static constexpr T denorm_min() { return from_bits(1); }

 private:
  static constexpr uint32_t infinity_bits = ((1u << ExponentBits) - 1) << (Digits - 1);
  static constexpr T from_bits(uint32_t bits) { return __builtin_bit_cast(T, Bits(bits)); }
};

template <> struct numeric_limits<bool> : integer_limits<bool> {};
template <> struct numeric_limits<char> : integer_limits<char> {};
template <> struct numeric_limits<signed char> : integer_limits<signed char> {};
template <> struct numeric_limits<uchar> : integer_limits<uchar> {};
template <> struct numeric_limits<short> : integer_limits<short> {};
template <> struct numeric_limits<ushort> : integer_limits<ushort> {};
template <> struct numeric_limits<int> : integer_limits<int> {};
template <> struct numeric_limits<uint> : integer_limits<uint> {};
template <> struct numeric_limits<long> : integer_limits<long> {};
template <> struct numeric_limits<ulong> : integer_limits<ulong> {};
template <> struct numeric_limits<half> : floating_limits<half, uint16_t, 11, 5> {};
template <> struct numeric_limits<bfloat> : floating_limits<bfloat, uint16_t, 8, 8> {};
template <> struct numeric_limits<float> : floating_limits<float, uint32_t, 24, 8> {};

// A value that all threads have alike, which helps Apple's compiler only.
template <class T>
using uniform = T;
template <class T>
constexpr METAL_FUNC T make_uniform(T value) {
  return value;
}

template <class T, size_t N>
struct array {
  T elements[N];
  constexpr T& operator[](size_t index) { return elements[index]; }
  constexpr const T& operator[](size_t index) const { return elements[index]; }
  constexpr size_t size() const { return N; }
  constexpr T* data() { return elements; }
  constexpr const T* data() const { return elements; }
  constexpr T* begin() { return elements; }
  constexpr T* end() { return elements + N; }
};

}  // namespace metal
}  // namespace msl
