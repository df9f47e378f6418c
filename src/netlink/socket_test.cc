// SPDX-License-Identifier: Apache-2.0
// The socket is tried on the kernel's generic netlink controller, which answers everybody and
// changes nothing, and on the FIB lookup protocol, which keeps silent about malformed requests.
#include "netlink/socket.h"

#include <array>
#include <cerrno>
#include <chrono>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/genetlink.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <string>
#include <sys/socket.h>
#include <vector>

#include "netlink/generic.h"
#include "netlink/socket_diag.h"

namespace fairlead::netlink {
namespace {

using testing::ElementsAre;

std::vector<std::uint8_t> bytes_of(std::span<const std::uint8_t> bytes) {
  return {bytes.begin(), bytes.end()};
}

// Finding a family that is there is a success, one that is not is ENOENT.
Request ask_family(const std::string& name) {
  Request request = generic_request(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, 1);
  request.put_string(CTRL_ATTR_FAMILY_NAME, name);
  return request;
}

Socket open_generic(SocketOptions options = {}) {
  auto socket = Socket::open(NETLINK_GENERIC, options);
  EXPECT_TRUE(socket) << socket.error().text();
  return std::move(*socket);
}

TEST(Request, LaysOutAttributes) {
  Request request(0x1234, NLM_F_CREATE);
  request.put_header(std::array<std::uint8_t, 3>{7, 8, 9});
  request.put_u8(1, 0xaa);
  const auto outer = request.begin(2);
  request.put_be16(3, Be16(0x0102));
  const auto inner = request.begin(4);
  request.put_string(5, "ab");
  request.end(inner);
  request.put_flag(6);
  request.end(outer);

  unsigned messages = 0;
  for_each_message(request.bytes(), [&](const Message& message) {
    ++messages;
    EXPECT_EQ(message.type, 0x1234);
    EXPECT_EQ(message.flags, NLM_F_CREATE | NLM_F_REQUEST);
    const Attributes top = message.attributes(3);
    EXPECT_EQ(top[1].u8(), 0xaa);
    const Attributes nested = top.nest(2);
    ASSERT_TRUE(nested[3].be16());
    EXPECT_EQ(nested[3].be16()->host(), 0x0102);
    EXPECT_THAT(bytes_of(nested[3].bytes()), ElementsAre(1, 2));
    EXPECT_EQ(nested.nest(4)[5].string(), "ab");
    EXPECT_EQ(nested.nest(4)[5].bytes().size(), 3U);
    EXPECT_TRUE(nested[6]);
    EXPECT_EQ(nested[6].bytes().size(), 0U);
    EXPECT_FALSE(nested[7]);
  });
  EXPECT_EQ(messages, 1U);
  EXPECT_EQ(request.bytes().size() % 4, 0U);
}

TEST(Attributes, CheckLengths) {
  Request request(1);
  request.put_u16(1, 0x0102).put_u32(2, 7).put_string(3, "").put_u32(200, 1).put_u32(2, 8);
  const auto attributes = Attributes::parse(request.bytes().subspan(sizeof(nlmsghdr)));
  EXPECT_EQ(attributes[1].u16(), 0x0102);
  EXPECT_FALSE(attributes[1].u32());
  EXPECT_FALSE(attributes[1].u8());
  EXPECT_EQ(attributes[2].u32(), 8U);  // the last of a kind
  EXPECT_FALSE(attributes[2].u64());
  EXPECT_EQ(attributes[3].string(), "");
  EXPECT_FALSE(attributes[4].string());
  EXPECT_FALSE(attributes[4].read<int>());
}

TEST(Attributes, StopAtAnImpossibleHeader) {
  const std::vector<std::uint8_t> good = {5, 0, 1, 0, 42, 0, 0, 0};
  for (const std::vector<std::uint8_t>& bad : {std::vector<std::uint8_t>{3, 0, 2, 0, 1, 1, 1, 1},
                                               {0, 0, 2, 0},
                                               {9, 0, 2, 0, 1, 1, 1, 1},
                                               {8, 0},
                                               {255, 255, 2, 0}}) {
    std::vector<std::uint8_t> bytes = good;
    bytes.insert(bytes.end(), bad.begin(), bad.end());
    bytes.shrink_to_fit();
    const auto attributes = Attributes::parse(bytes);
    EXPECT_EQ(attributes[1].u8(), 42);
    EXPECT_FALSE(attributes[2]);
    EXPECT_FALSE(for_each_attribute(bytes, [](std::uint16_t, const Attribute&) {}));
  }
  EXPECT_TRUE(for_each_attribute(good, [](std::uint16_t, const Attribute&) {}));
  // Without the padding at the end, as some senders leave it.
  EXPECT_TRUE(for_each_attribute(std::span(good).first(5), [](std::uint16_t, const Attribute&) {}));
}

TEST(Messages, StopAtAnImpossibleHeader) {
  Request request(7);
  std::vector<std::uint8_t> bytes = bytes_of(request.bytes());
  bytes.insert(bytes.end(), {17, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0});
  unsigned messages = 0;
  for_each_message(bytes, [&](const Message&) { ++messages; });
  EXPECT_EQ(messages, 1U);
}

TEST(Socket, IsCloseOnExec) {
  const Socket socket = open_generic();
  EXPECT_NE(::fcntl(socket.fd(), F_GETFD) & FD_CLOEXEC, 0);
}

TEST(Socket, MissingProtocolIsUnavailable) {
  const auto socket = Socket::open(31);
  ASSERT_FALSE(socket);
  EXPECT_EQ(socket.error().kind(), ErrorKind::kUnavailable);
}

TEST(Socket, MapsEachAnswerToItsRequest) {
  for (const bool each : {false, true}) {
    for (const std::size_t at_once : {std::size_t{1}, std::size_t{7}, std::size_t{5000}}) {
      Socket socket = open_generic({.max_messages = at_once, .acknowledge_each = each});
      std::vector<Request> requests;
      requests.reserve(1500);
      for (int i = 0; i < 1500; ++i) {
        requests.push_back(ask_family(i % 5 == 2 ? "nosuch" : "nlctrl"));
      }
      const auto statuses = socket.execute(requests);
      ASSERT_EQ(statuses.size(), requests.size());
      for (std::size_t i = 0; i < statuses.size(); ++i) {
        ASSERT_EQ(static_cast<bool>(statuses[i]), i % 5 != 2) << i;
        if (!statuses[i]) {
          EXPECT_EQ(statuses[i].error().errno_value(), ENOENT);
        }
      }
    }
  }
}

TEST(Socket, KeepsTheKernelsText) {
  // A family id nobody has, and attributes the controller's policy refuses with a text.
  Socket socket = open_generic();
  Request wrong = generic_request(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, 1);
  wrong.put_u8(CTRL_ATTR_FAMILY_ID, 1);
  const Status status = socket.execute_one(wrong);
  ASSERT_FALSE(status);
  EXPECT_THAT(status.error().text(), testing::HasSubstr("ttribute"));
  EXPECT_THAT(status.error().text(),
              testing::EndsWith("(" + errno_name(status.error().errno_value()) + ")"));
}

// The answers do not fit the receive buffer: what has no answer of its own is unknown, never a
// success, and the socket is whole again afterwards.
TEST(Socket, LostAnswersAreOverflow) {
  for (const std::string last : {"nosuch", "nlctrl"}) {
    Socket socket = open_generic();
    const int small = 1;  // the kernel's minimum
    ASSERT_EQ(::setsockopt(socket.fd(), SOL_SOCKET, SO_RCVBUF, &small, sizeof(small)), 0);
    std::vector<Request> requests(499, ask_family("nosuch"));
    requests.push_back(ask_family(last));
    const auto statuses = socket.execute(requests);
    unsigned answered = 0;
    unsigned unknown = 0;
    for (const Status& status : statuses) {
      ASSERT_FALSE(status);
      if (status.error().kind() == ErrorKind::kOverflow) {
        ++unknown;
      } else {
        EXPECT_EQ(status.error().errno_value(), ENOENT);
        ++answered;
      }
    }
    EXPECT_GT(answered, 0U);
    EXPECT_GT(unknown, 100U);
    EXPECT_TRUE(socket.execute_one(ask_family("nlctrl")));
    EXPECT_EQ(socket.execute_one(ask_family("nosuch")).error().errno_value(), ENOENT);
  }
}

TEST(Socket, IgnoresStaleAnswers) {
  Socket socket = open_generic();
  // As if an earlier batch had been given up: answers of other sequence numbers are waiting.
  std::vector<std::uint8_t> stale = bytes_of(ask_family("nosuch").bytes());
  const std::uint32_t sequence = 0xdeadbeef;
  std::memcpy(stale.data() + offsetof(nlmsghdr, nlmsg_seq), &sequence, sizeof(sequence));
  for (int i = 0; i < 10; ++i) {
    ASSERT_GT(::send(socket.fd(), stale.data(), stale.size(), 0), 0);
  }
  EXPECT_TRUE(socket.execute_one(ask_family("nlctrl")));
  ASSERT_GT(::send(socket.fd(), stale.data(), stale.size(), 0), 0);
  EXPECT_TRUE(resolve_family(socket, "nlctrl"));
}

TEST(Socket, SilenceEndsAtTheDeadline) {
  auto socket = Socket::open(NETLINK_FIB_LOOKUP,
                             {.deadline = std::chrono::milliseconds(20), .max_messages = 2});
  ASSERT_TRUE(socket) << socket.error().text();
  const std::vector<Request> requests(5, Request(16));
  const auto statuses = socket->execute(requests);
  ASSERT_EQ(statuses.size(), 5U);
  for (const Status& status : statuses) {
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().kind(), ErrorKind::kTimeout);
  }
  EXPECT_THAT(statuses[4].error().text(), testing::HasSubstr("not sent"));
  EXPECT_EQ(socket->get(requests[0], [](const Message&) {}).error().kind(), ErrorKind::kTimeout);
  EXPECT_EQ(socket->dump(requests[0], [](const Message&) {}).error().kind(), ErrorKind::kTimeout);
}

TEST(Socket, DumpsWholeAndAgainAfterAbandoning) {
  Socket socket = open_generic();
  const auto families = [&] {
    unsigned count = 0;
    const Status status = socket.dump(
        generic_request(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, 1),
        [&](const Message& message) {
          count += generic_attributes(message)[CTRL_ATTR_FAMILY_ID].u16() ? 1U : 0U;
        },
        [&] { count = 0; });
    EXPECT_TRUE(status) << status.error().text();
    return count;
  };
  const unsigned all = families();
  EXPECT_GE(all, 1U);
  // A dump that nobody read to its end: the kernel calls the socket busy.
  std::vector<std::uint8_t> abandoned =
      bytes_of(generic_request(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, 1, NLM_F_DUMP).bytes());
  ASSERT_GT(::send(socket.fd(), abandoned.data(), abandoned.size(), 0), 0);
  EXPECT_EQ(families(), all);
}

TEST(Socket, RefusedDumpTellsWhy) {
  Socket socket = open_generic();
  const Status status = socket.dump(Request(0x7777), [](const Message&) {});
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().errno_value(), ENOENT);
}

