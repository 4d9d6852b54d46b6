// Vectors, packed vectors and their swizzles (Metal Shading Language specification, section 2.2).
#pragma once
#include "types.h"

namespace msl {

namespace metal {
template <class T, int N>
struct vec;
template <class T, int N>
struct packed_vec;
}  // namespace metal

namespace language {

// A view of some components of a vector, as in `v.zx`. It shares memory with the vector and turns
// into a vector of its own, `V`, wherever it is used. (`auto s = v.zx` copies the view: write the
// vector's type instead of `auto`.)
template <class V, class T, int N, int... Index>
struct swizzle {
  T components[N];

  swizzle() = default;
  swizzle(const swizzle&) = default;

  METAL_FUNC constexpr operator V() const { return V(components[Index]...); }

  METAL_FUNC constexpr swizzle& operator=(const V& value) {
    static_assert(distinct(), "A swizzle that names a component twice cannot be assigned to.");
    int i = 0;
    ((components[Index] = value.v[i++]), ...);
    return *this;
  }
  METAL_FUNC constexpr swizzle& operator=(const swizzle& other) { return *this = V(other); }

  METAL_FUNC constexpr T operator[](int i) const { return V(*this)[i]; }

#define SIM_COMPOUND_ASSIGNMENT(op)                                 \
  template <class Other>                                            \
  METAL_FUNC constexpr swizzle& operator op##=(const Other& other) { \
    return *this = V(*this) op other;                               \
  }
  SIM_COMPOUND_ASSIGNMENT(+)
  SIM_COMPOUND_ASSIGNMENT(-)
  SIM_COMPOUND_ASSIGNMENT(*)
  SIM_COMPOUND_ASSIGNMENT(/)
  SIM_COMPOUND_ASSIGNMENT(%)
  SIM_COMPOUND_ASSIGNMENT(&)
  SIM_COMPOUND_ASSIGNMENT(|)
  SIM_COMPOUND_ASSIGNMENT(^)
  SIM_COMPOUND_ASSIGNMENT(<<)
  SIM_COMPOUND_ASSIGNMENT(>>)
#undef SIM_COMPOUND_ASSIGNMENT

 private:
  static constexpr bool distinct() {
    int seen = 0;
    bool result = true;
    ((result = result && !(seen >> Index & 1), seen |= 1 << Index), ...);
    return result;
  }
};

// What a value is when a function takes it: a swizzle or a packed vector is a vector.
template <class A>
struct value {
  using type = A;
};
template <class V, class T, int N, int... Index>
struct value<swizzle<V, T, N, Index...>> {
  using type = V;
};
template <class T, int N>
struct value<metal::packed_vec<T, N>> {
  using type = metal::vec<T, N>;
};
template <class A>
using value_t = typename value<A>::type;

// Element type and number of elements of a scalar (1) or a vector; 0 elements for all else.
template <class V>
struct shape {
  using element = V;
  static constexpr int size = is_scalar_v<V> ? 1 : 0;
};
template <class T, int N>
struct shape<metal::vec<T, N>> {
  using element = T;
  static constexpr int size = N;
};
template <class A>
using element_t = typename shape<value_t<A>>::element;
template <class A>
constexpr int size_v = shape<value_t<A>>::size;

// The elements of a vector: as an array, under their names, and as swizzles.
struct zeros {};
template <class T, int N>
struct components;
template <class T>
struct components<T, 2> {
  union {
    T v[2];
    struct { T x, y; };
    struct { T r, g; };
#include "swizzles2.h"
  };
  components() = default;
  constexpr explicit components(zeros) : v{} {}
};
template <class T>
struct components<T, 3> {
  union {
    T v[3];
    struct { T x, y, z; };
    struct { T r, g, b; };
#include "swizzles3.h"
  };
  components() = default;
  constexpr explicit components(zeros) : v{} {}
};
template <class T>
struct components<T, 4> {
  union {
    T v[4];
    struct { T x, y, z, w; };
    struct { T r, g, b, a; };
#include "swizzles4.h"
  };
  components() = default;
  constexpr explicit components(zeros) : v{} {}
};

}  // namespace language

