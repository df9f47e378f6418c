// SPDX-License-Identifier: Apache-2.0
#include "router.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <sched.h>
#include <stdexcept>
#include <string>

namespace fairlead::packets {
namespace {

void run(const std::string& command) {
  if (std::system(command.c_str()) != 0) {
    throw std::runtime_error("failed: " + command);
  }
}

}  // namespace

void become_router() {
  if (::unshare(CLONE_NEWNET) != 0) {
    throw std::runtime_error(std::string("no namespace of its own: ") + std::strerror(errno));
  }
  const std::string device = kServerDevice;
  run("ip link set lo up");
  run("ip link add " + device + " type veth peer name peer");
  run("ip link set " + device + " up && ip link set peer up");
  run("ip address add 198.51.100.254/24 dev " + device);
  run("ip address add 2001:db8:2::254/64 dev " + device + " nodad");
  run("ip link add clients type veth peer name peer2");
  run("ip link set clients up && ip link set peer2 up");
  run("ip address add 192.0.2.254/24 dev clients");
  run("ip address add 2001:db8:1::254/64 dev clients nodad");
  // The fast path is for known neighbours.
  for (const auto& [address, name] :
       {std::pair("198.51.100.1", kServerDevice), std::pair("2001:db8:2::1", kServerDevice),
        std::pair("192.0.2.10", kClientDevice), std::pair("2001:db8:1::10", kClientDevice)}) {
    run(std::string("ip neigh add ") + address + " lladdr " + kNeighbour + " nud permanent dev " +
        name);
  }
  run("echo 1 >/proc/sys/net/ipv4/conf/all/forwarding");
  run("echo 1 >/proc/sys/net/ipv6/conf/all/forwarding");
}

}  // namespace fairlead::packets
