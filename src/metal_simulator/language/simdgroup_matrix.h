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

template <class T, int Columns, int Rows>
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

template <class T, int Columns, int Rows>
METAL_FUNC simdgroup_matrix<T, Columns, Rows> make_filled_simdgroup_matrix(
    language::value_t<T> value) {
  simdgroup_matrix<T, Columns, Rows> matrix;
  matrix.thread_elements() = vec<T, 2>(value);
  return matrix;
}

template <class T, int Columns, int Rows>
METAL_FUNC simdgroup_matrix<T, Columns, Rows> make_diagonal_simdgroup_matrix(
    language::value_t<T> value, SIM_PLACE) {
  return simdgroup_matrix<T, Columns, Rows>(value, file, line);
}

}  // namespace metal

namespace language {

// The address of element (row, column) of the matrix that starts at `origin` in rows of
// `elements_per_row`; `transposed` swaps rows and columns of the matrix, not of the memory.
template <class Pointer>
METAL_FUNC Pointer matrix_element(Pointer base, ulong elements_per_row, ulong2 origin,
                                  bool transposed, uint row, uint column) {
  if (transposed) return matrix_element(base, elements_per_row, origin, false, column, row);
  return base + ((origin.y + row) * elements_per_row + origin.x + column);
}

}  // namespace language
}  // namespace msl
