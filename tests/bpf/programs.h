// SPDX-License-Identifier: Apache-2.0
// The BPF programs, loaded with small maps of their own (nothing is pinned or attached), run on
// packets by the kernel's test call.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bpf/abi.h"
#include "packets.h"

struct bpf_object;

namespace fairlead::packets {

/// The programs are those of this kernel, unless those for old ones are asked for.
void force_old_kernels_programs();

/// What a program made of a packet.
struct Verdict {
  int action = 0;  // TC_ACT_*
  Bytes frame;
};
inline constexpr int kPass = -1, kShot = 2, kRedirect = 7;

struct Server {
  std::string address;  // with port
  std::uint32_t weight = 1;
  bpf::fl_forwarding forwarding = bpf::FL_MASQUERADE;
  bpf::fl_tunnel tunnel = bpf::FL_IPIP;
  std::uint16_t tunnel_port = 6080;
  bool is_local = false;
  std::uint32_t upper = 0, lower = 0;  // thresholds
};

/// A virtual server as its slots and entries; a small stand-in for the plane.
struct Service {
  std::string address;     // with port
  std::uint32_t mark = 0;  // not 0: instead of the address, of which only the family counts
  std::uint8_t protocol = IPPROTO_TCP;
  std::vector<Server> servers{};  // in walk order
  bpf::fl_scheduler scheduler = bpf::FL_RR;
  bool masquerade = false;
  bool drop_if_empty = false;
  std::uint32_t persistence = 0;
  std::uint8_t persistence_prefix = 128;  // of the 16-byte form
  bool on_node = false;
  bool one_packet = false;
};

/// Of FL_FORWARD.
[[nodiscard]] bpf::fl_tuple forward_key(const std::string& client,
                                        const std::string& virtual_server, std::uint8_t protocol);

class Programs {
 public:
  /// Throws std::runtime_error with the verifier's words if the kernel refuses a program.
  explicit Programs(std::uint32_t max_flows = 4096, bool fast_path = false);
  ~Programs();
  Programs(const Programs&) = delete;
  Programs& operator=(const Programs&) = delete;

  /// Returns its number.
  std::uint32_t add(const Service& service);
  /// Number of a service's real server.
  [[nodiscard]] std::uint32_t server_number(std::uint32_t service, std::size_t index) const;
  void set_server_state(std::uint32_t number, bpf::fl_rs_state state);
  /// As if the server had gone and another one come.
  void give_server_number_to_another(std::uint32_t number);
  void set_server_forwarding(std::uint32_t number, bpf::fl_forwarding forwarding);
  /// What hidden clients look like, and the node to servers in tunnels.
  void set_hide(const std::string& v4, const std::string& v6);
  /// Whether the devices are veth pairs with other namespaces.
  void set_peers(bool are_peers);
  /// Seconds for a state.
  void set_tcp_timeout(bpf::fl_tcp_state state, std::uint32_t seconds);

  /// These programs replace those of `before`, which go by other maps.
  void follow(const Programs& before);

  [[nodiscard]] Verdict in(const Bytes& frame, std::uint32_t mark = 0) {
    return run("fl_in", frame, mark);
  }
  [[nodiscard]] Verdict out(const Bytes& frame) { return run("fl_out", frame); }
  [[nodiscard]] Verdict run(const char* program, const Bytes& frame, std::uint32_t mark = 0);
  /// Nanoseconds a packet, over `repeat` runs.
  [[nodiscard]] double time(const char* program, const Bytes& frame, int repeat);

  /// By fl_end, as if it were so many seconds later: which of them have ended.
  [[nodiscard]] std::vector<bool> end(std::span<const bpf::fl_tuple> keys, std::uint32_t later);

  [[nodiscard]] std::optional<bpf::fl_flow> flow(const bpf::fl_tuple& key) const;
  [[nodiscard]] std::size_t flow_count() const;
  /// Of the connection from `client` to `virtual_server`.
  [[nodiscard]] std::optional<bpf::fl_flow> forward_flow(const std::string& client,
                                                         const std::string& virtual_server,
                                                         std::uint8_t protocol = IPPROTO_TCP) const;
  /// As if the flow had not been seen for so long.
  void age(const std::string& client, const std::string& virtual_server, std::uint32_t seconds,
           std::uint8_t protocol = IPPROTO_TCP);
  [[nodiscard]] bpf::fl_rs_counts counts(std::uint32_t number) const;
  void set_half_open_limit(std::uint32_t limit);
  [[nodiscard]] std::uint32_t half_open() const;
  /// As if a flood had pushed it out of its table, and nothing else of its connection.
  [[nodiscard]] bool push_out_forward_flow(const std::string& client,
                                           const std::string& virtual_server) const;
  [[nodiscard]] std::uint64_t event(bpf::fl_event event) const;

 private:
  [[nodiscard]] int map(const char* name) const;
  template <typename Key, typename Value>
  void put(const char* name, const Key& key, const Value& value);
  template <typename Value, typename Key>
  [[nodiscard]] std::optional<Value> get(const char* name, const Key& key) const;
  void note(bpf::fl_point point, const bpf::fl_addr& address);

  std::pair<std::uint32_t, bool> kind_;  // how it was loaded
  bpf_object* object_ = nullptr;
  std::uint32_t next_vs_ = 1, next_rs_ = 1, next_slot_ = 1;
  std::vector<std::vector<std::uint32_t>> servers_{1};  // numbers, by service
};

}  // namespace fairlead::packets
