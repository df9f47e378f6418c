// SPDX-License-Identifier: Apache-2.0
// What happens before the first plan: the furniture is put in place and the kernel is read. Nothing
// is removed here.
#include <algorithm>
#include <unordered_set>

#include "base/log.h"
#include "dataplane/ipvs/plane.h"

namespace fairlead::dataplane::ipvs {
namespace {

namespace kernel = fairlead::ipvs;

}  // namespace

Result<Kernel> open_kernel() {
  Kernel opened;
  auto client = kernel::make_netlink_client();
  if (!client) {
    return fail(client.error().in("proxy mode ipvs"));
  }
  auto route = netlink::make_route();
  if (!route) {
    return fail(route.error().in("proxy mode ipvs"));
  }
  auto sets = netlink::make_ipset();
  if (!sets) {
    return fail(sets.error().in("proxy mode ipvs"));
  }
  auto conntrack = netlink::make_conntrack();
  if (!conntrack) {
    return fail(conntrack.error().in("proxy mode ipvs"));
  }
  opened.ipvs = std::move(*client);
  opened.route = std::move(*route);
  opened.sets = std::move(*sets);
  opened.conntrack = std::move(*conntrack);
  opened.iptables = make_iptables();
  opened.sysctl = make_sysctl();
  return opened;
}

Status Plane::start(TimePoint /*now*/) {
  if (Status status = ensure_furniture(); !status) {
    return status;
  }
  if (Status status = read_members(); !status) {
    return status;
  }
  if (Status status = read_addresses(); !status) {
    return status;
  }
  return adopt_virtual_servers();
}

Status Plane::ensure_furniture() {
  for (const Setting& setting : required_settings(config_.kernel_release, config_.strict_arp)) {
    if (const auto changed = kernel_.sysctl->ensure(setting); !changed) {
      return fail(changed.error());
    }
  }
  if (config_.timeouts != kernel::Timeouts{}) {
    if (Status status = kernel_.ipvs->set_timeouts(config_.timeouts); !status) {
      return fail(status.error().in("set the IPVS timeouts"));
    }
  }
  const auto device = kernel_.route->ensure_dummy(std::string(kDevice));
  if (!device) {
    return fail(device.error().in("device " + std::string(kDevice)));
  }
  device_ = *device;
  if (Status status = ensure_sets(); !status) {
    return status;
  }
  // Rules refer to the sets, hence after them.
  for (const IptablesConfig& family : config_.families) {
    if (const auto changed = kernel_.iptables->ensure(family); !changed) {
      return fail(changed.error());
    }
  }
  return {};
}

Status Plane::ensure_sets() {
  for (const IptablesConfig& rules : config_.families) {
    for (std::size_t i = 0; i < kSetCount; ++i) {
      const auto id = static_cast<SetId>(i);
      const netlink::SetSpec spec{set_name(id, rules.family), info(id).type, rules.family};
      if (Status status = ensure_set(spec); !status) {
        return status;
      }
    }
  }
  return {};
}

Status Plane::ensure_set(const netlink::SetSpec& spec) {
  const Status made = kernel_.sets->create(spec);
  if (made) {
    return {};
  }
  if (made.error().kind() != ErrorKind::kAlreadyExists) {
    return fail(made.error().in("ipset " + spec.name));
  }
  const auto header = kernel_.sets->header(spec.name);
  const bool bitmap = spec.type == netlink::SetType::kBitmapPort;
  if (header && header->has_value() && (*header)->type == spec.type &&
      (bitmap || (*header)->family == spec.family)) {
    return {};
  }
  // Left by another version under our name: replaceable as long as no rule uses it.
  const Status destroyed = kernel_.sets->destroy(spec.name);
  if (!destroyed) {
    return fail(destroyed.error().in("ipset " + spec.name + " exists but is not of type " +
                                     std::string(netlink::text(spec.type)) +
                                     " and cannot be replaced; remove the rules that use it, or "
                                     "`ipset destroy` it"));
  }
  const Status again = kernel_.sets->create(spec);
  return again ? Status{} : fail(again.error().in("ipset " + spec.name));
}

Status Plane::read_members() {
  for (const IptablesConfig& rules : config_.families) {
    for (std::size_t i = 0; i < kSetCount; ++i) {
      const auto id = static_cast<SetId>(i);
      const auto members = kernel_.sets->members(set_name(id, rules.family));
      if (!members) {
        return fail(members.error().in("ipset " + set_name(id, rules.family)));
      }
      for (const netlink::SetMember& member : *members) {
        claims_[{Claim::Kind::kMember, id, rules.family, member}].in_kernel = true;
      }
    }
  }
  return {};
}

Status Plane::read_addresses() {
  const auto addresses = kernel_.route->addresses();
  if (!addresses) {
    return fail(addresses.error().in("read the addresses of this node"));
  }
  for (const netlink::InterfaceAddress& address : *addresses) {
    if (address.interface != device_) {
      node_addresses_.insert(address.address);
      continue;
    }
    // The kernel gives an IPv6 device its link-local address; that one is not ours.
    if (!address.address.is_v4() && address.address.is_link_local()) {
      continue;
    }
    Claim claim;
    claim.kind = Claim::Kind::kAddress;
    claim.family = address.address.family();
    claim.member.ip = address.address;
    claims_[claim].in_kernel = true;
  }
  return {};
}

bool Plane::excluded(const net::IpAddress& address) const {
  return std::ranges::any_of(config_.exclude_cidrs,
                             [&](const net::IpPrefix& prefix) { return prefix.contains(address); });
}

// A virtual server is ours if a set of ours says so. What another program made is not there, and
// is left alone for ever.
bool Plane::is_ours(const Key& key) const {
  if (excluded(key.address)) {
    return false;
  }
  const auto in_kernel = [this](const Claim& claim) {
    const auto at = claims_.find(claim);
    return at != claims_.end() && at->second.in_kernel;
  };
  if (std::ranges::any_of(ownership_claims(key), in_kernel)) {
    return true;
  }
  return taking_over_.contains(key.address.family()) && node_addresses_.contains(key.address) &&
         in_kernel(node_port_bitmap_claim(key));
}

Status Plane::adopt_virtual_servers() {
  for (const IptablesConfig& rules : config_.families) {
    const auto mark = claims_.find(ownership_mark(rules.family));
    if (mark == claims_.end() || !mark->second.in_kernel) {
      taking_over_.insert(rules.family);
    }
  }
  // Thresholds that an earlier process has set, and nobody wants any more, show nowhere else.
  const auto table = kernel_.ipvs->dump_exactly();
  if (!table) {
    return fail(table.error().in("read the IPVS table"));
  }
  std::unordered_set<net::IpAddress> foreign;
  for (const kernel::ObservedVirtualServer& observed : *table) {
    const kernel::ServiceId& id = observed.server.id;
    if (!is_ours(key_of(id))) {
      foreign.insert(id.address);
    } else if (!entries_.contains(key_of(id))) {  // a dump may repeat one
      adopt(observed);
    }
  }
  // An address of ours that carries a foreign virtual server as well stays bound.
  std::erase_if(claims_, [&](const auto& item) {
    return item.first.kind == Claim::Kind::kAddress && item.second.holders == 0 &&
           foreign.contains(item.first.member.ip);
  });
  log::info("read the kernel's table", {{"ours", entries_.size()}, {"all", table->size()}});
  return mark_as_ours();
}

// It holds what marks it as ours until it has left, like any other.
void Plane::adopt(const kernel::ObservedVirtualServer& observed) {
  const Key key = key_of(observed.server.id);
  std::vector<Claim> held = ownership_claims(key);
  held.push_back(node_port_bitmap_claim(key));
  Claim address;
  address.kind = Claim::Kind::kAddress;
  address.family = key.address.family();
  address.member.ip = key.address;
  held.push_back(address);
  std::ranges::sort(held);
  held.erase(std::ranges::unique(held).begin(), held.end());
  std::erase_if(held, [this](const Claim& claim) {
    const auto at = claims_.find(claim);
    return at == claims_.end() || !at->second.in_kernel;
  });
  Entry& entry = entries_[key];
  entry.known = known(observed);
  entry.claims = std::move(held);
  for (const Claim& claim : entry.claims) {
    ++claims_[claim].holders;
  }
  recount(entry);
}

// What was taken over by kube-proxy's bitmaps gets members of its own in our set, and only then the
// mark that says that bitmaps need not be believed any more: a start that is cut short before it is
// simply done again.
Status Plane::mark_as_ours() {
  std::vector<Claim> missing;
  const auto hold = [&](const Claim& claim) {
    ClaimState& state = claims_[claim];
    ++state.holders;
    if (!state.in_kernel) {
      missing.push_back(claim);
    }
  };
  for (auto& [key, entry] : entries_) {
    const Claim owned = owned_node_port_claim(key);
    const auto holds = [&claims = entry.claims](const Claim& claim) {
      return std::ranges::find(claims, claim) != claims.end();
    };
    if (!taking_over_.contains(key.address.family()) || !holds(node_port_bitmap_claim(key)) ||
        holds(owned)) {
      continue;
    }
    hold(owned);
    entry.claims.push_back(owned);
  }
  for (const IptablesConfig& rules : config_.families) {
    hold(ownership_mark(rules.family));  // last, and for good
  }
  for (const Status& status : apply_claims(missing, true)) {
    if (!status) {
      return status;
    }
  }
  return {};
}

}  // namespace fairlead::dataplane::ipvs
