// SPDX-License-Identifier: Apache-2.0
#include "programs.h"

#include <algorithm>
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <chrono>
#include <cstring>
#include <map>
#include <net/if.h>
#include <stdexcept>
#include <sys/mman.h>

#include "bpf/flows.h"
#include "bpf/helpers.h"
#include "bpf/options.h"
#include "router.h"

namespace fairlead::packets {
namespace {

std::string last_log;

int keep_log(libbpf_print_level level, const char* format, va_list arguments) {
  if (level == LIBBPF_WARN) {
    std::array<char, 4096> line{};
    std::vsnprintf(line.data(), line.size(), format, arguments);
    last_log += line.data();
    if (last_log.size() > 8000) {
      last_log.erase(0, last_log.size() - 8000);
    }
  }
  return 0;
}

net::SocketAddress socket_of(const std::string& text) {
  const auto parsed = net::SocketAddress::parse(text);
  if (!parsed) {
    throw std::runtime_error("no socket address: " + text);
  }
  return *parsed;
}

/// Verifying takes most of a test's time, so an object is cleared and used again.
std::map<std::pair<std::uint32_t, bool>, bpf_object*> idle;

bool force_old = false;

bpf_object* load(std::uint32_t max_flows, bool fast_path) {
  libbpf_set_print(keep_log);
  last_log.clear();
  const std::string path =
      std::string(FAIRLEAD_BPF_OBJECTS) +
      (force_old || bpf::is_old_kernel() ? "/fairlead_old.bpf.o" : "/fairlead.bpf.o");
  bpf_object* object = bpf_object__open_file(path.c_str(), nullptr);
  if (object == nullptr) {
    throw std::runtime_error("cannot open " + path);
  }
  bpf_map__set_max_entries(bpf_object__find_map_by_name(object, "flows"), max_flows);
  for (const char* name : {"slots", "clients", "numbers", "fragments", "half"}) {
    bpf_map__set_max_entries(bpf_object__find_map_by_name(object, name), 65536);
  }
  for (const char* name : {"rs", "rs_counts", "vs", "vs_counts"}) {
    bpf_map__set_max_entries(bpf_object__find_map_by_name(object, name), 2048);
  }
  const std::uint32_t options = fast_path ? 1 : 0;
  bpf_map__set_initial_value(bpf_object__find_map_by_name(object, ".rodata.options"), &options,
                             sizeof(options));
  if (bpf_object__load(object) != 0) {
    throw std::runtime_error("the kernel refuses the programs: " + last_log);
  }
  return object;
}

void clear(const bpf_object* object) {
  bpf_map* map = nullptr;
  bpf_object__for_each_map(map, object) {
    if (std::string_view(bpf_map__name(map)).find(".") != std::string_view::npos) {
      continue;  // constants
    }
    const int fd = bpf_map__fd(map);
    const std::size_t entries = bpf_map__max_entries(map);
    switch (bpf_map__type(map)) {
      case BPF_MAP_TYPE_ARRAY:
        if ((bpf_map__map_flags(map) & BPF_F_MMAPABLE) != 0) {
          const std::size_t size = (bpf_map__value_size(map) + 7) / 8 * 8 * entries;
          void* const memory = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
          if (memory == MAP_FAILED) {
            throw std::runtime_error(std::string("cannot clear map ") + bpf_map__name(map));
          }
          std::memset(memory, 0, size);
          ::munmap(memory, size);
        }
        break;
      case BPF_MAP_TYPE_PERCPU_ARRAY: {
        const std::vector<std::uint8_t> zeros((bpf_map__value_size(map) + 7) / 8 * 8 *
                                              static_cast<std::size_t>(libbpf_num_possible_cpus()));
        for (std::uint32_t key = 0; key < entries; ++key) {
          bpf_map_update_elem(fd, &key, zeros.data(), BPF_ANY);
        }
        break;
      }
      case BPF_MAP_TYPE_PROG_ARRAY:
        for (std::uint32_t key = 0; key < entries; ++key) {
          bpf_map_delete_elem(fd, &key);
        }
        break;
      default: {
        std::vector<std::uint8_t> key(bpf_map__key_size(map));
        while (bpf_map_get_next_key(fd, nullptr, key.data()) == 0 &&
               bpf_map_delete_elem(fd, key.data()) == 0) {
        }
        break;
      }
    }
  }
}

}  // namespace

bpf::fl_tuple forward_key(const std::string& client, const std::string& virtual_server,
                          std::uint8_t protocol) {
  const net::SocketAddress from = socket_of(client);
  const net::SocketAddress to = socket_of(virtual_server);
  bpf::fl_tuple key{};
  key.saddr = bpf::to_abi(from.address);
  key.daddr = bpf::to_abi(to.address);
  key.sport = bpf::to_abi(from.port);
  key.dport = bpf::to_abi(to.port);
  key.protocol = protocol;
  key.point = bpf::FL_INGRESS;
  return key;
}

void force_old_kernels_programs() { force_old = true; }

Programs::Programs(std::uint32_t max_flows, bool fast_path) : kind_(max_flows, fast_path) {
  const auto kept = idle.find(kind_);
  if (kept != idle.end()) {
    object_ = kept->second;
    idle.erase(kept);
    clear(object_);
  } else {
    object_ = load(max_flows, fast_path);
  }
  bpf::fl_config config{};
  config.layout = FL_LAYOUT;
  for (std::uint32_t& timeout : config.tcp_timeout) {
    timeout = 60 * FL_TICKS_PER_SECOND;
  }
  for (std::uint32_t& timeout : config.sctp_timeout) {
    timeout = 60 * FL_TICKS_PER_SECOND;
  }
  config.udp_timeout = 300 * FL_TICKS_PER_SECOND;
  config.port_first[0] = 1024;
  config.port_last[0] = 29999;
  config.port_first[1] = 61001;
  config.port_last[1] = 65535;
  put("config", std::uint32_t{0}, config);
}

Programs::~Programs() {
  if (!idle.emplace(kind_, object_).second) {
    bpf_object__close(object_);
  }
}

void Programs::follow(const Programs& before) {
  const char* const names[] = {"fl_in", "fl_out", "fl_in_l3", "fl_out_l3"};
  for (std::uint32_t slot = 0; slot < bpf::FL_BEFORES; ++slot) {
    const bpf_program* const program =
        bpf_object__find_program_by_name(before.object_, names[slot]);
    put("before", slot, bpf_program__fd(program));
  }
}

int Programs::map(const char* name) const { return bpf_object__find_map_fd_by_name(object_, name); }

template <typename Key, typename Value>
void Programs::put(const char* name, const Key& key, const Value& value) {
  if (bpf_map_update_elem(map(name), &key, &value, BPF_ANY) != 0) {
    throw std::runtime_error(std::string("cannot write map ") + name);
  }
}

template <typename Value, typename Key>
std::optional<Value> Programs::get(const char* name, const Key& key) const {
  Value value{};
  if (bpf_map_lookup_elem(map(name), &key, &value) != 0) {
    return std::nullopt;
  }
  return value;
}

void Programs::note(bpf::fl_point point, const bpf::fl_addr& address) {
  auto filter = *get<bpf::fl_filter>("filter", std::uint32_t{0});
  const std::uint32_t bit = bpf::filter_bit(address);
  filter.bits[point][bit / 64] |= std::uint64_t{1} << (bit % 64);
  put("filter", std::uint32_t{0}, filter);
}

std::uint32_t Programs::add(const Service& service) {
  const net::SocketAddress address = socket_of(service.address);
  const std::uint32_t number = next_vs_++;
  servers_.emplace_back();
  std::vector<bpf::fl_slot> block;
  for (const Server& server : service.servers) {
    const net::SocketAddress at = socket_of(server.address);
    const std::uint32_t rs = next_rs_++;
    bpf::fl_rs real{};
    real.addr = bpf::to_abi(at.address);
    real.port = bpf::to_abi(at.port);
    real.state = bpf::FL_RS_UP;
    real.forwarding = static_cast<std::uint8_t>(server.forwarding);
    real.tunnel = static_cast<std::uint8_t>(server.tunnel);
    real.tunnel_port = bpf::to_abi(net::Port{server.tunnel_port});
    real.is_local = server.is_local ? 1 : 0;
    real.weight = server.weight;
    real.upper = server.upper;
    real.lower = server.lower;
    real.generation = 1;
    real.vs = number;
    put("rs", rs, real);
    note(bpf::FL_EGRESS, real.addr);
    servers_[number].push_back(rs);
    if (server.weight > 0) {
      block.push_back({rs, server.weight});
    }
  }
  bpf::fl_vs vs{};
  if (!block.empty()) {
    put("slots", next_slot_, bpf::fl_slot{0, static_cast<std::uint32_t>(block.size())});
    for (std::size_t i = 0; i < block.size(); ++i) {
      put("slots", static_cast<std::uint32_t>(next_slot_ + 1 + i), block[i]);
    }
    vs.set[0] = FL_BLOCK(next_slot_, block.size(), 1);
    next_slot_ += static_cast<std::uint32_t>(block.size()) + 1;
  }
  for (std::uint8_t& flags : vs.class_flags) {
    flags = static_cast<std::uint8_t>((service.masquerade ? bpf::FL_CLASS_MASQUERADE : 0) |
                                      (service.drop_if_empty ? bpf::FL_CLASS_DROP : 0));
  }
  vs.scheduler = static_cast<std::uint8_t>(service.scheduler);
  vs.flags =
      static_cast<std::uint8_t>(bpf::FL_VS_USED | (service.one_packet ? bpf::FL_VS_ONE_PACKET : 0));
  vs.persistence = service.persistence;
  vs.persistence_prefix = service.persistence_prefix;
  vs.protocol = service.protocol;
  vs.port = bpf::to_abi(address.port);
  vs.addr = bpf::to_abi(address.address);
  if (service.mark != 0) {
    vs.addr = bpf::to_abi(net::IpAddress::any(address.address.family()));
    vs.addr.words[3] = htonl(service.mark);
    vs.port = 0;
    vs.protocol = FL_VS_MARK;
  }
  put("vs", number, vs);
  bpf::fl_vs_key key{};
  key.addr = vs.addr;
  if (!service.on_node && service.mark == 0) {
    put("numbers", key, FL_VS_REFUSE);
  }
  key.port = vs.port;
  key.protocol = vs.protocol;
  put("numbers", key, number);
  note(bpf::FL_INGRESS, vs.addr);
  return number;
}

std::uint32_t Programs::server_number(std::uint32_t service, std::size_t index) const {
  return servers_.at(service).at(index);
}

void Programs::set_server_state(std::uint32_t number, bpf::fl_rs_state state) {
  auto server = *get<bpf::fl_rs>("rs", number);
  server.state = static_cast<std::uint8_t>(state);
  put("rs", number, server);
}

void Programs::give_server_number_to_another(std::uint32_t number) {
  auto server = *get<bpf::fl_rs>("rs", number);
  ++server.generation;
  put("rs", number, server);
}

void Programs::set_server_forwarding(std::uint32_t number, bpf::fl_forwarding forwarding) {
  auto server = *get<bpf::fl_rs>("rs", number);
  server.forwarding = static_cast<std::uint8_t>(forwarding);
  put("rs", number, server);
}

void Programs::set_hide(const std::string& v4, const std::string& v6) {
  bpf::fl_device device{};
  device.hide4 = bpf::to_abi(*net::IpAddress::parse(v4));
  device.hide6 = bpf::to_abi(*net::IpAddress::parse(v6));
  put("devices", std::uint32_t{1}, device);  // test runs come from the loopback device
  put("devices", std::uint32_t{if_nametoindex(kServerDevice)}, device);
  put("devices", std::uint32_t{if_nametoindex(kClientDevice)}, device);
  note(bpf::FL_INGRESS, device.hide4);
  note(bpf::FL_INGRESS, device.hide6);
}

void Programs::set_peers(bool are_peers) {
  for (const char* name : {kServerDevice, kClientDevice}) {
    const std::uint32_t interface = if_nametoindex(name);
    auto device = *get<bpf::fl_device>("devices", interface);
    device.flags = are_peers ? bpf::FL_DEVICE_PEER : 0;
    put("devices", interface, device);
  }
}

void Programs::set_tcp_timeout(bpf::fl_tcp_state state, std::uint32_t seconds) {
  auto config = *get<bpf::fl_config>("config", std::uint32_t{0});
  config.tcp_timeout[state] = seconds * FL_TICKS_PER_SECOND;
  put("config", std::uint32_t{0}, config);
}

Verdict Programs::run(const char* program, const Bytes& frame, std::uint32_t mark) {
  Verdict verdict;
  __sk_buff context{};
  context.mark = mark;
  verdict.frame.resize(frame.size() + 256);
  auto options = bpf::options<bpf_test_run_opts>();
  options.data_in = frame.data();
  options.data_size_in = static_cast<__u32>(frame.size());
  options.data_out = verdict.frame.data();
  options.data_size_out = static_cast<__u32>(verdict.frame.size());
  options.ctx_in = &context;
  options.ctx_size_in = sizeof(context);
  options.repeat = 1;
  const int fd = bpf_program__fd(bpf_object__find_program_by_name(object_, program));
  if (bpf_prog_test_run_opts(fd, &options) != 0) {
    throw std::runtime_error(std::string(program) + ": test run: " + std::strerror(errno));
  }
  verdict.action = static_cast<int>(options.retval);
  verdict.frame.resize(options.data_size_out);
  return verdict;
}

double Programs::time(const char* program, const Bytes& frame, int repeat) {
  auto options = bpf::options<bpf_test_run_opts>();
  options.data_in = frame.data();
  options.data_size_in = static_cast<__u32>(frame.size());
  options.repeat = repeat;
  const int fd = bpf_program__fd(bpf_object__find_program_by_name(object_, program));
  if (bpf_prog_test_run_opts(fd, &options) != 0) {
    throw std::runtime_error(std::string(program) + ": test run: " + std::strerror(errno));
  }
  return options.duration;
}

std::vector<bool> Programs::end(std::span<const bpf::fl_tuple> keys, std::uint32_t later) {
  auto list = std::make_unique<bpf::fl_ending>();
  list->count = static_cast<std::uint32_t>(keys.size());
  list->now = bpf::ticks(std::chrono::steady_clock::now() + std::chrono::seconds(later));
  std::ranges::copy(keys, std::begin(list->keys));
  put("ending", std::uint32_t{0}, *list);
  (void)run("fl_end", Bytes(64));
  *list = *get<bpf::fl_ending>("ending", std::uint32_t{0});
  const std::span<const __u8> ended = std::span(list->has_ended).first(keys.size());
  return {ended.begin(), ended.end()};
}

std::optional<bpf::fl_flow> Programs::flow(const bpf::fl_tuple& key) const {
  return get<bpf::fl_flow>("flows", key);
}

std::size_t Programs::flow_count() const {
  std::size_t count = 0;
  bpf::fl_tuple key{};
  for (const void* previous = nullptr; bpf_map_get_next_key(map("flows"), previous, &key) == 0;
       previous = &key) {
    ++count;
  }
  return count;
}

std::optional<bpf::fl_flow> Programs::forward_flow(const std::string& client,
                                                   const std::string& virtual_server,
                                                   std::uint8_t protocol) const {
  return flow(forward_key(client, virtual_server, protocol));
}

void Programs::age(const std::string& client, const std::string& virtual_server,
                   std::uint32_t seconds, std::uint8_t protocol) {
  const bpf::fl_tuple key = forward_key(client, virtual_server, protocol);
  auto forward = *flow(key);
  const bpf::fl_tuple reply = bpf::key_of_reply(key, forward);
  forward.seen -= seconds * FL_TICKS_PER_SECOND;
  put("flows", key, forward);
  if (auto other = flow(reply)) {
    other->seen -= seconds * FL_TICKS_PER_SECOND;
    put("flows", reply, *other);
  }
}

bpf::fl_rs_counts Programs::counts(std::uint32_t number) const {
  return *get<bpf::fl_rs_counts>("rs_counts", number);
}

void Programs::set_half_open_limit(std::uint32_t limit) {
  auto config = *get<bpf::fl_config>("config", std::uint32_t{0});
  config.half_open_limit = limit;
  put("config", std::uint32_t{0}, config);
}

std::uint32_t Programs::half_open() const {
  return get<bpf::fl_pressure>("pressure", std::uint32_t{0})->half_open;
}

bool Programs::push_out_forward_flow(const std::string& client,
                                     const std::string& virtual_server) const {
  const bpf::fl_tuple key = forward_key(client, virtual_server, IPPROTO_TCP);
  return bpf_map_delete_elem(map("half"), &key) == 0;
}

std::uint64_t Programs::event(bpf::fl_event event) const {
  std::vector<std::uint64_t> values(static_cast<std::size_t>(libbpf_num_possible_cpus()));
  const auto key = static_cast<std::uint32_t>(event);
  std::uint64_t sum = 0;
  if (bpf_map_lookup_elem(map("events"), &key, values.data()) == 0) {
    for (const std::uint64_t value : values) {
      sum += value;
    }
  }
  return sum;
}

}  // namespace fairlead::packets
