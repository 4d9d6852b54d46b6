// Checks the arguments of a quantized product, and runs the kernels when MLX evaluates it.

#include "quantized_matmul_op.h"

#include <limits>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "mlx/allocator.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/ops.h"
#include "mlx/primitives.h"
#include "quantized_matmul.h"
#include "tiny_llm_lab/parallel.h"
#include "tiny_llm_lab/vectors.h"

namespace tiny_llm {

namespace mx = mlx::core;

/// So many vectors are multiplied with a block of the weights at once: they stay in the cache.
constexpr int BLOCK_VECTORS = 256;

/// Below this many multiplications a second thread takes longer to wake up than it saves.
constexpr int64_t WORTH_THREADS = 1 << 18;

/// `count` numbers as floats: as they lie there, or converted into `buffer`.
template <typename T>
const float* as_floats(const T* numbers, int64_t count, FloatBuffer& buffer) {
  if constexpr (std::is_same_v<T, float>) {
    return numbers;
  } else {
    buffer.resize(count);
    if constexpr (std::is_same_v<T, mx::bfloat16_t>) {
      // The upper half of a float. In this form the compiler converts a register at once.
      const auto* halves = reinterpret_cast<const uint16_t*>(numbers);
      auto* floats = reinterpret_cast<uint32_t*>(buffer.data());
      for (int64_t i = 0; i < count; i++) floats[i] = uint32_t(halves[i]) << 16;
    } else {
      for (int64_t i = 0; i < count; i++) buffer[i] = static_cast<float>(numbers[i]);
    }
    return buffer.data();
  }
}

/// Multiply `M x K` activations with `N` rows of weights, on all cores.
///
///     T: dtype of activations and result
///     S: dtype of scales and biases
template <typename T, typename S, int bits>
void multiply(const T* a, int M, const uint32_t* packed, const S* scales, const S* biases, int N,
              int K, int group_size, T* out) {
  FloatBuffer converted, interleaved, sums;
  const float* x = as_floats(a, int64_t(M) * K, converted);
  const int groups = K / group_size;
  const bool few = M <= MOST_VECTORS;
  if (few) {
    interleaved.resize(int64_t(M) * K);
    sums.resize(int64_t(M) * groups);
    prepare<bits>(x, M, K, group_size, interleaved.data(), sums.data());
  }
  const int blocks_of_rows = (N + BLOCK_ROWS - 1) / BLOCK_ROWS;
  const int blocks_of_vectors = (M + BLOCK_VECTORS - 1) / BLOCK_VECTORS;

  auto multiply_block = [&](int block) {
    thread_local FloatBuffer scale_buffer, bias_buffer, y;
    const int row = block % blocks_of_rows * BLOCK_ROWS;
    const int first = block / blocks_of_rows * BLOCK_VECTORS;
    const int rows = std::min(BLOCK_ROWS, N - row);
    const int vectors = std::min(BLOCK_VECTORS, M - first);
    const int64_t group = int64_t(row) * groups, in_block = int64_t(rows) * groups;
    const QuantizedRows w{packed + int64_t(row) * (K / 32 * bits),
                          as_floats(scales + group, in_block, scale_buffer),
                          as_floats(biases + group, in_block, bias_buffer),
                          rows,
                          K,
                          group_size};
    // What a kernel forgets to write is to be seen as such.
    y.assign(int64_t(vectors) * BLOCK_ROWS, std::numeric_limits<float>::quiet_NaN());
    if (few) {
      matvec<bits>(interleaved.data(), sums.data(), vectors, w, y.data());
    } else {
      matmul<bits>(x + int64_t(first) * K, vectors, w, y.data());
    }
    for (int m = 0; m < vectors; m++) {
      for (int n = 0; n < rows; n++) {
        out[int64_t(first + m) * N + row + n] = static_cast<T>(y[m * BLOCK_ROWS + n]);
      }
    }
  };

  const int blocks = blocks_of_rows * blocks_of_vectors;
  if (int64_t(M) * N * K < WORTH_THREADS) {
    for (int block = 0; block < blocks; block++) multiply_block(block);
  } else {
    parallel_for(blocks, multiply_block);
  }
}

class QuantizedMatmul : public mx::UnaryPrimitive {
 public:
  QuantizedMatmul(mx::Stream stream, int group_size, int bits)
      : mx::UnaryPrimitive(stream), group_size_(group_size), bits_(bits) {}

  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    out.set_data(mx::allocator::malloc(out.nbytes()));
    switch (out.dtype()) {
      case mx::float16: return eval_as<mx::float16_t>(inputs, out);
      case mx::bfloat16: return eval_as<mx::bfloat16_t>(inputs, out);
      default: return eval_as<float>(inputs, out);
    }
  }

