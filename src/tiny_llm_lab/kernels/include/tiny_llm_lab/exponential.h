// The exponential function of a vector.

#pragma once

#include "tiny_llm_lab/vectors.h"

namespace tiny_llm {

/// `e^x` of every element, for x of at most 0: what a softmax needs. The error is below 2.3e-7 of
/// the result, two units in the last place. Below about -87.7 the result is 0, as is that of
/// -infinity; that of NaN is NaN.
///
/// `e^x = 2^n * e^r` with n the integer next to `x / log(2)`: then r is within +-log(2) / 2, where
/// the first terms of the power series do, and `2^n` is a float whose exponent bits are n + 127.
/// A library's function takes one number at a time, and most of the time of an attention.
template <int n>
inline Floats<n> exponential(Floats<n> x) {
  // At -88, n is -127 and the exponent bits are 0, which means the number 0.
  x = x < -88.0f ? Floats<n>{} - 88.0f : x;
  // A float of this size has no digits behind the point: adding it rounds to an integer, which are
  // the lowest bits of the sum.
  const float rounding = 12582912.0f;  // 1.5 * 2^23
  const Floats<n> shifted = x * 1.44269504f + rounding;
  const Floats<n> integer = shifted - rounding;
  // log(2) in two parts, of which the first has so few digits that the product is exact.
  const Floats<n> r = (x - integer * 0.693359375f) + integer * 2.12194440e-4f;
  Floats<n> series = r * (1.0f / 720) + 1.0f / 120;
  series = series * r + 1.0f / 24;
  series = series * r + 1.0f / 6;
  series = series * r + 0.5f;
  series = series * r + 1.0f;
  series = series * r + 1.0f;
  const Ints<n> bits = (reinterpret_cast<Ints<n>>(shifted) - 0x4B400000 + 127) << 23;
  return series * reinterpret_cast<Floats<n>>(bits);
}

/// The larger one of each two elements; the second one if the first is NaN.
template <int n>
inline Floats<n> larger(Floats<n> a, Floats<n> b) {
  return a > b ? a : b;
}

}  // namespace tiny_llm
