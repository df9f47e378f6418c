// SPDX-License-Identifier: Apache-2.0
#include "kube/base64.h"

#include <cstdint>

namespace fairlead::kube {
namespace {

std::optional<std::uint32_t> digit(char c) {
  if (c >= 'A' && c <= 'Z') {
    return static_cast<std::uint32_t>(c - 'A');
  }
  if (c >= 'a' && c <= 'z') {
    return static_cast<std::uint32_t>(c - 'a') + 26U;
  }
  if (c >= '0' && c <= '9') {
    return static_cast<std::uint32_t>(c - '0') + 52U;
  }
  if (c == '+') {
    return 62U;
  }
  if (c == '/') {
    return 63U;
  }
  return std::nullopt;
}

}  // namespace

std::optional<std::string> decode_base64(std::string_view text) {
  std::string bytes;
  bytes.reserve(text.size() / 4 * 3);
  std::uint32_t bits = 0;
  unsigned digits = 0;
  unsigned padding = 0;
  for (const char c : text) {
    if (c == ' ' || c == '\t' || c == '\r' || c == '\n') {
      continue;
    }
    if (c == '=') {
      ++padding;
      continue;
    }
    const std::optional<std::uint32_t> value = digit(c);
    if (!value || padding > 0) {
      return std::nullopt;
    }
    bits = (bits << 6U) | *value;
    if (++digits == 4) {
      bytes += static_cast<char>((bits >> 16U) & 0xffU);
      bytes += static_cast<char>((bits >> 8U) & 0xffU);
      bytes += static_cast<char>(bits & 0xffU);
      bits = 0;
      digits = 0;
    }
  }
  if (digits == 1 || padding > 2 || (padding > 0 && digits + padding != 4)) {
    return std::nullopt;
  }
  if (digits == 2) {
    bytes += static_cast<char>((bits >> 4U) & 0xffU);
  } else if (digits == 3) {
    bytes += static_cast<char>((bits >> 10U) & 0xffU);
    bytes += static_cast<char>((bits >> 2U) & 0xffU);
  }
  return bytes;
}

}  // namespace fairlead::kube
