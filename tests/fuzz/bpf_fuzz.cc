// SPDX-License-Identifier: Apache-2.0
// The packet programs, compiled for this process (shim/), through a life of a node: the input is a
// world (world.h) and a series of steps, each a packet, a change of servers, or time that passes.
// After each step the invariants (invariants.h) hold.
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <netinet/in.h>
#include <string>
#include <vector>

#include "frames.h"
#include "input.h"
#include "invariants.h"
#include "packets.h"
#include "shim/kernel.h"
#include "world.h"

namespace fairlead::fuzz {
namespace {

using shim::Kernel;

constexpr int kPass = TC_ACT_UNSPEC;
constexpr std::size_t kEthernet = 14;

bool is_in(const shim::Bytes& frame, const std::string& bytes) {
  return std::ranges::search(frame, bytes, [](std::uint8_t a, char b) {
           return a == static_cast<std::uint8_t>(b);
         }).begin() != frame.end();
}

std::uint64_t event_sum(Kernel& kernel) {
  std::uint64_t sum = 0;
  for (const std::uint64_t count : kernel.map("events").all<std::uint64_t>()) {
    sum += count;
  }
  return sum;
}

std::string end(const bpf::fl_addr& address, __be16 port) {
  return net::SocketAddress{bpf::to_address(address), bpf::to_port(port)}.text();
}

std::string end(const char* place, std::uint16_t port) {
  return net::SocketAddress{address(place), net::Port{port}}.text();
}

class Life {
 public:
  explicit Life(Input input) : input_(input), world_(kernel_, input_) {}

  void live() {
    while (!input_.at_end()) {
      step();
      check_tables(kernel_);
    }
  }

 private:
  void step() {
    switch (input_.below(10)) {
      case 0:
        packet_of_a_client();
        break;
      case 1:
      case 2:
      case 3:
        packet_of_a_flow();
        break;
      case 4:
        error_about_a_flow();
        break;
      case 5:
        some_bytes();
        break;
      case 6:
        kernel_.now_ns += std::uint64_t{input_.word()} << (input_.byte() % 24U);
        break;
      case 7:
        socket_of_the_node();
        break;
      case 8:
        sweep();
        break;
      default:
        world_.change(input_);
        break;
    }
  }

  // --- Sockets -------------------------------------------------------------------------------

  /// Asks for a virtual server; what it gets is shown to it as what it asked for.
  void socket_of_the_node() {
    const VirtualServer& server = input_.of(world_.virtual_servers());
    const std::uint8_t how = input_.byte();
    kernel_.cookie = 0x100 + (how & 3U);
    const bpf::fl_addr asked =
        bpf::to_abi(address(kPlaces[server.family].virtual_servers[server.place]));
    bpf_sock_addr context{};
    context.protocol = server.protocol;
    context.user_port = bpf::to_abi(net::Port{server.port});
    context.user_ip4 = asked.words[3];
    std::ranges::copy(asked.words, context.user_ip6);
    const bool v4 = server.family == 0;
    const bool connects = (how & 4U) != 0;
    const bpf_sock_addr before = context;
    const auto is_as_before = [&] {
      return context.user_ip4 == before.user_ip4 && context.user_port == before.user_port &&
             std::ranges::equal(context.user_ip6, before.user_ip6);
    };
    const int allowed = v4 ? (connects ? fl_connect4 : fl_sendmsg4)(&context)
                           : (connects ? fl_connect6 : fl_sendmsg6)(&context);
    claim(allowed == 0 || allowed == 1, [&] { return "verdict " + std::to_string(allowed); });
    if (!is_as_before()) {
      claim(allowed == 1, [] { return std::string("a refused socket got another address"); });
      (v4 ? fl_recvmsg4 : fl_recvmsg6)(&context);
    }
    claim(is_as_before(), [&] {
      return "a socket that asked for " + end(asked, bpf::to_abi(net::Port{server.port})) +
             " sees " + (v4 ? std::to_string(ntohl(context.user_ip4)) : "another") + " port " +
             std::to_string(ntohs(static_cast<std::uint16_t>(context.user_port)));
    });
  }

