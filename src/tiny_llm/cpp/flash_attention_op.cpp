// Checks the arguments of an attention, and runs the kernels when MLX evaluates it.

#include "flash_attention_op.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "flash_attention.h"
#include "mlx/allocator.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/ops.h"
#include "mlx/primitives.h"
#include "tiny_llm_lab/parallel.h"
#include "tiny_llm_lab/vectors.h"

namespace tiny_llm {

namespace mx = mlx::core;

namespace {

/// So many panels look at a block of keys while it is in the cache.
constexpr int PANELS = 4;

/// At decode, the keys are split into pieces of about this many, which are attended to side by
/// side and merged; and into so many pieces at most, for the memory not to grow with S.
constexpr int SPLIT_KEYS = 512, MOST_SPLITS = 32;

/// Below this many multiplications a second thread takes longer to wake up than it saves.
constexpr int64_t WORTH_THREADS = 1 << 18;

/// An array of four axes, wherever its elements lie.
template <typename T>
struct View {
  const T* data = nullptr;
  int64_t strides[4] = {};

  View() = default;
  explicit View(const mx::array& array) : data(array.data<T>()) {
    for (int axis = 0; axis < 4; axis++) strides[axis] = array.strides(axis);
  }
  const T* at(int64_t a, int64_t b, int64_t c) const {
    return data + a * strides[0] + b * strides[1] + c * strides[2];
  }
};

template <typename T>
struct Attention {
  View<T> query, key, value;
  View<float> mask;  // its data is null if there is none
  int B, H_q, H_kv, L, S, D;
  float scale;
  bool causal;
  T* out;  // contiguous

