// SPDX-License-Identifier: Apache-2.0
// What the packet tests stand on: places in both families, and the programs with a client's words.
#pragma once

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <string>

#include "packets.h"
#include "programs.h"

namespace fairlead::packets {

/// The same places in both families.
struct Family {
  std::string name;
  std::string client, other_client, virtual_server, server, server2, node, router;

  [[nodiscard]] std::string at(const std::string& address, int port) const {
    return (name == "v6" ? "[" + address + "]:" : address + ":") + std::to_string(port);
  }
};
inline const Family kV4{"v4",           "192.0.2.10",   "192.0.2.11",     "203.0.113.1",
                        "198.51.100.1", "198.51.100.2", "198.51.100.254", "192.0.2.254"};
inline const Family kV6{"v6",
                        "2001:db8:1::10",
                        "2001:db8:1::11",
                        "2001:db8:96::1",
                        "2001:db8:2::1",
                        "2001:db8:2::2",
                        "2001:db8:2::254",
                        "2001:db8:1::254"};

inline std::string text(const Verdict& verdict) { return read(verdict.frame).text(); }

class Base {
 protected:
  explicit Base(const Family& family, bool fast_path = false)
      : f(family), programs(4096, fast_path) {
    programs.set_hide(kV4.node, kV6.node);
  }

  [[nodiscard]] std::string client(int port = 40000) const { return f.at(f.client, port); }
  [[nodiscard]] std::string vip(int port = 80) const { return f.at(f.virtual_server, port); }
  [[nodiscard]] std::string server(int port = 8080) const { return f.at(f.server, port); }
  [[nodiscard]] std::string server2(int port = 8080) const { return f.at(f.server2, port); }

  Verdict in(const std::string& from, const std::string& to, std::uint8_t flags = kSyn) {
    Packet packet{from, to, protocol};
    packet.tcp_flags = flags;
    return programs.in(build(packet));
  }
  Verdict out(const std::string& from, const std::string& to, std::uint8_t flags = kAck) {
    Packet packet{from, to, protocol};
    packet.tcp_flags = flags;
    packet.sctp_chunk = 0;
    return programs.out(build(packet));
  }

  const Family& f;
  std::uint8_t protocol = IPPROTO_TCP;
  Programs programs;
};

/// Its tests stand in several files; packet_test.cc names the families.
class ByFamily : public testing::TestWithParam<const Family*>, public Base {
 protected:
  ByFamily() : Base(*GetParam()) {}
};

}  // namespace fairlead::packets
