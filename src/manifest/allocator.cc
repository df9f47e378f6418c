// SPDX-License-Identifier: Apache-2.0
#include "manifest/allocator.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>

#include "base/check.h"
#include "base/text.h"
#include "manifest/hash.h"

namespace fairlead::manifest {
namespace {

constexpr std::size_t kMaxForgotten = 4096;  // remembered values of services that are gone
constexpr int kHashedTries = 16;             // before probing one by one

/// Positions in a range as numbers. Ranges beyond 2^62 addresses are used in their first part.
struct Span {
  std::uint64_t first = 0;
  std::uint64_t count = 0;
};

std::uint64_t range_size(const net::IpPrefix& range) {
  const int bits = (range.address().is_v4() ? 32 : 128) - range.length();
  return std::uint64_t{1} << static_cast<unsigned>(std::min(bits, 62));
}

/// Positions that may be given out: not the network's own address nor IPv4's broadcast address.
Span usable(const net::IpPrefix& range) {
  const std::uint64_t size = range_size(range);
  if (size <= 2) {
    return {0, size};
  }
  return {1, size - (range.address().is_v4() ? 2 : 1)};
}

/// The low part of a range is left to explicit values for as long as the rest lasts, as in the API
/// server (KEP-3070), so that people who pick addresses by hand rarely meet a given one.
std::uint64_t low_band(std::uint64_t count) {
  const std::uint64_t band = std::min<std::uint64_t>(std::max<std::uint64_t>(16, count / 16), 256);
  return count <= 16 ? 0 : band;
}
std::uint64_t low_port_band(std::uint64_t count) {
  const std::uint64_t band = std::min<std::uint64_t>(std::max<std::uint64_t>(16, count / 32), 128);
  return count <= 16 ? 0 : band;
}

net::IpAddress address_at(const net::IpPrefix& range, std::uint64_t position) {
  std::array<std::uint8_t, 16> bytes{};
  const auto base = range.address().bytes();
  std::ranges::copy(base, bytes.begin());
  for (std::size_t i = base.size(); i > 0 && position != 0; --i) {
    // Host bits of a prefix are zero: no carry.
    bytes[i - 1] = static_cast<std::uint8_t>(bytes[i - 1] | (position & 0xffU));
    position >>= 8U;
  }
  return net::IpAddress::from_bytes(std::span(bytes).first(base.size()));
}

/// The first position for which `is_free` says yes: hashed tries above the low band, then all of
/// that part in turn, then the band.
template <typename IsFree>
std::optional<std::uint64_t> probe(const std::string& seed, Span span, std::uint64_t band,
                                   const IsFree& is_free) {
  if (span.count == 0) {
    return std::nullopt;
  }
  const std::uint64_t high = span.count - band;
  for (int attempt = 0; attempt < kHashedTries; ++attempt) {
    const std::uint64_t at =
        span.first + band + (stable_hash(seed + "#" + std::to_string(attempt)) % high);
    if (is_free(at)) {
      return at;
    }
  }
  const std::uint64_t start = stable_hash(seed);
  for (std::uint64_t i = 0; i < high; ++i) {
    const std::uint64_t at = span.first + band + ((start % high + i) % high);
    if (is_free(at)) {
      return at;
    }
  }
  for (std::uint64_t i = 0; i < band; ++i) {
    const std::uint64_t at = span.first + ((start % band + i) % band);
    if (is_free(at)) {
      return at;
    }
  }
  return std::nullopt;
}

bool wants_node_ports(const api::Service& service) {
  return service.type == api::ServiceType::kNodePort ||
         service.type == api::ServiceType::kLoadBalancer;
}

std::string port_field(std::size_t index) {
  return "spec.ports[" + std::to_string(index) + "].nodePort";
}

}  // namespace

net::IpPrefix AllocatorOptions::default_service_range() {
  const Result<net::IpPrefix> range = net::IpPrefix::parse("10.96.0.0/16");
  FAIRLEAD_CHECK(range.has_value());
  return *range;
}

Result<Memory> Memory::parse(std::string_view text) {
  Memory memory;
  std::size_t line_number = 0;
  for (const std::string_view raw : split(text, '\n')) {
    ++line_number;
    const std::string_view line = trim(raw);
    if (line.empty() || line.front() == '#') {
      continue;
    }
    const std::vector<std::string_view> words = split(line, ' ');
    const std::size_t slash = words.front().find('/');
    if (words.size() != 3 || slash == std::string_view::npos) {
      return fail(ErrorKind::kInvalidInput,
                  "line " + std::to_string(line_number) +
                      " is not `namespace/name slot value`; mend it or delete the file");
    }
    memory.set({{std::string(words[0].substr(0, slash)), std::string(words[0].substr(slash + 1))},
                std::string(words[1])},
               std::string(words[2]));
  }
  return memory;
}

std::string Memory::text() const {
  std::string out;
  for (const auto& [slot, value] : values_) {
    out += slot.service.text() + " " + slot.name + " " + value + "\n";
  }
  return out;
}

const std::string* Memory::find(const Slot& slot) const {
  const auto found = values_.find(slot);
  return found == values_.end() ? nullptr : &found->second;
}

void Memory::forget_excess(const std::function<bool(const api::ObjectKey&)>& is_known) {
  const auto unknown = [&](const auto& item) { return !is_known(item.first.service); };
  if (values_.size() > kMaxForgotten &&
      std::ranges::count_if(values_, unknown) > static_cast<std::ptrdiff_t>(kMaxForgotten)) {
    std::erase_if(values_, unknown);
  }
}

Allocator::Allocator(AllocatorOptions options, Memory memory)
    : options_(std::move(options)),
      memory_(std::move(memory)),
      held_in_range_(options_.service_ranges.size(), 0) {}

void Allocator::put(api::Shared<api::Service> service) {
  const api::ObjectKey key = service->meta.key;
  records_[key].raw = std::move(service);
  dirty_.insert(key);
}

void Allocator::erase(const api::ObjectKey& key) {
  if (const auto found = records_.find(key); found != records_.end()) {
    release(found->second);
    records_.erase(found);
    dirty_.insert(key);
  }
}

std::vector<api::Shared<api::Service>> Allocator::settle() {
  if (dirty_.empty()) {
    return {};
  }
  // Whoever went without gets another try: something may be free now.
  for (const auto& [key, record] : records_) {
    if (!record.errors.empty()) {
      dirty_.insert(key);
    }
  }
  std::erase_if(dirty_, [&](const api::ObjectKey& key) { return !records_.contains(key); });

  // Everything dirty lets go before anyone takes, so that values can be handed over within a
  // batch. Then, in key order: explicit values of those who had them, explicit values, values
  // given before, new values.
  std::map<Value, api::ObjectKey> held_before;
  for (const api::ObjectKey& key : dirty_) {
    Record& record = records_.at(key);
    for (const Value& value : record.held) {
      if (holders_.at(value).is_explicit) {
        held_before.emplace(value, key);
      }
    }
    plan(record);
  }
  const auto had = [&](const api::ObjectKey& key, const Need& need) {
    const auto found = held_before.find(explicit_value(need));
    return found != held_before.end() && found->second == key;
  };
  std::set<api::ObjectKey> displaced;
  for (const bool returning : {true, false}) {
    for (const api::ObjectKey& key : dirty_) {
      Record& record = records_.at(key);
      for (const Need& need : record.needs) {
        if (need.is_explicit() && had(key, need) == returning) {
          claim(record, need, displaced);
        }
      }
    }
  }
  for (const api::ObjectKey& key : displaced) {
    if (dirty_.insert(key).second) {
      // All other claims are through: its explicit values come back to it at once.
      Record& record = records_.at(key);
      plan(record);
      for (const Need& need : record.needs) {
        if (need.is_explicit()) {
          claim(record, need, displaced);
        }
      }
    }
  }
  std::vector<std::pair<Record*, const Need*>> open;
  for (const api::ObjectKey& key : dirty_) {
    Record& record = records_.at(key);
    for (const Need& need : record.needs) {
      if (!need.is_explicit() && !take_remembered(record, need)) {
        open.emplace_back(&record, &need);
      }
    }
  }
  for (const auto& [record, need] : open) {
    take_new(*record, *need);
  }

  std::vector<api::Shared<api::Service>> changed;
  for (const api::ObjectKey& key : dirty_) {
    Record& record = records_.at(key);
    // The secondary address may have been found before the primary.
    std::vector<net::IpAddress>& addresses = record.resolved->cluster_ips;
    if (addresses.size() == 2 &&
        addresses.front().family() != record.resolved->ip_families.front()) {
      std::swap(addresses.front(), addresses.back());
    }
    record.needs.clear();
    const std::unique_ptr<api::Service> resolved = std::move(record.resolved);
    if (record.delivered == nullptr || *record.delivered != *resolved) {
      record.delivered = *resolved == *record.raw
                             ? record.raw
                             : std::make_shared<const api::Service>(std::move(*resolved));
      changed.push_back(record.delivered);
    }
  }
  dirty_.clear();
  memory_.forget_excess([&](const api::ObjectKey& key) { return records_.contains(key); });
  return changed;
}

std::vector<AllocationError> Allocator::errors() const {
  std::vector<AllocationError> all;
  for (const auto& [key, record] : records_) {
    all.insert(all.end(), record.errors.begin(), record.errors.end());
  }
  return all;
}

net::Family Allocator::default_family() const {
  return options_.service_ranges.empty() ? net::Family::kIpv4
                                         : options_.service_ranges.front().family();
}

bool Allocator::has_range(net::Family family) const {
  return std::ranges::any_of(options_.service_ranges,
                             [&](const net::IpPrefix& range) { return range.family() == family; });
}

std::vector<net::Family> Allocator::families(Record& record) const {
  const api::Service& service = *record.raw;
  std::vector<net::Family> result = service.ip_families;
  if (result.empty()) {
    for (const net::IpAddress& address : service.cluster_ips) {
      result.push_back(address.family());
    }
  }
  if (result.empty()) {
    result.push_back(default_family());
  }
  const net::Family other =
      result.front() == net::Family::kIpv4 ? net::Family::kIpv6 : net::Family::kIpv4;
  switch (service.family_policy) {
    case api::Service::FamilyPolicy::kUnset:
    case api::Service::FamilyPolicy::kSingleStack:
      break;
    case api::Service::FamilyPolicy::kPreferDualStack:
      if (result.size() == 1 && has_range(other)) {
        result.push_back(other);
      }
      break;
    case api::Service::FamilyPolicy::kRequireDualStack:
      if (result.size() == 1) {
        result.push_back(other);
      }
      break;
  }
  return result;
}

void Allocator::plan_addresses(Record& record) const {
  const api::Service& service = *record.raw;
  if (service.type == api::ServiceType::kExternalName) {
    return;
  }
  std::vector<net::Family> wanted = families(record);
  record.resolved->ip_families = wanted;
  record.resolved->cluster_ips.clear();
  if (service.headless) {
    return;
  }
  std::vector<net::IpAddress> given = service.cluster_ips;
  for (const net::Family family : wanted) {
    Need need;
    need.slot = "clusterIP/" + std::string(net::text(family));
    need.field = "spec.clusterIP";
    need.family = family;
    const auto explicit_address = std::ranges::find_if(
        given, [&](const net::IpAddress& address) { return address.family() == family; });
    if (explicit_address != given.end()) {
      need.address = *explicit_address;
      given.erase(explicit_address);
    }
    record.needs.push_back(std::move(need));
  }
  for (const net::IpAddress& address : given) {
    complain(record, "spec.clusterIPs",
             address.text() + " has no place among the families of the service; add " +
                 std::string(net::text(address.family())) + " to spec.ipFamilies or remove it");
  }
}

void Allocator::plan_ports(Record& record) {
  const api::Service& service = *record.raw;
  if (!wants_node_ports(service)) {
    return;
  }
  const bool give = service.type == api::ServiceType::kNodePort || service.allocate_node_ports;
  // Ports that differ only in protocol share one number (DNS on TCP and UDP), as in the API server.
  std::map<net::Port, std::size_t> shared;  // port -> index into needs
  std::map<net::Port, net::Port> explicit_ports;
  for (std::size_t i = 0; i < service.ports.size(); ++i) {
    const api::ServicePort& port = service.ports[i];
    if (net::number(port.node_port) == 0) {
      continue;
    }
    Need need;
    need.slot = "nodePort/" + std::to_string(net::number(port.port));
    need.field = port_field(i);
    need.port = port.node_port;
    need.port_indexes = {i};
    need.protocols = {port.protocol};
    record.resolved->ports[i].node_port = net::Port{};
    record.needs.push_back(std::move(need));
    explicit_ports.emplace(port.port, port.node_port);
  }
  for (std::size_t i = 0; give && i < service.ports.size(); ++i) {
    const api::ServicePort& port = service.ports[i];
    if (net::number(port.node_port) != 0) {
      continue;
    }
    const auto [known, is_new] = shared.emplace(port.port, record.needs.size());
    if (is_new) {
      Need need;
      need.slot = "nodePort/" + std::to_string(net::number(port.port));
      need.field = port_field(i);
      const auto sibling = explicit_ports.find(port.port);
      need.preferred = sibling == explicit_ports.end() ? net::Port{} : sibling->second;
      record.needs.push_back(std::move(need));
    }
    Need& need = record.needs[known->second];
    need.port_indexes.push_back(i);
    need.protocols.push_back(port.protocol);
  }
  if (service.type == api::ServiceType::kLoadBalancer && service.external_policy_local) {
    Need need;
    need.slot = "healthCheckNodePort";
    need.field = "spec.healthCheckNodePort";
    need.port = service.health_check_node_port;
    need.protocols = {net::Protocol::kTcp};
    record.resolved->health_check_node_port = net::Port{};
    record.needs.push_back(std::move(need));
  }
}

void Allocator::release(Record& record) {
  while (!record.held.empty()) {
    drop(record, Value(record.held.back()));
  }
}

void Allocator::drop(Record& record, const Value& value) {
  holders_.erase(value);
  for (std::size_t i = 0; value.address && i < held_in_range_.size(); ++i) {
    held_in_range_[i] -= options_.service_ranges[i].contains(*value.address) ? 1U : 0U;
  }
  std::erase(record.held, value);
}

void Allocator::plan(Record& record) {
  release(record);
  record.errors.clear();
  record.needs.clear();
  record.resolved = std::make_unique<api::Service>(*record.raw);
  plan_addresses(record);
  plan_ports(record);
}

void Allocator::hold(Record& record, const Value& value, const std::string& field,
                     bool is_explicit) {
  holders_[value] = Holder{record.raw->meta.key, field, is_explicit};
  record.held.push_back(value);
  for (std::size_t i = 0; value.address && i < held_in_range_.size(); ++i) {
    held_in_range_[i] += options_.service_ranges[i].contains(*value.address) ? 1U : 0U;
  }
}

void Allocator::assign(Record& record, const Need& need, const net::IpAddress& address) {
  hold(record, Value{address, {}, {}}, need.field, need.is_explicit());
  record.resolved->cluster_ips.push_back(address);
  if (!need.is_explicit()) {
    memory_.set({record.raw->meta.key, need.slot}, address.text());
  }
}

void Allocator::assign(Record& record, const Need& need, net::Port port) {
  for (const net::Protocol protocol : need.protocols) {
    hold(record, Value{std::nullopt, port, protocol}, need.field, need.is_explicit());
  }
  for (const std::size_t index : need.port_indexes) {
    record.resolved->ports[index].node_port = port;
  }
  if (need.port_indexes.empty()) {
    record.resolved->health_check_node_port = port;
  }
  if (!need.is_explicit()) {
    memory_.set({record.raw->meta.key, need.slot}, std::to_string(net::number(port)));
  }
}

Allocator::Value Allocator::explicit_value(const Need& need) {
  return need.address ? Value{need.address, {}, {}}
                      : Value{std::nullopt, need.port, need.protocols.front()};
}

void Allocator::claim(Record& record, const Need& need, std::set<api::ObjectKey>& displaced) {
  const Value value = explicit_value(need);
  const auto holder = holders_.find(value);
  if (holder != holders_.end() && holder->second.is_explicit) {
    const bool is_own = holder->second.service == record.raw->meta.key;
    const std::string what = need.address ? need.address->text()
                                          : std::to_string(net::number(need.port)) + "/" +
                                                std::string(net::text(need.protocols.front()));
    complain(record, need.field,
             what + " is already used by " +
                 (is_own ? holder->second.field + " of the same service"
                         : "Service " + holder->second.service.text()) +
                 "; change one of them");
    return;
  }
  if (holder != holders_.end()) {
    const api::ObjectKey loser = holder->second.service;
    displaced.insert(loser);
    drop(records_.at(loser), value);
  }
  if (need.address) {
    assign(record, need, *need.address);
  } else {
    assign(record, need, need.port);
  }
}

bool Allocator::take_remembered(Record& record, const Need& need) {
  const std::string* value = memory_.find({record.raw->meta.key, need.slot});
  if (value == nullptr) {
    return false;
  }
  if (need.family) {
    const Result<net::IpAddress> address = net::IpAddress::parse(*value);
    if (!address || address->family() != *need.family || !is_usable(*address) ||
        holders_.contains(Value{*address, {}, {}})) {
      return false;
    }
    assign(record, need, *address);
    return true;
  }
  const auto number = parse_number(*value, 65535);
  if (!number) {
    return false;
  }
  const net::Port port{static_cast<std::uint16_t>(*number)};
  if ((port < options_.first_node_port || port > options_.last_node_port) &&
      port != need.preferred) {
    return false;
  }
  if (!is_free(record, need, port)) {
    return false;
  }
  assign(record, need, port);
  return true;
}

void Allocator::take_new(Record& record, const Need& need) {
  if (need.family) {
    take_new_address(record, need, *need.family);
  } else {
    take_new_port(record, need);
  }
}

void Allocator::take_new_address(Record& record, const Need& need, net::Family family) {
  std::vector<std::string> tried;
  for (std::size_t i = 0; i < options_.service_ranges.size(); ++i) {
    const net::IpPrefix& range = options_.service_ranges[i];
    if (range.family() != family) {
      continue;
    }
    tried.push_back(range.text());
    const Span span = usable(range);
    const auto is_free = [&](std::uint64_t at) {
      return !holders_.contains(Value{address_at(range, at), {}, {}});
    };
    // A full range of millions is told by its count, not by trying each.
    const bool may_have_room = held_in_range_[i] < span.count + 2;
    const auto at = may_have_room ? probe("ip/" + record.raw->meta.key.text(), span,
                                          low_band(span.count), is_free)
                                  : std::nullopt;
    if (at) {
      assign(record, need, address_at(range, *at));
      return;
    }
  }
  complain(record, need.field,
           tried.empty() ? "no " + std::string(net::text(family)) +
                               " range to take an address from; add one to " +
                               "--service-cluster-ip-range or write the address down"
                         : "all addresses of " + join(tried, ",") +
                               " are in use; widen --service-cluster-ip-range or remove services");
}

void Allocator::take_new_port(Record& record, const Need& need) {
  const std::uint64_t first = net::number(options_.first_node_port);
  const std::uint64_t last = net::number(options_.last_node_port);
  if (net::number(need.preferred) != 0 && is_free(record, need, need.preferred)) {
    assign(record, need, need.preferred);
    return;
  }
  const Span span{first, last >= first ? last - first + 1 : 0};
  const auto at =
      probe(need.slot + "/" + record.raw->meta.key.text(), span, low_port_band(span.count),
            [&](std::uint64_t candidate) {
              return is_free(record, need, net::Port{static_cast<std::uint16_t>(candidate)});
            });
  if (at) {
    assign(record, need, net::Port{static_cast<std::uint16_t>(*at)});
    return;
  }
  complain(record, need.field,
           "all node ports of " + std::to_string(first) + "-" + std::to_string(last) +
               " are in use; widen the range or remove services");
}

/// A port is given only if no other service has it for any protocol: one number, one service. The
/// same service may have it for its other protocols.
bool Allocator::is_free(const Record& record, const Need& need, net::Port port) const {
  for (const net::Protocol protocol :
       {net::Protocol::kTcp, net::Protocol::kUdp, net::Protocol::kSctp}) {
    const auto holder = holders_.find(Value{std::nullopt, port, protocol});
    if (holder == holders_.end()) {
      continue;
    }
    const bool is_needed = std::ranges::find(need.protocols, protocol) != need.protocols.end();
    if (is_needed || port != need.preferred || holder->second.service != record.raw->meta.key) {
      return false;
    }
  }
  return true;
}

bool Allocator::is_usable(const net::IpAddress& address) const {
  return std::ranges::any_of(options_.service_ranges, [&](const net::IpPrefix& range) {
    const Span span = usable(range);
    return range.contains(address) &&
           (range_size(range) <= 2 ||
            (address != range.address() &&
             (!address.is_v4() || address != address_at(range, span.first + span.count))));
  });
}

void Allocator::complain(Record& record, std::string field, std::string problem) {
  record.errors.push_back({record.raw->meta.key, std::move(field), std::move(problem)});
}

}  // namespace fairlead::manifest
