// Findings: what the checks found, collected for Python, which makes the sentences.
#pragma once
#include <atomic>
#include <mutex>

#include "abi.h"

namespace sim {

class Findings {
 public:
  explicit Findings(sim_launch& launch) : launch_(launch) { launch.finding_count = 0; }

  // Adds a finding, or counts it where this kind was found at this place (and, for races, at this
  // pair of places) before. A fatal one stops the launch, and so does one that fills the list.
  // Returns whether the launch is to stop.
  bool add(const sim_finding& finding, bool fatal);

  void stop() { stopped_ = true; }  // without a finding
  bool has(sim_kind kind);
  bool stopped() const { return stopped_.load(std::memory_order_relaxed); }

 private:
  sim_launch& launch_;
  std::mutex mutex_;
  std::atomic<bool> stopped_{false};
};

sim_place place_in_source(const char* file, uint32_t line);
sim_place place_in_library(uint64_t offset);
sim_finding make_finding(sim_kind kind, const sim_place& place);
bool same_text(const char* a, const char* b);

// Copies as much of a text as fits into a field of a finding.
template <size_t n>
void set_text(char (&field)[n], const char* text) {
  size_t i = 0;
  for (; text && text[i] && i + 1 < n; i++) field[i] = text[i];
  field[i] = 0;
}

}  // namespace sim
