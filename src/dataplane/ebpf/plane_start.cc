// SPDX-License-Identifier: Apache-2.0
// The plane's beginning, from whatever an earlier process left in the maps, and the audit that
// looks at it again.
#include <algorithm>
#include <array>
#include <numeric>
#include <random>
#include <unordered_set>

#include "base/log.h"
#include "dataplane/ebpf/keys.h"
#include "dataplane/ebpf/plane.h"

namespace fairlead::dataplane::ebpf {
namespace {

// Outside node ports and the range from which the node's own sockets dial.
constexpr std::array<std::uint16_t, 2> kFirstPorts = {1024, 61'001};
constexpr std::array<std::uint16_t, 2> kLastPorts = {29'999, 65'535};

/// This part of the table may be half-open connections before new ones go to a table of their own.
constexpr std::size_t kHalfOpenShare = 8;

bool same(const bpf::fl_device& a, const bpf::fl_device& b) {
  const auto equal = [](const bpf::fl_addr& x, const bpf::fl_addr& y) {
    return std::ranges::equal(x.words, y.words);
  };
  return equal(a.hide4, b.hide4) && equal(a.hide6, b.hide6) && a.flags == b.flags;
}

bpf::DeviceEntry entry_of(const bpf::Device& device) {
  bpf::DeviceEntry entry{device.interface, {}};
  if (device.hide4) {
    entry.value.hide4 = bpf::to_abi(*device.hide4);
  }
  if (device.hide6) {
    entry.value.hide6 = bpf::to_abi(*device.hide6);
  }
  if (device.has_pods) {
    entry.value.flags |= bpf::FL_DEVICE_PODS;
  }
  if (device.is_peer) {
    entry.value.flags |= bpf::FL_DEVICE_PEER;
  }
  return entry;
}

}  // namespace

Status Plane::start(TimePoint now) {
  auto tables = host_->open();
  if (!tables) {
    return fail(std::move(tables.error()));
  }
  tables_ = std::move(*tables);
  sweep_ = std::make_unique<Sweep>(*tables_);
  write_config();
  if (Status status = write_classes(); !status) {
    return status;
  }
  if (Status status = adopt(); !status) {
    return status;
  }
  if (Status status = host_->take_over(); !status) {
    return status;
  }
  host_->set_on_change([this](TimePoint at) { refresh_devices(false, at); });
  refresh_devices(true, now);
  return {};
}

void Plane::write_config() {
  bpf::fl_config& config = tables_->config();
  set_timeouts(config, config_.timeouts, 1);
  std::ranges::copy(kFirstPorts, config.port_first);
  std::ranges::copy(kLastPorts, config.port_last);
  config.half_open_limit = static_cast<std::uint32_t>(tables_->flow_capacity() / kHalfOpenShare);
  config.sockets = config_.sockets;
  config.netns_cookie = config_.netns_cookie;
  while (config.port_seed == 0) {
    config.port_seed = std::random_device{}();
  }
  config.layout = FL_LAYOUT;
}

Status Plane::write_classes() {
  auto held = tables_->classes();
  if (!held) {
    return fail(std::move(held.error()));
  }
  const auto is_same = [](const bpf::fl_prefix& a, const bpf::fl_prefix& b) {
    return a.length == b.length && std::ranges::equal(a.addr.words, b.addr.words);
  };
  for (const net::IpPrefix& pods : config_.pods) {
    if (Status status = tables_->put_class({bpf::to_abi(pods), bpf::FL_CLASS_POD}); !status) {
      return status;
    }
  }
  for (const bpf::ClassEntry& entry : *held) {
    const bool is_wanted = std::ranges::any_of(config_.pods, [&](const net::IpPrefix& pods) {
      return is_same(bpf::to_abi(pods), entry.prefix);
    });
    if (!is_wanted) {
      if (Status status = tables_->erase_class(entry.prefix); !status) {
        return status;
      }
    }
  }
  return {};
}

Status Plane::adopt() {
  for (std::vector<std::uint32_t>& counts : filter_counts_) {
    counts.assign(std::size_t{65'536}, 0);
  }
  extents_ = std::make_unique<Extents>(static_cast<std::uint32_t>(tables_->slots().size()));
  auto devices = tables_->devices();
  if (!devices) {
    return fail(std::move(devices.error()));
  }
  devices_ = std::move(*devices);
  for (const bpf::DeviceEntry& device : devices_) {
    note(bpf::FL_INGRESS, device.value.hide4, 1);
    note(bpf::FL_INGRESS, device.value.hide6, 1);
  }

  const auto servers = tables_->vs();
  const auto reals = tables_->rs();
  std::unordered_map<std::uint32_t, std::vector<std::uint32_t>> reals_of;
  for (auto number = static_cast<std::uint32_t>(reals.size()); --number > 0;) {
    if (reals[number].state == bpf::FL_RS_FREE || reals[number].vs >= servers.size() ||
        (servers[reals[number].vs].flags & bpf::FL_VS_USED) == 0) {
      reals[number].state = bpf::FL_RS_FREE;
      free_reals_.push_back(number);
    } else {
      reals_of[reals[number].vs].push_back(number);
    }
  }
  for (auto number = static_cast<std::uint32_t>(servers.size()); --number > 0;) {
    if ((servers[number].flags & bpf::FL_VS_USED) == 0) {
      free_servers_.push_back(number);
    } else {
      adopt_entry(number, std::move(reals_of[number]));
    }
  }

  auto numbers = tables_->numbers();
  if (!numbers) {
    return fail(std::move(numbers.error()));
  }
  std::unordered_set<net::IpAddress> claimed;
  std::vector<bpf::fl_vs_key> strays;
  for (const bpf::NumberEntry& number : *numbers) {
    if (is_address_entry(number.key)) {
      claimed.insert(bpf::to_address(number.key.addr));
      continue;
    }
    const auto at = entries_.find(key_from(number.key.addr, number.key.port, number.key.protocol));
    if (at == entries_.end() || at->second.number != number.number) {
      strays.push_back(number.key);  // a start that was cut short
    } else {
      at->second.is_public = true;
    }
  }
  for (auto& [key, entry] : entries_) {
    if (entry.is_public && claimed.contains(key.address)) {
      entry.is_public = false;
      ++claimed_[key.address];
    }
  }
  for (const net::IpAddress& address : claimed) {
    if (!claimed_.contains(address)) {
      strays.push_back(key_of(address));
    }
  }
  for (const Status& status : tables_->erase_numbers(strays)) {
    if (!status) {
      return status;
    }
  }
  write_filter();
  if (!entries_.empty()) {
    log::info("virtual servers are there from before", {{"count", entries_.size()}});
  }
  return {};
}

void Plane::adopt_entry(std::uint32_t number, std::vector<std::uint32_t> reals) {
  const bpf::fl_vs& server = tables_->vs()[number];
  const Key key = key_from(server.addr, server.port, server.protocol);
  if (entries_.contains(key)) {
    tables_->vs()[number] = {};  // never by us: two of one key
    free_servers_.push_back(number);
    return;
  }
  Entry& entry = entries_[key];
  entry.number = number;
  entry.scheduler = static_cast<bpf::fl_scheduler>(server.scheduler);
  note(bpf::FL_INGRESS, server.addr, 1);
  std::ranges::sort(reals, {}, [&](std::uint32_t real) { return tables_->rs()[real].position; });
  for (const std::uint32_t real : reals) {
    const bpf::fl_rs& place = tables_->rs()[real];
    note(bpf::FL_EGRESS, place.addr, 1);
    Real known;
    known.number = real;
    known.socket = {bpf::to_address(place.addr), bpf::to_port(place.port)};
    known.is_leaving = place.state != bpf::FL_RS_UP;
    known.deadline = TimePoint(Duration(static_cast<std::int64_t>(place.drain_until)));
    entry.walk.push_back(known);
  }
  for (std::size_t i = 0; i < entry.sets.size(); ++i) {
    adopt_set(entry, i);
  }
}

/// What is published, as far as it can be told from the maps: the walk of a set is all that takes
/// connections. Where that is not so (classes with sets of their own), the first sync publishes it
/// once more.
void Plane::adopt_set(Entry& entry, std::size_t index) {
  const std::uint64_t descriptor = tables_->vs()[entry.number].set[index];
  Set& set = entry.sets.at(index);
  const auto base = FL_BLOCK_BASE(descriptor);
  const auto count = FL_BLOCK_COUNT(descriptor);
  if (base == 0 || base + count >= tables_->slots().size() || !extents_->reserve(base, count + 1)) {
    return;
  }
  set.base = base;
  set.generation = static_cast<std::uint8_t>(descriptor & 0xffU);
  set.block.header = tables_->slots()[base];
  const auto slots = tables_->slots().subspan(base + 1, count);
  set.block.slots.assign(slots.begin(), slots.end());
  for (const Real& real : entry.walk) {
    if (!real.is_leaving) {
      const bpf::fl_rs& place = tables_->rs()[real.number];
      set.walk.push_back({real.number, real.socket, place.weight, place.last_weight});
    }
  }
}

/// Bits that nobody stands for any more go; those that count are there already.
void Plane::write_filter() {
  for (std::size_t point = 0; point < filter_counts_.size(); ++point) {
    for (std::size_t word = 0; word < 1024; ++word) {
      std::uint64_t bits = 0;
      for (std::size_t bit = 0; bit < 64; ++bit) {
        bits |= filter_counts_.at(point)[word * 64 + bit] != 0 ? std::uint64_t{1} << bit : 0;
      }
      tables_->filter().bits[point][word] = bits;
    }
  }
}

void Plane::refresh_devices(bool thorough, TimePoint now) {
  std::map<std::string, std::string> failures;
  const auto found = host_->attach(thorough, failures);
  for (const auto& [device, error] : failures) {
    if (!device_failures_.contains(device)) {
      log::error("programs could not be put on a device, or taken off",
                 {{"device", device}, {"error", error}});
    }
  }
  device_failures_ = std::move(failures);
  if (!found) {
    furniture_["devices"].failed(found.error().text(), now, 0);
    return;
  }
  furniture_.erase("devices");
  std::vector<bpf::DeviceEntry> next;
  next.reserve(found->size());
  for (const bpf::Device& device : *found) {
    next.push_back(entry_of(device));
  }
  for (const bpf::DeviceEntry& entry : next) {
    const auto old = std::ranges::find(devices_, entry.interface, &bpf::DeviceEntry::interface);
    if (old != devices_.end() && same(old->value, entry.value)) {
      continue;
    }
    // Noted before use, so that no reply to a hidden client passes by.
    note(bpf::FL_INGRESS, entry.value.hide4, 1);
    note(bpf::FL_INGRESS, entry.value.hide6, 1);
    if (const Status status = tables_->put_device(entry); !status) {
      furniture_["devices"].failed(status.error().text(), now, 0);
    }
    if (old != devices_.end()) {
      note(bpf::FL_INGRESS, old->value.hide4, -1);
      note(bpf::FL_INGRESS, old->value.hide6, -1);
    }
  }
  for (const bpf::DeviceEntry& old : devices_) {
    if (std::ranges::find(next, old.interface, &bpf::DeviceEntry::interface) == next.end()) {
      if (const Status status = tables_->erase_device(old.interface); !status) {
        furniture_["devices"].failed(status.error().text(), now, 0);
      }
      note(bpf::FL_INGRESS, old.value.hide4, -1);
      note(bpf::FL_INGRESS, old.value.hide6, -1);
    }
  }
  devices_ = std::move(next);
}

// One dump of `numbers`, and a look at the devices. Blocks and servers are only written by us and
// are not read again.
void Plane::audit(TimePoint now) {
  refresh_devices(true, now);
  if (const Status status = host_->attach_sockets(); status) {
    furniture_.erase("sockets");
  } else {
    furniture_["sockets"].failed(status.error().text(), now, 0);
  }
  const auto numbers = tables_->numbers();
  if (!numbers) {
    log::warn("the maps could not be looked at", {{"error", numbers.error().text()}});
    return;
  }
  std::unordered_map<Key, std::uint32_t> held;
  std::unordered_set<net::IpAddress> claimed;
  for (const bpf::NumberEntry& entry : *numbers) {
    if (is_address_entry(entry.key)) {
      claimed.insert(bpf::to_address(entry.key.addr));
    } else {
      held.emplace(key_from(entry.key.addr, entry.key.port, entry.key.protocol), entry.number);
    }
  }
  const auto repair = [&](const bpf::NumberEntry& entry, const std::string& what,
                          const std::string& object) {
    const Status status = tables_->put_numbers(std::span(&entry, 1)).front();
    log::warn("somebody changed what is ours", {{"kind", what}, {"object", object}});
    drift_[what] += status ? 1U : 0U;
  };
  for (const auto& [key, entry] : entries_) {
    if (entry.is_public && entry.desired != nullptr) {
      const auto at = held.find(key);
      if (at == held.end() || at->second != entry.number) {
        repair({key_of(key), entry.number}, "virtual server", key.text());
      }
    }
  }
  for (const auto& [address, holders] : claimed_) {
    if (holders != 0 && !claimed.contains(address)) {
      repair({key_of(address), FL_VS_REFUSE}, "address", address.text());
    }
  }
}

}  // namespace fairlead::dataplane::ebpf
