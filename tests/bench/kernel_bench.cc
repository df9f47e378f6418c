// SPDX-License-Identifier: Apache-2.0
// On a real kernel, as root, in a network namespace of its own: the time to program a whole plan
// beside `ipvsadm -R` of the same table in the same run, and from an object's change to the
// kernel's acknowledgement. Prints one JSON object.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <dlfcn.h>
#include <fstream>
#include <poll.h>
#include <sched.h>
#include <string>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>
#include <vector>

#include <nlohmann/json.hpp>

#include "cluster.h"
#include "dataplane/ipvs/plane.h"
#include "plan/planner.h"
#include "plan/print.h"
#include "store/store.h"

namespace {
std::atomic<std::uint64_t> system_calls{0};

template <typename Function>
Function next(const char* name) {
  return reinterpret_cast<Function>(::dlsym(RTLD_NEXT, name));
}
}  // namespace

// The calls that the data plane makes per change, counted on their way into the C library.
extern "C" {
ssize_t sendmsg(int fd, const msghdr* message, int flags) {
  static const auto kReal = next<ssize_t (*)(int, const msghdr*, int)>("sendmsg");
  ++system_calls;
  return kReal(fd, message, flags);
}
ssize_t recvmsg(int fd, msghdr* message, int flags) {
  static const auto kReal = next<ssize_t (*)(int, msghdr*, int)>("recvmsg");
  ++system_calls;
  return kReal(fd, message, flags);
}
ssize_t recv(int fd, void* buffer, size_t size, int flags) {
  static const auto kReal = next<ssize_t (*)(int, void*, size_t, int)>("recv");
  ++system_calls;
  return kReal(fd, buffer, size, flags);
}
ssize_t recvfrom(int fd, void* buffer, size_t size, int flags, sockaddr* from, socklen_t* length) {
  static const auto kReal =
      next<ssize_t (*)(int, void*, size_t, int, sockaddr*, socklen_t*)>("recvfrom");
  ++system_calls;
  return kReal(fd, buffer, size, flags, from, length);
}
ssize_t sendto(int fd, const void* buffer, size_t size, int flags, const sockaddr* to,
               socklen_t length) {
  static const auto kReal =
      next<ssize_t (*)(int, const void*, size_t, int, const sockaddr*, socklen_t)>("sendto");
  ++system_calls;
  return kReal(fd, buffer, size, flags, to, length);
}
int poll(pollfd* fds, nfds_t count, int timeout) {
  static const auto kReal = next<int (*)(pollfd*, nfds_t, int)>("poll");
  ++system_calls;
  return kReal(fds, count, timeout);
}
ssize_t read(int fd, void* buffer, size_t size) {
  static const auto kReal = next<ssize_t (*)(int, void*, size_t)>("read");
  ++system_calls;
  return kReal(fd, buffer, size);
}
ssize_t write(int fd, const void* buffer, size_t size) {
  static const auto kReal = next<ssize_t (*)(int, const void*, size_t)>("write");
  ++system_calls;
  return kReal(fd, buffer, size);
}
}

namespace fairlead::bench {
namespace {

using Clock = std::chrono::steady_clock;
using nlohmann::json;
constexpr std::size_t kEndpoints = 10;

[[noreturn]] void die(const std::string& why) {
  std::fprintf(stderr, "kernel_bench: %s\n", why.c_str());
  std::exit(1);
}

double milliseconds(Clock::duration duration) {
  return std::chrono::duration<double, std::milli>(duration).count();
}

void run(const std::string& command) {
  if (std::system(command.c_str()) != 0) {
    die("failed: " + command);
  }
}

void fresh_namespace() {
  if (::unshare(CLONE_NEWNET) != 0) {
    die("cannot make a network namespace; run as root");
  }
  run("ip link set lo up");
}

std::unique_ptr<dataplane::ipvs::Plane> open_plane() {
  auto kernel = dataplane::ipvs::open_kernel();
  if (!kernel) {
    die(kernel.error().text());
  }
  dataplane::ipvs::PlaneConfig config;
  config.families.emplace_back();
  config.kernel_release = "6.1";
  auto plane = std::make_unique<dataplane::ipvs::Plane>(std::move(*kernel), config);
  if (const Status status = plane->start(Clock::now()); !status) {
    die(status.error().text());
  }
  return plane;
}

struct Pipeline {
  store::Store store{"node-1"};
  plan::Planner planner{store, {}};
  std::unique_ptr<dataplane::ipvs::Plane> plane = open_plane();

