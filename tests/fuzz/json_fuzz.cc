// SPDX-License-Identifier: Apache-2.0
// Any bytes from an API server or a file must end in values or errors, never in a crash, and what
// gets in must hold what the stages behind rely on. The first byte chooses the entry.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>
#include <variant>

#include "api/decode.h"

namespace {

using fairlead::api::Decoded;
using fairlead::api::DecodeError;
using fairlead::api::Decoder;

void require(bool holds) {
  if (!holds) {
    std::abort();
  }
}

void check(const fairlead::api::Meta& meta) {
  require(!meta.key.name.empty() && meta.key.name.size() <= 253);
  require(meta.key.text().find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789-./") ==
          std::string::npos);
}

void check(const fairlead::api::Service& service) {
  check(service.meta);
  require(service.headless || service.type == fairlead::api::ServiceType::kExternalName ||
          !service.ports.empty());
  require(service.cluster_ips.size() <= 2);
  for (const auto& port : service.ports) {
    require(number(port.port) != 0);
  }
}

void check(const fairlead::api::EndpointSlice& slice) {
  check(slice.meta);
  for (const auto& endpoint : slice.endpoints) {
    require(endpoint.address.family() == slice.family);
  }
  for (const auto& port : slice.ports) {
    require(number(port.port) != 0);
  }
}

void check(const DecodeError& error) {
  require(!error.problem.empty() && error.problem.size() < 1000);
  for (const char c : error.text()) {
    require(static_cast<unsigned char>(c) >= 0x20 && c != 0x7f);
  }
}

void on_object(const tl::expected<Decoded, DecodeError>& decoded) {
  if (!decoded) {
    check(decoded.error());
    return;
  }
  std::visit(
      [](const auto& object) {
        if constexpr (requires { check(object); }) {
          check(object);
        } else if constexpr (requires { object.meta; }) {
          check(object.meta);
        }
      },
      decoded->object);
}

}  // namespace

// NOLINTNEXTLINE(readability-identifier-naming): the name is libFuzzer's.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static Decoder decoder;  // as in the daemon: its buffers outlive the texts
  if (size == 0) {
    return 0;
  }
  const std::string_view json(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 3) {
    case 0:
      if (const auto result = decoder.decode(json, on_object); !result) {
        check(result.error());
      }
      break;
    case 1:
      if (const auto page = decoder.decode_list(json, on_object); !page) {
        check(page.error());
      }
      break;
    default:
      if (auto event = decoder.decode_watch_event(json); !event) {
        check(event.error());
      } else if (auto& decoded = event->decoded;
                 decoded && event->type != fairlead::api::WatchEvent::Type::kDeleted) {
        on_object(*decoded);
      }
      break;
  }
  return 0;
}
