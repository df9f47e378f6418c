// SPDX-License-Identifier: Apache-2.0
// The ebpf data plane on the kernel's maps, as root, in namespaces of its own and with nothing
// attached: the time to program a whole plan and one endpoint, memory at a million connections, the
// cost of finding one of them, and of a sweep through them. Prints one JSON object.
#include <algorithm>
#include <array>
#include <bpf/bpf.h>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <linux/bpf.h>
#include <memory>
#include <netinet/in.h>
#include <random>
#include <sched.h>
#include <set>
#include <stdexcept>
#include <string>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/log.h"
#include "bpf/flows.h"
#include "bpf/kernel_tables.h"
#include "bpf/object.h"
#include "bpf/options.h"
#include "cluster.h"
#include "dataplane/ebpf/plane.h"
#include "dataplane/ebpf/sweep.h"
#include "packets.h"
#include "plan/planner.h"
#include "store/store.h"

namespace fairlead::bench {
namespace {

using Clock = std::chrono::steady_clock;
using nlohmann::json;
constexpr std::size_t kServices = 10'000;
constexpr std::size_t kEndpoints = 10;
constexpr std::uint32_t kConnections = 1'000'000;

/// Thrown, so that what was mounted goes.
[[noreturn]] void die(const std::string& why) { throw std::runtime_error(why); }

template <typename T>
T need(Result<T> result) {
  if (!result) {
    die(result.error().text());
  }
  return std::move(*result);
}
void need(const Status& status) {
  if (!status) {
    die(status.error().text());
  }
}

double milliseconds(Clock::duration duration) {
  return std::chrono::duration<double, std::milli>(duration).count();
}

/// Of this thread, in the kernel too.
double cpu_seconds() {
  timespec time{};
  if (::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time) != 0) {
    die("no clock of the thread");
  }
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
}

json spread(std::vector<double> values) {
  std::ranges::sort(values);
  return {{"median", values[values.size() / 2]},
          {"p99", values[values.size() * 99 / 100]},
          {"least", values.front()},
          {"most", values.back()},
          {"rounds", values.size()}};
}

/// A bpffs that vanishes with the process.
class World {
 public:
  World() {
    if (::unshare(CLONE_NEWNS | CLONE_NEWNET) != 0 ||
        ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
      die("cannot make namespaces; run as root");
    }
    std::string pattern =
        (std::filesystem::temp_directory_path() / "fairlead-ebpf-bench.XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr ||
        ::mount("bpf", pattern.c_str(), "bpf", 0, nullptr) != 0) {
      die("cannot mount a bpffs");
    }
    root_ = pattern;
  }
  ~World() {
    (void)::umount2(root_.c_str(), MNT_DETACH);
    (void)::rmdir(root_.c_str());
  }
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  [[nodiscard]] std::string pins() const { return root_ + "/fairlead"; }

 private:
  std::string root_;
};

/// The maps of one pin directory, with programs that are on no device.
class Maps final {
 public:
  Maps(const World& world, const bpf::Sizes& sizes) : pins_(world.pins()) {
    need(bpf::prepare_directory(pins_));
    object_ = std::make_unique<bpf::Object>(need(bpf::Object::load(pins_, sizes)));
    tables_ = need(bpf::open_tables(pins_, object_.get()));
  }
  ~Maps() { (void)bpf::remove_pins(pins_); }  // the next one would find what is left
  Maps(const Maps&) = delete;
  Maps& operator=(const Maps&) = delete;

  [[nodiscard]] bpf::Tables& tables() { return *tables_; }
  [[nodiscard]] const std::string& pins() const { return pins_; }
  [[nodiscard]] int program(const char* name) const { return object_->program(name); }

  /// What the kernel says that they take, and of that the largest ones.
  [[nodiscard]] json memory() const {
    std::uint64_t sum = 0;
    json by_map;
    for (const auto& entry : std::filesystem::directory_iterator(bpf::map_directory(pins_))) {
      const std::string name = entry.path().filename().string();
      const UniqueFd map = need(bpf::open_map(pins_, name));
      std::ifstream info("/proc/self/fdinfo/" + std::to_string(map.get()));
      std::string word;
      while (info >> word && word != "memlock:") {
      }
      std::uint64_t bytes = 0;
      if (!(info >> bytes)) {
        die("the kernel does not tell what map " + name + " takes");
      }
      by_map[name] = static_cast<double>(bytes) / 1e6;
      sum += bytes;
    }
    return {{"mb", static_cast<double>(sum) / 1e6}, {"maps_mb", by_map}};
  }