  void eval_gpu(const std::vector<mx::array>&, mx::array&) override {
    throw std::runtime_error("quantized_matmul is a kernel for the CPU.");
  }

  const char* name() const override { return "TinyLlmQuantizedMatmul"; }

  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& same = static_cast<const QuantizedMatmul&>(other);
    return group_size_ == same.group_size_ && bits_ == same.bits_;
  }

 private:
  template <typename T>
  void eval_as(const std::vector<mx::array>& inputs, mx::array& out) {
    if (inputs[0].dtype() == mx::float32) {
      bits_ == 4 ? dispatch<T, float, 4>(inputs, out) : dispatch<T, float, 8>(inputs, out);
    } else {
      bits_ == 4 ? dispatch<T, T, 4>(inputs, out) : dispatch<T, T, 8>(inputs, out);
    }
  }

  /// Put the product on the stream: it is computed there, after what its inputs come from.
  template <typename T, typename S, int bits>
  void dispatch(const std::vector<mx::array>& inputs, mx::array& out) {
    auto& scales = inputs[0];
    auto& biases = inputs[1];
    auto& a = inputs[2];
    auto& b = inputs[3];
    auto& encoder = mx::cpu::get_command_encoder(stream());
    for (auto& input : inputs) encoder.set_input_array(input);
    encoder.set_output_array(out);
    const int K = a.shape(-1), N = b.shape(0), M = a.size() / K;
    encoder.dispatch([a = a.data<T>(), M, b = b.data<uint32_t>(), scales = scales.data<S>(),
                      biases = biases.data<S>(), N, K, group_size = group_size_,
                      out = out.data<T>()] {
      multiply<T, S, bits>(a, M, b, scales, biases, N, K, group_size, out);
    });
  }

  int group_size_, bits_;
};

/// Throw std::invalid_argument with the parts of a sentence unless `condition` holds.
template <typename... Parts>
void require(bool condition, const Parts&... parts) {
  if (condition) return;
  std::ostringstream sentence;
  (sentence << ... << parts);
  throw std::invalid_argument(sentence.str());
}

mx::array quantized_matmul(const mx::array& scales, const mx::array& biases, int group_size,
                           int bits, const mx::array& a, const mx::array& b,
                           mx::StreamOrDevice stream) {
  require(bits == 4 || bits == 8, "bits must be 4 or 8, not ", bits);
  require(group_size == 32 || group_size == 64 || group_size == 128,
          "group_size must be 32, 64 or 128, not ", group_size);
  require(a.dtype() == mx::float32 || a.dtype() == mx::float16 || a.dtype() == mx::bfloat16,
          "a must be float32, float16 or bfloat16, not ", a.dtype());
  require(b.dtype() == mx::uint32, "b must be packed in uint32, not ", b.dtype());
  require(scales.dtype() == a.dtype() || scales.dtype() == mx::float32,
          "scales must have the dtype of a, ", a.dtype(), ", or float32, not ", scales.dtype());
  require(biases.dtype() == scales.dtype(), "biases must have the dtype of scales, ",
          scales.dtype(), ", not ", biases.dtype());
  require(a.ndim() >= 1, "a must have at least one axis");
  require(b.ndim() == 2, "b must have two axes, not ", b.ndim());
  const int64_t N = b.shape(0), K = int64_t(b.shape(1)) * 32 / bits;
  require(a.shape(-1) == K, "the last axis of a must have the ", K, " elements of a row of b, not ",
          a.shape(-1));
  require(K > 0 && K % group_size == 0, "the ", K, " elements of a row of b must be a multiple of ",
          "group_size, ", group_size);
  const mx::Shape per_group{static_cast<int>(N), static_cast<int>(K / group_size)};
  require(scales.shape() == per_group, "scales must have shape ", per_group, ", not ",
          scales.shape());
  require(biases.shape() == per_group, "biases must have shape ", per_group, ", not ",
          biases.shape());
  require(int64_t(a.size()) / K <= std::numeric_limits<int>::max(), "a has too many rows");
  const mx::Stream on = mx::to_stream(stream, mx::Device::cpu);
  require(on.device == mx::Device::cpu, "quantized_matmul is a kernel for the CPU: its stream must "
          "be one of the CPU's");

  mx::Shape shape = a.shape();
  shape.back() = static_cast<int>(N);
  std::vector<mx::array> inputs;
  // A kernel reads rows that lie one behind the other; an array that does is not copied.
  for (auto& input : {scales, biases, a, b}) inputs.push_back(mx::contiguous(input, false, on));
  if (a.size() == 0 || N == 0) return mx::zeros(shape, a.dtype(), on);
  return mx::array(shape, a.dtype(), std::make_shared<QuantizedMatmul>(on, group_size, bits),
                   inputs);
}

}  // namespace tiny_llm
