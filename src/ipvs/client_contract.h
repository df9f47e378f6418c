// SPDX-License-Identifier: Apache-2.0
// What every ipvs::Client must do, for IPv4 and IPv6. Run on the fake in unit tests and on the
// kernel by fairlead_ipvs_kernel_test, so that the fake stays honest. A program that includes this
// defines make_contract_client().
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "ipvs/client.h"

namespace fairlead::ipvs {

/// A client with an empty table of its own, timeouts 900, 120, 300.
std::unique_ptr<Client> make_contract_client();

class ClientContract : public testing::TestWithParam<net::Family> {
 protected:
  [[nodiscard]] static bool v4() { return GetParam() == net::Family::kIpv4; }
  [[nodiscard]] static std::uint8_t full_mask() { return v4() ? 32 : 128; }
  [[nodiscard]] static net::IpAddress address(const std::string& v4_text,
                                              const std::string& v6_text) {
    return *net::IpAddress::parse(v4() ? v4_text : v6_text);
  }
  [[nodiscard]] static net::IpAddress virtual_address(unsigned n) {
    return address("198.18." + std::to_string(n / 250) + "." + std::to_string(1 + (n % 250)),
                   "2001:db8:1::" + std::to_string(1 + n));
  }
  [[nodiscard]] static net::IpAddress real_address(unsigned n) {
    return address("198.19." + std::to_string(n / 250) + "." + std::to_string(1 + (n % 250)),
                   "2001:db8:2::" + std::to_string(1 + n));
  }
  [[nodiscard]] static ServiceId id(unsigned n = 0, std::uint16_t port = 80,
                                    net::Protocol protocol = net::Protocol::kTcp) {
    ServiceId out;
    out.address = virtual_address(n);
    out.port = net::Port{port};
    out.protocol = protocol;
    return out;
  }
  [[nodiscard]] static ServiceId mark(std::uint32_t value) {
    ServiceId out;
    out.address = net::IpAddress::any(GetParam());
    out.fwmark = value;
    return out;
  }
  [[nodiscard]] static VirtualServer server(const ServiceId& service_id,
                                            const std::string& scheduler = "rr") {
    VirtualServer out;
    out.id = service_id;
    out.scheduler = scheduler;
    out.netmask = full_mask();
    return out;
  }
  [[nodiscard]] static RealServer real(unsigned n = 0, std::uint32_t weight = 1,
                                       std::uint16_t port = 8080) {
    RealServer out;
    out.address = real_address(n);
    out.port = net::Port{port};
    out.weight = weight;
    return out;
  }
  [[nodiscard]] static net::SocketAddress real_socket(unsigned n = 0) { return real(n).socket(); }

  // The kernel's errno of one op; 0 for success.
  int errno_of(const Op& op) {
    const auto statuses = client_->apply(std::span(&op, 1));
    EXPECT_EQ(statuses.size(), 1U);
    if (statuses.at(0)) {
      return 0;
    }
    EXPECT_THAT(statuses[0].error().text(), testing::StartsWith(text(op)));
    return statuses[0].error().errno_value();
  }
  void must(const Op& op) { ASSERT_EQ(errno_of(op), 0) << text(op); }
  std::vector<ObservedVirtualServer> dumped() {
    auto all = client_->dump();
    EXPECT_TRUE(all) << all.error().text();
    if (!all) {
      return {};
    }
    std::ranges::sort(*all, {}, [](const ObservedVirtualServer& s) { return s.server.id; });
    return *all;
  }
  ObservedVirtualServer got(const ServiceId& service_id) {
    auto found = client_->get(service_id);
    EXPECT_TRUE(found && found->has_value()) << service_id.text();
    return found ? found->value_or(ObservedVirtualServer{}) : ObservedVirtualServer{};
  }
  static std::vector<RealServer> values(const ObservedVirtualServer& observed) {
    std::vector<RealServer> out;
    out.reserve(observed.real_servers.size());
    for (const ObservedRealServer& r : observed.real_servers) {
      out.push_back(r.server);
    }
    return out;
  }
  static RealServer without_thresholds(RealServer server) {
    server.upper_threshold = 0;
    server.lower_threshold = 0;
    return server;
  }

