// SPDX-License-Identifier: Apache-2.0
#include "dataplane/ebpf/timeouts.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>

namespace fairlead::dataplane::ebpf {
namespace {

// Kernel IPVS's, in seconds, in the order of the states.
constexpr std::array<std::uint32_t, bpf::FL_TCP_STATES> kTcp = {2,  900, 120, 60,  120, 120,
                                                                10, 60,  30,  120, 120};
constexpr std::array<std::uint32_t, bpf::FL_SCTP_STATES> kSctp = {2,  4,   61, 61, 61, 61, 61,
                                                                  61, 900, 61, 61, 61, 4,  61};
constexpr std::uint32_t kUdp = 300;

constexpr std::array kEndedTcp = {bpf::FL_TCP_TIME_WAIT, bpf::FL_TCP_CLOSE, bpf::FL_TCP_LAST_ACK};

// Of the table's room.
constexpr double kRelaxed = 0.5, kFull = 0.9;
constexpr double kLeastShare = 1.0 / 60;
constexpr auto kLongestPause = std::chrono::seconds(5);
constexpr auto kShortestPause = std::chrono::milliseconds(250);

std::uint32_t in_ticks(std::uint32_t seconds) { return seconds * FL_TICKS_PER_SECOND; }

std::uint32_t shortened(std::uint32_t ticks, double share) {
  return std::max(std::min(ticks, FL_TICKS_PER_SECOND), static_cast<std::uint32_t>(ticks * share));
}

}  // namespace

void Patience::adapt(std::size_t flows, std::size_t capacity,
                     std::chrono::nanoseconds since_last_pass) {
  const double full =
      static_cast<double>(flows) / static_cast<double>(std::max<std::size_t>(capacity, 1));
  const double doublings = std::chrono::duration<double>(since_last_pass) / kLongestPause;
  share_ = std::min(std::clamp((kFull - full) / (kFull - kRelaxed), kLeastShare, 1.0),
                    share_ * std::exp2(doublings));
  const double pause = share_ < 1 ? 0 : 1 - full / kRelaxed;
  pause_ = std::max(kShortestPause, std::chrono::duration_cast<std::chrono::milliseconds>(
                                        std::chrono::milliseconds(kLongestPause) * pause));
}

void set_timeouts(bpf::fl_config& config, const Timeouts& wishes, double share_of_ended) {
  std::array<std::uint32_t, bpf::FL_TCP_STATES> tcp{};
  std::ranges::transform(kTcp, tcp.begin(), in_ticks);
  const auto wish = [](std::chrono::seconds seconds, std::uint32_t& place) {
    if (seconds.count() > 0) {
      place = in_ticks(static_cast<std::uint32_t>(seconds.count()));
    }
  };
  wish(wishes.tcp, tcp[bpf::FL_TCP_ESTABLISHED]);
  wish(wishes.tcpfin, tcp[bpf::FL_TCP_FIN_WAIT]);
  for (const bpf::fl_tcp_state state : kEndedTcp) {
    tcp.at(state) = shortened(tcp.at(state), share_of_ended);
  }
  std::array<std::uint32_t, bpf::FL_SCTP_STATES> sctp{};
  std::ranges::transform(kSctp, sctp.begin(), in_ticks);
  sctp[bpf::FL_SCTP_CLOSED] = shortened(sctp[bpf::FL_SCTP_CLOSED], share_of_ended);
  std::uint32_t udp = in_ticks(kUdp);
  wish(wishes.udp, udp);
  // Programs read them meanwhile: each is written once, with what it is to be.
  std::ranges::copy(tcp, config.tcp_timeout);
  std::ranges::copy(sctp, config.sctp_timeout);
  config.udp_timeout = udp;
}

}  // namespace fairlead::dataplane::ebpf
