// SIMD-group and quad-group functions
// (Metal Shading Language specification, sections 6.9.2 and 6.9.3).
//
// Each function hands its argument and the address of its result to the runtime, which waits for
// the SIMD-group's lanes and then lets one of them run the operation for all (`sim_simd`).
#pragma once
#include "../runtime/abi.h"
#include "math.h"

namespace msl {
namespace language {

#define SIM_FOR_EACH_LANE(lane, lanes)       \
  for (uint lane = 0; lane < 32; lane++)     \
    if ((lanes) >> lane & 1)

// Runs Operation::run(in, out, lanes) for all lanes together. An operation is a structure with the
// types In and Out of one lane's argument and result.
template <class Operation>
SIM_NOT_CHECKED void run_operation(const void* const* in, void* const* out, uint32_t lanes) {
  Operation::run((const typename Operation::In* const*)in, (typename Operation::Out* const*)out,
                 lanes);
}
template <class Operation>
SIM_NOT_CHECKED typename Operation::Out together(typename Operation::In in, const char* name,
                                                 const char* file, uint32_t line) {
  typename Operation::Out out;
  sim_simd(&run_operation<Operation>, &in, &out, name, file, line);
  return out;
}

// What SIMD-group functions take: scalars and vectors of at most 32 bits, but no bool.
template <class A>
using lane_t = value_t<std::enable_if_t<(size_v<A> > 0), A>>;
template <class V>
constexpr void check_lane_type() {
  static_assert(!std::is_same<element_t<V>, bool>::value,
                "SIMD-group functions take no bool: convert it to int first.");
  static_assert(sizeof(element_t<V>) <= 4,
                "SIMD-group functions take no 64-bit integers: split them into 32-bit parts.");
}

// ---- Reductions and prefix sums, over groups of `Group` lanes: 32, or 4 for a quad.
struct add {
  static constexpr int identity = 0;
  template <class T>
  METAL_FUNC static T apply(T a, T b) { return T(a + b); }
};
struct multiply {
  static constexpr int identity = 1;
  template <class T>
  METAL_FUNC static T apply(T a, T b) { return T(a * b); }
};
struct maximum {
  template <class T>
  METAL_FUNC static T apply(T a, T b) { return metal::max(a, b); }
};
struct minimum {
  template <class T>
  METAL_FUNC static T apply(T a, T b) { return metal::min(a, b); }
};
struct bit_and {
  template <class T>
  METAL_FUNC static T apply(T a, T b) { return T(a & b); }
};
struct bit_or {
  template <class T>
  METAL_FUNC static T apply(T a, T b) { return T(a | b); }
};
struct bit_xor {
  template <class T>
  METAL_FUNC static T apply(T a, T b) { return T(a ^ b); }
};

template <class T, class Combine, uint Group>
struct reduction {
  using In = T;
  using Out = T;
  SIM_NOT_CHECKED static void run(const T* const* in, T* const* out, uint lanes) {
    for (uint group = 0; group < 32; group += Group) {
      uint members = lanes & uint(((1ul << Group) - 1) << group);
      if (members == 0) continue;
      uint first = uint(__builtin_ctz(members));
      T result = *in[first];
      SIM_FOR_EACH_LANE(lane, members & ~(1u << first)) {
        result = Combine::apply(result, *in[lane]);
      }
      SIM_FOR_EACH_LANE(lane, members) *out[lane] = result;
    }
  }
};

// Of the lanes up to this one; `Inclusive` says whether it counts itself.
template <class T, class Combine, uint Group, bool Inclusive>
struct prefix {
  using In = T;
  using Out = T;
  SIM_NOT_CHECKED static void run(const T* const* in, T* const* out, uint lanes) {
    T result = T(Combine::identity);
    SIM_FOR_EACH_LANE(lane, lanes) {
      if (lane % Group == 0) result = T(Combine::identity);
      T next = Combine::apply(result, *in[lane]);
      *out[lane] = Inclusive ? next : result;
      result = next;
    }
  }
};

// ---- Shuffles.
enum class direction { lane, down, up, exclusive_or, rotate_down, rotate_up };

template <class T, uint Group, direction Direction>
struct shuffle {
  struct In {
    T value, filling;
    uint count;   // the lane, or how far from this one
    uint modulo;  // the filling shuffles' groups of lanes; 0 in the other shuffles
    const char *name, *file;
    uint line;
  };
  using Out = T;

  SIM_NOT_CHECKED static void run(const In* const* in, T* const* out, uint lanes) {
    SIM_FOR_EACH_LANE(lane, lanes) {
      const In& own = *in[lane];
      uint group = own.modulo != 0 ? own.modulo : Group;
      uint first = lane / group * group;  // of the lane's group
      uint source = choose(lane - first, own.count, group);
      bool inside = source < group;
      // Past the end of the group: the filling, wrapped around, or the lane's own value.
      if (!inside && own.modulo != 0) {
        source = (source + group) % group;
      } else if (!inside && (Direction == direction::down || Direction == direction::up)) {
        *out[lane] = own.value;
        continue;
      }
      uint from = first + source;
      if (source >= group || from >= 32 || !(lanes >> from & 1)) {
        sim_inactive_lane(lane, from, own.name, own.file, own.line);
        *out[lane] = own.value;
        continue;
      }
      *out[lane] = inside ? in[from]->value : in[from]->filling;
    }
  }

