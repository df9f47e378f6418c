// SPDX-License-Identifier: Apache-2.0
// What the kernel might send us: messages, attributes, IPVS objects, and the text of
// /proc/net/ip_vs. The first byte chooses; the rest is the input.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <linux/genetlink.h>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "ipvs/codec.h"
#include "netlink/generic.h"
#include "netlink/socket.h"

namespace {

using fairlead::net::Family;

void require(bool holds) {
  if (!holds) {
    std::abort();
  }
}

bool lies_within(std::span<const std::uint8_t> inner, std::span<const std::uint8_t> outer) {
  return inner.empty() || (inner.data() >= outer.data() &&
                           inner.data() + inner.size() <= outer.data() + outer.size());
}

void read_attribute(const fairlead::netlink::Attribute& attribute) {
  require(attribute.u8().has_value() == (attribute && attribute.bytes().size() == 1));
  require(attribute.u16().has_value() == (attribute && attribute.bytes().size() == 2));
  require(attribute.be32().has_value() == (attribute && attribute.bytes().size() == 4));
  require(attribute.u64().has_value() == (attribute && attribute.bytes().size() == 8));
  require(attribute.string().has_value() == static_cast<bool>(attribute));
  require(attribute.string().value_or("").size() <= attribute.bytes().size());
}

// What was decoded must survive our own encoding.
void decode(const fairlead::netlink::Attributes& attributes) {
  static_cast<void>(fairlead::ipvs::decode_info(attributes));
  static_cast<void>(fairlead::ipvs::decode_timeouts(attributes));
  const auto attributes_of = [](const fairlead::netlink::Request& request) {
    std::optional<fairlead::netlink::Attributes> found;
    fairlead::netlink::for_each_message(request.bytes(), [&](const auto& message) {
      found = fairlead::netlink::generic_attributes(message);
    });
    require(found.has_value());
    return found.value_or(fairlead::netlink::Attributes{});
  };
  if (auto server = fairlead::ipvs::decode_virtual_server(attributes)) {
    const auto again = fairlead::ipvs::decode_virtual_server(
        attributes_of(fairlead::ipvs::encode(9, fairlead::ipvs::AddVirtualServer{*server})));
    server->scheduler.resize(std::min<std::size_t>(server->scheduler.size(), 64));
    require(again == server);
    static_cast<void>(server->id.text());
  }
  for (const Family family : {Family::kIpv4, Family::kIpv6}) {
    if (const auto real = fairlead::ipvs::decode_real_server(attributes, family)) {
      const auto again = fairlead::ipvs::decode_real_server(
          attributes_of(fairlead::ipvs::encode(9, fairlead::ipvs::AddRealServer{{}, real->server})),
          family);
      require(again && again->server == real->server);
    }
  }
}

void fuzz_messages(std::span<const std::uint8_t> input) {
  fairlead::netlink::for_each_message(input, [&](const fairlead::netlink::Message& message) {
    require(lies_within(message.payload, input));
    const auto bytes = message.attribute_bytes(sizeof(genlmsghdr));
    require(lies_within(bytes, input));
    fairlead::netlink::for_each_attribute(
        bytes, [&](std::uint16_t, const fairlead::netlink::Attribute& attribute) {
          require(lies_within(attribute.bytes(), input));
          read_attribute(attribute);
        });
    decode(fairlead::netlink::generic_attributes(message));
  });
}

// However the text is cut into pieces, the outcome is the same.
void fuzz_proc(std::span<const std::uint8_t> input) {
  const std::string_view text(reinterpret_cast<const char*>(input.data()), input.size());
  std::optional<std::size_t> expected;
  for (const std::size_t piece : {text.size() + 1, std::size_t{1}, std::size_t{13}}) {
    std::size_t seen = 0;
    fairlead::ipvs::ProcParser parser([&](fairlead::ipvs::ProcEntry&& entry) {
      seen += 1 + entry.real_servers.size();
      static_cast<void>(entry.id.text());
    });
    bool good = true;
    for (std::size_t at = 0; at < text.size() && good; at += piece) {
      good = parser.feed(text.substr(at, piece));
    }
    good = good && parser.finish();
    const std::size_t outcome = (2 * seen) + (good ? 1 : 0);
    require(!expected || *expected == outcome);
    expected = outcome;
  }
}

}  // namespace

// NOLINTNEXTLINE(readability-identifier-naming): libFuzzer's name
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) {
    return 0;
  }
  // A copy of its own size, so that reading past the end is seen.
  const std::vector<std::uint8_t> input(data + 1, data + size);
  switch (data[0] % 3) {
    case 0:
      fuzz_messages(input);
      break;
    case 1:
      decode(fairlead::netlink::Attributes::parse(input));
      break;
    default:
      fuzz_proc(input);
      break;
  }
  return 0;
}
