// Matrices of floating-point columns (Metal Shading Language specification, sections 2.3 and 6.10).
#pragma once
#include "math.h"

namespace msl {
namespace metal {

template <class T, int Columns, int Rows>
struct matrix {
  static_assert(is_floating_point_v<T>, "Matrices hold float, half or bfloat.");
  vec<T, Rows> columns[Columns];

  matrix() = default;
  // A diagonal matrix.
  METAL_FUNC explicit matrix(T diagonal) {
    for (int c = 0; c < Columns; c++)
      for (int r = 0; r < Rows; r++) columns[c][r] = r == c ? diagonal : T(0);
  }
  // The columns one after the other, as vectors or as scalars.
  template <class A, class B, class... Rest,
            language::require<((language::size_v<A> + language::size_v<B>) + ... +
                               language::size_v<Rest>) == Columns * Rows> = 0>
  METAL_FUNC matrix(const A& a, const B& b, const Rest&... rest) {
    int next = 0;
    append(next, a), append(next, b), (append(next, rest), ...);
  }

  METAL_FUNC vec<T, Rows>& operator[](int column) { return columns[column]; }
  METAL_FUNC const vec<T, Rows>& operator[](int column) const { return columns[column]; }

  friend METAL_FUNC matrix operator+(const matrix& a, const matrix& b) {
    matrix result;
    for (int c = 0; c < Columns; c++) result[c] = a[c] + b[c];
    return result;
  }
  friend METAL_FUNC matrix operator-(const matrix& a, const matrix& b) {
    matrix result;
    for (int c = 0; c < Columns; c++) result[c] = a[c] - b[c];
    return result;
  }
  friend METAL_FUNC matrix operator*(const matrix& a, T factor) {
    matrix result;
    for (int c = 0; c < Columns; c++) result[c] = a[c] * factor;
    return result;
  }
  friend METAL_FUNC matrix operator*(T factor, const matrix& a) { return a * factor; }
  friend METAL_FUNC vec<T, Rows> operator*(const matrix& a, const vec<T, Columns>& x) {
    vec<T, Rows> result = a[0] * x[0];
    for (int c = 1; c < Columns; c++) result += a[c] * x[c];
    return result;
  }
  friend METAL_FUNC vec<T, Columns> operator*(const vec<T, Rows>& x, const matrix& a) {
    vec<T, Columns> result;
    for (int c = 0; c < Columns; c++) result[c] = dot(x, a[c]);
    return result;
  }

 private:
  template <class A>
  METAL_FUNC void append(int& next, const A& part) {
    if constexpr (language::size_v<A> == 1) {
      columns[next / Rows][next % Rows] = T(part);
      next++;
    } else {
      language::value_t<A> vector = part;
      for (int i = 0; i < language::size_v<A>; i++) append(next, vector[i]);
    }
  }
};

template <class T, int Inner, int Rows, int Columns>
METAL_FUNC matrix<T, Columns, Rows> operator*(const matrix<T, Inner, Rows>& a,
                                              const matrix<T, Columns, Inner>& b) {
  matrix<T, Columns, Rows> result;
  for (int c = 0; c < Columns; c++) result[c] = a * b[c];
  return result;
}

template <class T, int Columns, int Rows>
METAL_FUNC matrix<T, Rows, Columns> transpose(const matrix<T, Columns, Rows>& a) {
  matrix<T, Rows, Columns> result;
  for (int c = 0; c < Columns; c++)
    for (int r = 0; r < Rows; r++) result[r][c] = a[c][r];
  return result;
}

template <class T, int N>
METAL_FUNC T determinant(const matrix<T, N, N>& a) {
  if constexpr (N == 2) {
    return a[0][0] * a[1][1] - a[1][0] * a[0][1];
  } else {
    // Along the first column: each minor leaves out that column and one row.
    T result = T(0);
    for (int without = 0; without < N; without++) {
      matrix<T, N - 1, N - 1> minor;
      for (int c = 1; c < N; c++)
        for (int r = 0, row = 0; r < N; r++)
          if (r != without) minor[c - 1][row++] = a[c][r];
      T term = a[0][without] * determinant(minor);
      result = without % 2 == 0 ? result + term : result - term;
    }
    return result;
  }
}

}  // namespace metal

// float2x2 (columns x rows) and so on.
#define SIM_MATRIX_NAME(T, Columns, Rows)                       \
  using T##Columns##x##Rows = metal::matrix<T, Columns, Rows>;  \
  namespace metal {                                             \
  using msl::T##Columns##x##Rows;                               \
  }
#define SIM_MATRICES(T)                                                              \
  SIM_MATRIX_NAME(T, 2, 2) SIM_MATRIX_NAME(T, 2, 3) SIM_MATRIX_NAME(T, 2, 4)         \
  SIM_MATRIX_NAME(T, 3, 2) SIM_MATRIX_NAME(T, 3, 3) SIM_MATRIX_NAME(T, 3, 4)         \
  SIM_MATRIX_NAME(T, 4, 2) SIM_MATRIX_NAME(T, 4, 3) SIM_MATRIX_NAME(T, 4, 4)
SIM_MATRICES(float)
SIM_MATRICES(half)
#undef SIM_MATRICES
#undef SIM_MATRIX_NAME

}  // namespace msl
