// SPDX-License-Identifier: Apache-2.0
// Time to program and read kernel IPVS, beside `ipvsadm -R` of the same table, in one run. Root in
// a guest or machine with ip_vs; works in a network namespace of its own.
//   fairlead_ipvs_kernel_bench SERVERS REAL_SERVERS [ROUNDS [MESSAGES_PER_SEND...]]
// A number of messages per send beginning with "a" asks for an acknowledgement of each.
// One JSON object per line: what, milliseconds (best and median of the rounds).
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <memory>
#include <net/if.h>
#include <sched.h>
#include <string>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <thread>
#include <vector>

#include "base/unique_fd.h"
#include "ipvs/netlink_client.h"

namespace fairlead::ipvs {
namespace {

using Clock = std::chrono::steady_clock;

[[noreturn]] void die(const std::string& why) {
  static_cast<void>(std::fprintf(stderr, "%s\n", why.c_str()));
  std::exit(1);
}

net::IpAddress address(unsigned second_octet, unsigned n) {
  const std::array<std::uint8_t, 4> bytes = {198, static_cast<std::uint8_t>(second_octet),
                                             static_cast<std::uint8_t>(n / 250),
                                             static_cast<std::uint8_t>(1 + (n % 250))};
  return net::IpAddress::from_bytes(bytes);
}

std::vector<Op> table(unsigned servers, unsigned real_servers) {
  std::vector<Op> ops;
  for (unsigned s = 0; s < servers; ++s) {
    VirtualServer server;
    server.id.address = address(18, s);
    server.id.port = net::Port{80};
    ops.emplace_back(AddVirtualServer{server});
    for (unsigned r = 0; r < real_servers; ++r) {
      RealServer real;
      real.address = address(19, (s * real_servers + r) % 60000);
      real.port = net::Port{8080};
      ops.emplace_back(AddRealServer{server.id, real});
    }
  }
  return ops;
}

void write_rules(const std::string& path, const std::vector<Op>& ops) {
  std::ofstream out(path);
  for (const Op& op : ops) {
    if (const auto* add = std::get_if<AddVirtualServer>(&op)) {
      out << "-A -t " << net::SocketAddress{add->server.id.address, add->server.id.port}.text()
          << " -s rr\n";
    } else if (const auto* real = std::get_if<AddRealServer>(&op)) {
      out << "-a -t " << net::SocketAddress{real->id.address, real->id.port}.text() << " -r "
          << real->server.socket().text() << " -m -w 1\n";
    }
  }
}

void run_command(const std::string& command) {
  // The bench runs commands of its own making only.
  if (std::system(command.c_str()) != 0) {
    die("failed: " + command);
  }
}

void program(Client& client, const std::vector<Op>& ops) {
  for (const Status& status : client.apply(ops)) {
    if (!status) {
      die(status.error().text());
    }
  }
}

void report(const std::string& what, std::vector<double> milliseconds) {
  std::ranges::sort(milliseconds);
  std::printf("{\"what\": \"%s\", \"best_ms\": %.1f, \"median_ms\": %.1f}\n", what.c_str(),
              milliseconds.front(), milliseconds[milliseconds.size() / 2]);
  static_cast<void>(std::fflush(stdout));
}

double time_of(const std::function<void()>& work) {
  const auto begin = Clock::now();
  work();
  return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
}

void enter_new_network() {
  if (::unshare(CLONE_NEWNET) != 0) {
    die(std::string("new network namespace: ") + std::strerror(errno));
  }
  const UniqueFd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request{};
  std::strncpy(request.ifr_name, "lo", IFNAMSIZ - 1);
  request.ifr_flags = IFF_UP;
  if (::ioctl(fd.get(), SIOCSIFFLAGS, &request) != 0) {
    die(std::string("lo up: ") + std::strerror(errno));
  }
}

std::unique_ptr<NetlinkClient> open(netlink::SocketOptions options = {}) {
  auto client = NetlinkClient::open(options);
  if (!client) {
    die(client.error().text());
  }
  return std::move(*client);
}

// An empty table.
void start_afresh() {
  enter_new_network();
  // The kernel takes the old one down later; not on the next measurement's time.
  std::this_thread::sleep_for(std::chrono::seconds(2));
}

int run(int argc, char** argv) {
  if (argc < 3) {
    die("usage: fairlead_ipvs_kernel_bench SERVERS REAL_SERVERS [ROUNDS [MESSAGES_PER_SEND...]]");
  }
  const auto servers = static_cast<unsigned>(std::strtoul(argv[1], nullptr, 10));
  const auto real_servers = static_cast<unsigned>(std::strtoul(argv[2], nullptr, 10));
  const unsigned long rounds = argc > 3 ? std::strtoul(argv[3], nullptr, 10) : 3;
  enter_new_network();
  const std::vector<Op> ops = table(servers, real_servers);
  const std::string rules = "/tmp/fairlead-ipvs-bench." + std::to_string(::getpid());
  write_rules(rules, ops);
  open();  // loads the module

  std::vector<double> ipvsadm;
  std::vector<double> ours;
  std::vector<double> dump;
  for (unsigned long round = 0; round < rounds; ++round) {
    start_afresh();
    ipvsadm.push_back(time_of([&] { run_command("ipvsadm -R < " + rules); }));
    start_afresh();
    const auto client = open();
    ours.push_back(time_of([&] { program(*client, ops); }));
    dump.push_back(time_of([&] {
      const auto all = client->dump();
      if (!all || all->size() != servers) {
        die("dump is not whole");
      }
    }));
  }
  report("ipvsadm -R", ipvsadm);
  report("apply", ours);
  report("dump", dump);
  {
    const auto client = open();
    report("dump by netlink alone", {time_of([&] {
             const auto all = client->dump_exactly();
             if (!all || all->size() != servers) {
               die("dump is not whole");
             }
           })});
    constexpr std::size_t kTimes = 200;
    std::vector<double> one;
    one.reserve(kTimes);
    const Op op = SetRealServer{std::get<AddRealServer>(ops.at(1)).id,
                                std::get<AddRealServer>(ops.at(1)).server};
    for (std::size_t i = 0; i < kTimes; ++i) {
      one.push_back(time_of([&] { program(*client, {op}); }));
    }
    report("one op", one);
  }
  for (int i = 4; i < argc; ++i) {
    const bool each = argv[i][0] == 'a';
    const auto at_once = std::strtoul(argv[i] + (each ? 1 : 0), nullptr, 10);
    std::vector<double> times;
    times.reserve(rounds);
    for (unsigned long round = 0; round < rounds; ++round) {
      start_afresh();
      const auto client = open({.max_messages = at_once, .acknowledge_each = each});
      times.push_back(time_of([&] { program(*client, ops); }));
    }
    report("apply, " + std::to_string(at_once) + " per send" + (each ? ", each acknowledged" : ""),
           times);
  }
  static_cast<void>(std::remove(rules.c_str()));
  return 0;
}

}  // namespace
}  // namespace fairlead::ipvs

int main(int argc, char** argv) { return fairlead::ipvs::run(argc, argv); }