namespace metal {

// A vector of three is as large as one of four.
template <class T, int N>
struct alignas(sizeof(T) * (N == 2 ? 2 : 4)) vec : language::components<T, N> {
  static_assert(N >= 2 && N <= 4, "Vectors have 2, 3 or 4 components.");
  using language::components<T, N>::v;

  vec() = default;
  vec(const vec&) = default;
  METAL_FUNC constexpr vec& operator=(const vec& other) {
    for (int i = 0; i < N; i++) v[i] = other.v[i];
    return *this;
  }

  // One scalar for all components; implicit where the scalar itself would convert implicitly.
  template <class S, language::require<language::is_scalar_v<S>> = 0,
            language::require<std::is_convertible<S, T>::value> = 0>
  METAL_FUNC constexpr vec(S scalar) : language::components<T, N>(language::zeros()) {
    for (int i = 0; i < N; i++) v[i] = T(scalar);
  }
  template <class S, language::require<language::is_scalar_v<S>> = 0,
            language::require<!std::is_convertible<S, T>::value> = 0>
  METAL_FUNC explicit constexpr vec(S scalar) : language::components<T, N>(language::zeros()) {
    for (int i = 0; i < N; i++) v[i] = T(scalar);
  }

  // Another element type: explicit, as in Metal.
  template <class A, language::require<language::size_v<A> == N> = 0,
            language::require<!std::is_same<language::element_t<A>, T>::value> = 0>
  METAL_FUNC explicit constexpr vec(const A& other)
      : language::components<T, N>(language::zeros()) {
    language::value_t<A> vector = other;
    for (int i = 0; i < N; i++) v[i] = T(vector.v[i]);
  }

  // Scalars and smaller vectors that together have N components, as in float4(v.xy, 0, 1).
  template <class A, class B, class... Rest,
            language::require<(language::size_v<A> > 0 && language::size_v<B> > 0)> = 0,
            language::require<((language::size_v<A> + language::size_v<B>) + ... +
                               language::size_v<Rest>) == N> = 0>
  METAL_FUNC constexpr vec(const A& a, const B& b, const Rest&... rest)
      : language::components<T, N>(language::zeros()) {
    int next = 0;
    append(next, a), append(next, b), (append(next, rest), ...);
  }

  METAL_FUNC constexpr T& operator[](int i) { return v[i]; }
  METAL_FUNC constexpr const T& operator[](int i) const { return v[i]; }

#define SIM_OPERATOR(op)                                                           \
  friend METAL_FUNC constexpr vec operator op(const vec& a, const vec& b) {        \
    vec result{language::zeros()};                                                 \
    for (int i = 0; i < N; i++) result.v[i] = T(a.v[i] op b.v[i]);                 \
    return result;                                                                 \
  }                                                                                \
  METAL_FUNC constexpr vec& operator op##=(const vec& b) { return *this = *this op b; }
  SIM_OPERATOR(+)
  SIM_OPERATOR(-)
  SIM_OPERATOR(*)
  SIM_OPERATOR(/)
  SIM_OPERATOR(%)
  SIM_OPERATOR(&)
  SIM_OPERATOR(|)
  SIM_OPERATOR(^)
  SIM_OPERATOR(<<)
  SIM_OPERATOR(>>)
#undef SIM_OPERATOR

#define SIM_COMPARISON(op)                                                              \
  friend METAL_FUNC constexpr vec<bool, N> operator op(const vec& a, const vec& b) {    \
    vec<bool, N> result{language::zeros()};                                             \
    for (int i = 0; i < N; i++) result.v[i] = a.v[i] op b.v[i];                         \
    return result;                                                                      \
  }
  SIM_COMPARISON(==)
  SIM_COMPARISON(!=)
  SIM_COMPARISON(<)
  SIM_COMPARISON(>)
  SIM_COMPARISON(<=)
  SIM_COMPARISON(>=)
  SIM_COMPARISON(&&)
  SIM_COMPARISON(||)
#undef SIM_COMPARISON

#define SIM_UNARY(op, Element)                                                    \
  friend METAL_FUNC constexpr vec<Element, N> operator op(const vec& a) {         \
    vec<Element, N> result{language::zeros()};                                    \
    for (int i = 0; i < N; i++) result.v[i] = Element(op a.v[i]);                 \
    return result;                                                                \
  }
  SIM_UNARY(+, T)
  SIM_UNARY(-, T)
  SIM_UNARY(~, T)
  SIM_UNARY(!, bool)
#undef SIM_UNARY

