// Barriers and threadgroup variables
// (Metal Shading Language specification, sections 4.4 and 6.9.1).
#pragma once
#include "../runtime/abi.h"
#include "types.h"

namespace msl {
namespace metal {

enum class mem_flags : uint {
  mem_none = 0,
  mem_device = 1,
  mem_threadgroup = 2,
  mem_texture = 4,
  mem_threadgroup_imageblock = 8,
};
constexpr METAL_FUNC mem_flags operator|(mem_flags a, mem_flags b) {
  return mem_flags(uint(a) | uint(b));
}
constexpr METAL_FUNC mem_flags operator&(mem_flags a, mem_flags b) {
  return mem_flags(uint(a) & uint(b));
}

METAL_FUNC void threadgroup_barrier(mem_flags flags, SIM_PLACE) {
  sim_barrier(uint32_t(flags), file, line);
}
METAL_FUNC void simdgroup_barrier(mem_flags flags, SIM_PLACE) {
  sim_simdgroup_barrier(uint32_t(flags), file, line);
}

}  // namespace metal

// The threadgroup's variable of type T that belongs to this declaration. The address `id` is the
// declaration's own; in a template, each instance has its own.
template <class T>
METAL_FUNC T& threadgroup_variable(const void* id, const char* name, const char* file,
                                   uint32_t line) {
  using Element = std::remove_all_extents_t<T>;
  return *(T*)sim_threadgroup_variable(id, name, sizeof(T), alignof(T), sizeof(Element), file,
                                       line);
}

}  // namespace msl