  std::unique_ptr<Client> client_ = make_contract_client();
};

TEST_P(ClientContract, TellsItsVersion) {
  const auto info = client_->info();
  ASSERT_TRUE(info) << info.error().text();
  EXPECT_GE(info->version, 0x010200U);
  EXPECT_GT(info->connection_table_size, 0U);
}

TEST_P(ClientContract, SetsTimeouts) {
  ASSERT_TRUE(client_->set_timeouts({.tcp = 800, .tcp_fin = 0, .udp = 250}));
  auto timeouts = client_->timeouts();
  ASSERT_TRUE(timeouts);
  EXPECT_EQ(*timeouts, (Timeouts{.tcp = 800, .tcp_fin = 120, .udp = 250}));
  ASSERT_TRUE(client_->set_timeouts({}));
  EXPECT_EQ(*client_->timeouts(), *timeouts);
  const auto refused = client_->set_timeouts({.tcp = 0x80000000U, .tcp_fin = 0, .udp = 0});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().errno_value(), EINVAL);
  EXPECT_EQ(*client_->timeouts(), *timeouts);
}

TEST_P(ClientContract, StartsEmpty) {
  EXPECT_TRUE(dumped().empty());
  const auto none = client_->get(id());
  ASSERT_TRUE(none) << none.error().text();
  EXPECT_FALSE(*none);
  EXPECT_TRUE(client_->apply({}).empty());
}

TEST_P(ClientContract, ReadsBackWhatWasAdded) {
  std::vector<VirtualServer> servers;
  servers.push_back(server(id(0)));
  servers.push_back(server(id(0, 53, net::Protocol::kUdp), "wrr"));
  servers.push_back(server(id(0, 9999, net::Protocol::kSctp), "wlc"));
  servers.push_back(server(id(1), "sh"));
  servers.back().flags = kFlagPersistent | kFlagSched1 | kFlagSched2;
  servers.back().timeout = 10800;
  servers.push_back(server(id(2), "lc"));
  servers.back().flags = kFlagPersistent;
  servers.back().timeout = 360;
  servers.back().netmask = v4() ? 24 : 64;
  servers.push_back(server(id(3, 5353, net::Protocol::kUdp)));
  servers.back().flags = kFlagOnePacket;
  servers.push_back(server(mark(7)));
  servers.push_back(server(mark(0xfffffff0U), "mh"));
  servers.push_back(server(id(4, 0), "rr"));
  servers.back().flags = kFlagPersistent;
  servers.back().timeout = 300;
  std::ranges::sort(servers);

  for (const VirtualServer& s : servers) {
    must(AddVirtualServer{s});
  }
  const auto all = dumped();
  ASSERT_EQ(all.size(), servers.size());
  for (std::size_t i = 0; i < servers.size(); ++i) {
    EXPECT_TRUE(all[i].server == servers[i]) << servers[i].id.text();
    EXPECT_TRUE(got(servers[i].id).server == servers[i]) << servers[i].id.text();
    EXPECT_TRUE(all[i].real_servers.empty());
  }
}

TEST_P(ClientContract, SetsAVirtualServer) {
  must(AddVirtualServer{server(id(), "rr")});
  must(AddRealServer{id(), real()});
  VirtualServer changed = server(id(), "wrr");
  changed.flags = kFlagPersistent;
  changed.timeout = 100;
  changed.netmask = v4() ? 16 : 48;
  must(SetVirtualServer{changed});
  EXPECT_TRUE(got(id()).server == changed);
  EXPECT_EQ(values(got(id())), std::vector{real()});
  must(SetVirtualServer{server(id(), "rr")});
  EXPECT_TRUE(got(id()).server == server(id(), "rr"));
}

