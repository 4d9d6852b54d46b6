// The entry point of a kernel: calls the kernel function with one thread's attributes.
#pragma once

namespace msl {

template <unsigned I, class F>
struct argument;
template <class R, class A, class... B>
struct argument<0, R(A, B...)> {
  using type = A;
};
template <unsigned I, class R, class A, class... B>
struct argument<I, R(A, B...)> : argument<I - 1, R(B...)> {};

// The type of a function's parameter, by its index.
template <unsigned I, class F>
using argument_type = typename argument<I, F>::type;

// A position or a size. A kernel declares it with one, two or three components, as it likes.
struct position {
  sim_uint3 at;
  operator uint() const { return at.x; }
  operator int() const { return int(at.x); }
  operator ushort() const { return ushort(at.x); }
  operator uint2() const { return uint2(at.x, at.y); }
  operator ushort2() const { return ushort2(ushort(at.x), ushort(at.y)); }
  operator uint3() const { return uint3(at.x, at.y, at.z); }
  operator ushort3() const { return ushort3(ushort(at.x), ushort(at.y), ushort(at.z)); }
};

}  // namespace msl

// The entry point itself is not checked: its reads of `buffers` are not the kernel's.
#define SIM_ENTRY(name)                                                        \
  extern "C" __attribute__((visibility("default"), no_sanitize("thread"),      \
                            no_sanitize("undefined"))) void                    \
  name(void** buffers, const sim_thread* t)
