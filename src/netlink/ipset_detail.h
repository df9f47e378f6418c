// SPDX-License-Identifier: Apache-2.0
// Rules and texts that the ipset client and its fake share.
#pragma once

#include <string_view>

#include "base/result.h"
#include "netlink/ipset.h"

namespace fairlead::netlink {

/// What the kernel keeps of a member in a set of this type: the other fields become default ones.
[[nodiscard]] SetMember stored_form(SetType type, const SetMember& member);

/// An error for what the kernel answered to an ipset command: an errno or one of ipset's own
/// numbers (IPSET_ERR_...), whose meaning above 4352 depends on the type.
[[nodiscard]] Error ipset_error(int number, SetType type, std::string_view what);

/// As `ipset_error`, for a full set.
[[nodiscard]] Error set_full_error(const SetSpec& spec, std::string_view what);

/// The kernel says no more than "protocol error" to a member of another type or family.
[[nodiscard]] Error member_misfit(std::string_view what);

/// Reasons to refuse a member without asking the kernel: family, prefix length, port type.
[[nodiscard]] Status check_member(SetType type, const SetMember& member);
[[nodiscard]] Status check_spec(const SetSpec& spec);

/// `add 10.96.0.1,tcp:80 to set KUBE-CLUSTER-IP`.
[[nodiscard]] std::string op_text(const SetOp& op);

}  // namespace fairlead::netlink