  /// As the daemon, which asks of all connections whether they are over.
  void sweep() {
    auto& list = kernel_.map("ending").all<bpf::fl_ending>().front();
    const Flows flows = flows_of(kernel_);
    list.count = 0;
    list.now = static_cast<std::uint32_t>(kernel_.now_ns >> FL_TICK_SHIFT);
    for (const auto& [key, flow] : flows) {
      const bool is_expectation =
          flow.kind == bpf::FL_REPLY && (flow.flags & bpf::FL_FLOW_ONE_PACKET) != 0;
      if (list.count < FL_ENDING_MOST && (flow.kind == bpf::FL_FORWARD || is_expectation)) {
        list.keys[list.count++] = key;
      }
    }
    shim::Packet nothing;
    nothing.frame.resize(kEthernet);
    kernel_.run(fl_end, nothing);
    check_swept(kernel_, flows);
  }

  // --- Packets -------------------------------------------------------------------------------

  packets::Packet shape(std::string source, std::string destination, std::uint8_t protocol) {
    const std::uint8_t what = input_.byte();
    packets::Packet packet{std::move(source), std::move(destination), protocol};
    packet.tcp_flags = input_.byte() & 31U;
    packet.sctp_chunk = packet.tcp_flags & 15U;
    packet.udp_checksum = (what & 1U) == 0;
    packet.ttl = (what & 2U) != 0 ? 1 : 64;
    packet.extensions = (what & 4U) != 0 ? static_cast<int>(input_.below(8)) : 0;
    if ((what & 8U) != 0) {
      packet.payload = input_.word() % 2000U;
    }
    if ((what & 16U) != 0) {
      packet.fragment_offset = 0;
      packet.more_fragments = true;
      packet.payload += 200;
      if ((what & 32U) != 0) {
        packet.fragment_offset = static_cast<std::uint16_t>(64 + 8 * input_.below(8));
        packet.more_fragments = input_.below(2) != 0;
      }
    }
    packet.dont_fragment = (what & 64U) != 0;
    packet.traffic_class = (what & 128U) != 0 ? input_.byte() : 0;
    return packet;
  }

  void packet_of_a_client() {
    const VirtualServer& server = input_.of(world_.virtual_servers());
    const Places& places = kPlaces[server.family];
    const std::uint8_t who = input_.byte();
    const auto client_port =
        static_cast<std::uint16_t>((who & 3U) == 3 ? 61001 : 1024 + (who & 3U));
    const auto port = static_cast<std::uint16_t>(server.port + ((who & 0xf0U) == 0xf0U ? 1 : 0));
    const bool is_stranger = (who & 0xc0U) == 0xc0U;
    const packets::Packet packet =
        shape(end(is_stranger ? places.strangers[0] : places.clients[who >> 2U & 3U], client_port),
              end(is_stranger ? places.strangers[1] : places.virtual_servers[server.place], port),
              server.protocol);
    send(packets::build(packet), bpf::FL_INGRESS);
  }

  /// One of a connection's packets, as it is where the flow looks at it.
  std::optional<bpf::fl_tuple> some_flow() {
    Flows flows = flows_of(kernel_, input_.below(8) == 7 ? "half" : "flows");
    if (flows.empty()) {
      return std::nullopt;
    }
    return std::next(flows.begin(), static_cast<std::ptrdiff_t>(input_.below(flows.size())))->first;
  }

  void packet_of_a_flow() {
    const auto key = some_flow();
    if (!key) {
      return;
    }
    const packets::Packet packet =
        shape(end(key->saddr, key->sport), end(key->daddr, key->dport), key->protocol);
    send(packets::build(packet), static_cast<bpf::fl_point>(key->point));
  }

  void error_about_a_flow() {
    const auto key = some_flow();
    if (!key) {
      return;
    }
    const packets::Packet about =
        shape(end(key->daddr, key->dport), end(key->saddr, key->sport), key->protocol);
    const std::uint8_t how = input_.byte();
    const net::IpAddress from = bpf::to_address(key->saddr);
    const Places& places = kPlaces[from.is_v4() ? 0 : 1];
    constexpr std::array<std::uint8_t, 8> kTypes = {3, 1, 4, 2, 11, 12, 8, 128};
    send(packets::build_error((how & 1U) != 0 ? places.router : from.text(),
                              bpf::to_address(key->daddr).text(), kTypes[how >> 1U & 7U], how >> 4U,
                              packets::build(about)),
         static_cast<bpf::fl_point>(key->point));
  }