  METAL_FUNC constexpr vec& operator++() { return *this += vec(T(1)); }
  METAL_FUNC constexpr vec& operator--() { return *this -= vec(T(1)); }
  METAL_FUNC constexpr vec operator++(int) {
    vec before = *this;
    ++*this;
    return before;
  }
  METAL_FUNC constexpr vec operator--(int) {
    vec before = *this;
    --*this;
    return before;
  }

  // All components zero: for results that are then filled, where a constant expression may not
  // start from something uninitialized.
  METAL_FUNC explicit constexpr vec(language::zeros zeros) : language::components<T, N>(zeros) {}

 private:
  template <class A>
  METAL_FUNC constexpr void append(int& next, const A& part) {
    if constexpr (language::size_v<A> == 1) {
      v[next++] = T(part);
    } else {
      language::value_t<A> vector = part;
      static_assert(std::is_same<language::element_t<A>, T>::value,
                    "A vector is built of vectors with its own element type: convert them first.");
      for (int i = 0; i < language::size_v<A>; i++) v[next++] = T(vector.v[i]);
    }
  }
};

// The same components without padding, aligned like one of them.
template <class T, int N>
struct packed_vec : language::components<T, N> {
  using language::components<T, N>::v;

  packed_vec() = default;
  packed_vec(const packed_vec&) = default;
  METAL_FUNC constexpr packed_vec(const vec<T, N>& other)
      : language::components<T, N>(language::zeros()) {
    for (int i = 0; i < N; i++) v[i] = other.v[i];
  }
  template <class A, class... Rest,
            language::require<std::is_constructible<vec<T, N>, A, Rest...>::value> = 0,
            language::require<!std::is_same<A, vec<T, N>>::value> = 0,
            language::require<!std::is_same<A, packed_vec>::value> = 0>
  METAL_FUNC explicit constexpr packed_vec(const A& a, const Rest&... rest)
      : packed_vec(vec<T, N>(a, rest...)) {}

  METAL_FUNC constexpr packed_vec& operator=(const packed_vec& other) {
    for (int i = 0; i < N; i++) v[i] = other.v[i];
    return *this;
  }
  METAL_FUNC constexpr packed_vec& operator=(const vec<T, N>& other) {
    return *this = packed_vec(other);
  }
  METAL_FUNC constexpr operator vec<T, N>() const {
    vec<T, N> result{language::zeros()};
    for (int i = 0; i < N; i++) result.v[i] = v[i];
    return result;
  }
  METAL_FUNC constexpr T& operator[](int i) { return v[i]; }
  METAL_FUNC constexpr const T& operator[](int i) const { return v[i]; }

#define SIM_COMPOUND_ASSIGNMENT(op)                                            \
  METAL_FUNC constexpr packed_vec& operator op##=(const vec<T, N>& other) {    \
    return *this = vec<T, N>(*this) op other;                                  \
  }
  SIM_COMPOUND_ASSIGNMENT(+)
  SIM_COMPOUND_ASSIGNMENT(-)
  SIM_COMPOUND_ASSIGNMENT(*)
  SIM_COMPOUND_ASSIGNMENT(/)
#undef SIM_COMPOUND_ASSIGNMENT
};

}  // namespace metal

// float2, packed_float2 and so on. Metal knows the names inside and outside of `metal`.
#define SIM_VECTOR_NAMES(T, N)                      \
  using T##N = metal::vec<T, N>;                    \
  using packed_##T##N = metal::packed_vec<T, N>;    \
  namespace metal {                                 \
  using msl::T##N;                                  \
  using msl::packed_##T##N;                         \
  }