  int group() const { return H_q / H_kv; }
  T* row(int b, int head, int l) const { return out + ((int64_t(b) * H_q + head) * L + l) * D; }
};

/// Rows of keys or values as floats: as they lie there, or copied into `buffer`.
template <typename T>
const float* as_floats(const View<T>& view, int b, int head, int first, int count, int D,
                       FloatBuffer& buffer, int64_t& stride) {
  if constexpr (std::is_same_v<T, float>) {
    if (view.strides[3] == 1) {
      stride = view.strides[2];
      return view.at(b, head, first);
    }
  }
  stride = D;
  buffer.resize(int64_t(BLOCK_KEYS) * D);
  for (int i = 0; i < count; i++) {
    const T* row = view.at(b, head, first + i);
    float* to = buffer.data() + int64_t(i) * D;
    if (view.strides[3] == 1) {  // said for the compiler, which makes vectors of it
      for (int d = 0; d < D; d++) to[d] = static_cast<float>(row[d]);
    } else {
      for (int d = 0; d < D; d++) to[d] = static_cast<float>(row[d * view.strides[3]]);
    }
  }
  return buffer.data();
}

/// The keys `first` to `last - 1` of a head, or as many of them as go into a block.
template <typename T>
KeyBlock key_block(const Attention<T>& a, int b, int head, int first, int last) {
  thread_local FloatBuffer keys, values;
  KeyBlock block{};
  block.first = first;
  block.count = std::min(BLOCK_KEYS, last - first);
  block.keys = as_floats(a.key, b, head, first, block.count, a.D, keys, block.key_stride);
  block.values = as_floats(a.value, b, head, first, block.count, a.D, values, block.value_stride);
  return block;
}

/// Attend with rows `first` to `first + PANELS * PANEL - 1` of a key/value head, or as many as
/// there are. Row r is query r / group of the group's head r % group.
template <typename T>
void attend_rows(const Attention<T>& a, int b, int kv_head, int first) {
  thread_local FloatBuffer queries, outputs, mask(BLOCK_KEYS * PANEL);
  thread_local std::vector<int32_t> visible;
  const int group = a.group();
  const int64_t size = int64_t(a.D) * PANEL;
  const int rows = static_cast<int>(std::min<int64_t>(PANELS * PANEL,
                                                      int64_t(a.L) * group - first));
  const int panels = (rows + PANEL - 1) / PANEL;
  float maximum[PANELS * PANEL], total[PANELS * PANEL] = {};
  std::fill_n(maximum, PANELS * PANEL, -std::numeric_limits<float>::infinity());
  queries.resize(PANELS * size);
  outputs.assign(PANELS * size, 0.0f);
  visible.resize(PANELS * PANEL);
  // Lanes behind the last row repeat it, and are not written anywhere.
  auto row_at = [&](int lane) { return first + std::min(lane, rows - 1); };
  for (int lane = 0; lane < panels * PANEL; lane++) {
    const int row = row_at(lane), l = row / group;
    const T* query = a.query.at(b, kv_head * group + row % group, l);
    float* to = queries.data() + lane / PANEL * size + lane % PANEL;
    for (int d = 0; d < a.D; d++) {
      to[d * PANEL] = a.scale * static_cast<float>(query[d * a.query.strides[3]]);
    }
    visible[lane] = a.causal ? a.S - a.L + l + 1 : a.S;
  }
  const int seen = visible[panels * PANEL - 1];
  for (int key = 0; key < seen; key += BLOCK_KEYS) {
    const KeyBlock block = key_block(a, b, kv_head, key, seen);
    for (int p = 0; p < panels; p++) {
      if (a.mask.data) {
        for (int lane = 0; lane < PANEL; lane++) {
          const int row = row_at(p * PANEL + lane);
          const float* from = a.mask.at(b, kv_head * group + row % group, row / group);
          for (int i = 0; i < block.count; i++) {
            mask[i * PANEL + lane] = from[(key + i) * a.mask.strides[3]];
          }
        }
      }
      attend(a.D, block, a.mask.data ? mask.data() : nullptr,
             {queries.data() + p * size, visible.data() + p * PANEL, maximum + p * PANEL,
              total + p * PANEL, outputs.data() + p * size});
    }
  }
  for (int lane = 0; lane < rows; lane++) {
    const int row = first + lane;
    T* to = a.row(b, kv_head * group + row % group, row / group);
    const float* from = outputs.data() + lane / PANEL * size + lane % PANEL;
    const float factor = total[lane] == 0 ? 0 : 1 / total[lane];
    for (int d = 0; d < a.D; d++) to[d] = static_cast<T>(factor * from[d * PANEL]);
  }
}

/// What the online softmax keeps of one query for some keys: maximum, total, and D floats.
struct Kept {
  float maximum = -std::numeric_limits<float>::infinity(), total = 0;
};

/// Attend with a single query of each head.
template <typename T>
void attend_decode(const Attention<T>& a) {
  const int group = a.group();
  const int splits = std::clamp(a.S / SPLIT_KEYS, 1, MOST_SPLITS);
  // Whole blocks of keys, so that only the last one is ragged.
  const int blocks = (a.S + BLOCK_KEYS - 1) / BLOCK_KEYS;
  const int split_keys = (blocks + splits - 1) / splits * BLOCK_KEYS;
  const int64_t heads = int64_t(a.B) * a.H_q;
  std::vector<Kept> kept(heads * splits);
  FloatBuffer outputs(heads * splits * a.D);

  auto attend_split = [&](int item) {
    thread_local FloatBuffer queries, mask(MOST_QUERIES * BLOCK_KEYS);
    queries.resize(int64_t(MOST_QUERIES) * a.D);
    const int split = item % splits, pair = item / splits;
    const int b = pair / a.H_kv, kv_head = pair % a.H_kv;
    const int last = std::min(a.S, (split + 1) * split_keys);
    for (int q0 = 0; q0 < group; q0 += MOST_QUERIES) {
      const int count = std::min(MOST_QUERIES, group - q0), head = kv_head * group + q0;
      const int64_t place = int64_t(split) * heads + int64_t(b) * a.H_q + head;
      for (int q = 0; q < count; q++) {
        const T* query = a.query.at(b, head + q, 0);
        for (int d = 0; d < a.D; d++) {
          queries[q * a.D + d] = a.scale * static_cast<float>(query[d * a.query.strides[3]]);
        }
      }
      float maximum[MOST_QUERIES], total[MOST_QUERIES] = {};
      std::fill_n(maximum, MOST_QUERIES, -std::numeric_limits<float>::infinity());
      for (int key = split * split_keys; key < last; key += BLOCK_KEYS) {
        const KeyBlock block = key_block(a, b, kv_head, key, last);
        for (int q = 0; q < count && a.mask.data; q++) {
          const float* from = a.mask.at(b, head + q, 0);
          for (int i = 0; i < block.count; i++) {
            mask[q * BLOCK_KEYS + i] = from[(key + i) * a.mask.strides[3]];
          }
        }
        attend_few(a.D, block, a.mask.data ? mask.data() : nullptr,
                   {queries.data(), maximum, total, outputs.data() + place * a.D, count});
      }
      for (int q = 0; q < count; q++) kept[place + q] = {maximum[q], total[q]};
    }
  };
  const int items = a.B * a.H_kv * splits;
  if (heads * a.S * a.D < WORTH_THREADS) {
    for (int item = 0; item < items; item++) attend_split(item);
  } else {
    parallel_for(items, attend_split);
  }

  for (int64_t head = 0; head < heads; head++) {
    Kept& all = kept[head];
    float* output = outputs.data() + head * a.D;
    for (int split = 1; split < splits; split++) {
      const int64_t other = split * heads + head;
      merge(a.D, all.maximum, all.total, output, kept[other].maximum, kept[other].total,
            outputs.data() + other * a.D);
    }
    const float factor = all.total == 0 ? 0 : 1 / all.total;
    for (int d = 0; d < a.D; d++) a.out[head * a.D + d] = static_cast<T>(factor * output[d]);
  }
}

/// Attend, on all cores.
template <typename T>
void attend_all(const Attention<T>& a) {
  if (a.L == 1) return attend_decode(a);
  const int64_t rows = int64_t(a.L) * a.group();
  const int pairs = a.B * a.H_kv, blocks = (rows + PANELS * PANEL - 1) / (PANELS * PANEL);
  auto attend_item = [&](int item) {
    // The last queries first: with a causal mask they take longest.
    const int block = blocks - 1 - item / pairs, pair = item % pairs;
    attend_rows(a, pair / a.H_kv, pair % a.H_kv, block * PANELS * PANEL);
  };
  if (rows * pairs * a.S * a.D < WORTH_THREADS) {
    for (int item = 0; item < blocks * pairs; item++) attend_item(item);
  } else {
    parallel_for(blocks * pairs, attend_item);
  }
}

class FlashAttention : public mx::UnaryPrimitive {
 public:
  FlashAttention(mx::Stream stream, float scale, bool causal)
      : mx::UnaryPrimitive(stream), scale_(scale), causal_(causal) {}

  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    out.set_data(mx::allocator::malloc(out.nbytes()));
    switch (out.dtype()) {
      case mx::float16: return dispatch<mx::float16_t>(inputs, out);
      case mx::bfloat16: return dispatch<mx::bfloat16_t>(inputs, out);
      default: return dispatch<float>(inputs, out);
    }
  }

