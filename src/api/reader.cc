// SPDX-License-Identifier: Apache-2.0
#include "api/reader.h"

#include <algorithm>
#include <chrono>
#include <string>

#include "base/text.h"

namespace fairlead::api {
namespace {

/// The API accepts `010.1.2.3` for 10.1.2.3 in old objects; inet_pton does not.
std::string without_leading_zeros(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const bool starts_number = i == 0 || text[i - 1] == '.';
    if (starts_number) {
      while (i + 1 < text.size() && text[i] == '0' && text[i + 1] >= '0' && text[i + 1] <= '9') {
        ++i;
      }
    }
    out += text[i];
  }
  return out;
}

bool is_label_char(char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); }

/// The number in `count` digits at the front of `text`, which is shortened by them.
std::optional<int> take_digits(std::string_view& text, std::size_t count, int max) {
  if (text.size() < count) {
    return std::nullopt;
  }
  const auto number = parse_number(text.substr(0, count), static_cast<std::uint64_t>(max));
  text.remove_prefix(count);
  return number ? std::optional<int>(static_cast<int>(*number)) : std::nullopt;
}

bool take_char(std::string_view& text, std::string_view any_of) {
  if (text.empty() || any_of.find(text.front()) == std::string_view::npos) {
    return false;
  }
  text.remove_prefix(1);
  return true;
}

std::optional<std::int64_t> parse_rfc3339(std::string_view text) {
  const auto year = take_digits(text, 4, 9999);
  const bool dash1 = take_char(text, "-");
  const auto month = take_digits(text, 2, 12);
  const bool dash2 = take_char(text, "-");
  const auto day = take_digits(text, 2, 31);
  const bool t = take_char(text, "Tt");
  const auto hour = take_digits(text, 2, 23);
  const bool colon1 = take_char(text, ":");
  const auto minute = take_digits(text, 2, 59);
  const bool colon2 = take_char(text, ":");
  const auto second = take_digits(text, 2, 60);
  if (!year || !month || !day || !hour || !minute || !second || !dash1 || !dash2 || !t || !colon1 ||
      !colon2) {
    return std::nullopt;
  }
  if (take_char(text, ".")) {
    const std::size_t digits = std::min(text.find_first_not_of("0123456789"), text.size());
    if (digits == 0) {
      return std::nullopt;
    }
    text.remove_prefix(digits);
  }
  std::chrono::seconds offset{0};
  if (!take_char(text, "Zz")) {
    const bool negative = text.starts_with('-');
    if (!take_char(text, "+-")) {
      return std::nullopt;
    }
    const auto hours = take_digits(text, 2, 23);
    const bool colon = take_char(text, ":");
    const auto minutes = take_digits(text, 2, 59);
    if (!hours || !colon || !minutes) {
      return std::nullopt;
    }
    offset = std::chrono::hours(*hours) + std::chrono::minutes(*minutes);
    offset = negative ? -offset : offset;
  }
  const std::chrono::year_month_day date(std::chrono::year(*year),
                                         std::chrono::month(static_cast<unsigned>(*month)),
                                         std::chrono::day(static_cast<unsigned>(*day)));
  if (!text.empty() || !date.ok()) {
    return std::nullopt;
  }
  const std::chrono::seconds since_epoch =
      std::chrono::sys_days(date).time_since_epoch() + std::chrono::hours(*hour) +
      std::chrono::minutes(*minute) + std::chrono::seconds(*second) - offset;
  return since_epoch.count();
}

}  // namespace

std::string printable(std::string_view text, std::size_t longest) {
  std::string out;
  std::size_t end = std::min(text.size(), longest);
  // Not within a character of several bytes.
  while (end < text.size() && end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0U) == 0x80) {
    --end;
  }
  for (const char c : text.substr(0, end)) {
    out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
  }
  return out + (end < text.size() ? "..." : "");
}

std::string in_quotes(std::string_view text) { return '"' + printable(text, 64) + '"'; }

std::string describe(Element value) {
  using simdjson::dom::element_type;
  switch (value.type()) {
    case element_type::ARRAY:
      return "a list";
    case element_type::OBJECT:
      return "a mapping";
    case element_type::INT64:
      return std::to_string(value.get_int64().value_unsafe());
    case element_type::UINT64:
      return std::to_string(value.get_uint64().value_unsafe());
    case element_type::DOUBLE:
      return "a number with a fraction";
    case element_type::STRING:
      return in_quotes(value.get_string().value_unsafe());
    case element_type::BOOL:
      return value.get_bool().value_unsafe() ? "true" : "false";
    case element_type::NULL_VALUE:
      return "null";
  }
  return "?";
}