#define SIM_VECTORS(T) SIM_VECTOR_NAMES(T, 2) SIM_VECTOR_NAMES(T, 3) SIM_VECTOR_NAMES(T, 4)
SIM_VECTORS(bool)
SIM_VECTORS(char)
SIM_VECTORS(uchar)
SIM_VECTORS(short)
SIM_VECTORS(ushort)
SIM_VECTORS(int)
SIM_VECTORS(uint)
SIM_VECTORS(long)
SIM_VECTORS(ulong)
SIM_VECTORS(half)
SIM_VECTORS(bfloat)
SIM_VECTORS(float)
#undef SIM_VECTORS
#undef SIM_VECTOR_NAMES

// The same bits as another type.
template <class To, class From>
METAL_FUNC To as_type(const From& from) {
  language::value_t<From> value = from;
  static_assert(sizeof(To) == sizeof(value),
                "as_type keeps the bits, so both types must have the same size.");
  To result;
  __builtin_memcpy((void*)&result, (const void*)&value, sizeof result);
  return result;
}

namespace language {

// The type that the arguments of a function have in common. Metal overloads its functions for each
// type: scalars of different types are ambiguous, vectors of different types do not match, and a
// scalar beside a vector counts for all components. For functions of floating-point values only,
// an integer beside a floating-point scalar is not ambiguous: pow(2, x) is pow(2.0f, x).
struct mismatch {};
template <class V, class W, bool FloatingOnly>
constexpr bool yields_v = (size_v<V> == 1 && size_v<W> > 1) ||
                          (FloatingOnly && std::is_integral<V>::value &&
                           metal::is_floating_point_v<W>);
template <bool FloatingOnly, class... V>
struct common;
template <bool FloatingOnly, class V>
struct common<FloatingOnly, V> {
  using type = V;
};
template <bool FloatingOnly, class V, class W, class... Rest>
struct common<FloatingOnly, V, W, Rest...>
    : common<FloatingOnly,
             std::conditional_t<std::is_same<V, W>::value || yields_v<W, V, FloatingOnly>, V,
                                std::conditional_t<yields_v<V, W, FloatingOnly>, W, mismatch>>,
             Rest...> {};
template <class... A>
using common_t = typename common<false, value_t<A>...>::type;
template <class... A>
using floating_common_t = typename common<true, value_t<A>...>::type;

// The result types of functions; there is no such function where the arguments do not fit.
template <class... A>
using floating_t =
    std::enable_if_t<metal::is_floating_point_v<element_t<floating_common_t<A...>>>,
                     floating_common_t<A...>>;
template <class... A>
using integer_t = std::enable_if_t<metal::is_integral_v<element_t<common_t<A...>>> &&
                                       !std::is_same<element_t<common_t<A...>>, bool>::value,
                                   common_t<A...>>;
template <class... A>
using number_t = std::enable_if_t<is_scalar_v<element_t<common_t<A...>>> &&
                                      !std::is_same<element_t<common_t<A...>>, bool>::value,
                                  common_t<A...>>;
template <class... A>
using any_t = std::enable_if_t<is_scalar_v<element_t<common_t<A...>>>, common_t<A...>>;

// Result, in a function of vectors only.
template <class V, class Result>
using require_vector = std::enable_if_t<(size_v<V> > 1), Result>;

// As many elements as V has, of type T.
template <class V, class T>
struct with_element {
  using type = T;
};
template <class U, int N, class T>
struct with_element<metal::vec<U, N>, T> {
  using type = metal::vec<T, N>;
};
template <class V, class T>
using with_element_t = typename with_element<V, T>::type;

// f of each element. The arguments are all scalars, or all vectors of one size.
template <class Result, class F, class... V>
METAL_FUNC constexpr Result map(F f, const V&... arguments) {
  if constexpr (size_v<Result> == 1) {
    return Result(f(arguments...));
  } else {
    Result result{zeros()};
#pragma GCC unroll 4
    for (int i = 0; i < size_v<Result>; i++) result.v[i] = element_t<Result>(f(arguments.v[i]...));
    return result;
  }
}

}  // namespace language
}  // namespace msl