 private:
  std::string pins_;
  std::unique_ptr<bpf::Object> object_;
  std::unique_ptr<bpf::Tables> tables_;
};

class BenchHost final : public dataplane::ebpf::Host {
 public:
  explicit BenchHost(std::string pins) : pins_(std::move(pins)) {}
  Result<std::unique_ptr<bpf::Tables>> open() override { return bpf::open_tables(pins_); }
  Result<std::vector<bpf::Device>> attach(bool /*thorough*/,
                                          std::map<std::string, std::string>& /*failed*/) override {
    return std::vector<bpf::Device>{};
  }
  Status attach_sockets() override { return {}; }
  Status take_over() override { return {}; }
  Result<std::size_t> close_udp_sockets(const std::set<net::IpAddress>& /*servers*/,
                                        const IsStale& /*is_stale*/) override {
    return 0;
  }
  void set_on_change(std::function<void(event::TimePoint)> /*on_change*/) override {}

 private:
  std::string pins_;
};

struct Pipeline {
  store::Store store{"node-1"};
  plan::Planner planner{store, {}};

  Pipeline() {
    for (std::size_t s = 0; s < kServices; ++s) {
      store.put(make_service(s));
      store.put(make_slice(s, kEndpoints));
    }
    (void)planner.update(store.take_dirty().services);
  }
};

std::unique_ptr<dataplane::ebpf::Plane> open_plane(const Maps& maps) {
  auto plane = std::make_unique<dataplane::ebpf::Plane>(std::make_unique<BenchHost>(maps.pins()),
                                                        dataplane::ebpf::PlaneConfig{});
  need(plane->start(Clock::now()));
  return plane;
}

void expect_programmed(const dataplane::ebpf::Plane& plane, bpf::Tables& tables) {
  const dataplane::Summary summary = plane.summary();
  if (summary.virtual_servers != kServices || summary.real_servers != kServices * kEndpoints ||
      !summary.failures.empty()) {
    die("programmed " + std::to_string(summary.virtual_servers) + " virtual and " +
        std::to_string(summary.real_servers) + " real servers" +
        (summary.failures.empty() ? "" : ": " + summary.failures.front().error));
  }
  // Each has its entry, and its address one.
  if (const auto entries = need(tables.numbers()).size(); entries != 2 * kServices) {
    die("map numbers has " + std::to_string(entries) + " entries");
  }
}

// --- Programming ---------------------------------------------------------------------------------

json programming(const World& world, const Pipeline& pipeline, std::size_t rounds) {
  const plan::Delta whole = pipeline.planner.full();
  std::vector<double> first, first_cpu, again;
  for (std::size_t i = 0; i < rounds; ++i) {
    Maps maps(world, {});
    {
      const auto plane = open_plane(maps);
      const double cpu = cpu_seconds();
      const auto started = Clock::now();
      plane->apply(whole, started);
      first.push_back(milliseconds(Clock::now() - started));
      first_cpu.push_back((cpu_seconds() - cpu) * 1000);
      expect_programmed(*plane, maps.tables());
    }
    // A restart: the maps are read back and compared.
    const auto started = Clock::now();
    const auto plane = open_plane(maps);
    plane->apply(whole, started);
    again.push_back(milliseconds(Clock::now() - started));
    expect_programmed(*plane, maps.tables());
  }
  return {{"services", kServices},
          {"endpoints", kEndpoints},
          {"first_ms", spread(first)},
          {"first_cpu_ms", spread(first_cpu)},
          {"restart_ms", spread(again)}};
}

json one_endpoint(const World& world, Pipeline& pipeline, std::size_t rounds) {
  Maps maps(world, {});
  const auto plane = open_plane(maps);
  plane->apply(pipeline.planner.full(), Clock::now());
  expect_programmed(*plane, maps.tables());
  std::vector<double> from_object, from_plan;
  const auto servers_of_block = [&](std::uint32_t number) {
    return FL_BLOCK_COUNT(maps.tables().vs()[number].set[0]);
  };
  std::unordered_map<std::string, std::uint32_t> numbers;
  for (const bpf::NumberEntry& entry : need(maps.tables().numbers())) {
    if (entry.number != FL_VS_REFUSE) {
      numbers[bpf::to_address(entry.key.addr).text()] = entry.number;
    }
  }
  for (std::size_t i = 0; i < rounds; ++i) {
    const std::size_t service = (i * 7919) % kServices;
    const std::uint32_t number = numbers.at(service_address(service));
    const std::uint32_t before = servers_of_block(number);
    api::EndpointSlice more = make_slice(service, kEndpoints + 1);
    const auto started = Clock::now();
    pipeline.store.put(std::move(more));
    const plan::Delta delta = pipeline.planner.update(pipeline.store.take_dirty().services);
    const auto planned = Clock::now();
    plane->apply(delta, planned);
    const auto done = Clock::now();
    if (before != kEndpoints || servers_of_block(number) != kEndpoints + 1) {
      die("the change is not in the maps: " + service_address(service));
    }
    from_object.push_back(milliseconds(done - started) * 1000);
    from_plan.push_back(milliseconds(done - planned) * 1000);
    // Back again, unmeasured, so that each round adds.
    pipeline.store.put(make_slice(service, kEndpoints));
    plane->apply(pipeline.planner.update(pipeline.store.take_dirty().services), Clock::now());
  }
  return {{"services", kServices},
          {"from_plan_us", spread(from_plan)},
          {"from_object_us", spread(from_object)}};
}

// --- A million connections -----------------------------------------------------------------------

/// The n-th client and the virtual server it is connected to.
std::string client_address(std::uint32_t n) { return "192.0.2." + std::to_string(1 + n % 250); }
std::uint32_t client_port(std::uint32_t n) { return 1024 + n / 250; }

/// Connections [first, count), established, spread over all virtual servers and their real servers.
void fill(Maps& maps, std::uint32_t first, std::uint32_t count) {
  constexpr std::uint32_t kAtOnce = 4096;
  const UniqueFd map = need(bpf::open_map(maps.pins(), "flows"));
  bpf::Tables& tables = maps.tables();
  std::vector<std::vector<std::uint32_t>> reals(tables.vs().size());
  for (std::uint32_t number = 1; number < tables.rs().size(); ++number) {
    if (tables.rs()[number].state == bpf::FL_RS_UP) {
      reals[tables.rs()[number].vs].push_back(number);
    }
  }
  std::vector<std::uint32_t> servers;
  for (std::uint32_t number = 0; number < reals.size(); ++number) {
    if (!reals[number].empty()) {
      servers.push_back(number);
    }
  }
  std::vector<bpf::fl_tuple> keys;
  std::vector<bpf::fl_flow> values;
  const auto flush = [&] {
    auto done = static_cast<std::uint32_t>(keys.size());
    auto opts = bpf::options<bpf_map_batch_opts>();
    if (bpf_map_update_batch(map.get(), keys.data(), values.data(), &done, &opts) != 0) {
      die(std::string("fill map flows: ") + std::strerror(errno));
    }
    keys.clear();
    values.clear();
  };
  // The programs' clock is coarse and may be some milliseconds behind ours.
  const std::uint32_t now = bpf::ticks(Clock::now() - std::chrono::milliseconds(50));
  for (std::uint32_t n = first; n < count; ++n) {
    const bpf::fl_vs& server = tables.vs()[servers[n % servers.size()]];
    const auto& choices = reals[servers[n % servers.size()]];
    const std::uint32_t number = choices[(n / servers.size()) % choices.size()];
    const bpf::fl_rs& real = tables.rs()[number];
    bpf::fl_tuple key{};
    key.saddr = bpf::to_abi(*net::IpAddress::parse(client_address(n)));
    key.daddr = server.addr;
    key.sport = htons(static_cast<std::uint16_t>(client_port(n)));
    key.dport = server.port;
    key.protocol = IPPROTO_TCP;
    key.point = bpf::FL_INGRESS;
    bpf::fl_flow flow{};
    flow.addr = real.addr;
    flow.port = real.port;
    flow.kind = bpf::FL_FORWARD;
    flow.rs = number;
    flow.generation = real.generation;
    flow.state = bpf::FL_TCP_ESTABLISHED;
    flow.seen = flow.born = now;
    flow.client_port = key.sport;
    bpf::fl_flow reply = flow;
    reply.addr = server.addr;
    reply.port = server.port;
    reply.kind = bpf::FL_REPLY;
    reply.state = 0;
    keys.insert(keys.end(), {key, bpf::key_of_reply(key, flow)});
    values.insert(values.end(), {flow, reply});
    ++tables.rs_counts()[number].active;
    if (keys.size() >= kAtOnce) {
      flush();
    }
  }
  if (!keys.empty()) {
    flush();
  }
}

/// Runs fl_in on one packet, and tells what it takes.
double run_one(Maps& maps, const packets::Packet& packet) {
  const packets::Bytes frame = packets::build(packet);
  packets::Bytes after(frame.size());
  auto options = bpf::options<bpf_test_run_opts>();
  options.data_in = frame.data();
  options.data_size_in = static_cast<__u32>(frame.size());
  options.data_out = after.data();
  options.data_size_out = static_cast<__u32>(after.size());
  options.repeat = 1;
  if (bpf_prog_test_run_opts(maps.program("fl_in"), &options) != 0) {
    die(std::string("test run: ") + std::strerror(errno));
  }
  if (static_cast<int>(options.retval) != -1 || after == frame) {
    die("a packet from " + packet.source + " to " + packet.destination + " was not translated");
  }
  return options.duration;
}

/// Of all virtual servers, by their numbers.
std::vector<std::string> virtual_addresses(Maps& maps) {
  std::vector<std::string> addresses;
  for (std::uint32_t number = 0; number < maps.tables().vs().size(); ++number) {
    const bpf::fl_vs& server = maps.tables().vs()[number];
    if ((server.flags & bpf::FL_VS_USED) != 0) {
      addresses.push_back(bpf::to_address(server.addr).text());
    }
  }
  return addresses;
}

packets::Packet packet_of(std::uint32_t n, const std::vector<std::string>& addresses) {
  packets::Packet packet;
  packet.source = client_address(n) + ":" + std::to_string(client_port(n));
  packet.destination = addresses[n % addresses.size()] + ":80";
  return packet;
}

/// What fl_in takes for one packet of a random one of the first `count` connections.
json lookup(Maps& maps, std::uint32_t count, std::size_t rounds) {
  std::mt19937 random(1);
  const std::vector<std::string> addresses = virtual_addresses(maps);
  const auto misses = [&] {
    return maps.tables().events().at(bpf::FL_EVENT_STRAY) +
           maps.tables().events().at(bpf::FL_EVENT_NEW) +
           maps.tables().events().at(bpf::FL_EVENT_REFUSED);
  };
  const std::uint64_t before = misses();
  std::vector<double> times;
  for (std::size_t i = 0; i < rounds; ++i) {
    packets::Packet packet = packet_of(static_cast<std::uint32_t>(random()) % count, addresses);
    packet.tcp_flags = packets::kAck;
    times.push_back(run_one(maps, packet));
  }
  if (misses() != before) {
    die("packets were taken for new connections or strays");
  }
  return spread(times);
}

/// What fl_in takes for the first packets of connections [first, first + count).
json beginning(Maps& maps, std::uint32_t first, std::uint32_t count) {
  const std::vector<std::string> addresses = virtual_addresses(maps);
  const auto begun = [&] { return maps.tables().events().at(bpf::FL_EVENT_NEW); };
  const std::uint64_t before = begun();
  std::vector<double> times;
  for (std::uint32_t n = first; n < first + count; ++n) {
    packets::Packet packet = packet_of(n, addresses);
    packet.tcp_flags = packets::kSyn;
    times.push_back(run_one(maps, packet));
  }
  if (begun() != before + count) {
    die("not every SYN began a connection");
  }
  return spread(times);
}

/// One whole pass, as if it were so many seconds later.
json sweep(Maps& maps, std::uint32_t later, std::size_t connections_ended) {
  dataplane::ebpf::Sweep sweep(maps.tables());
  const std::uint32_t now = bpf::ticks(Clock::now() + std::chrono::seconds(later));
  const double before = cpu_seconds();
  double longest = 0;
  std::size_t slices = 0;
  for (bool over = false; !over; ++slices) {
    const double slice = cpu_seconds();
    over = need(sweep.slice(now));
    longest = std::max(longest, cpu_seconds() - slice);
  }
  const double cpu = cpu_seconds() - before;
  // (A reply that was read together with the connection that ended counts as an orphan.)
  if (sweep.stats().ended != connections_ended ||
      (connections_ended == 0 && sweep.stats().orphans != 0)) {
    die("the sweep ended " + std::to_string(sweep.stats().ended) + " connections, not " +
        std::to_string(connections_ended));
  }
  return {{"cpu_s", cpu},
          {"slices", slices},
          {"longest_slice_ms", longest * 1000},
          {"flows", sweep.stats().flows},
          {"ended", sweep.stats().ended}};
}

json a_million(const World& world, const Pipeline& pipeline) {
  bpf::Sizes sizes;
  sizes.connections = kConnections;
  Maps maps(world, sizes);
  const auto plane = open_plane(maps);
  plane->apply(pipeline.planner.full(), Clock::now());
  expect_programmed(*plane, maps.tables());
  constexpr std::size_t kPackets = 100'000;
  constexpr std::uint32_t kFew = 1000;
  json result;
  fill(maps, 0, kFew);
  (void)lookup(maps, kFew, kPackets / 10);  // warm-up
  result["packet_of_1000_ns"] = lookup(maps, kFew, kPackets);
  result["first_packet_ns"] = beginning(maps, kConnections, kPackets / 2);
  result["sweep_half_open"] = sweep(maps, 300, kPackets / 2);
  fill(maps, kFew, kConnections);
  result["connections"] = kConnections;
  result["memory"] = maps.memory();
  result["packet_of_1000000_ns"] = lookup(maps, kConnections, kPackets);
  std::vector<double> fresh, idle;
  for (int i = 0; i < 5; ++i) {
    result["sweep"] = sweep(maps, 0, 0);
    fresh.push_back(result["sweep"]["cpu_s"]);
    result["sweep_idle"] = sweep(maps, 300, 0);
    idle.push_back(result["sweep_idle"]["cpu_s"]);
  }
  result["sweep"]["cpu_s"] = spread(fresh);
  result["sweep_idle"]["cpu_s"] = spread(idle);
  result["sweep_all_ended"] = sweep(maps, 3600, kConnections);
  return result;
}

void print(const json& result) {
  const auto line = [](const std::string& what, const json& of, const char* unit) {
    std::fprintf(stderr, "%-58s %9.2f %-3s (%.2f - %.2f)\n", what.c_str(),
                 of["median"].get<double>(), unit, of["least"].get<double>(),
                 of["most"].get<double>());
  };
  const json& programming = result["programming"];
  line("10,000 services x 10 endpoints into empty maps", programming["first_ms"], "ms");
  line("  its CPU time", programming["first_cpu_ms"], "ms");
  line("  again after a restart", programming["restart_ms"], "ms");
  line("one endpoint, from its plan to the maps", result["one_endpoint"]["from_plan_us"], "us");
  line("  from the object", result["one_endpoint"]["from_object_us"], "us");
  const json& million = result["million"];
  std::fprintf(stderr, "%-58s %9.2f MB\n", "all maps, with 1,000,000 connections",
               million["memory"]["mb"].get<double>());
  line("a packet of one of 1,000 connections", million["packet_of_1000_ns"], "ns");
  line("  of 1,000,000", million["packet_of_1000000_ns"], "ns");
  line("CPU of a sweep through 1,000,000 connections", million["sweep"]["cpu_s"], "s");
  line("  all silent for 5 minutes", million["sweep_idle"]["cpu_s"], "s");
  line("the first packet of a connection", million["first_packet_ns"], "ns");
  std::fprintf(stderr, "%-58s %9.2f s\n", "  all ended",
               million["sweep_all_ended"]["cpu_s"].get<double>());
  std::fprintf(stderr, "%-58s %9.2f ms (of %zu)\n", "  its longest slice",
               million["sweep"]["longest_slice_ms"].get<double>(),
               million["sweep"]["slices"].get<std::size_t>());
}

}  // namespace
}  // namespace fairlead::bench

int main() try {
  using namespace fairlead::bench;
  fairlead::log::set_level(fairlead::log::Level::kWarn);
  const World world;
  Pipeline pipeline;
  json result;
  result["programming"] = programming(world, pipeline, 11);
  result["one_endpoint"] = one_endpoint(world, pipeline, 1000);
  result["million"] = a_million(world, pipeline);
  print(result);
  std::printf("%s\n", result.dump(2).c_str());
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "ebpf_bench: %s\n", error.what());
  return 1;
}