  explicit Pipeline(std::size_t services) {
    for (std::size_t s = 0; s < services; ++s) {
      store.put(make_service(s));
      store.put(make_slice(s, kEndpoints));
    }
    (void)planner.update(store.take_dirty().services);
  }
};

// Entries of the table. Not from /proc: with tables in several namespaces it loses some.
std::size_t table_entries() {
  const auto client = ipvs::make_netlink_client();
  if (!client) {
    die(client.error().text());
  }
  const auto table = (*client)->dump();
  if (!table) {
    die(table.error().text());
  }
  std::size_t entries = table->size();
  for (const ipvs::ObservedVirtualServer& server : *table) {
    entries += server.real_servers.size();
  }
  return entries;
}

json first_programming(std::size_t services) {
  fresh_namespace();
  Pipeline ours(services);
  const plan::Delta whole = ours.planner.full();
  const auto started = Clock::now();
  ours.plane->apply(whole, started);
  const double fairlead = milliseconds(Clock::now() - started);
  const std::size_t entries = table_entries();

  fresh_namespace();
  const std::string rules = "/tmp/kernel_bench.rules";
  std::ofstream(rules) << plan::print_ipvsadm(whole.put);
  const auto peer_started = Clock::now();
  run("ipvsadm -R < " + rules);
  const double peer = milliseconds(Clock::now() - peer_started);
  const std::size_t peer_entries = table_entries();
  if (peer_entries != entries || entries != services * (kEndpoints + 1)) {
    die("the two tables differ: " + std::to_string(entries) + " and " +
        std::to_string(peer_entries) + " entries");
  }
  std::fprintf(
      stderr,
      "%6zu x %zu: fairlead %.0f ms (with sets and addresses), ipvsadm -R %.0f ms, ratio %.2f\n",
      services, kEndpoints, fairlead, peer, fairlead / peer);
  return {{"services", services},
          {"endpoints", kEndpoints},
          {"fairlead_ms", fairlead},
          {"ipvsadm_restore_ms", peer},
          {"ratio", fairlead / peer}};
}

json one_endpoint(std::size_t services, std::size_t rounds) {
  fresh_namespace();
  Pipeline ours(services);
  ours.plane->apply(ours.planner.full(), Clock::now());
  std::vector<double> times;
  std::uint64_t calls = 0;
  for (std::size_t i = 0; i < rounds; ++i) {
    const std::size_t service = (i * 7919) % services;
    const std::uint64_t before = system_calls;
    const auto started = Clock::now();
    ours.store.put(make_slice(service, kEndpoints + 1));
    const plan::Delta delta = ours.planner.update(ours.store.take_dirty().services);
    ours.plane->apply(delta, Clock::now());
    times.push_back(milliseconds(Clock::now() - started));
    calls += system_calls - before;
    // Back again, unmeasured, so that each round adds.
    ours.store.put(make_slice(service, kEndpoints));
    ours.plane->apply(ours.planner.update(ours.store.take_dirty().services), Clock::now());
  }
  std::ranges::sort(times);
  const double p50 = times[times.size() / 2];
  const double p99 = times[(times.size() * 99) / 100];
  const double per_change = static_cast<double>(calls) / static_cast<double>(rounds);
  std::fprintf(stderr,
               "one endpoint among %6zu services: p50 %.3f ms, p99 %.3f ms, max %.3f ms, %.1f "
               "system calls\n",
               services, p50, p99, times.back(), per_change);
  return {{"services", services}, {"rounds", rounds},       {"p50_ms", p50},
          {"p99_ms", p99},        {"max_ms", times.back()}, {"system_calls", per_change}};
}

}  // namespace
}  // namespace fairlead::bench

int main() {
  using namespace fairlead::bench;
  json result;
  for (const std::size_t services : {1000U, 10000U}) {
    result["first_programming"].push_back(first_programming(services));
  }
  for (const std::size_t services : {100U, 1000U, 10000U}) {
    result["one_endpoint"].push_back(one_endpoint(services, 1000));
  }
  std::printf("%s\n", result.dump(2).c_str());
  return 0;
}
