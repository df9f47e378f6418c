// SPDX-License-Identifier: Apache-2.0
#include "world.h"

#include <algorithm>
#include <cstdlib>
#include <netinet/in.h>

#include "dataplane/ebpf/scheduling.h"

namespace fairlead::fuzz {
namespace {

constexpr std::uint32_t kSlots = 1U << 15U;

bool is_there(const bpf::fl_rs& real) { return real.state != bpf::FL_RS_FREE; }

}  // namespace

net::IpAddress address(const char* text) {
  const auto parsed = net::IpAddress::parse(text);
  if (!parsed) {
    std::abort();
  }
  return *parsed;
}

World::World(shim::Kernel& kernel, Input& input) : kernel_(kernel) {
  kernel_.reset(/*fast_path=*/(input.byte() & 1U) != 0);
  const std::uint8_t sizes = input.byte();
  constexpr std::array<std::uint32_t, 4> kFlows = {4096, 64, 12, 5};
  kernel_.map("flows").set_max_entries(kFlows[sizes & 3U]);
  kernel_.map("half").set_max_entries((sizes & 4U) != 0 ? 6 : 64);
  kernel_.map("clients").set_max_entries((sizes & 8U) != 0 ? 2 : 64);
  kernel_.map("fragments").set_max_entries((sizes & 16U) != 0 ? 2 : 64);
  kernel_.map("slots").set_max_entries(kSlots);
  // Some begin shortly before the ticks wrap.
  kernel_.now_ns = ((sizes & 32U) != 0 ? 0xfffffff0ULL : 1000ULL) << FL_TICK_SHIFT;

  bpf::fl_config config{};
  config.layout = FL_LAYOUT;
  std::ranges::fill(config.tcp_timeout, 60 * FL_TICKS_PER_SECOND);
  std::ranges::fill(config.sctp_timeout, 60 * FL_TICKS_PER_SECOND);
  config.tcp_timeout[bpf::FL_TCP_ESTABLISHED] = 900 * FL_TICKS_PER_SECOND;
  config.udp_timeout = 300 * FL_TICKS_PER_SECOND;
  const bool few_ports = (sizes & 64U) != 0;
  config.port_first[0] = 1024;
  config.port_last[0] = few_ports ? 1024 : 29999;
  config.port_first[1] = 61001;
  config.port_last[1] = few_ports ? 61001 : 65535;
  config.half_open_limit = (sizes & 128U) != 0 ? 2 : 0;
  config.sockets = bpf::FL_SOCKETS_ALL;
  kernel_.map("config").put(std::uint32_t{0}, config);

  bpf::fl_device device{};
  device.hide4 = bpf::to_abi(address(kPlaces[0].node));
  device.hide6 = bpf::to_abi(address(kPlaces[1].node));
  for (const std::uint32_t interface : {kOutside, kServers, kPods}) {
    device.flags = interface == kPods ? bpf::FL_DEVICE_PODS | bpf::FL_DEVICE_PEER : 0U;
    kernel_.map("devices").put(interface, device);
  }
  for (const Places& places : kPlaces) {
    note(bpf::FL_INGRESS, address(places.node));
    kernel_.map("classes").put(bpf::to_abi(net::IpPrefix::host(address(places.clients[2]))),
                               std::uint32_t{bpf::FL_CLASS_NODE});
  }
  for (std::size_t i = 1 + input.below(5); i > 0; --i) {
    add(input);
  }
}

void World::add(Input& input) {
  VirtualServer server;
  const std::uint8_t where = input.byte();
  const std::uint8_t how = input.byte();
  constexpr std::array<std::uint8_t, 3> kProtocols = {IPPROTO_TCP, IPPROTO_UDP, IPPROTO_SCTP};
  server.number = static_cast<std::uint32_t>(virtual_.size()) + 1;
  server.family = where & 1U;
  server.place = where >> 1U & 1U;
  server.port = (where & 4U) != 0 ? 53 : 80;
  server.protocol = kProtocols[(where >> 3U) % 3];

  bpf::fl_vs vs{};
  vs.addr = bpf::to_abi(address(kPlaces[server.family].virtual_servers[server.place]));
  vs.port = bpf::to_abi(net::Port{server.port});
  vs.protocol = server.protocol;
  vs.scheduler = input.byte() % (bpf::FL_MH + 1);
  vs.flags = static_cast<std::uint8_t>(bpf::FL_VS_USED | (how & 14U));
  std::ranges::fill(vs.class_flags, static_cast<std::uint8_t>(how >> 4U & 3U));
  vs.persistence = (how & 64U) != 0 ? 100 : 0;
  vs.persistence_prefix = (how & 128U) != 0 ? 120 : 128;
  kernel_.map("vs").put(server.number, vs);
  note(bpf::FL_INGRESS, address(kPlaces[server.family].virtual_servers[server.place]));
  for (std::size_t i = input.below(4); i > 0; --i) {
    server.servers.push_back(add_real_server(input, server));
  }
  publish(server, input);
  bpf::fl_vs_key key{vs.addr, vs.port, vs.protocol, 0};
  kernel_.map("numbers").put(key, server.number);
  set_address_entry(server, (how & 1U) == 0);
  virtual_.push_back(server);
}

void World::set_method(bpf::fl_rs& real, std::uint8_t what) {
  real.forwarding = what & 3U;
  real.tunnel = (what >> 2U) % 3;
  real.tunnel_port = bpf::to_abi(net::Port{6080});
}

std::uint32_t World::add_real_server(Input& input, const VirtualServer& server) {
  const std::uint8_t what = input.byte();
  const std::uint8_t how = input.byte();
  // Tunnels lead to servers of either family.
  const bool crosses = (what & 3U) == bpf::FL_TUNNEL && (how & 1U) != 0;
  const Places& places = kPlaces[crosses ? 1 - server.family : server.family];
  const net::IpAddress where = address(places.servers[(what >> 4U) % 3]);
  bpf::fl_rs real{};
  real.addr = bpf::to_abi(where);
  real.port = (how & 2U) != 0 ? 0 : bpf::to_abi(net::Port{8080});
  real.state = bpf::FL_RS_UP;
  set_method(real, what);
  real.weight = how >> 2U & 3U;
  real.last_weight = 1;
  real.generation = generation_;
  real.vs = server.number;
  real.upper = (how & 16U) != 0 ? 2 : 0;
  real.lower = (how & 32U) != 0 ? 1 : 0;
  real.is_local = (how & 64U) != 0 ? 1 : 0;
  kernel_.map("rs").put(next_rs_, real);
  note(bpf::FL_EGRESS, where);
  return next_rs_++;
}

void World::publish(const VirtualServer& server, Input& input) {
  std::vector<dataplane::ebpf::Member> walk;
  for (const std::uint32_t number : server.servers) {
    const auto& real = *kernel_.map("rs").at<bpf::fl_rs>(number);
    if (real.state == bpf::FL_RS_UP) {
      walk.push_back({number,
                      {bpf::to_address(real.addr), bpf::to_port(real.port)},
                      real.weight,
                      real.last_weight});
    }
  }
  auto& vs = *kernel_.map("vs").at<bpf::fl_vs>(server.number);
  const auto block =
      dataplane::ebpf::build_block(static_cast<bpf::fl_scheduler>(vs.scheduler), walk, nullptr);
  const std::size_t set = input.below(bpf::FL_CLASSES);
  if (block.slots.empty() || next_slot_ + block.slots.size() + 1 > kSlots) {
    vs.set[set] = 0;
    return;
  }
  kernel_.map("slots").put(next_slot_, block.header);
  for (std::size_t i = 0; i < block.slots.size(); ++i) {
    kernel_.map("slots").put(static_cast<std::uint32_t>(next_slot_ + 1 + i), block.slots[i]);
  }
  vs.set[set] = FL_BLOCK(next_slot_, block.slots.size(), 1);
  std::ranges::fill(vs.class_set, static_cast<std::uint8_t>(set));
  next_slot_ += static_cast<std::uint32_t>(block.slots.size()) + 1;
}

void World::set_address_entry(const VirtualServer& server, bool is_there) {
  bpf::fl_vs_key key{};
  key.addr = bpf::to_abi(address(kPlaces[server.family].virtual_servers[server.place]));
  if (is_there) {
    kernel_.map("numbers").put(key, std::uint32_t{FL_VS_REFUSE});
  } else {
    kernel_.map("numbers").erase(&key);
  }
}

void World::note(bpf::fl_point point, const net::IpAddress& noted) {
  auto& filter = *kernel_.map("filter").at<bpf::fl_filter>(std::uint32_t{0});
  const std::uint32_t bit = bpf::filter_bit(bpf::to_abi(noted));
  filter.bits[point][bit / 64] |= std::uint64_t{1} << (bit % 64);
  const auto bytes = noted.bytes();
  known_.emplace_back(bytes.begin(), bytes.end());
}

/// The number gets another server, as soon as nothing counts on it.
void World::replace(std::uint32_t number) {
  auto& real = *kernel_.map("rs").at<bpf::fl_rs>(number);
  auto& counts = *kernel_.map("rs_counts").at<bpf::fl_rs_counts>(number);
  if (counts.active + counts.inactive + counts.persistent == 0) {
    real.generation = ++generation_;
    real.state = bpf::FL_RS_UP;
    counts = {};
  }
}

void World::change(Input& input) {
  const VirtualServer& server = input.of(virtual_);
  const std::uint8_t what = input.byte();
  const std::uint8_t how = input.byte();
  auto& vs = *kernel_.map("vs").at<bpf::fl_vs>(server.number);
  bpf::fl_vs_key key{vs.addr, vs.port, vs.protocol, 0};
  if (!server.servers.empty()) {
    const std::uint32_t number = server.servers[how % server.servers.size()];
    auto& real = *kernel_.map("rs").at<bpf::fl_rs>(number);
    switch (what % 8) {
      case 0:
        real.state = is_there(real) ? bpf::FL_RS_GONE : real.state;
        break;
      case 1:
        real.state = bpf::FL_RS_DRAINING;
        break;
      case 2:
        replace(number);
        break;
      case 3:
        real.weight = how >> 4U;
        break;
      case 4:
        set_method(real, how >> 4U);
        break;
      case 5:
        real.upper = how >> 4U;
        break;
      default:
        break;
    }
  }
  switch (what % 8) {
    case 6:
      vs.flags = static_cast<std::uint8_t>(bpf::FL_VS_USED | (how & 14U));
      vs.scheduler = (how >> 4U) % (bpf::FL_MH + 1);
      break;
    case 7:
      if ((how & 1U) != 0) {
        kernel_.map("numbers").erase(&key);
      } else {
        kernel_.map("numbers").put(key, server.number);
      }
      set_address_entry(server, (how & 2U) == 0);
      std::ranges::fill(vs.class_flags, static_cast<std::uint8_t>(how >> 2U & 3U));
      break;
    default:
      break;
  }
  publish(server, input);
}

}  // namespace fairlead::fuzz
