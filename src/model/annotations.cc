// SPDX-License-Identifier: Apache-2.0
#include "model/annotations.h"

#include <algorithm>
#include <array>

#include "base/duration.h"
#include "base/text.h"

namespace fairlead::model {
namespace {

constexpr std::uint32_t kSched1 = 0x8;
constexpr std::uint32_t kSched2 = 0x10;
constexpr std::uint32_t kSched3 = 0x20;
constexpr std::uint64_t kMaxThreshold = 0x7fffffff;  // the kernel's
constexpr std::chrono::seconds kMaxDrain = std::chrono::hours(24 * 30);

constexpr std::array<std::string_view, 14> kSchedulers = {
    "rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "mh", "sed", "nq", "fo", "ovf", "twos"};

struct FlagName {
  std::string_view name;
  std::string_view scheduler;  // empty: any
  std::uint32_t bit;
};
// The scheduler's own names come first: they are the ones to print.
constexpr std::array<FlagName, 7> kFlagNames = {{{"sh-fallback", "sh", kSched1},
                                                 {"sh-port", "sh", kSched2},
                                                 {"mh-fallback", "mh", kSched1},
                                                 {"mh-port", "mh", kSched2},
                                                 {"flag-1", "", kSched1},
                                                 {"flag-2", "", kSched2},
                                                 {"flag-3", "", kSched3}}};

std::string quoted(std::string_view text) { return "\"" + std::string(text) + "\""; }

const std::string* find(const api::Labels& annotations, const std::string& name) {
  const auto found = annotations.find(name);
  return found == annotations.end() ? nullptr : &found->second;
}

/// The annotation that is there, ours before kube-router's.
struct Found {
  std::string field;
  const std::string* value = nullptr;
};
Found first_of(const api::Labels& annotations, std::initializer_list<const char*> names) {
  for (const char* name : names) {
    if (const std::string* value = find(annotations, name)) {
      return {"metadata.annotations[" + std::string(name) + "]", value};
    }
  }
  return {};
}

}  // namespace

Result<Scheduler> parse_scheduler(std::string_view name) {
  if (std::ranges::find(kSchedulers, name) == kSchedulers.end()) {
    std::string known;
    for (const std::string_view scheduler : kSchedulers) {
      known += " " + std::string(scheduler);
    }
    return fail(ErrorKind::kInvalidInput, quoted(name) + " is not a scheduler; there are" + known);
  }
  return Scheduler{std::string(name), name == "mh" ? kSched2 : 0};
}

Result<std::uint32_t> parse_scheduler_flags(std::string_view flags, std::string_view scheduler) {
  std::uint32_t bits = 0;
  if (trim(flags).empty()) {
    return bits;
  }
  for (const std::string_view piece : split(flags, ',')) {
    const std::string_view name = trim(piece);
    const auto* const known = std::ranges::find(kFlagNames, name, &FlagName::name);
    if (known == kFlagNames.end()) {
      return fail(ErrorKind::kInvalidInput,
                  quoted(name) +
                      " is not a scheduler flag; there are sh-port, sh-fallback, "
                      "mh-port, mh-fallback, flag-1, flag-2, flag-3");
    }
    if (!known->scheduler.empty() && known->scheduler != scheduler) {
      return fail(ErrorKind::kInvalidInput, quoted(name) + " is a flag of scheduler " +
                                                std::string(known->scheduler) + ", not of " +
                                                std::string(scheduler));
    }
    bits |= known->bit;
  }
  return bits;
}

std::string scheduler_flags_text(const Scheduler& scheduler) {
  std::string out;
  std::uint32_t left = scheduler.flags;
  for (const FlagName& flag : kFlagNames) {
    if ((left & flag.bit) != 0 && (flag.scheduler.empty() || flag.scheduler == scheduler.name)) {
      out += (out.empty() ? "" : ",") + std::string(flag.name);
      left &= ~flag.bit;
    }
  }
  return out;
}

Result<ForwardingMethod> parse_forwarding(std::string_view text) {
  if (text == "nat") {
    return ForwardingMethod{};
  }
  if (text == "fullnat") {
    return ForwardingMethod{.forwarding = Forwarding::kFullNat};
  }
  if (text == "direct") {
    return ForwardingMethod{.forwarding = Forwarding::kDirectRouting};
  }
  if (text == "ipip" || text == "gre") {
    return ForwardingMethod{.forwarding = Forwarding::kTunnel,
                            .tunnel = text == "gre" ? TunnelType::kGre : TunnelType::kIpip};
  }
  if (constexpr std::string_view kGue = "gue:"; text.starts_with(kGue)) {
    if (const auto port = parse_number(text.substr(kGue.size()), 65535); port && *port > 0) {
      return ForwardingMethod{.forwarding = Forwarding::kTunnel,
                              .tunnel = TunnelType::kGue,
                              .tunnel_port = net::Port{static_cast<std::uint16_t>(*port)}};
    }
  }
  return fail(ErrorKind::kInvalidInput,
              quoted(text) +
                  " is not a forwarding method; there are nat, fullnat, direct, ipip, gre and "
                  "gue:PORT with a UDP port from 1 to 65535");
}

Result<Thresholds> parse_thresholds(std::string_view text) {
  const std::size_t colon = text.find(':');
  const auto upper = parse_number(trim(text.substr(0, colon)), kMaxThreshold);
  if (upper && colon == std::string_view::npos) {
    return Thresholds{static_cast<std::uint32_t>(*upper), 0};
  }
  const auto lower = colon == std::string_view::npos
                         ? std::nullopt
                         : parse_number(trim(text.substr(colon + 1)), kMaxThreshold);
  if (upper && lower && *lower > 0 && *lower <= *upper) {
    return Thresholds{static_cast<std::uint32_t>(*upper), static_cast<std::uint32_t>(*lower)};
  }
  return fail(ErrorKind::kInvalidInput,
              quoted(text) +
                  " is neither UPPER nor UPPER:LOWER with LOWER from 1 to UPPER and UPPER "
                  "up to 2147483647");
}

Result<AffinityPrefix> parse_affinity_prefix(std::string_view text) {
  const std::size_t comma = text.find(',');
  const auto ipv4 = parse_number(trim(text.substr(0, comma)), 32);
  const auto ipv6 = comma == std::string_view::npos
                        ? std::optional<std::uint64_t>(128)
                        : parse_number(trim(text.substr(comma + 1)), 128);
  if (ipv4.value_or(0) == 0 || ipv6.value_or(0) == 0) {
    return fail(
        ErrorKind::kInvalidInput,
        quoted(text) +
            " is neither IPV4 nor IPV4,IPV6, prefix lengths from 1 to 32 and from 1 to 128");
  }
  return AffinityPrefix{static_cast<std::uint8_t>(*ipv4), static_cast<std::uint8_t>(*ipv6)};
}

Result<Weights> Weights::parse(std::string_view text) {
  Weights weights;
  for (const std::string_view piece : split(text, ',')) {
    const std::string_view entry = trim(piece);
    if (entry.empty()) {
      continue;  // a trailing comma, or nothing at all
    }
    const std::size_t equals = entry.rfind('=');
    const auto who = trim(entry.substr(0, equals));
    const auto weight = equals == std::string_view::npos
                            ? std::nullopt
                            : parse_number(trim(entry.substr(equals + 1)), kMax);
    if (!weight || who.empty()) {
      return fail(ErrorKind::kInvalidInput,
                  quoted(entry) +
                      " is not ADDRESS=WEIGHT, CIDR=WEIGHT or NODE=WEIGHT with a "
                      "weight from 0 to 65535");
    }
    const auto value = static_cast<std::uint32_t>(*weight);
    if (const auto address = net::IpAddress::parse(who)) {
      weights.add(net::IpPrefix::host(*address), value);
    } else if (who.find('/') == std::string_view::npos) {
      weights.by_node_.emplace_back(who, value);
    } else if (const auto prefix = net::IpPrefix::parse(who)) {
      weights.add(*prefix, value);
    } else {
      return fail(prefix.error());
    }
  }
  return weights;
}

void Weights::add(const net::IpPrefix& prefix, std::uint32_t weight) {
  const auto place =
      std::ranges::upper_bound(by_prefix_, prefix.length(), std::ranges::greater{},
                               [](const auto& entry) { return entry.first.length(); });
  by_prefix_.insert(place, {prefix, weight});
}

std::uint32_t Weights::of(const net::IpAddress& endpoint, std::string_view node_name) const {
  for (const auto& [prefix, weight] : by_prefix_) {
    if (prefix.contains(endpoint)) {
      return weight;
    }
  }
  for (const auto& [node, weight] : by_node_) {
    if (node == node_name) {
      return weight;
    }
  }
  return 1;
}

ServiceSettings read_annotations(const api::Service& service, const Scheduler& default_scheduler,
                                 std::vector<Problem>& problems) {
  ServiceSettings settings;
  settings.scheduler = default_scheduler;
  const api::Labels& annotations = service.meta.annotations;
  if (annotations.empty()) {
    return settings;
  }
  const auto problem = [&](std::string field, std::string what) {
    problems.push_back({"Service " + service.meta.key.text(), std::move(field), std::move(what)});
  };

  if (const Found found =
          first_of(annotations, {"fairlead.io/scheduler", "kube-router.io/service.scheduler"});
      found.value != nullptr) {
    if (auto scheduler = parse_scheduler(trim(*found.value))) {
      settings.scheduler = *std::move(scheduler);
    } else {
      problem(found.field,
              scheduler.error().text() + "; " + default_scheduler.name + " is used until then");
    }
  }
  if (const Found found = first_of(
          annotations, {"fairlead.io/scheduler-flags", "kube-router.io/service.schedflags"});
      found.value != nullptr) {
    if (const auto flags = parse_scheduler_flags(*found.value, settings.scheduler.name)) {
      settings.scheduler.flags = *flags;
    } else {
      problem(found.field, flags.error().text());
    }
  }
  if (const Found found = first_of(annotations, {"fairlead.io/weights"}); found.value != nullptr) {
    if (auto weights = Weights::parse(*found.value)) {
      settings.weights = *std::move(weights);
    } else {
      problem(found.field, weights.error().text() + "; every weight is 1 until then");
    }
  }
  if (const Found found = first_of(annotations, {"fairlead.io/connection-thresholds"});
      found.value != nullptr) {
    if (const auto thresholds = parse_thresholds(trim(*found.value))) {
      settings.thresholds = *thresholds;
    } else {
      problem(found.field, thresholds.error().text() + "; there are none until then");
    }
  }
  if (const Found found = first_of(annotations, {"fairlead.io/forwarding"});
      found.value != nullptr) {
    if (const auto method = parse_forwarding(trim(*found.value))) {
      settings.forwarding = *method;
    } else {
      problem(found.field, method.error().text() + "; nat is used until then");
    }
  }
  if (const Found found = first_of(annotations, {"fairlead.io/affinity-prefix"});
      found.value != nullptr) {
    if (const auto prefix = parse_affinity_prefix(trim(*found.value)); !prefix) {
      problem(found.field, prefix.error().text() + "; each address is a client until then");
    } else if (!service.client_ip_affinity) {
      problem(found.field, "it is of session affinity, and spec.sessionAffinity is not ClientIP");
    } else {
      settings.affinity_prefix = *prefix;
    }
  }
  if (const Found found = first_of(annotations, {"fairlead.io/firewall-mark"});
      found.value != nullptr) {
    if (const auto mark = parse_number(trim(*found.value), UINT32_MAX); mark.value_or(0) != 0) {
      settings.firewall_mark = static_cast<std::uint32_t>(*mark);
    } else {
      problem(found.field, quoted(*found.value) + " is not a mark from 1 to 4294967295");
    }
  }
  if (const Found found = first_of(annotations, {"fairlead.io/drain-timeout"});
      found.value != nullptr) {
    if (const auto timeout = parse_duration(trim(*found.value)); !timeout) {
      problem(found.field, timeout.error().text());
    } else if (std::chrono::ceil<std::chrono::seconds>(*timeout) > kMaxDrain) {
      problem(found.field, quoted(*found.value) + " is too long; 720h is the most");
    } else {
      settings.drain_timeout = std::chrono::ceil<std::chrono::seconds>(*timeout);
    }
  }
  if (const Found found = first_of(annotations, {"fairlead.io/one-packet"});
      found.value != nullptr) {
    const std::string_view value = trim(*found.value);
    const bool has_udp = std::ranges::any_of(service.ports, [](const api::ServicePort& port) {
      return port.protocol == net::Protocol::kUdp;
    });
    if (value != "true" && value != "false") {
      problem(found.field, quoted(*found.value) + " is neither true nor false");
    } else if (value == "true" && !has_udp) {
      problem(found.field, "only UDP ports can be scheduled packet by packet, and there is none");
    } else {
      settings.one_packet = value == "true";
    }
  }
  return settings;
}

}  // namespace fairlead::model