  void eval_gpu(const std::vector<mx::array>&, mx::array&) override {
    throw std::runtime_error("flash_attention is a kernel for the CPU.");
  }

  const char* name() const override { return "TinyLlmFlashAttention"; }

  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& same = static_cast<const FlashAttention&>(other);
    return scale_ == same.scale_ && causal_ == same.causal_;
  }

 private:
  /// Put the attention on the stream: it is computed there, after what its inputs come from.
  template <typename T>
  void dispatch(const std::vector<mx::array>& inputs, mx::array& out) {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    for (auto& input : inputs) encoder.set_input_array(input);
    encoder.set_output_array(out);
    const auto &query = inputs[0], &key = inputs[1];
    Attention<T> attention{View<T>(query), View<T>(key), View<T>(inputs[2]), {},
                           query.shape(0), query.shape(1), key.shape(1), query.shape(2),
                           key.shape(2), query.shape(3), scale_, causal_, out.data<T>()};
    if (inputs.size() > 3) attention.mask = View<float>(inputs[3]);
    encoder.dispatch([attention] { attend_all(attention); });
  }

  float scale_;
  bool causal_;
};

/// Throw std::invalid_argument with the parts of a sentence unless `condition` holds.
template <typename... Parts>
void require(bool condition, const Parts&... parts) {
  if (condition) return;
  std::ostringstream sentence;
  (sentence << ... << parts);
  throw std::invalid_argument(sentence.str());
}