TEST_P(ClientContract, RealServersAreLastAddedFirst) {
  must(AddVirtualServer{server(id())});
  RealServer tunnel = real(1, 7);
  tunnel.method = ForwardMethod::kTunnel;
  RealServer direct = real(2, 0);
  direct.method = ForwardMethod::kDirectRouting;
  RealServer other_port = real(1, 3, 8081);
  for (const RealServer& r : {real(0, 65535), tunnel, direct, other_port}) {
    must(AddRealServer{id(), r});
  }
  const std::vector want = {other_port, direct, tunnel, real(0, 65535)};
  EXPECT_EQ(values(got(id())), want);
  ASSERT_EQ(dumped().size(), 1U);
  EXPECT_EQ(values(dumped()[0]), want);

  must(DeleteRealServer{id(), direct.socket()});
  RealServer heavier = tunnel;
  heavier.weight = 8;
  heavier.method = ForwardMethod::kMasquerade;
  must(SetRealServer{id(), heavier});
  EXPECT_EQ(values(dumped()[0]), (std::vector{other_port, heavier, real(0, 65535)}));
}

TEST_P(ClientContract, FirewallMarksHaveRealServersToo) {
  must(AddVirtualServer{server(mark(7))});
  must(AddVirtualServer{server(mark(8))});
  must(AddVirtualServer{server(id())});
  must(AddRealServer{mark(7), real(0)});
  must(AddRealServer{mark(7), real(1, 2, 0)});
  must(AddRealServer{id(), real(2)});
  EXPECT_EQ(values(got(mark(7))), (std::vector{real(1, 2, 0), real(0)}));
  for (const ObservedVirtualServer& s : dumped()) {
    EXPECT_EQ(values(s), values(got(s.server.id))) << s.server.id.text();
  }
  // Only family and mark count.
  ServiceId decorated = id(5);
  decorated.fwmark = 7;
  EXPECT_EQ(errno_of(AddVirtualServer{server(decorated)}), EEXIST);
  must(DeleteVirtualServer{decorated});
  EXPECT_EQ(dumped().size(), 2U);
}

TEST_P(ClientContract, KeepsThresholds) {
  must(AddVirtualServer{server(id())});
  RealServer limited = real(0);
  limited.upper_threshold = 100;
  limited.lower_threshold = 75;
  RealServer upper_only = real(1);
  upper_only.upper_threshold = 5;
  must(AddRealServer{id(), limited});
  must(AddRealServer{id(), upper_only});
  EXPECT_EQ(values(got(id())), (std::vector{upper_only, limited}));
  ASSERT_EQ(dumped().size(), 1U);
  EXPECT_EQ(values(dumped()[0]),
            (std::vector{without_thresholds(upper_only), without_thresholds(limited)}));
  const auto exact = client_->dump_exactly();
  ASSERT_TRUE(exact) << exact.error().text();
  ASSERT_EQ(exact->size(), 1U);
  EXPECT_EQ(values(exact->front()), (std::vector{upper_only, limited}));
  limited.upper_threshold = 0;
  limited.lower_threshold = 0;
  must(SetRealServer{id(), limited});
  EXPECT_EQ(values(got(id())), (std::vector{upper_only, limited}));
}

TEST_P(ClientContract, DeletingAVirtualServerTakesItsRealServers) {
  must(AddVirtualServer{server(id(0))});
  must(AddVirtualServer{server(id(1))});
  must(AddRealServer{id(0), real(0)});
  must(AddRealServer{id(1), real(0)});
  must(DeleteVirtualServer{id(0)});
  ASSERT_EQ(dumped().size(), 1U);
  EXPECT_EQ(dumped()[0].server.id, id(1));
  must(AddVirtualServer{server(id(0))});
  EXPECT_TRUE(got(id(0)).real_servers.empty());
}

