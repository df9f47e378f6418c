// SPDX-License-Identifier: Apache-2.0
#include "netlink/fake_ipset.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <linux/netfilter/ipset/ip_set.h>

#include "base/check.h"
#include "netlink/ipset_detail.h"

namespace fairlead::netlink {
namespace {

// The kernel counts a hash full at 65536 buckets x 12 at the latest; the fake only at its limit.
void grow(FakeIpSet::Set& set) {
  while (set.members.size() > std::size_t{set.spec.hash_size} * 12) {
    set.spec.hash_size *= 2;
  }
}

}  // namespace

std::vector<std::string> FakeIpSet::member_texts(const std::string& name) const {
  std::vector<std::string> texts;
  const auto found = sets_.find(name);
  if (found != sets_.end()) {
    for (const SetMember& member : found->second.members) {
      texts.push_back(member.text(found->second.spec.type));
    }
  }
  std::ranges::sort(texts);
  return texts;
}

FakeIpSet::Set& FakeIpSet::at(const std::string& name) {
  const auto found = sets_.find(name);
  FAIRLEAD_CHECK(found != sets_.end());
  return found->second;
}

void FakeIpSet::set_references(const std::string& name, int references) {
  at(name).references = references;
}

void FakeIpSet::insert(const std::string& name, const SetMember& member) {
  Set& set = at(name);
  set.members.insert(stored_form(set.spec.type, member));
}

void FakeIpSet::erase(const std::string& name, const SetMember& member) {
  Set& set = at(name);
  set.members.erase(stored_form(set.spec.type, member));
}

Result<std::optional<SetSpec>> FakeIpSet::header(const std::string& name) {
  count("header");
  return with_faults("header", name, [&]() -> Result<std::optional<SetSpec>> {
    const auto found = sets_.find(name);
    if (found == sets_.end()) {
      return std::nullopt;
    }
    return found->second.spec;
  });
}

Status FakeIpSet::create(const SetSpec& spec) {
  count("create");
  return with_faults("create", spec.name, [&]() -> Status {
    const std::string what = "create set " + spec.name;
    if (Status status = check_spec(spec); !status) {
      return fail(std::move(status.error()).in(what));
    }
    if (sets_.contains(spec.name)) {
      return fail_errno(EEXIST, what);
    }
    Set set;
    set.spec = spec;
    if (spec.type == SetType::kBitmapPort) {
      set.spec.family = SetSpec{}.family;
      set.spec.hash_size = SetSpec{}.hash_size;
      set.spec.max_elements = SetSpec{}.max_elements;
    } else {
      set.spec.hash_size = std::bit_ceil(std::max<std::uint32_t>(spec.hash_size, 64));
    }
    sets_.emplace(spec.name, std::move(set));
    return {};
  });
}

Status FakeIpSet::destroy(const std::string& name) {
  count("destroy");
  return with_faults("destroy", name, [&]() -> Status {
    const std::string what = "destroy set " + name;
    const auto found = sets_.find(name);
    if (found == sets_.end()) {
      return fail_errno(ENOENT, what);
    }
    if (found->second.references > 0) {
      return fail(ipset_error(IPSET_ERR_BUSY, found->second.spec.type, what));
    }
    sets_.erase(found);
    return {};
  });
}

Status FakeIpSet::swap(const std::string& a, const std::string& b) {
  count("swap");
  return with_faults("swap", a, [&]() -> Status {
    const std::string what = "swap sets " + a + " and " + b;
    const auto first = sets_.find(a);
    const auto second = sets_.find(b);
    if (first == sets_.end()) {
      return fail_errno(ENOENT, what);
    }
    const SetSpec& spec = first->second.spec;
    if (second == sets_.end()) {
      return fail(ipset_error(IPSET_ERR_EXIST_SETNAME2, spec.type, what));
    }
    if (spec.type != second->second.spec.type || spec.family != second->second.spec.family) {
      return fail(ipset_error(IPSET_ERR_TYPE_MISMATCH, spec.type, what));
    }
    std::swap(first->second, second->second);
    // Names and references stay where they are: rules follow the name.
    std::swap(first->second.spec.name, second->second.spec.name);
    std::swap(first->second.references, second->second.references);
    return {};
  });
}

Result<std::vector<SetMember>> FakeIpSet::members(const std::string& name) {
  count("members");
  return with_faults("members", name, [&]() -> Result<std::vector<SetMember>> {
    const auto found = sets_.find(name);
    if (found == sets_.end()) {
      return fail_errno(ENOENT, "list set " + name);
    }
    return std::vector<SetMember>(found->second.members.begin(), found->second.members.end());
  });
}

Status FakeIpSet::apply_one(const SetOp& op) {
  const auto found = sets_.find(op.set);
  if (Status status = check_member(op.type, op.member); !status) {
    return fail(std::move(status.error()).in(op_text(op)));
  }
  if (found == sets_.end()) {
    return fail_errno(ENOENT, op_text(op));
  }
  Set& set = found->second;
  if (set.spec.type != op.type ||
      (op.type != SetType::kBitmapPort && op.member.ip.family() != set.spec.family)) {
    return fail(member_misfit(op_text(op)));
  }
  const SetMember member = stored_form(op.type, op.member);
  if (op.kind == SetOp::Kind::kDelete) {
    set.members.erase(member);
    return {};
  }
  if (op.type != SetType::kBitmapPort && !set.members.contains(member) &&
      set.members.size() >= set.spec.max_elements) {
    return fail(set_full_error(set.spec, op_text(op)));
  }
  set.members.insert(member);
  grow(set);
  return {};
}

std::vector<Status> FakeIpSet::apply(std::span<const SetOp> ops) {
  count("apply");
  count("apply.op", ops.size());
  std::vector<Status> results;
  results.reserve(ops.size());
  for (const SetOp& op : ops) {
    results.push_back(with_faults("apply", op_text(op), [&] { return apply_one(op); }));
  }
  return results;
}

}  // namespace fairlead::netlink