bool Reader::fail(std::string problem) {
  constexpr std::size_t kLongestKey = 320;  // longer than any label's
  failure_.field.clear();
  for (const Step& step : path_) {
    if (step.key.data() == nullptr) {
      failure_.field += "[" + std::to_string(step.index) + "]";
    } else if (step.key.empty() || step.key.find_first_of(".[] ") != std::string_view::npos) {
      failure_.field += "[" + printable(step.key, kLongestKey) + "]";
    } else {
      failure_.field += (failure_.field.empty() ? "" : ".") + printable(step.key, kLongestKey);
    }
  }
  failure_.problem = std::move(problem);
  return false;
}

bool Reader::wrong_type(std::string_view wanted, Element value) {
  return fail("must be " + std::string(wanted) + ", is " + describe(value));
}

bool Reader::read(Element value, std::string_view& out) {
  if (value.get(out) == simdjson::SUCCESS) {
    return true;
  }
  const bool lacks_quotes = value.is_bool() || value.is_number();
  return fail("must be a text, is " + describe(value) + (lacks_quotes ? ": put it in quotes" : ""));
}

bool Reader::read(Element value, std::string& out) {
  std::string_view text;
  if (!read(value, text)) {
    return false;
  }
  out = text;
  return true;
}

bool Reader::read(Element value, bool& out) {
  return value.get(out) == simdjson::SUCCESS || wrong_type("true or false", value);
}

bool Reader::read(Element value, std::int64_t min, std::int64_t max, std::int64_t& out) {
  std::int64_t number = 0;
  if (value.get(number) != simdjson::SUCCESS || number < min || number > max) {
    const std::string range = std::to_string(min) + " to " + std::to_string(max);
    return wrong_type("a number from " + range, value);
  }
  out = number;
  return true;
}

bool Reader::read_port(Element value, net::Port& out, bool zero_allowed) {
  std::int64_t number = 0;
  if (!read(value, zero_allowed ? 0 : 1, 65535, number)) {
    return false;
  }
  out = static_cast<net::Port>(number);
  return true;
}

bool Reader::read(Element value, net::Protocol& out) {
  static constexpr std::array<std::pair<std::string_view, net::Protocol>, 3> kProtocols = {
      {{"TCP", net::Protocol::kTcp}, {"UDP", net::Protocol::kUdp}, {"SCTP", net::Protocol::kSctp}}};
  return choose(value, kProtocols, out);
}

bool Reader::read(Element value, net::IpAddress& out) {
  std::string_view text;
  if (!read(value, text)) {
    return false;
  }
  if (text.find('\0') == std::string_view::npos) {
    auto address = net::IpAddress::parse(text);
    if (!address) {
      address = net::IpAddress::parse(without_leading_zeros(text));
    }
    if (address) {
      out = *address;
      return true;
    }
  }
  return fail("must be an IPv4 or IPv6 address, is " + in_quotes(text));
}

bool Reader::read(Element value, net::IpPrefix& out) {
  std::string_view text;
  if (!read(value, text)) {
    return false;
  }
  if (text.find('\0') == std::string_view::npos) {
    auto prefix = net::IpPrefix::parse(text);
    if (!prefix) {
      prefix = net::IpPrefix::parse(without_leading_zeros(trim(text)));
    }
    if (prefix) {
      out = *prefix;
      return true;
    }
  }
  return fail("must be an address range such as 192.0.2.0/24 or 2001:db8::/32, is " +
              in_quotes(text));
}

bool Reader::read_time(Element value, std::int64_t& out) {
  std::string_view text;
  if (!read(value, text)) {
    return false;
  }
  const auto seconds = parse_rfc3339(text);
  if (!seconds) {
    return fail("must be a time such as 2026-01-02T03:04:05Z, is " + in_quotes(text));
  }
  out = *seconds;
  return true;
}

bool is_dns_label(std::string_view text) {
  return !text.empty() && text.size() <= 63 && text.front() != '-' && text.back() != '-' &&
         std::ranges::all_of(text, [](char c) { return is_label_char(c) || c == '-'; });
}

bool is_dns_subdomain(std::string_view text) {
  if (text.empty() || text.size() > 253) {
    return false;
  }
  // Between dots the API limits no length.
  char before = '.';
  for (const char c : text) {
    const bool fits =
        is_label_char(c) || (c == '-' && before != '.') || (c == '.' && is_label_char(before));
    if (!fits) {
      return false;
    }
    before = c;
  }
  return is_label_char(before);
}

}  // namespace fairlead::api
