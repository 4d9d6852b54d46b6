// Matrices of 8 x 8 elements that a SIMD-group holds together
// (Metal Shading Language specification, sections 2.3.4 and 6.7).
//
// Each lane holds two neighbours of one row, as on Apple's GPUs: kernels that work on
// `thread_elements()`, as MLX's do, depend on this layout.
#pragma once
#include "simd.h"

namespace msl {
namespace language {

constexpr METAL_FUNC uint matrix_row(uint lane) { return (lane / 16) * 4 + lane / 2 % 4; }
constexpr METAL_FUNC uint matrix_column(uint lane) { return lane / 8 % 2 * 4 + lane % 2 * 2; }

}  // namespace language

namespace metal {

template <class T, int Columns, int Rows = Columns>
struct simdgroup_matrix {
  static_assert(Columns == 8 && Rows == 8, "A simdgroup_matrix has 8 rows and 8 columns.");
  static_assert(is_floating_point_v<T>, "A simdgroup_matrix holds float, half or bfloat.");

  simdgroup_matrix() = default;
  // A diagonal matrix.
  METAL_FUNC explicit simdgroup_matrix(T value, SIM_PLACE) {
    uint lane =
        language::together<language::lane_index>(true, "simdgroup_matrix", file, line);
    uint row = language::matrix_row(lane), column = language::matrix_column(lane);
    elements[0] = row == column ? value : T(0);
    elements[1] = row == column + 1 ? value : T(0);
  }

  METAL_FUNC vec<T, 2>& thread_elements() { return elements; }
  METAL_FUNC const vec<T, 2>& thread_elements() const { return elements; }

 private:
  vec<T, 2> elements;
};

using simdgroup_float8x8 = simdgroup_matrix<float, 8, 8>;
using simdgroup_half8x8 = simdgroup_matrix<half, 8, 8>;
using simdgroup_bfloat8x8 = simdgroup_matrix<bfloat, 8, 8>;

template <class T, int Columns, int Rows = Columns>
METAL_FUNC simdgroup_matrix<T, Columns, Rows> make_filled_simdgroup_matrix(
    language::value_t<T> value) {
  simdgroup_matrix<T, Columns, Rows> matrix;
  matrix.thread_elements() = vec<T, 2>(value);
  return matrix;
}

template <class T, int Columns, int Rows = Columns>
METAL_FUNC simdgroup_matrix<T, Columns, Rows> make_diagonal_simdgroup_matrix(
    language::value_t<T> value, SIM_PLACE) {
  return simdgroup_matrix<T, Columns, Rows>(value, file, line);
}

}  // namespace metal

namespace language {

// Calls access(memory, index) for the two elements of this lane, with the address of each in a
// matrix that starts at column origin.x and row origin.y of memory with this many elements per row.
template <class Pointer, class Access>
METAL_FUNC void access_matrix(Pointer memory, ulong elements_per_row, ulong2 origin,
                              bool transpose, const char* name, const char* file, uint line,
                              Access access) {
  uint lane = together<lane_index>(true, name, file, line);
  memory += origin.y * elements_per_row + origin.x;
  for (int i = 0; i < 2; i++) {
    ulong row = matrix_row(lane), column = matrix_column(lane) + i;
    access(memory + (transpose ? column * elements_per_row + row
                               : row * elements_per_row + column),
           i);
  }
}

// d = a * b + c, summed in float.
template <class D, class A, class B, class C>
struct multiply_add {
  struct In {
    metal::vec<A, 2> a;
    metal::vec<B, 2> b;
    metal::vec<C, 2> c;
  };
  using Out = metal::vec<D, 2>;

  SIM_NOT_CHECKED static void run(const In* const* in, Out* const* out, uint lanes) {
    float a[8][8] = {}, b[8][8] = {}, d[8][8] = {};
    SIM_FOR_EACH_LANE(lane, lanes) {
      uint row = matrix_row(lane), column = matrix_column(lane);
      for (int i = 0; i < 2; i++) {
        a[row][column + i] = float(in[lane]->a.v[i]);
        b[row][column + i] = float(in[lane]->b.v[i]);
        d[row][column + i] = float(in[lane]->c.v[i]);
      }
    }
    for (int row = 0; row < 8; row++)
      for (int k = 0; k < 8; k++)
        for (int column = 0; column < 8; column++) d[row][column] += a[row][k] * b[k][column];
    SIM_FOR_EACH_LANE(lane, lanes) {
      uint row = matrix_row(lane), column = matrix_column(lane);
      for (int i = 0; i < 2; i++) out[lane]->v[i] = D(d[row][column + i]);
    }
  }
};

}  // namespace language

namespace metal {

template <class T>
METAL_FUNC void simdgroup_load(simdgroup_matrix<T, 8, 8>& matrix, const T* memory,
                               ulong elements_per_row = 8, ulong2 matrix_origin = ulong2(0),
                               bool transpose_matrix = false, SIM_PLACE) {
  language::access_matrix(memory, elements_per_row, matrix_origin, transpose_matrix,
                          "simdgroup_load", file, line,
                          [&](const T* address, int i) SIM_INLINE_LAMBDA {
                            matrix.thread_elements()[i] = *address;
                          });
}

template <class T>
METAL_FUNC void simdgroup_store(const simdgroup_matrix<T, 8, 8>& matrix, T* memory,
                                ulong elements_per_row = 8, ulong2 matrix_origin = ulong2(0),
                                bool transpose_matrix = false, SIM_PLACE) {
  language::access_matrix(memory, elements_per_row, matrix_origin, transpose_matrix,
                          "simdgroup_store", file, line,
                          [&](T* address, int i) SIM_INLINE_LAMBDA {
                            *address = matrix.thread_elements()[i];
                          });
}

template <class D, class A, class B, class C>
METAL_FUNC void simdgroup_multiply_accumulate(simdgroup_matrix<D, 8, 8>& d,
                                              const simdgroup_matrix<A, 8, 8>& a,
                                              const simdgroup_matrix<B, 8, 8>& b,
                                              const simdgroup_matrix<C, 8, 8>& c, SIM_PLACE) {
  d.thread_elements() = language::together<language::multiply_add<D, A, B, C>>(
      {a.thread_elements(), b.thread_elements(), c.thread_elements()},
      "simdgroup_multiply_accumulate", file, line);
}

template <class D, class A, class B>
METAL_FUNC void simdgroup_multiply(simdgroup_matrix<D, 8, 8>& d,
                                   const simdgroup_matrix<A, 8, 8>& a,
                                   const simdgroup_matrix<B, 8, 8>& b, SIM_PLACE) {
  d.thread_elements() = language::together<language::multiply_add<D, A, B, D>>(
      {a.thread_elements(), b.thread_elements(), vec<D, 2>(D(0))}, "simdgroup_multiply", file,
      line);
}

}  // namespace metal
}  // namespace msl
