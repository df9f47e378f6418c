// SPDX-License-Identifier: Apache-2.0
// ipsets in memory, with the kernel's rules of type, family and size. For tests only.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "netlink/fake_fault.h"
#include "netlink/ipset.h"

namespace fairlead::netlink {

class FakeIpSet final : public IpSet, public FakeBase {
 public:
  struct Set {
    SetSpec spec;
    std::set<SetMember> members;
    int references = 0;  // by rules: such a set cannot be destroyed, but swapped
  };

  [[nodiscard]] const std::map<std::string, Set>& sets() const { return sets_; }
  /// Members as ipset prints them, sorted; empty also if there is no such set.
  [[nodiscard]] std::vector<std::string> member_texts(const std::string& name) const;
  void set_references(const std::string& name, int references);
  /// Changes behind the back of the code under test; aborts if there is no such set.
  void insert(const std::string& name, const SetMember& member);
  void erase(const std::string& name, const SetMember& member);
  void erase_set(const std::string& name) { sets_.erase(name); }

  [[nodiscard]] Result<std::optional<SetSpec>> header(const std::string& name) override;
  [[nodiscard]] Status create(const SetSpec& spec) override;
  [[nodiscard]] Status destroy(const std::string& name) override;
  [[nodiscard]] Status swap(const std::string& a, const std::string& b) override;
  [[nodiscard]] Result<std::vector<SetMember>> members(const std::string& name) override;
  [[nodiscard]] std::vector<Status> apply(std::span<const SetOp> ops) override;

 private:
  [[nodiscard]] Status apply_one(const SetOp& op);
  [[nodiscard]] Set& at(const std::string& name);

  std::map<std::string, Set> sets_;
};

}  // namespace fairlead::netlink
