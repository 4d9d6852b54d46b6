// What Python sees of the C++ kernels.

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/variant.h>

#include "flash_attention_op.h"
#include "quantized_matmul_op.h"

namespace nb = nanobind;
using namespace nb::literals;

NB_MODULE(kernels, m) {
  m.def("quantized_matmul", &tiny_llm::quantized_matmul, "scales"_a, "biases"_a, "group_size"_a,
        "bits"_a, "a"_a, "b"_a, nb::kw_only(), "stream"_a = nb::none());
  m.def("flash_attention", &tiny_llm::flash_attention, "query"_a, "key"_a, "value"_a,
        "scale"_a = nb::none(), "mask"_a = nb::none(), "causal"_a = false, nb::kw_only(),
        "stream"_a = nb::none());
}