TEST_P(ClientContract, RefusesAsTheKernelDoes) {
  must(AddVirtualServer{server(id())});
  must(AddRealServer{id(), real()});
  const auto with = [](auto value, auto change) {
    change(value);
    return value;
  };
  const net::IpAddress multicast = address("224.0.0.9", "ff02::9");
  const net::IpAddress unspecified = net::IpAddress::any(GetParam());
  const net::IpAddress other_family = *net::IpAddress::parse(v4() ? "2001:db8::9" : "198.19.0.9");
  struct Case {
    std::string name;
    Op op;
    int want;
  };
  std::vector<Case> cases = {
      {"virtual server twice", AddVirtualServer{server(id())}, EEXIST},
      {"twice, unknown scheduler", AddVirtualServer{server(id(), "nonesuch")}, EEXIST},
      {"unknown scheduler", AddVirtualServer{server(id(1), "nonesuch")}, ENOENT},
      {"long scheduler name", AddVirtualServer{server(id(1), "sixteencharacter")}, EINVAL},
      {"endless scheduler name", AddVirtualServer{server(id(1), std::string(70000, 'x'))}, EINVAL},
      {"set to unknown scheduler", SetVirtualServer{server(id(), "nonesuch")}, ENOENT},
      {"set missing", SetVirtualServer{server(id(1))}, ESRCH},
      {"set missing, unknown scheduler", SetVirtualServer{server(id(1), "nonesuch")}, ESRCH},
      {"delete missing", DeleteVirtualServer{id(1)}, ESRCH},
      {"delete other protocol", DeleteVirtualServer{id(0, 80, net::Protocol::kUdp)}, ESRCH},
      {"delete missing mark", DeleteVirtualServer{mark(7)}, ESRCH},
      {"real server twice", AddRealServer{id(), real(0, 5)}, EEXIST},
      {"real server to missing", AddRealServer{id(1), real()}, ESRCH},
      {"set real server of missing", SetRealServer{id(1), real()}, ESRCH},
      {"delete real server of missing", DeleteRealServer{id(1), real_socket()}, ESRCH},
      {"set missing real server", SetRealServer{id(), real(1)}, ENOENT},
      {"delete missing real server", DeleteRealServer{id(), real_socket(1)}, ENOENT},
      {"negative weight", AddRealServer{id(), real(1, 0x80000000U)}, ERANGE},
      {"lower above upper",
       AddRealServer{id(), with(real(1),
                                [](RealServer& r) {
                                  r.upper_threshold = 5;
                                  r.lower_threshold = 6;
                                })},
       ERANGE},
      {"lower without upper",
       AddRealServer{id(), with(real(1), [](RealServer& r) { r.lower_threshold = 6; })}, ERANGE},
      {"set lower without upper",
       SetRealServer{id(), with(real(0), [](RealServer& r) { r.lower_threshold = 6; })}, ERANGE},
      {"multicast",
       AddRealServer{id(), with(real(1), [&](RealServer& r) { r.address = multicast; })}, EINVAL},
      {"unspecified",
       AddRealServer{id(), with(real(1), [&](RealServer& r) { r.address = unspecified; })}, EINVAL},
      {"other family",
       AddRealServer{id(), with(real(1), [&](RealServer& r) { r.address = other_family; })},
       EINVAL},
  };
  if (!v4()) {
    cases.push_back({"mask 0",
                     AddVirtualServer{with(server(id(1)), [](VirtualServer& s) { s.netmask = 0; })},
                     EINVAL});
    cases.push_back(
        {"mask 129",
         AddVirtualServer{with(server(id(1)), [](VirtualServer& s) { s.netmask = 129; })}, EINVAL});
    cases.push_back({"link-local",
                     AddRealServer{id(), with(real(1),
                                              [](RealServer& r) {
                                                r.address = *net::IpAddress::parse("fe80::1");
                                              })},
                     EINVAL});
  }
  for (const Case& c : cases) {
    EXPECT_EQ(errno_name(errno_of(c.op)), errno_name(c.want)) << c.name;
  }
  ASSERT_EQ(dumped().size(), 1U);
  EXPECT_TRUE(dumped()[0].server == server(id()));
  EXPECT_EQ(values(dumped()[0]), std::vector{real()});
}

