// SPDX-License-Identifier: Apache-2.0
#include "net/address.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fairlead::net {
namespace {

struct TextCase {
  std::string input;
  std::string want;  // empty: refused
};

class AddressText : public testing::TestWithParam<TextCase> {};

TEST_P(AddressText, ParsesAndPrintsCanonically) {
  const auto address = IpAddress::parse(GetParam().input);
  if (GetParam().want.empty()) {
    EXPECT_FALSE(address.has_value()) << GetParam().input;
    return;
  }
  ASSERT_TRUE(address.has_value()) << GetParam().input;
  EXPECT_EQ(address->text(), GetParam().want);
  EXPECT_EQ(*IpAddress::parse(address->text()), *address);
}

INSTANTIATE_TEST_SUITE_P(All, AddressText,
                         testing::Values(TextCase{"10.0.0.1", "10.0.0.1"},
                                         TextCase{"2001:DB8:0:0:0:0:0:1", "2001:db8::1"},
                                         TextCase{"::", "::"}, TextCase{"::1", "::1"},
                                         TextCase{"::0102:0304", "::102:304"},
                                         TextCase{"2001:db8:0:1:0:0:0:1", "2001:db8:0:1::1"},
                                         TextCase{"2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"},
                                         TextCase{"1:0:0:2:0:0:0:0", "1:0:0:2::"},
                                         TextCase{"::ffff:192.0.2.1", "192.0.2.1"},
                                         TextCase{"", ""}, TextCase{"10.0.0", ""},
                                         TextCase{"10.0.0.256", ""}, TextCase{"10.0.0.1 ", ""},
                                         TextCase{"2001:db8::1%eth0", ""}));

TEST(IpAddress, TextWithANulIsRefused) {
  for (const std::string_view text :
       {std::string_view("10.0.0.1\0x", 10), std::string_view("::1\0", 4)}) {
    EXPECT_FALSE(IpAddress::parse(text));
  }
}

TEST(IpAddress, Classes) {
  EXPECT_TRUE(IpAddress::parse("127.1.2.3")->is_loopback());
  EXPECT_TRUE(IpAddress::parse("::1")->is_loopback());
  EXPECT_FALSE(IpAddress::parse("::2")->is_loopback());
  EXPECT_TRUE(IpAddress::parse("fe80::1")->is_link_local());
  EXPECT_TRUE(IpAddress::parse("169.254.1.1")->is_link_local());
  EXPECT_TRUE(IpAddress::parse("0.0.0.0")->is_unspecified());
  EXPECT_TRUE(IpAddress::parse("ff02::1")->is_multicast());
}

TEST(IpPrefix, Contains) {
  struct Case {
    std::string prefix;
    std::string address;
    bool want;
  };
  for (const Case& c : std::vector<Case>{{"10.0.0.0/8", "10.255.0.1", true},
                                         {"10.0.0.0/8", "11.0.0.1", false},
                                         {"10.0.0.1/8", "10.9.9.9", true},
                                         {"0.0.0.0/0", "203.0.113.9", true},
                                         {"0.0.0.0/0", "::1", false},
                                         {"192.0.2.128/25", "192.0.2.127", false},
                                         {"192.0.2.7/32", "192.0.2.7", true},
                                         {"2001:db8::/64", "2001:db8::ffff", true},
                                         {"2001:db8::/63", "2001:db8:0:1::1", true},
                                         {"2001:db8::/64", "2001:db8:0:1::1", false}}) {
    EXPECT_EQ(IpPrefix::parse(c.prefix)->contains(*IpAddress::parse(c.address)), c.want)
        << c.prefix << " " << c.address;
  }
  EXPECT_EQ(IpPrefix::parse(" 10.1.2.3/8 ")->text(), "10.0.0.0/8");
  for (const char* bad : {"10.0.0.0", "10.0.0.0/33", "10.0.0.0/", "x/8", "2001:db8::/129"}) {
    EXPECT_FALSE(IpPrefix::parse(bad)) << bad;
  }
}

TEST(SocketAddress, RoundTrips) {
  for (const char* good : {"10.0.0.1:80", "[2001:db8::1]:65535"}) {
    EXPECT_EQ(SocketAddress::parse(good)->text(), good);
  }
  for (const char* bad : {"10.0.0.1", "2001:db8::1:80", "[10.0.0.1]:80", "10.0.0.1:65536", ":80"}) {
    EXPECT_FALSE(SocketAddress::parse(bad)) << bad;
  }
}

TEST(Protocol, OnlyTheApisNames) {
  EXPECT_EQ(parse_protocol("TCP"), Protocol::kTcp);
  EXPECT_EQ(parse_protocol("SCTP"), Protocol::kSctp);
  EXPECT_EQ(parse_protocol("tcp"), std::nullopt);
}

}  // namespace
}  // namespace fairlead::net
