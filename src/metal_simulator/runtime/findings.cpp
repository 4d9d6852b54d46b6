// Collecting findings. See findings.h.
#include "findings.h"

#include <cstring>

namespace sim {

bool same_text(const char* a, const char* b) {
  return a == b || (a && b && !strcmp(a, b));
}

static bool same_place(const sim_place& a, const sim_place& b) {
  return a.offset == b.offset && a.line == b.line && same_text(a.file, b.file);
}

// A race is the same whichever of its two accesses came first.
static bool same_finding(const sim_finding& a, const sim_finding& b) {
  if (a.kind != b.kind) return false;
  const bool race = a.kind == SIM_THREADGROUP_RACE || a.kind == SIM_DEVICE_RACE ||
                    a.kind == SIM_REDUNDANT_WRITE;
  if (!race) return same_place(a.place, b.place) && (a.kind != SIM_OUTPUT_NOT_WRITTEN ||
                                                     same_text(a.variable, b.variable));
  return (same_place(a.place, b.place) && same_place(a.other_place, b.other_place)) ||
         (same_place(a.place, b.other_place) && same_place(a.other_place, b.place));
}

bool Findings::add(const sim_finding& finding, bool fatal) {
  if (stopped()) return true;
  std::lock_guard<std::mutex> guard(mutex_);
  uint32_t i = 0;
  while (i < launch_.finding_count && !same_finding(launch_.findings[i], finding)) i++;
  if (i < launch_.finding_count) {
    launch_.findings[i].count++;
  } else if (i < launch_.finding_capacity) {
    launch_.findings[i] = finding;
    launch_.finding_count++;
  }
  if (fatal || launch_.finding_count >= launch_.finding_capacity) stopped_ = true;
  return stopped();
}

bool Findings::has(sim_kind kind) {
  std::lock_guard<std::mutex> guard(mutex_);
  for (uint32_t i = 0; i < launch_.finding_count; i++)
    if (launch_.findings[i].kind == kind) return true;
  return false;
}

sim_place place_in_source(const char* file, uint32_t line) {
  return {file, line, 0};
}

sim_place place_in_library(uint64_t offset) {
  return {nullptr, 0, offset};
}

sim_finding make_finding(sim_kind kind, const sim_place& place) {
  sim_finding finding{};
  finding.kind = kind;
  finding.place = place;
  finding.count = 1;
  return finding;
}

}  // namespace sim