TEST_P(ClientContract, OtherFamilyByTunnel) {
  must(AddVirtualServer{server(id())});
  RealServer tunnel = real(0);
  tunnel.address = *net::IpAddress::parse(v4() ? "2001:db8::9" : "198.19.0.9");
  tunnel.method = ForwardMethod::kTunnel;
  must(AddRealServer{id(), tunnel});
  EXPECT_EQ(values(got(id())), std::vector{tunnel});
  ASSERT_EQ(dumped().size(), 1U);
  EXPECT_EQ(values(dumped()[0]), std::vector{tunnel});
}

TEST_P(ClientContract, TellsTheObjectAndTheReason) {
  const Op op = AddVirtualServer{server(id(), "nonesuch")};
  const auto statuses = client_->apply(std::span(&op, 1));
  ASSERT_FALSE(statuses.at(0));
  EXPECT_EQ(statuses[0].error().text(),
            "add virtual server " + id().text() + ": no such scheduler \"nonesuch\" (ENOENT)");
  EXPECT_EQ(statuses[0].error().kind(), ErrorKind::kNotFound);
}

TEST_P(ClientContract, LargeBatchMapsEachFailureToItsOp) {
  constexpr unsigned kServers = 600;
  constexpr unsigned kReal = 6;
  std::vector<Op> ops;
  std::vector<int> want;
  for (unsigned s = 0; s < kServers; ++s) {
    const bool unknown_scheduler = s % 97 == 13;
    ops.emplace_back(AddVirtualServer{server(id(s), unknown_scheduler ? "nonesuch" : "rr")});
    want.push_back(unknown_scheduler ? ENOENT : 0);
    for (unsigned r = 0; r < kReal; ++r) {
      ops.emplace_back(AddRealServer{id(s), real(r, 1 + s)});
      want.push_back(unknown_scheduler ? ESRCH : 0);
    }
    if (s % 10 == 3) {
      ops.emplace_back(AddRealServer{id(s), real(2)});
      want.push_back(unknown_scheduler ? ESRCH : EEXIST);
    }
  }
  const auto statuses = client_->apply(ops);
  ASSERT_EQ(statuses.size(), ops.size());
  for (std::size_t i = 0; i < ops.size(); ++i) {
    EXPECT_EQ(statuses[i] ? 0 : statuses[i].error().errno_value(), want[i]) << text(ops[i]);
  }
  const auto all = dumped();
  ASSERT_EQ(all.size(), kServers - 7);  // 13, 110, ..., 595
  for (const ObservedVirtualServer& s : all) {
    ASSERT_EQ(s.real_servers.size(), kReal) << s.server.id.text();
    for (unsigned r = 0; r < kReal; ++r) {
      EXPECT_EQ(s.real_servers[r].server.address, real_address(kReal - 1 - r));
    }
  }

  // All of it once more: each op fails, and no answer is lost.
  for (const Status& status : client_->apply(ops)) {
    ASSERT_FALSE(status);
    EXPECT_THAT(status.error().errno_value(), testing::AnyOf(EEXIST, ENOENT, ESRCH));
  }
  std::vector<Op> deletes;
  deletes.reserve(all.size());
  for (const ObservedVirtualServer& s : all) {
    deletes.emplace_back(DeleteVirtualServer{s.server.id});
  }
  for (const Status& status : client_->apply(deletes)) {
    EXPECT_TRUE(status);
  }
  EXPECT_TRUE(dumped().empty());
}

INSTANTIATE_TEST_SUITE_P(Families, ClientContract,
                         testing::Values(net::Family::kIpv4, net::Family::kIpv6),
                         [](const testing::TestParamInfo<net::Family>& family) {
                           return std::string(net::text(family.param));
                         });

}  // namespace fairlead::ipvs
