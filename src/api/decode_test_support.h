// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "api/decode.h"

namespace fairlead::api {

/// Everything that a text gives: per object its kind and name, or the error.
inline std::vector<std::string> outcomes(std::string_view json) {
  Decoder decoder;
  std::vector<std::string> texts;
  const auto result = decoder.decode(json, [&](tl::expected<Decoded, DecodeError> decoded) {
    if (!decoded) {
      texts.push_back(decoded.error().text());
    } else if (const auto* other = std::get_if<Unsupported>(&decoded->object)) {
      texts.push_back("unsupported " + other->api_version + " " + other->kind);
    } else {
      texts.push_back(std::visit(
          [](const auto& object) -> std::string {
            if constexpr (requires { object.meta; }) {
              return object.meta.key.text();
            }
            return "";
          },
          decoded->object));
    }
  });
  if (!result) {
    texts.push_back("whole: " + result.error().text());
  }
  return texts;
}

/// The one object of the text; a default one and a test failure otherwise.
template <typename T>
T decode_one(std::string_view json) {
  Decoder decoder;
  T object;
  int count = 0;
  const auto result = decoder.decode(json, [&](tl::expected<Decoded, DecodeError> decoded) {
    ++count;
    if (!decoded) {
      ADD_FAILURE() << decoded.error().text();
    } else if (auto* got = std::get_if<T>(&decoded->object)) {
      object = std::move(*got);
    } else {
      ADD_FAILURE() << "another kind";
    }
  });
  EXPECT_TRUE(result.has_value());
  EXPECT_EQ(count, 1);
  return object;
}

/// A Service `shop/web` with the members `spec` and, if any, `rest` behind it.
inline std::string service_json(std::string_view spec, std::string_view rest = "") {
  return R"({"apiVersion":"v1","kind":"Service","metadata":{"namespace":"shop","name":"web"},"spec":)" +
         std::string(spec) + std::string(rest) + "}";
}
/// An EndpointSlice `shop/web-1` of service `web`.
inline std::string slice_json(std::string_view members,
                              std::string_view version = "discovery.k8s.io/v1") {
  return R"({"kind":"EndpointSlice","apiVersion":")" + std::string(version) +
         R"(","metadata":{"namespace":"shop","name":"web-1","labels":{"kubernetes.io/service-name":"web"}},)" +
         std::string(members) + "}";
}
inline std::string pod_json(std::string_view spec, std::string_view rest = "") {
  return R"({"apiVersion":"v1","kind":"Pod","metadata":{"namespace":"shop","name":"web-0"},"spec":)" +
         std::string(spec) + std::string(rest) + "}";
}

inline net::IpAddress ip(std::string_view text) { return net::IpAddress::parse(text).value(); }
inline net::IpPrefix prefix(std::string_view text) { return net::IpPrefix::parse(text).value(); }

}  // namespace fairlead::api
