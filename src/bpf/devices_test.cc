// SPDX-License-Identifier: Apache-2.0
#include "bpf/devices.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <net/if_arp.h>

namespace fairlead::bpf {
namespace {

using netlink::InterfaceIndex;
using netlink::Link;
using testing::ElementsAre;
using testing::IsEmpty;

const std::vector<Link> kLinks = {
    {InterfaceIndex{1}, "lo", "", ARPHRD_LOOPBACK, {}},
    {InterfaceIndex{2}, "eth0", "", ARPHRD_ETHER, {}},
    {InterfaceIndex{3}, "kube-ipvs0", "dummy", ARPHRD_ETHER, {}},
    {InterfaceIndex{4}, "cni0", "bridge", ARPHRD_ETHER, {}},
    {InterfaceIndex{5}, "veth1", "veth", ARPHRD_ETHER, InterfaceIndex{4}},
    {InterfaceIndex{6}, "veth2", "veth", ARPHRD_ETHER, {}},
    {InterfaceIndex{7}, "wg0", "wireguard", ARPHRD_NONE, {}},
    {InterfaceIndex{8}, "docker0", "bridge", ARPHRD_ETHER, {}},
};

std::vector<netlink::InterfaceAddress> addresses() {
  const auto at = [](std::uint32_t interface, const char* text) {
    return netlink::InterfaceAddress{InterfaceIndex{interface}, *net::IpAddress::parse(text)};
  };
  return {at(1, "127.0.0.1"), at(2, "192.0.2.1"),    at(2, "fe80::1"), at(2, "2001:db8::1"),
          at(3, "10.96.0.1"), at(4, "198.51.100.1"), at(6, "fe80::2")};
}

std::vector<std::string> names(const DeviceChoice& choice) {
  std::vector<std::string> out;
  for (const Device& device : choose_devices(kLinks, addresses(), choice)) {
    out.push_back(device.name);
  }
  return out;
}

TEST(ChooseDevices, PortsAndNotTheirMasters) {
  EXPECT_THAT(names({}), ElementsAre("eth0", "veth1", "veth2", "wg0", "docker0"));
}

TEST(ChooseDevices, Patterns) {
  EXPECT_THAT(names({.patterns = {"veth*"}, .pod_prefix = {}, .pod_bridge = {}}),
              ElementsAre("veth1", "veth2"));
  EXPECT_THAT(names({.patterns = {"none"}, .pod_prefix = {}, .pod_bridge = {}}), IsEmpty());
  EXPECT_THAT(names({.patterns = {"!veth*", "!wg0"}, .pod_prefix = {}, .pod_bridge = {}}),
              ElementsAre("eth0", "docker0"));
  EXPECT_THAT(names({.patterns = {"veth*", "!veth2"}, .pod_prefix = {}, .pod_bridge = {}}),
              ElementsAre("veth1"));
  EXPECT_TRUE(matches("a*b*c", "axxbyc"));
  EXPECT_FALSE(matches("a*b*c", "axxbyd"));
  EXPECT_TRUE(matches("*", ""));
}

TEST(ChooseDevices, ClientsHideBehindTheDevicesOwnAddressFirst) {
  const auto devices = choose_devices(kLinks, addresses(), {});
  const auto hide = [&](std::size_t at) {
    return devices[at].hide4->text() + " " + devices[at].hide6->text();
  };
  EXPECT_EQ(hide(0), "192.0.2.1 2001:db8::1");
  EXPECT_EQ(hide(1), "198.51.100.1 2001:db8::1");  // the bridge's
  EXPECT_EQ(hide(2), "192.0.2.1 2001:db8::1");     // the node's: a link-local one does not do
  EXPECT_FALSE(devices[3].is_ethernet);
}

TEST(ChooseDevices, AddressesOfLoopbackHideClientsOnlyIfThereAreNoOthers) {
  const auto hide_of_wg0 = [](std::vector<netlink::InterfaceAddress> all) {
    for (const Device& device : choose_devices(kLinks, all, {})) {
      if (device.name == "wg0") {
        return device.hide4 ? device.hide4->text() : "none";
      }
    }
    return std::string("no wg0");
  };
  const auto on = [](std::uint32_t interface, const char* text) {
    return netlink::InterfaceAddress{InterfaceIndex{interface}, *net::IpAddress::parse(text)};
  };
  EXPECT_EQ(hide_of_wg0({on(1, "203.0.113.1"), on(2, "192.0.2.1")}), "192.0.2.1");
  EXPECT_EQ(hide_of_wg0({on(1, "203.0.113.1")}), "203.0.113.1");
  EXPECT_EQ(hide_of_wg0({on(1, "127.0.0.1"), on(3, "10.96.0.1")}), "none");
}

TEST(ChooseDevices, PodsByPrefixOrBridge) {
  const auto with_pods = [&](const DeviceChoice& choice) {
    std::vector<std::string> out;
    for (const Device& device : choose_devices(kLinks, addresses(), choice)) {
      if (device.has_pods) {
        out.push_back(device.name);
      }
    }
    return out;
  };
  EXPECT_THAT(with_pods({.patterns = {}, .pod_prefix = "veth", .pod_bridge = {}}),
              ElementsAre("veth1", "veth2"));
  EXPECT_THAT(with_pods({.patterns = {}, .pod_prefix = {}, .pod_bridge = "cni0"}),
              ElementsAre("veth1"));
}

}  // namespace
}  // namespace fairlead::bpf
