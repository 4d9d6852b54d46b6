// Declarations of the Metal language for clang's "C++ for OpenCL" mode, in which address spaces are
// part of the types. `address_spaces.py` includes this before a kernel; nothing here is ever run.
//
// Completeness is no aim: what clang does not know, `address_spaces.py` passes over in silence. It
// has to be right where it decides what a program means: the types, and the functions of `bfloat`,
// because only `float` to `bfloat` needs a conversion that is written out.
#pragma once
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
#pragma OPENCL EXTENSION __cl_clang_function_pointers : enable

#define device __global
#define threadgroup __local
#define constant __constant const  // so that an integer constant can size an array, as in Metal
#define thread __private
#define kernel
#define METAL_FUNC inline __attribute__((always_inline))
#define INFINITY (__builtin_inff())
#define NAN (__builtin_nanf(""))

// Keywords of OpenCL that are ordinary names in Metal.
#define global global_name
#define local local_name
#define generic generic_name
#define pipe pipe_name
#define read_only read_only_name
#define write_only write_only_name
#define read_write read_write_name
#define uniform uniform_name
#define vec_step vec_step_name
#define event_t event_type
#define queue_t queue_type
#define atomic_int atomic_int_type
#define atomic_uint atomic_uint_type
#define atomic_float atomic_float_type
#define atomic_bool atomic_bool_type

