// SPDX-License-Identifier: Apache-2.0
// What a service asks for by annotation. Read are
//
//   fairlead.io/scheduler        rr wrr lc wlc lblc lblcr dh sh mh sed nq fo ovf twos
//   fairlead.io/scheduler-flags  comma list of sh-port sh-fallback (scheduler sh), mh-port
//                                mh-fallback (mh), flag-1 flag-2 flag-3 (any); empty: none
//   fairlead.io/weights          comma list of WHO=WEIGHT, WEIGHT from 0 to 65535, WHO an
//   endpoint's
//                                address, a CIDR, or the name of a node (all endpoints there). An
//                                address beats a CIDR, a longer CIDR a shorter, any CIDR a node's
//                                name; endpoints that no entry names have weight 1.
//   fairlead.io/drain-timeout    Go duration (30s, 1m30s, 0): how long removed endpoints may keep
//                                their connections; rounded up to seconds; at most 30 days
//   fairlead.io/forwarding       nat, fullnat, direct, ipip, gue:PORT, gre: how packets get to the
//                                endpoints (node ports: always by NAT). All but nat and fullnat
//                                leave the port as it is, so port and targetPort must be equal.
//   fairlead.io/one-packet       true or false: schedule each packet by itself (UDP ports only)
//   fairlead.io/connection-thresholds
//                                UPPER or UPPER:LOWER, how many connections each endpoint may have
//                                by each of the service's addresses: at UPPER it gets no new ones
//                                until it has fewer than LOWER (without: than 3/4 of UPPER); 0:
//                                none
//   fairlead.io/affinity-prefix  IPV4 or IPV4,IPV6, lengths from 1 to 32 and to 128: with session
//                                affinity, clients that share so many leading bits of their
//                                addresses are one client
//   fairlead.io/firewall-mark    a number: packets with this mark go to the service's endpoints,
//   too,
//                                whatever address, port and protocol they are for
//   kube-router.io/service.scheduler, kube-router.io/service.schedflags
//                                as the first two, where those are absent
//
// A value that we do not understand is a Problem; the default is used in its place.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "api/objects.h"
#include "base/result.h"
#include "model/types.h"
#include "net/address.h"

namespace fairlead::model {

/// A scheduler by its kernel name, with the flags it has by default (mh: port). Also for
/// `--ipvs-scheduler`. The text of the error lists the names there are.
[[nodiscard]] Result<Scheduler> parse_scheduler(std::string_view name);

/// Kernel bits of a comma list of flag names, checked against the scheduler.
[[nodiscard]] Result<std::uint32_t> parse_scheduler_flags(std::string_view flags,
                                                          std::string_view scheduler);
/// The names that ipvsadm prints: `sh-fallback,sh-port`, `flag-1`; empty without flags.
[[nodiscard]] std::string scheduler_flags_text(const Scheduler& scheduler);

/// `nat`, `fullnat`, `direct`, `ipip`, `gue:6080`, `gre`.
[[nodiscard]] Result<ForwardingMethod> parse_forwarding(std::string_view text);

/// `100`, `100:80`, `0`.
[[nodiscard]] Result<Thresholds> parse_thresholds(std::string_view text);

/// Lengths, by family.
struct AffinityPrefix {
  std::uint8_t ipv4 = 32;
  std::uint8_t ipv6 = 128;
  friend bool operator==(const AffinityPrefix&, const AffinityPrefix&) = default;
};
/// `24`, `24,64`.
[[nodiscard]] Result<AffinityPrefix> parse_affinity_prefix(std::string_view text);

class Weights {
 public:
  static constexpr std::uint32_t kMax = 65535;

  [[nodiscard]] static Result<Weights> parse(std::string_view text);
  [[nodiscard]] std::uint32_t of(const net::IpAddress& endpoint, std::string_view node_name) const;

 private:
  void add(const net::IpPrefix& prefix, std::uint32_t weight);

  std::vector<std::pair<net::IpPrefix, std::uint32_t>> by_prefix_;  // longest first, then as given
  std::vector<std::pair<std::string, std::uint32_t>> by_node_;
};

struct ServiceSettings {
  Scheduler scheduler;
  Weights weights;
  Thresholds thresholds;
  ForwardingMethod forwarding;
  AffinityPrefix affinity_prefix;
  std::uint32_t firewall_mark = 0;  // 0: none
  std::optional<std::chrono::seconds> drain_timeout;
  bool one_packet = false;
};

/// Appends what is wrong to `problems`.
[[nodiscard]] ServiceSettings read_annotations(const api::Service& service,
                                               const Scheduler& default_scheduler,
                                               std::vector<Problem>& problems);

}  // namespace fairlead::model