  void some_bytes() {
    shim::Bytes frame(kEthernet, 2);
    const std::uint8_t how = input_.byte();
    frame[12] = (how & 1U) != 0 ? 0x86 : 0x08;
    frame[13] = (how & 1U) != 0 ? 0xdd : 0x00;
    for (std::size_t i = input_.below(120); i > 0; --i) {
      frame.push_back(input_.byte());
    }
    send(std::move(frame), (how & 2U) != 0 ? bpf::FL_EGRESS : bpf::FL_INGRESS);
  }

  // --- What may be wrong with them, and where they come --------------------------------------

  shim::Packet dress(shim::Bytes frame) {
    shim::Packet packet;
    const std::uint8_t what = input_.byte();
    if ((what & 1U) != 0) {
      for (std::size_t i = 1 + input_.below(4); i > 0; --i) {
        const std::size_t at =
            kEthernet + input_.byte() % std::max<std::size_t>(frame.size() - 14, 1);
        if (at < frame.size()) {
          frame[at] ^= input_.byte();
        }
      }
    }
    if ((what & 2U) != 0) {
      frame.resize(kEthernet + input_.byte() % (frame.size() - kEthernet + 1));
    }
    packet.protocol = static_cast<std::uint16_t>(frame[12] << 8U | frame[13]);
    if ((what & 4U) != 0) {
      leave_checksum_to_device(frame, packet);
    }
    if ((what & 8U) != 0) {
      packet.linear = kEthernet + input_.byte();
    }
    if ((what & 16U) != 0) {
      packet.has_vlan_tag = true;
    }
    if ((what & 32U) != 0) {
      packet.gso_size = input_.word() % 1500U;
    }
    if ((what & 64U) != 0) {
      frame.erase(frame.begin(), frame.begin() + kEthernet);
      packet.l3 = 0;
      if (packet.partial) {
        packet.partial->start -= kEthernet;
      }
    }
    if ((what & 128U) != 0) {
      const std::uint8_t where = input_.byte();
      packet.interface = 1 + (where & 3U);  // 4: a device without our entry
      packet.tc_index = (where & 4U) != 0 ? 0xfa1e : 0;
      static constexpr std::array<long, 8> kResults = {
          BPF_FIB_LKUP_RET_SUCCESS,    BPF_FIB_LKUP_RET_NO_NEIGH,     BPF_FIB_LKUP_RET_NOT_FWDED,
          BPF_FIB_LKUP_RET_BLACKHOLE,  BPF_FIB_LKUP_RET_FWD_DISABLED, -22,
          BPF_FIB_LKUP_RET_UNSUPP_LWT, BPF_FIB_LKUP_RET_SUCCESS};
      kernel_.route.result = kResults[where >> 3U & 7U];
      kernel_.route.mtu =
          (where & 64U) != 0 ? static_cast<std::uint16_t>(40 + 8 * input_.byte()) : 1500;
      kernel_.route.interface = 1 + (where >> 7U) * 2U;
    } else {
      kernel_.route = {};
    }
    packet.frame = std::move(frame);
    return packet;
  }

  /// As a packet that a socket on the other side of a veth sent.
  static void leave_checksum_to_device(shim::Bytes& frame, shim::Packet& packet) {
    const auto look = frames::look(frame, kEthernet, packet.protocol);
    if (!look || look->transport != frames::Sum::kRight ||
        (look->protocol != IPPROTO_TCP && look->protocol != IPPROTO_UDP)) {
      return;
    }
    const std::size_t field = look->protocol == IPPROTO_TCP ? 16 : 6;
    std::uint32_t sum = look->protocol + static_cast<std::uint32_t>(look->end - look->l4);
    for (const auto address : {look->source, look->destination}) {
      for (std::size_t i = 0; i < address.size(); i += 2) {
        sum += static_cast<std::uint32_t>(address[i] << 8U | address[i + 1]);
      }
    }
    const auto folded = static_cast<std::uint16_t>(~packets::internet_checksum({}, sum));
    frame[look->l4 + field] = static_cast<std::uint8_t>(folded >> 8U);
    frame[look->l4 + field + 1] = static_cast<std::uint8_t>(folded);
    packet.partial = shim::Partial{look->l4, field};
  }

