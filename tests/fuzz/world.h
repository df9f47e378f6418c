// SPDX-License-Identifier: Apache-2.0
// A node in the maps: a few virtual servers of every kind, and what user space does to them while
// packets come. What it does is what the plane may do; the programs may rely on no more.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "bpf/abi.h"
#include "input.h"
#include "net/address.h"
#include "shim/kernel.h"

namespace fairlead::fuzz {

/// Documentation addresses; the same roles in both families.
struct Places {
  std::array<const char*, 4> clients;  // the last one is the first server: a hairpin
  std::array<const char*, 2> virtual_servers;
  std::array<const char*, 3> servers;
  const char* node;  // what hidden clients look like
  const char* router;
  std::array<const char*, 2> strangers;
};
inline constexpr std::array<Places, 2> kPlaces = {{
    {{"192.0.2.10", "192.0.2.11", "192.0.2.12", "198.51.100.1"},
     {"203.0.113.1", "203.0.113.2"},
     {"198.51.100.1", "198.51.100.2", "198.51.100.3"},
     "198.51.100.254",
     "192.0.2.254",
     {"192.0.2.201", "198.51.100.201"}},
    {{"2001:db8:1::10", "2001:db8:1::11", "2001:db8:1::12", "2001:db8:2::1"},
     {"2001:db8:96::1", "2001:db8:96::2"},
     {"2001:db8:2::1", "2001:db8:2::2", "2001:db8:2::3"},
     "2001:db8:2::254",
     "2001:db8:1::254",
     {"2001:db8:1::201", "2001:db8:2::201"}},
}};
inline constexpr std::uint32_t kOutside = 1, kServers = 2, kPods = 3;  // devices

[[nodiscard]] net::IpAddress address(const char* text);

struct VirtualServer {
  std::uint32_t number = 0;
  std::size_t family = 0;  // of kPlaces
  std::size_t place = 0;   // of virtual_servers
  std::uint16_t port = 80;
  std::uint8_t protocol = 0;
  std::vector<std::uint32_t> servers;
};

class World {
 public:
  World(shim::Kernel& kernel, Input& input);

  [[nodiscard]] const std::vector<VirtualServer>& virtual_servers() const { return virtual_; }
  /// Addresses that mean something to the programs, as they stand in packets.
  [[nodiscard]] const std::vector<std::string>& known_addresses() const { return known_; }

  /// Something that user space does.
  void change(Input& input);

 private:
  void add(Input& input);
  std::uint32_t add_real_server(Input& input, const VirtualServer& server);
  void set_method(bpf::fl_rs& real, std::uint8_t what);
  /// Lays the servers that take connections out anew.
  void publish(const VirtualServer& server, Input& input);
  void set_address_entry(const VirtualServer& server, bool is_there);
  void note(bpf::fl_point point, const net::IpAddress& address);
  void replace(std::uint32_t number);

  shim::Kernel& kernel_;
  std::vector<VirtualServer> virtual_;
  std::vector<std::string> known_;
  std::uint32_t next_rs_ = 1, next_slot_ = 1, generation_ = 1;
};

}  // namespace fairlead::fuzz