 private:
  METAL_FUNC static uint choose(uint lane, uint count, uint group) {
    switch (Direction) {
      case direction::lane: return count;
      case direction::down: return lane + count;
      case direction::up: return lane - count;
      case direction::exclusive_or: return lane ^ count;
      case direction::rotate_down: return (lane + count) % group;
      case direction::rotate_up: return (lane - count) % group;
    }
  }
};

template <uint Group, direction Direction, class T>
METAL_FUNC T shuffled(T value, T filling, uint count, uint modulo, const char* name,
                      const char* file, uint line) {
  check_lane_type<T>();
  return together<shuffle<T, Group, Direction>>(
      {value, filling, count, modulo, name, file, line}, name, file, line);
}

template <class T, uint Group>
struct broadcast_first {
  using In = T;
  using Out = T;
  SIM_NOT_CHECKED static void run(const T* const* in, T* const* out, uint lanes) {
    SIM_FOR_EACH_LANE(lane, lanes) {
      uint members = lanes & uint(((1ul << Group) - 1) << (lane / Group * Group));
      *out[lane] = *in[__builtin_ctz(members)];
    }
  }
};

// ---- Votes.
struct votes {
  uint active, yes;  // one bit per lane
};
struct ballot {
  using In = bool;
  using Out = votes;
  SIM_NOT_CHECKED static void run(const bool* const* in, votes* const* out, uint lanes) {
    uint yes = 0;
    SIM_FOR_EACH_LANE(lane, lanes) yes |= uint(*in[lane]) << lane;
    SIM_FOR_EACH_LANE(lane, lanes) *out[lane] = {lanes, yes};
  }
};
// The votes of a quad, with this lane's own number, for which the lane is needed.
struct quad_ballot {
  using In = bool;
  using Out = votes;
  SIM_NOT_CHECKED static void run(const bool* const* in, votes* const* out, uint lanes) {
    uint yes = 0;
    SIM_FOR_EACH_LANE(lane, lanes) yes |= uint(*in[lane]) << lane;
    SIM_FOR_EACH_LANE(lane, lanes) {
      *out[lane] = {lanes >> (lane / 4 * 4) & 15, yes >> (lane / 4 * 4) & 15};
    }
  }
};
template <uint Group>
struct first_lane {
  using In = bool;
  using Out = bool;
  SIM_NOT_CHECKED static void run(const bool* const*, bool* const* out, uint lanes) {
    SIM_FOR_EACH_LANE(lane, lanes) {
      uint below = lanes & ((1u << lane) - 1);
      *out[lane] = (below >> (lane / Group * Group)) == 0;
    }
  }
};

// The caller's lane.
struct lane_index {
  using In = bool;
  using Out = uint;
  SIM_NOT_CHECKED static void run(const bool* const*, uint* const* out, uint lanes) {
    SIM_FOR_EACH_LANE(lane, lanes) *out[lane] = lane;
  }
};

}  // namespace language

namespace metal {

#define SIM_REDUCTION(name, Combine, Group, result_t)                                       \
  template <class A, class T = language::result_t<A>>                                       \
  METAL_FUNC T name(A value, SIM_PLACE) {                                                   \
    language::check_lane_type<T>();                                                         \
    return language::together<language::reduction<T, language::Combine, Group>>(            \
        T(value), #name, file, line);                                                       \
  }
#define SIM_REDUCTIONS(group, Group)                                  \
  SIM_REDUCTION(group##_sum, add, Group, any_t)                       \
  SIM_REDUCTION(group##_product, multiply, Group, any_t)              \
  SIM_REDUCTION(group##_max, maximum, Group, any_t)                   \
  SIM_REDUCTION(group##_min, minimum, Group, any_t)                   \
  SIM_REDUCTION(group##_and, bit_and, Group, integer_t)               \
  SIM_REDUCTION(group##_or, bit_or, Group, integer_t)                 \
  SIM_REDUCTION(group##_xor, bit_xor, Group, integer_t)
SIM_REDUCTIONS(simd, 32)
SIM_REDUCTIONS(quad, 4)

#define SIM_PREFIX(name, Combine, Group, inclusive)                                              \
  template <class A, class T = language::any_t<A>>                                               \
  METAL_FUNC T name(A value, SIM_PLACE) {                                                        \
    language::check_lane_type<T>();                                                              \
    return language::together<language::prefix<T, language::Combine, Group, inclusive>>(         \
        T(value), #name, file, line);                                                            \
  }
#define SIM_PREFIXES(group, Group)                                        \
  SIM_PREFIX(group##_prefix_inclusive_sum, add, Group, true)              \
  SIM_PREFIX(group##_prefix_exclusive_sum, add, Group, false)             \
  SIM_PREFIX(group##_prefix_inclusive_product, multiply, Group, true)     \
  SIM_PREFIX(group##_prefix_exclusive_product, multiply, Group, false)
SIM_PREFIXES(simd, 32)
SIM_PREFIXES(quad, 4)

#define SIM_SHUFFLE(name, Group, Direction)                                                   \
  template <class A, class T = language::any_t<A>>                                            \
  METAL_FUNC T name(A value, ushort count, SIM_PLACE) {                                       \
    return language::shuffled<Group, language::direction::Direction>(                         \
        T(value), T(value), count, 0, #name, file, line);                                     \
  }
#define SIM_FILLING_SHUFFLE(name, Group, Direction)                                           \
  template <class A, class B, class T = language::any_t<A, B>>                                \
  METAL_FUNC T name(A value, B filling, ushort delta, SIM_PLACE) {                            \
    return language::shuffled<Group, language::direction::Direction>(                         \
        T(value), T(filling), delta, Group, #name, file, line);                               \
  }                                                                                           \
  template <class A, class B, class T = language::any_t<A, B>>                                \
  METAL_FUNC T name(A value, B filling, ushort delta, ushort modulo, SIM_PLACE) {             \
    return language::shuffled<Group, language::direction::Direction>(                         \
        T(value), T(filling), delta, modulo, #name, file, line);                              \
  }
#define SIM_SHUFFLES(group, Group)                                        \
  SIM_SHUFFLE(group##_shuffle, Group, lane)                               \
  SIM_SHUFFLE(group##_broadcast, Group, lane)                             \
  SIM_SHUFFLE(group##_shuffle_down, Group, down)                          \
  SIM_SHUFFLE(group##_shuffle_up, Group, up)                              \
  SIM_SHUFFLE(group##_shuffle_xor, Group, exclusive_or)                   \
  SIM_SHUFFLE(group##_shuffle_rotate_down, Group, rotate_down)            \
  SIM_SHUFFLE(group##_shuffle_rotate_up, Group, rotate_up)                \
  SIM_FILLING_SHUFFLE(group##_shuffle_and_fill_down, Group, down)         \
  SIM_FILLING_SHUFFLE(group##_shuffle_and_fill_up, Group, up)             \
  template <class A, class T = language::any_t<A>>                        \
  METAL_FUNC T group##_broadcast_first(A value, SIM_PLACE) {              \
    language::check_lane_type<T>();                                       \
    return language::together<language::broadcast_first<T, Group>>(       \
        T(value), #group "_broadcast_first", file, line);                 \
  }
SIM_SHUFFLES(simd, 32)
SIM_SHUFFLES(quad, 4)

#undef SIM_SHUFFLES
#undef SIM_FILLING_SHUFFLE
#undef SIM_SHUFFLE
#undef SIM_PREFIXES
#undef SIM_PREFIX
#undef SIM_REDUCTIONS
#undef SIM_REDUCTION

// One bit per lane.
struct simd_vote {
  using vote_t = ulong;
  explicit constexpr simd_vote(vote_t votes = 0) : bits(votes) {}
  explicit constexpr operator vote_t() const { return bits; }
  constexpr bool all() const { return bits == 0xffffffff; }
  constexpr bool any() const { return bits != 0; }

 private:
  vote_t bits;
};
struct quad_vote {
  using vote_t = uint;
  explicit constexpr quad_vote(vote_t votes = 0) : bits(votes) {}
  explicit constexpr operator vote_t() const { return bits; }
  constexpr bool all() const { return bits == 15; }
  constexpr bool any() const { return bits != 0; }

 private:
  vote_t bits;
};

#define SIM_VOTES(group, Ballot, Group)                                                     \
  METAL_FUNC group##_vote group##_ballot(bool value, SIM_PLACE) {                           \
    return group##_vote(                                                                    \
        language::together<language::Ballot>(value, #group "_ballot", file, line).yes);     \
  }                                                                                         \
  METAL_FUNC group##_vote group##_active_threads_mask(SIM_PLACE) {                          \
    return group##_vote(                                                                    \
        language::together<language::Ballot>(true, #group "_active_threads_mask", file, line) \
            .active);                                                                       \
  }                                                                                         \
  METAL_FUNC bool group##_all(bool value, SIM_PLACE) {                                      \
    language::votes votes =                                                                 \
        language::together<language::Ballot>(value, #group "_all", file, line);             \
    return votes.yes == votes.active;                                                       \
  }                                                                                         \
  METAL_FUNC bool group##_any(bool value, SIM_PLACE) {                                      \
    return language::together<language::Ballot>(value, #group "_any", file, line).yes != 0; \
  }                                                                                         \
  METAL_FUNC bool group##_is_first(SIM_PLACE) {                                             \
    return language::together<language::first_lane<Group>>(true, #group "_is_first", file,  \
                                                           line);                           \
  }
SIM_VOTES(simd, ballot, 32)
SIM_VOTES(quad, quad_ballot, 4)
#undef SIM_VOTES

}  // namespace metal
}  // namespace msl