namespace metal {

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef unsigned long size_t;
typedef long ptrdiff_t;
typedef signed char int8_t;
typedef short int16_t;
typedef int int32_t;
typedef long int64_t;
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long uint64_t;
typedef half float16_t;

#define DECLARE_VECTORS(T)                             \
  typedef T T##2 __attribute__((ext_vector_type(2)));  \
  typedef T T##3 __attribute__((ext_vector_type(3)));  \
  typedef T T##4 __attribute__((ext_vector_type(4)));  \
  struct packed_##T##2 { T x, y; };                    \
  struct packed_##T##3 { T x, y, z; };                 \
  struct packed_##T##4 { T x, y, z, w; };
DECLARE_VECTORS(char)
DECLARE_VECTORS(uchar)
DECLARE_VECTORS(short)
DECLARE_VECTORS(ushort)
DECLARE_VECTORS(int)
DECLARE_VECTORS(uint)
DECLARE_VECTORS(long)
DECLARE_VECTORS(ulong)
DECLARE_VECTORS(half)
DECLARE_VECTORS(float)

// Arithmetic of a bfloat and a bfloat or an integer gives a bfloat; with a float it gives a float.
struct bfloat {
  ushort bits;
  bfloat() = default;
  bfloat(const bfloat&) = default;
  bfloat(const __constant bfloat&);
  template <class T>
  explicit bfloat(T);
  operator float() const;
  operator float() const __constant;
  bfloat& operator=(const bfloat&) = default;
  bfloat& operator=(const __constant bfloat&);
};
typedef bfloat bfloat16_t;

bfloat operator+(bfloat);
bfloat operator-(bfloat);
#define DECLARE_OPERATOR(OP)                  \
  bfloat operator OP(bfloat, bfloat);         \
  bfloat operator OP(bfloat, int);            \
  bfloat operator OP(bfloat, uint);           \
  bfloat operator OP(int, bfloat);            \
  bfloat operator OP(uint, bfloat);           \
  float operator OP(bfloat, float);           \
  float operator OP(float, bfloat);           \
  template <class T>                          \
  __generic bfloat& operator OP##=(__generic bfloat&, T);
DECLARE_OPERATOR(+)
DECLARE_OPERATOR(-)
DECLARE_OPERATOR(*)
DECLARE_OPERATOR(/)

enum class mem_flags { mem_none, mem_device, mem_threadgroup, mem_texture };
enum memory_order { memory_order_relaxed };
enum thread_scope { thread_scope_threadgroup, thread_scope_device };
void threadgroup_barrier(mem_flags);
void simdgroup_barrier(mem_flags);

template <class T>
struct atomic {
  T value;
};
typedef atomic<int> atomic_int;
typedef atomic<uint> atomic_uint;
typedef atomic<float> atomic_float;
typedef atomic<bool> atomic_bool;

#define DECLARE_FUNCTIONS                                                                    \
  ONE(abs) ONE(acos) ONE(acosh) ONE(asin) ONE(asinh) ONE(atan) ONE(atanh) ONE(ceil) ONE(cos) \
  ONE(cosh) ONE(exp) ONE(exp10) ONE(exp2) ONE(fabs) ONE(floor) ONE(fract) ONE(log) ONE(log10) \
  ONE(log2) ONE(rint) ONE(round) ONE(rsqrt) ONE(saturate) ONE(sign) ONE(sin) ONE(sinh)       \
  ONE(sqrt) ONE(tan) ONE(tanh) ONE(trunc)                                                    \
  TWO(atan2) TWO(copysign) TWO(fmax) TWO(fmin) TWO(fmod) TWO(pow) TWO(step) THREE(fma)       \
  THREE(mix) THREE(smoothstep)
#define ONE(f) float f(float); half f(half); bfloat f(bfloat);
#define TWO(f) float f(float, float); half f(half, half); bfloat f(bfloat, bfloat);
#define THREE(f)              \
  float f(float, float, float); \
  half f(half, half, half);     \
  bfloat f(bfloat, bfloat, bfloat);
DECLARE_FUNCTIONS
namespace fast { DECLARE_FUNCTIONS }
namespace precise { DECLARE_FUNCTIONS }

// No template: `max(x, 0)` with a float x is ambiguous in Metal, too.
#define DECLARE_EXTREMA(T) \
  T max(T, T);             \
  T min(T, T);             \
  T clamp(T, T, T);
DECLARE_EXTREMA(char)
DECLARE_EXTREMA(uchar)
DECLARE_EXTREMA(short)
DECLARE_EXTREMA(ushort)
DECLARE_EXTREMA(int)
DECLARE_EXTREMA(uint)
DECLARE_EXTREMA(long)
DECLARE_EXTREMA(ulong)
DECLARE_EXTREMA(half)
DECLARE_EXTREMA(float)
DECLARE_EXTREMA(bfloat)

template <class T>
T select(T, T, bool);
#define DECLARE_SIMD(f) \
  template <class T>    \
  T f(T);
DECLARE_SIMD(simd_sum)
DECLARE_SIMD(simd_product)
DECLARE_SIMD(simd_max)
DECLARE_SIMD(simd_min)
DECLARE_SIMD(simd_prefix_inclusive_sum)
DECLARE_SIMD(simd_prefix_exclusive_sum)
DECLARE_SIMD(simd_broadcast_first)
#define DECLARE_SHUFFLE(f) \
  template <class T>       \
  T f(T, ushort);
DECLARE_SHUFFLE(simd_shuffle)
DECLARE_SHUFFLE(simd_shuffle_xor)
DECLARE_SHUFFLE(simd_shuffle_down)
DECLARE_SHUFFLE(simd_shuffle_up)
DECLARE_SHUFFLE(simd_broadcast)

template <class T, int Columns = 8, int Rows = Columns>
struct simdgroup_matrix {
  T element;
};

template <class T>
struct numeric_limits {
  static constexpr T max() { return T(); }
  static constexpr T min() { return T(); }
  static constexpr T lowest() { return T(); }
  static constexpr T infinity() { return T(); }
};
template <class T, T Value>
struct integral_constant {
  static constexpr T value = Value;
  constexpr operator T() const { return Value; }
};
typedef integral_constant<bool, true> true_type;
typedef integral_constant<bool, false> false_type;
template <class T, class U>
constexpr bool is_same_v = false;
template <class T>
constexpr bool is_same_v<T, T> = true;
template <class T, class U>
struct is_same : integral_constant<bool, is_same_v<T, U>> {};
template <bool Condition, class T, class U>
struct conditional {
  typedef T type;
};
template <class T, class U>
struct conditional<false, T, U> {
  typedef U type;
};
template <bool Condition, class T, class U>
using conditional_t = typename conditional<Condition, T, U>::type;
template <bool Condition, class T = void>
struct enable_if {};
template <class T>
struct enable_if<true, T> {
  typedef T type;
};
template <bool Condition, class T = void>
using enable_if_t = typename enable_if<Condition, T>::type;

}  // namespace metal

template <class To, class From>
To as_type(From);

// What a threadgroup variable is bound to after `address_spaces.py` has rewritten its declaration.
template <class T>
__local T& threadgroup_variable();

using namespace metal;
