// Logging (Metal Shading Language specification, section 6.19): accepted, and dropped.
#pragma once

namespace msl {
namespace metal {

struct os_log {
  constexpr os_log(const char*, const char*) {}
  template <class... Arguments>
  void log(const char*, Arguments...) const {}
  template <class... Arguments>
  void log_debug(const char*, Arguments...) const {}
  template <class... Arguments>
  void log_info(const char*, Arguments...) const {}
  template <class... Arguments>
  void log_error(const char*, Arguments...) const {}
  template <class... Arguments>
  void log_fault(const char*, Arguments...) const {}
};

constexpr os_log os_log_default("", "");

}  // namespace metal
}  // namespace msl
