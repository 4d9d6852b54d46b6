// Atomic functions (Metal Shading Language specification, section 6.15).
#pragma once
#include "math.h"
#include "threadgroup.h"

namespace msl {
namespace metal {

// Relaxed is all that Metal has for single operations; the others order fences.
enum memory_order {
  memory_order_relaxed,
  memory_order_acquire,
  memory_order_release,
  memory_order_acq_rel,
  memory_order_seq_cst,
};
enum thread_scope {
  thread_scope_thread,
  thread_scope_simdgroup,
  thread_scope_threadgroup,
  thread_scope_device,
};

METAL_FUNC void atomic_thread_fence(mem_flags, memory_order, thread_scope = thread_scope_device) {
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

template <class T>
struct atomic {
  static_assert(std::is_same<T, int>::value || std::is_same<T, uint>::value ||
                    std::is_same<T, bool>::value || std::is_same<T, float>::value ||
                    std::is_same<T, ulong>::value,
                "Metal has atomics of int, uint, bool, float and ulong only.");
  T sim_value;

  atomic() = default;
  atomic(const atomic&) = delete;
  atomic& operator=(const atomic&) = delete;
};

}  // namespace metal

namespace language {

enum { kLoad, kStore, kModify };  // as `sim_atomic` has it

// The atomic's bits, once the runtime knows of the access: the compiler's checks leave atomic
// operations alone. Inlined into the kernel with its callers: the runtime reports where it is called.
template <class T>
METAL_FUNC bits_t<T>* open_atomic(const volatile metal::atomic<T>* object, int access) {
  sim_atomic((void*)object, sizeof(T), access);
  return (bits_t<T>*)&object->sim_value;
}

template <class T>
METAL_FUNC T from_bits(bits_t<T> bits) {
  return __builtin_bit_cast(T, bits);
}

// Replaces the value by change(value, operand); returns what it was.
template <class T, class Change>
SIM_NOT_CHECKED T modify_bits(bits_t<T>* address, T operand, Change change) {
  bits_t<T> before = __atomic_load_n(address, __ATOMIC_RELAXED), after;
  do {
    after = bits_of(T(change(from_bits<T>(before), operand)));
  } while (!__atomic_compare_exchange_n(address, &before, after, true, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED));
  return from_bits<T>(before);
}

template <class T, class Change>
METAL_FUNC T modify_atomic(volatile metal::atomic<T>* object, T operand, Change change) {
  return modify_bits<T>(open_atomic(object, kModify), operand, change);
}

template <class Bits>
SIM_NOT_CHECKED Bits load_bits(Bits* address) {
  return __atomic_load_n(address, __ATOMIC_RELAXED);
}
template <class Bits>
SIM_NOT_CHECKED void store_bits(Bits* address, Bits bits) {
  __atomic_store_n(address, bits, __ATOMIC_RELAXED);
}
template <class Bits>
SIM_NOT_CHECKED bool exchange_bits(Bits* address, Bits* expected, Bits desired) {
  return __atomic_compare_exchange_n(address, expected, desired, false, __ATOMIC_RELAXED,
                                     __ATOMIC_RELAXED);
}

// A parameter whose type is not deduced: it converts to the atomic's type.
template <class T>
using converted = typename std::enable_if<true, T>::type;

template <class T>
constexpr bool is_atomic_integer_v = std::is_same<T, int>::value || std::is_same<T, uint>::value;

}  // namespace language

namespace metal {

// The order is a parameter of its own type, so that a forgotten one is an error, as in Metal.
#define SIM_ATOMIC(name, condition, sentence, formula)                                     \
  template <class T>                                                                       \
  METAL_FUNC T name(volatile atomic<T>* object, language::converted<T> operand, memory_order) { \
    static_assert(condition, sentence);                                                    \
    return language::modify_atomic(                                                        \
        object, operand, [](T x, T y) SIM_INLINE_LAMBDA { return formula; });              \
  }
#define SIM_ATOMIC_NUMBER(name, formula)                                                   \
  SIM_ATOMIC(name, language::is_atomic_integer_v<T> || (std::is_same<T, float>::value),    \
             #name " takes atomics of int, uint and float.", formula)
#define SIM_ATOMIC_INTEGER(name, formula)                 \
  SIM_ATOMIC(name, language::is_atomic_integer_v<T>,      \
             #name " takes atomics of int and uint only.", formula)
SIM_ATOMIC_NUMBER(atomic_fetch_add_explicit, x + y)
SIM_ATOMIC_NUMBER(atomic_fetch_sub_explicit, x - y)
SIM_ATOMIC_INTEGER(atomic_fetch_max_explicit, x < y ? y : x)
SIM_ATOMIC_INTEGER(atomic_fetch_min_explicit, y < x ? y : x)
SIM_ATOMIC_INTEGER(atomic_fetch_and_explicit, x& y)
SIM_ATOMIC_INTEGER(atomic_fetch_or_explicit, x | y)
SIM_ATOMIC_INTEGER(atomic_fetch_xor_explicit, x ^ y)
#undef SIM_ATOMIC_INTEGER
#undef SIM_ATOMIC_NUMBER
#undef SIM_ATOMIC

template <class T>
METAL_FUNC T atomic_exchange_explicit(volatile atomic<T>* object,
                                      language::converted<T> desired, memory_order) {
  return language::modify_atomic(object, desired,
                                 [](T, T y) SIM_INLINE_LAMBDA { return y; });
}

// The only functions of a 64-bit atomic; they return nothing.
METAL_FUNC void atomic_max_explicit(volatile atomic<ulong>* object, ulong operand, memory_order) {
  language::modify_atomic(object, operand,
                          [](ulong x, ulong y) SIM_INLINE_LAMBDA { return x < y ? y : x; });
}
METAL_FUNC void atomic_min_explicit(volatile atomic<ulong>* object, ulong operand, memory_order) {
  language::modify_atomic(object, operand,
                          [](ulong x, ulong y) SIM_INLINE_LAMBDA { return y < x ? y : x; });
}

template <class T>
METAL_FUNC T atomic_load_explicit(const volatile atomic<T>* object, memory_order) {
  return language::from_bits<T>(
      language::load_bits(language::open_atomic(object, language::kLoad)));
}

template <class T>
METAL_FUNC void atomic_store_explicit(volatile atomic<T>* object, language::converted<T> desired,
                                      memory_order) {
  language::store_bits(language::open_atomic(object, language::kStore),
                       language::bits_of(desired));
}

template <class T>
METAL_FUNC bool atomic_compare_exchange_weak_explicit(volatile atomic<T>* object, T* expected,
                                                      language::converted<T> desired,
                                                      memory_order, memory_order) {
  language::bits_t<T> bits = language::bits_of(*expected);
  bool exchanged = language::exchange_bits(language::open_atomic(object, language::kModify), &bits,
                                           language::bits_of(desired));
  *expected = language::from_bits<T>(bits);
  return exchanged;
}

using atomic_int = atomic<int>;
using atomic_uint = atomic<uint>;
using atomic_bool = atomic<bool>;
using atomic_float = atomic<float>;
using atomic_ulong = atomic<ulong>;

}  // namespace metal

using metal::atomic_bool;
using metal::atomic_float;
using metal::atomic_int;
using metal::atomic_uint;
using metal::atomic_ulong;

}  // namespace msl
