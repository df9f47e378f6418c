// SPDX-License-Identifier: Apache-2.0
#include "bpf/abi.h"

#include <gtest/gtest.h>

namespace fairlead::bpf {
namespace {

TEST(Abi, AddressesGoThereAndBack) {
  for (const char* text : {"0.0.0.0", "192.0.2.1", "255.255.255.255", "::", "2001:db8::1"}) {
    const net::IpAddress address = *net::IpAddress::parse(text);
    EXPECT_EQ(to_address(to_abi(address)), address) << text;
  }
  EXPECT_EQ(to_port(to_abi(net::Port{8080})), net::Port{8080});
}

TEST(Abi, PrefixesCountFromTheSixteenBytes) {
  EXPECT_EQ(to_abi(*net::IpPrefix::parse("198.51.100.0/24")).length, 120U);
  EXPECT_EQ(to_abi(*net::IpPrefix::parse("2001:db8::/32")).length, 32U);
}

TEST(Abi, FilterBitsAreInTheBitmap) {
  for (const char* text : {"0.0.0.0", "192.0.2.1", "2001:db8::1", "ffff::ffff"}) {
    EXPECT_LT(filter_bit(to_abi(*net::IpAddress::parse(text))), 65536U) << text;
  }
}

}  // namespace
}  // namespace fairlead::bpf