TEST(Generic, ResolvesFamilies) {
  Socket socket = open_generic();
  const auto control = resolve_family(socket, "nlctrl");
  ASSERT_TRUE(control) << control.error().text();
  EXPECT_EQ(*control, GENL_ID_CTRL);
  const auto none = resolve_family(socket, "nosuch");
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().kind(), ErrorKind::kUnavailable);
  EXPECT_EQ(none.error().text(),
            "find netlink family \"nosuch\": the kernel has none of that name");
}

TEST(Socket, JoinsGroupsAndReadsWithoutWaiting) {
  auto socket = Socket::open(NETLINK_ROUTE);
  ASSERT_TRUE(socket);
  EXPECT_TRUE(socket->join(RTNLGRP_LINK));
  EXPECT_TRUE(socket->receive_pending([](const Message&) {}));
  EXPECT_FALSE(socket->join(100000));
}

TEST(SocketDiag, NoSuchNamespace) {
  const auto gone = make_socket_diag_in("/nosuch/netns");
  ASSERT_FALSE(gone);
  EXPECT_EQ(gone.error().kind(), ErrorKind::kNotFound);
  EXPECT_EQ(gone.error().text(), "open /nosuch/netns: No such file or directory (ENOENT)");
  const auto no_namespace = make_socket_diag_in("/dev/null");
  ASSERT_FALSE(no_namespace);
  EXPECT_EQ(no_namespace.error().errno_value(), EINVAL) << no_namespace.error().text();
}

}  // namespace
}  // namespace fairlead::netlink