  // --- Through the programs ------------------------------------------------------------------

  void send(shim::Bytes frame, bpf::fl_point point) {
    shim::Packet packet = dress(std::move(frame));
    const bool goes_on = (input_.byte() & 1U) == 0;
    int verdict = run(packet, point);
    if (point == bpf::FL_EGRESS || !goes_on || verdict == TC_ACT_SHOT) {
      return;
    }
    if (verdict == kPass) {
      packet.interface = packet.interface == kOutside ? kServers : kOutside;
    } else if (kernel_.redirect->kind == shim::Redirect::Kind::kPeer) {
      return;
    } else {
      packet.interface = kernel_.redirect->interface;
    }
    run(packet, bpf::FL_EGRESS);
  }

  int run(shim::Packet& packet, bpf::fl_point point) {
    const shim::Packet before = packet;
    const Flows flows = flows_of(kernel_);
    const std::uint64_t events = event_sum(kernel_) + refusals();
    const int verdict = kernel_.run(program(packet, point), packet);
    tell(before, packet, point, verdict);

    claim(verdict == kPass || verdict == TC_ACT_SHOT || verdict == TC_ACT_REDIRECT,
          [&] { return std::string("verdict " + std::to_string(verdict)); });
    claim((verdict == TC_ACT_REDIRECT) == kernel_.redirect.has_value(),
          [&] { return std::string("a redirect without a target"); });
    check_survivors(kernel_, flows, before);
    check_translation(kernel_, flows, before, packet, point, verdict);
    if (std::ranges::none_of(world_.known_addresses(), [&](const std::string& known) {
          return is_in(before.frame, known);
        })) {
      claim(verdict == kPass && packet.frame == before.frame,
            [&] { return std::string("a packet of nobody's was touched"); });
    }
    if (verdict == TC_ACT_SHOT) {
      claim(event_sum(kernel_) + refusals() > events || made_its_last_hop(before),
            [&] { return std::string("a packet was dropped, and nothing counts it"); });
      return verdict;
    }
    if (verdict == kPass) {
      claim(packet.frame.size() == before.frame.size(),
            [&] { return std::string("a packet that passes has another length"); });
    }
    check_sums(before, packet);
    return verdict;
  }

  /// For whoever reads a crash: STORY=1 prints what came and what became of it.
  static void tell(const shim::Packet& before, const shim::Packet& after, bpf::fl_point point,
                   int verdict) {
    static const bool tells = std::getenv("STORY") != nullptr;
    if (!tells) {
      return;
    }
    std::fprintf(stderr, "%s by %u, verdict %d\n", point == bpf::FL_INGRESS ? "in" : "out",
                 before.interface, verdict);
    for (const shim::Packet* packet : {&before, &after}) {
      std::fprintf(stderr, "  %s%s", packet->partial ? "partial " : "",
                   packet->l3 == 0 ? "l3 " : "");
      for (const std::uint8_t byte : packet->frame) {
        std::fprintf(stderr, "%02x", byte);
      }
      std::fprintf(stderr, "\n");
    }
  }

  static int (*program(const shim::Packet& packet, bpf::fl_point point))(__sk_buff*) {
    if (point == bpf::FL_INGRESS) {
      return packet.l3 == 0 ? fl_in_l3 : fl_in;
    }
    return packet.l3 == 0 ? fl_out_l3 : fl_out;
  }

  static bool made_its_last_hop(const shim::Packet& packet) {
    const std::size_t at = packet.l3 + (packet.protocol == ETH_P_IP ? 8 : 7);
    return at < packet.frame.size() && packet.frame[at] <= 1;
  }

  std::uint64_t refusals() {
    std::uint64_t sum = 0;
    for (const auto& counts : kernel_.map("vs_counts").all<bpf::fl_vs_counts>()) {
      sum += counts.refused;
    }
    return sum;
  }

  Kernel& kernel_ = Kernel::instance();
  Input input_;
  World world_;
};

}  // namespace
}  // namespace fairlead::fuzz

// NOLINTNEXTLINE(readability-identifier-naming): the name is libFuzzer's.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fairlead::fuzz::Life(fairlead::fuzz::Input({data, size})).live();
  return 0;
}
