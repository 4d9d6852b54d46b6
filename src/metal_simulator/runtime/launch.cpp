// A launch: where the kernel's library lies, the workers, the watchdog, and sim_run.
#include <dlfcn.h>
#if defined(__APPLE__)
#include <mach-o/loader.h>
#else
#include <link.h>
#endif

#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <numeric>
#include <system_error>
#include <thread>
#include <vector>

#include "scheduler.h"
#include "signals.h"
#include "worker.h"

namespace sim {

__thread Worker* current_worker = nullptr;

sim_uint3 Launch::threadgroup_position(uint64_t index) const {
  const sim_uint3& n = request.threadgroups;
  return {static_cast<uint32_t>(index % n.x), static_cast<uint32_t>(index / n.x % n.y),
          static_cast<uint32_t>(index / n.x / n.y)};
}

static uint32_t size_at(uint32_t grid, uint32_t full, uint32_t position) {
  const uint32_t rest = grid - position * full;
  return rest < full ? rest : full;
}

sim_uint3 Launch::threadgroup_size(const sim_uint3& position) const {
  const sim_uint3 &grid = request.grid, &full = request.threadgroup;
  return {size_at(grid.x, full.x, position.x), size_at(grid.y, full.y, position.y),
          size_at(grid.z, full.z, position.z)};
}

sim_who Launch::who(uint32_t threadgroup, uint32_t thread) const {
  const sim_uint3 position = threadgroup_position(threadgroup);
  const sim_uint3 size = threadgroup_size(position);
  return {1,
          {thread % size.x, thread / size.x % size.y, thread / size.x / size.y},
          position,
          thread / kLanes,
          thread % kLanes};
}

// The addresses of the library that holds the kernel.
static bool find_library(Launch& launch) {
  Dl_info info;
  if (!dladdr(reinterpret_cast<void*>(launch.request.entry), &info)) return false;
  launch.library = launch.library_end = reinterpret_cast<uintptr_t>(info.dli_fbase);
#if defined(__APPLE__)  // written, but run nowhere yet
  const mach_header_64* const header = static_cast<const mach_header_64*>(info.dli_fbase);
  const char* command = reinterpret_cast<const char*>(header + 1);
  uint64_t text = 0;
  for (uint32_t i = 0; i < header->ncmds; i++) {
    const load_command* const load = reinterpret_cast<const load_command*>(command);
    if (load->cmd == LC_SEGMENT_64) {
      const segment_command_64* const segment =
          reinterpret_cast<const segment_command_64*>(command);
      if (segment->fileoff == 0 && segment->filesize) text = segment->vmaddr;
      const uintptr_t end = launch.library + (segment->vmaddr + segment->vmsize - text);
      if (end > launch.library_end) launch.library_end = end;
    }
    command += load->cmdsize;
  }
#else
  dl_iterate_phdr(
      [](dl_phdr_info* object, size_t, void* data) {
        Launch& found = *static_cast<Launch*>(data);
        if (object->dlpi_addr != found.library) return 0;
        for (int i = 0; i < object->dlpi_phnum; i++) {
          const auto& header = object->dlpi_phdr[i];
          const uintptr_t end = object->dlpi_addr + header.p_vaddr + header.p_memsz;
          if (header.p_type == PT_LOAD && end > found.library_end) found.library_end = end;
        }
        return 1;
      },
      &launch);
#endif
  return true;
}

// More workers than this would need more mappings (two for each stack) than Linux allows.
constexpr uint32_t kMaxWorkers = 16;

// Workers are kept from launch to launch for their stacks, and on purpose never destroyed: a thread
// may still run one when the process ends.
static std::vector<std::unique_ptr<Worker>>& kept_workers() {
  static auto& workers = *new std::vector<std::unique_ptr<Worker>>;
  return workers;
}

static bool prepare_worker(Worker& worker, Launch& launch) {
  if (!worker.stacks.reserve() || !worker.threadgroup_memory.reserve()) return false;
  worker.launch = &launch;
  worker.threadgroup_memory.start_launch();
  worker.last_buffer = nullptr;
  worker.switches = worker.accesses = worker.simd_operations = worker.barriers = 0;
  worker.attention = launch.request.check && launch.request.order >= 2 ? kRandomOrder : 0;
  return true;
}

static void run_worker(Worker& worker) {
  Launch& launch = *worker.launch;
  char signal_stack[kSignalStackBytes];  // on the stack of the worker: static TLS is too small
  prepare_thread_for_signals(signal_stack);
  current_worker = &worker;
  const uint64_t n = launch.threadgroup_count;
  for (;;) {
    const uint64_t i = launch.next_threadgroup.fetch_add(1);
    if (i >= n || launch.findings.stopped()) break;
    const uint64_t order = launch.request.order;
    run_threadgroup(worker, order == 0   ? i
                            : order == 1 ? n - 1 - i
                                         : (launch.start + i * launch.stride) % n);
  }
  current_worker = nullptr;
  release_signal_stack();
}

// A random order of the threadgroups, without a list of them: steps of a random width that has no
// divisor in common with their number.
static void choose_threadgroup_order(Launch& launch) {
  uint64_t state = launch.request.order;
  const uint64_t n = launch.threadgroup_count;
  launch.start = next_random(state) % n;
  do launch.stride = next_random(state) % n + 1;
  while (std::gcd(launch.stride, n) != 1);
}

// Starts the workers' threads and waits for them. When the time is over, or a finding stopped the
// launch, those that still run are interrupted until they are done.
static int run_workers(Launch& launch, uint32_t count) {
  std::mutex mutex;
  std::condition_variable finished;
  uint32_t running = count;
  int error = 0;
  std::vector<std::thread> threads;
  std::vector<bool> done(count);
  const auto deadline = std::chrono::steady_clock::now() +
                        std::chrono::duration<double>(launch.request.timeout);
  for (uint32_t i = 0; i < count; i++) {
    try {
      threads.emplace_back([&, i] {
        run_worker(*kept_workers()[i]);
        std::lock_guard<std::mutex> guard(mutex);
        done[i] = true;
        running--;
        finished.notify_one();
      });
    } catch (const std::system_error&) {
      error = EAGAIN;
      std::lock_guard<std::mutex> guard(mutex);
      running -= count - i;
      break;
    }
  }
  std::unique_lock<std::mutex> lock(mutex);
  std::chrono::milliseconds patience(50);
  while (!finished.wait_for(lock, patience, [&] { return running == 0; })) {
    const bool in_time = std::chrono::steady_clock::now() < deadline && !launch.request.stop;
    if (in_time && !launch.findings.stopped()) continue;
    patience = std::chrono::milliseconds(2);
    for (uint32_t i = 0; i < threads.size(); i++)
      if (!done[i]) interrupt(threads[i].native_handle());
  }
  lock.unlock();
  for (std::thread& thread : threads) thread.join();
  return error;
}

static uint64_t product(const sim_uint3& n) {
  return uint64_t{n.x} * n.y * n.z;
}

static int run(sim_launch& request) {
  const uint64_t threads = product(request.threadgroup);
  const uint64_t threadgroups = product(request.threadgroups);
  if (!threads || threads > kMaxThreads || !threadgroups || threadgroups > UINT32_MAX)
    return EINVAL;
  Launch launch(request);
  launch.threadgroup_count = threadgroups;
  if (!find_library(launch)) return EINVAL;
  if (request.order >= 2) choose_threadgroup_order(launch);
  uint32_t count = request.workers < kMaxWorkers ? request.workers : kMaxWorkers;
  if (count > threadgroups) count = static_cast<uint32_t>(threadgroups);
  if (!count) count = 1;
  if (!launch.memory.copy_in(count > 1)) return ENOMEM;
  while (kept_workers().size() < count) kept_workers().push_back(std::make_unique<Worker>());
  for (uint32_t i = 0; i < count; i++)
    if (!prepare_worker(*kept_workers()[i], launch)) return ENOMEM;

  const auto begin = std::chrono::steady_clock::now();
  install_signal_handlers();
  const int error = run_workers(launch, count);
  restore_signal_handlers();
  request.seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();

  request.switches = request.accesses = request.simd_operations = request.barriers = 0;
  request.threadgroup_bytes = 0;
  for (uint32_t i = 0; i < count; i++) {
    Worker& worker = *kept_workers()[i];
    request.switches += worker.switches;
    request.accesses += worker.accesses;
    request.simd_operations += worker.simd_operations;
    request.barriers += worker.barriers;
    const uint32_t bytes = static_cast<uint32_t>(worker.threadgroup_memory.bytes());
    if (bytes > request.threadgroup_bytes) request.threadgroup_bytes = bytes;
    worker.launch = nullptr;
  }
  launch.memory.copy_out();
  if (!error && request.finding_count == 0) report_unwritten(launch.memory, launch.findings);
  return error;
}

}  // namespace sim

// One launch at a time: the handlers of signals and the kept workers are shared.
extern "C" int sim_run(sim_launch* launch) {
  static std::mutex one_at_a_time;
  std::lock_guard<std::mutex> guard(one_at_a_time);
  return sim::run(*launch);
}
