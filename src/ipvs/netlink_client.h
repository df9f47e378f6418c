// SPDX-License-Identifier: Apache-2.0
// The client of client.h over generic netlink.
//
// Adding costs about 10 us per real server, but not after many were deleted: for two minutes the
// kernel keeps them in a list (per network namespace), and each addition walks all of it to revive
// the same one. 10,000 x 10 added after as many were deleted took 187 s instead of 1.2 s. Change
// what is there rather than delete and add it again.
//
// dump() takes the virtual servers from one GET_SERVICE dump, since only netlink tells scheduler
// flags, persistence and masks exactly, and the real servers of all of them from one reading of
// /proc/net/ip_vs: by netlink it would be one dump, several system calls, per virtual server. What
// the text has: address, port, method, weight, active and inactive connections, in the kernel's
// order, IPv6 in brackets. What it lacks:
//   - thresholds: 0 in what dump() gives; dump_exactly() and get() tell them;
//   - the family of a virtual server by firewall mark: its real servers come by netlink;
//   - protocols other than TCP, UDP, SCTP print as other words; both sources skip them.
// Where several network namespaces have tables, /proc loses entries even without any change: going
// on at "the n-th" it counts those of all namespaces (seen on 6.1: 5547 lines of 11003).
// Under concurrent change both sources may skip or repeat a virtual server: each read goes on at
// "the n-th", and the n-th moves when an earlier one comes or goes. One virtual server and its real
// servers print as one record, so these belong together. Hence dump() compares the two lists of
// virtual servers; if one has what the other lacks, somebody else changed the table meanwhile and
// both are read again, a few times. What /proc still lacks then is asked one by one. A change of
// real servers alone during the reading shows or does not, as with any reader.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/unique_fd.h"
#include "ipvs/client.h"
#include "netlink/socket.h"

namespace fairlead::ipvs {

class NetlinkClient final : public Client {
 public:
  [[nodiscard]] static Result<std::unique_ptr<NetlinkClient>> open(
      netlink::SocketOptions options = {});

  [[nodiscard]] Result<Info> info() override;
  [[nodiscard]] Result<Timeouts> timeouts() override;
  [[nodiscard]] Status set_timeouts(const Timeouts& timeouts) override;
  [[nodiscard]] Result<std::vector<ObservedVirtualServer>> dump() override;
  [[nodiscard]] Result<std::vector<ObservedVirtualServer>> dump_exactly()
      override;  // netlink alone
  [[nodiscard]] Result<std::optional<ObservedVirtualServer>> get(const ServiceId& id) override;
  [[nodiscard]] std::vector<Status> apply(std::span<const Op> ops) override;

 private:
  using RealServers = std::unordered_map<ServiceId, std::vector<ObservedRealServer>>;

  NetlinkClient(netlink::Socket socket, std::uint16_t family, UniqueFd proc);
  [[nodiscard]] Result<std::vector<ObservedVirtualServer>> virtual_servers();
  [[nodiscard]] Result<std::vector<ObservedRealServer>> real_servers(const ServiceId& id);
  [[nodiscard]] std::optional<RealServers> real_servers_from_proc();

  netlink::Socket socket_;
  std::uint16_t family_;
  UniqueFd proc_;  // kept open: it belongs to the same network namespace as the socket
};

}  // namespace fairlead::ipvs
