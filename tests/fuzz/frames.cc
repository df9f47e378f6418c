// SPDX-License-Identifier: Apache-2.0
#include "frames.h"

#include <linux/if_ether.h>
#include <netinet/in.h>

#include "packets.h"

namespace fairlead::frames {
namespace {

using Bytes = std::span<const std::uint8_t>;

std::uint16_t get16(Bytes in, std::size_t at) {
  return static_cast<std::uint16_t>(in[at] << 8U | in[at + 1]);
}

std::uint32_t pseudo_sum(const Look& look) {
  std::uint32_t sum = look.protocol + static_cast<std::uint32_t>(look.end - look.l4);
  for (const Bytes address : {look.source, look.destination}) {
    for (std::size_t i = 0; i < address.size(); i += 2) {
      sum += get16(address, i);
    }
  }
  return sum;
}

Sum right_if(bool holds) { return holds ? Sum::kRight : Sum::kWrong; }

/// `partial`: the field holds the pseudo header's sum.
Sum internet(const Look& look, Bytes transport, std::size_t field, bool partial, bool has_pseudo) {
  const std::uint32_t pseudo = has_pseudo ? pseudo_sum(look) : 0;
  if (partial) {
    return right_if(get16(transport, field) ==
                    static_cast<std::uint16_t>(~packets::internet_checksum({}, pseudo)));
  }
  return right_if(packets::internet_checksum(transport, pseudo) == 0);
}

Sum crc(Bytes transport) {
  packets::Bytes copy(transport.begin(), transport.end());
  std::fill_n(copy.begin() + 8, 4, std::uint8_t{0});
  std::uint32_t want = packets::crc32c(copy);
  bool same = true;
  for (std::size_t i = 8; i < 12; ++i, want >>= 8U) {
    same = same && transport[i] == (want & 0xffU);
  }
  return right_if(same);
}

void look_at_transport(Look& look, Bytes transport, bool partial) {
  switch (look.protocol) {
    case IPPROTO_TCP:
      if (transport.size() >= 20) {
        look.transport = internet(look, transport, 16, partial, true);
      }
      break;
    case IPPROTO_UDP:
      if (transport.size() >= 8) {
        look.transport =
            get16(transport, 6) == 0 ? Sum::kNone : internet(look, transport, 6, partial, true);
      }
      break;
    case IPPROTO_SCTP:
      if (transport.size() >= 16) {
        look.transport = crc(transport);
      }
      break;
    case IPPROTO_ICMP:
    case IPPROTO_ICMPV6:
      if (transport.size() >= 8 && look.v6 == (look.protocol == IPPROTO_ICMPV6)) {
        look.transport = internet(look, transport, 2, partial, look.v6);
      }
      break;
    default:
      break;
  }
}

bool look_at_ip4(Look& look, Bytes frame) {
  const std::size_t l3 = look.l3;
  if (frame.size() < l3 + 20 || frame[l3] >> 4U != 4) {
    return false;
  }
  const std::size_t header = std::size_t{frame[l3] & 0xfU} * 4;
  look.l4 = l3 + header;
  look.end = l3 + get16(frame, l3 + 2);
  if (header < 20 || look.end < look.l4 || frame.size() < look.end) {
    return false;
  }
  look.source = frame.subspan(l3 + 12, 4);
  look.destination = frame.subspan(l3 + 16, 4);
  look.protocol = frame[l3 + 9];
  look.is_fragment = (get16(frame, l3 + 6) & 0x3fffU) != 0;
  look.is_later_fragment = (get16(frame, l3 + 6) & 0x1fffU) != 0;
  look.network = right_if(packets::internet_checksum(frame.subspan(l3, header)) == 0);
  return true;
}

bool look_at_ip6(Look& look, Bytes frame) {
  const std::size_t l3 = look.l3;
  if (frame.size() < l3 + 40 || frame[l3] >> 4U != 6) {
    return false;
  }
  look.v6 = true;
  look.l4 = l3 + 40;
  look.end = look.l4 + get16(frame, l3 + 4);
  look.source = frame.subspan(l3 + 8, 16);
  look.destination = frame.subspan(l3 + 24, 16);
  look.protocol = frame[l3 + 6];
  if (frame.size() < look.end) {
    return false;
  }
  while (look.protocol == IPPROTO_HOPOPTS || look.protocol == IPPROTO_DSTOPTS ||
         look.protocol == IPPROTO_FRAGMENT) {
    if (look.end < look.l4 + 8) {
      return false;
    }
    const bool fragment = look.protocol == IPPROTO_FRAGMENT;
    if (fragment && (get16(frame, look.l4 + 2) & 0xfff9U) != 0) {
      look.is_fragment = true;
      look.is_later_fragment = (get16(frame, look.l4 + 2) & 0xfff8U) != 0;
    }
    look.protocol = frame[look.l4];
    look.l4 += fragment ? 8 : 8 + std::size_t{frame[look.l4 + 1]} * 8;
    if (look.is_later_fragment) {
      break;
    }
  }
  return look.l4 <= look.end;
}

/// Perhaps behind the packet's end, as the programs read it: such a packet is for the stack to
/// judge.
std::uint8_t event_of(const Look& look, Bytes frame) {
  if (look.protocol == IPPROTO_TCP && frame.size() >= look.l4 + 20) {
    return frame[look.l4 + 13];
  }
  if (look.protocol == IPPROTO_SCTP && frame.size() >= look.l4 + 16) {
    return frame[look.l4 + 12];
  }
  return 0;
}

}  // namespace

std::optional<Look> look(std::span<const std::uint8_t> frame, std::size_t l3,
                         std::uint16_t protocol, bool partial) {
  Look look;
  look.l3 = l3;
  const bool known = protocol == ETH_P_IP     ? look_at_ip4(look, frame)
                     : protocol == ETH_P_IPV6 ? look_at_ip6(look, frame)
                                              : false;
  if (!known) {
    return std::nullopt;
  }
  if (!look.is_later_fragment) {
    look.event = event_of(look, frame);
  }
  if (!look.is_fragment) {
    look_at_transport(look, frame.subspan(look.l4, look.end - look.l4), partial);
  }
  return look;
}

}  // namespace fairlead::frames