bool is_float(mx::Dtype dtype) {
  return dtype == mx::float32 || dtype == mx::float16 || dtype == mx::bfloat16;
}

}  // namespace

mx::array flash_attention(const mx::array& query, const mx::array& key, const mx::array& value,
                          std::optional<float> scale, const std::optional<mx::array>& mask,
                          bool causal, mx::StreamOrDevice stream) {
  require(query.ndim() == 4, "query must have four axes, B x H_q x L x D, not ", query.ndim());
  require(key.ndim() == 4, "key must have four axes, B x H_kv x S x D, not ", key.ndim());
  require(value.shape() == key.shape(), "value must have the shape of key, ", key.shape(),
          ", not ", value.shape());
  const int B = query.shape(0), H_q = query.shape(1), L = query.shape(2), D = query.shape(3);
  const int H_kv = key.shape(1), S = key.shape(2);
  require(D == 32 || D == 64 || D == 128, "the head dim must be 32, 64 or 128, not ", D);
  require(key.shape(3) == D, "key must have the head dim of query, ", D, ", not ", key.shape(3));
  require(key.shape(0) == B, "key must have the batch of query, ", B, ", not ", key.shape(0));
  require(H_kv > 0 && H_q % H_kv == 0, H_q, " query heads cannot share ", H_kv,
          " key/value heads evenly");
  require(is_float(query.dtype()), "query must be float32, float16 or bfloat16, not ",
          query.dtype());
  require(key.dtype() == query.dtype() && value.dtype() == query.dtype(),
          "key and value must have the dtype of query, ", query.dtype(), ", not ", key.dtype(),
          " and ", value.dtype());
  require(!causal || S >= L, "there are ", L, " queries but only ", S,
          " keys: S must be at least L");
  require(!(causal && mask), "a mask is either causal or an array");
  // Rows and items of work are counted in ints.
  require(std::max<int64_t>({int64_t(B) * H_q * L, int64_t(B) * H_kv * MOST_SPLITS, S}) <=
              std::numeric_limits<int>::max() - BLOCK_KEYS,
          "there are too many queries, keys or heads");
  const mx::Stream on = mx::to_stream(stream, mx::Device::cpu);
  require(on.device == mx::Device::cpu, "flash_attention is a kernel for the CPU: its stream must "
          "be one of the CPU's");
  std::vector<mx::array> inputs{query, key, value};
  if (mask) {
    require(is_float(mask->dtype()),
            "mask is added to the scores and must be float32, float16 or bfloat16, not ",
            mask->dtype());
    const mx::Shape full{B, H_q, L, S};
    bool fits = mask->ndim() <= 4;
    for (int axis = 1; fits && axis <= static_cast<int>(mask->ndim()); axis++) {
      fits = mask->shape(-axis) == 1 || mask->shape(-axis) == full[4 - axis];
    }
    require(fits, "mask must be broadcastable to ", full, ", but is ", mask->shape());
    inputs.push_back(mx::broadcast_to(mx::astype(*mask, mx::float32, on), full, on));
  }
  if (query.size() == 0 || S == 0) return mx::zeros(query.shape(), query.dtype(), on);
  return mx::array(query.shape(), query.dtype(),
                   std::make_shared<FlashAttention>(
                       on, scale.value_or(1 / std::sqrt(static_cast<float>(D))), causal),
                   std::move(inputs));
}

}  // namespace tiny_llm
