// SPDX-License-Identifier: Apache-2.0
#include <memory>

#include "ipvs/client_contract.h"
#include "ipvs/fake_kernel.h"

namespace fairlead::ipvs {

std::unique_ptr<Client> make_contract_client() { return std::make_unique<FakeKernel>(); }

namespace {

using netlink::Fault;

ServiceId web() {
  ServiceId id;
  id.address = *net::IpAddress::parse("198.18.0.1");
  id.port = net::Port{80};
  return id;
}

RealServer pod(const char* address) {
  RealServer server;
  server.address = *net::IpAddress::parse(address);
  server.port = net::Port{8080};
  return server;
}

TEST(FakeKernel, FaultBeforeAndAfter) {
  FakeKernel kernel;
  const Op op = AddVirtualServer{{.id = web()}};
  const Error lost(ErrorKind::kOverflow, "lost", ENOBUFS);

  kernel.fail_next_ops(1, {.error = lost, .when = Fault::When::kBefore});
  EXPECT_EQ(kernel.apply(std::span(&op, 1)).at(0).error().kind(), ErrorKind::kOverflow);
  EXPECT_TRUE(kernel.table().empty());

  kernel.fail_next_ops(1, {.error = lost, .when = Fault::When::kAfter});
  EXPECT_EQ(kernel.apply(std::span(&op, 1)).at(0).error().kind(), ErrorKind::kOverflow);
  EXPECT_EQ(kernel.table().size(), 1U);

  EXPECT_EQ(kernel.apply(std::span(&op, 1)).at(0).error().kind(), ErrorKind::kAlreadyExists);
  EXPECT_EQ(kernel.calls("apply"), 3U);
  EXPECT_EQ(kernel.calls("apply.op"), 3U);
}

TEST(FakeKernel, FaultByPredicateAndByCall) {
  FakeKernel kernel;
  const std::vector<Op> ops = {AddVirtualServer{{.id = web()}},
                               AddRealServer{web(), pod("198.19.0.1")},
                               AddRealServer{web(), pod("198.19.0.2")}};
  kernel.set_op_fault([](const Op& op) -> std::optional<Fault> {
    const auto* add = std::get_if<AddRealServer>(&op);
    if (add != nullptr && add->server.address.text() == "198.19.0.1") {
      return Fault{.error = Error(ErrorKind::kSystem, "no memory", ENOMEM)};
    }
    return std::nullopt;
  });
  auto statuses = kernel.apply(ops);
  EXPECT_TRUE(statuses[0]);
  EXPECT_FALSE(statuses[1]);
  EXPECT_TRUE(statuses[2]);
  EXPECT_EQ(kernel.table().at(0).real_servers.size(), 1U);

  kernel.fail_next("dump", "", {.error = Error(ErrorKind::kTimeout, "late")});
  EXPECT_FALSE(kernel.dump());
  EXPECT_TRUE(kernel.dump());
}

TEST(FakeKernel, Connections) {
  FakeKernel kernel;
  ASSERT_TRUE(kernel.change(AddVirtualServer{{.id = web()}}));
  ASSERT_TRUE(kernel.change(AddRealServer{web(), pod("198.19.0.1")}));
  kernel.set_connections(web(), pod("198.19.0.1").socket(), 3, 4);
  const auto all = kernel.dump();
  ASSERT_TRUE(all);
  EXPECT_EQ(all->at(0).real_servers.at(0).active_connections, 3U);
  EXPECT_EQ(all->at(0).real_servers.at(0).inactive_connections, 4U);
  EXPECT_EQ(kernel.calls("apply"), 0U);
}

}  // namespace
}  // namespace fairlead::ipvs
