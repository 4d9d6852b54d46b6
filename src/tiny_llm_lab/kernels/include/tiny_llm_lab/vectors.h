// Vectors of numbers, for GCC and clang on every processor.
//
// `+`, `*`, `&`, `>>` and the like work element by element, and a number stands for a vector of
// equal ones: `2.0f * v + w`. `v[i]` is one element. The compiler splits or joins vectors to the
// size of the processor's registers.

#pragma once

#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

namespace tiny_llm {

/// `n` elements of type `T`; `n` is a power of two.
template <typename T, int n>
struct VectorOf {
  typedef T type __attribute__((vector_size(sizeof(T) * n)));
};

template <int n>
using Floats = typename VectorOf<float, n>::type;
template <int n>
using Ints = typename VectorOf<int32_t, n>::type;
template <int n>
using Words = typename VectorOf<uint32_t, n>::type;

/// The vector that lies at an address, aligned or not: `load<Floats<8>>(x)`.
template <typename Vector>
inline Vector load(const void* address) {
  Vector vector;
  std::memcpy(&vector, address, sizeof vector);
  return vector;
}

/// Write a vector to an address, aligned or not.
template <typename Vector>
inline void store(void* address, Vector vector) {
  std::memcpy(address, &vector, sizeof vector);
}

/// `load`, into a register. Where a vector has several uses, GCC for AMD's processors may read it
/// from memory for each of them, and a loop that has few other loads is bound by these.
template <typename Vector>
inline Vector load_once(const void* address) {
  Vector vector = load<Vector>(address);
#ifdef __AVX__
  if constexpr (sizeof(Vector) <= 32) asm("" : "+x"(vector));  // no instruction, but a register
#endif
  return vector;
}

/// Integers below 2^31 as floats. (Signed ones convert in one instruction, unsigned ones do not.)
template <int n>
inline Floats<n> to_floats(Words<n> words) {
  return __builtin_convertvector(reinterpret_cast<Ints<n>>(words), Floats<n>);
}

/// The sum of the elements.
template <int n>
inline float sum(Floats<n> vector) {
  if constexpr (n == 1) {
    return vector[0];
  } else {  // half of the additions at a time
    Floats<n / 2> halves[2];
    std::memcpy(halves, &vector, sizeof vector);
    return sum<n / 2>(halves[0] + halves[1]);
  }
}

template <typename T>
struct CacheLineAllocator {
  using value_type = T;
  static constexpr std::align_val_t line{64};
  CacheLineAllocator() = default;
  template <typename U>
  CacheLineAllocator(const CacheLineAllocator<U>&) {}
  T* allocate(size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), line)); }
  void deallocate(T* address, size_t) { ::operator delete(address, line); }
  bool operator==(const CacheLineAllocator&) const { return true; }
};

/// Floats that begin at a cache line: a vector that spans two lines takes two loads.
using FloatBuffer = std::vector<float, CacheLineAllocator<float>>;

}  // namespace tiny_llm
