// SPDX-License-Identifier: Apache-2.0
#include "netlink/ipset_detail.h"

#include <cerrno>
#include <linux/netfilter/ipset/ip_set.h>
#include <linux/netfilter/ipset/ip_set_bitmap.h>
#include <linux/netfilter/ipset/ip_set_hash.h>
#include <string>

namespace fairlead::netlink {
namespace {

struct ErrorMeaning {
  std::string_view text;
  std::string_view name;
  ErrorKind kind;
};

ErrorMeaning generic_meaning(int number) {
  switch (number) {
    case IPSET_ERR_PROTOCOL:
      return {"the kernel does not accept our ipset protocol version or message",
              "IPSET_ERR_PROTOCOL", ErrorKind::kUnavailable};
    case IPSET_ERR_FIND_TYPE:
      return {"the kernel has no such set type", "IPSET_ERR_FIND_TYPE", ErrorKind::kUnavailable};
    case IPSET_ERR_MAX_SETS:
      return {"the kernel's limit of sets is reached", "IPSET_ERR_MAX_SETS", ErrorKind::kSystem};
    case IPSET_ERR_BUSY:
      return {"the set is in use by a rule or another set", "IPSET_ERR_BUSY", ErrorKind::kSystem};
    case IPSET_ERR_EXIST_SETNAME2:
      return {"the second set does not exist, or its name is taken", "IPSET_ERR_EXIST_SETNAME2",
              ErrorKind::kNotFound};
    case IPSET_ERR_TYPE_MISMATCH:
      return {"the sets are of different type or family", "IPSET_ERR_TYPE_MISMATCH",
              ErrorKind::kInvalidInput};
    case IPSET_ERR_EXIST:
      return {"is (or is not) a member already", "IPSET_ERR_EXIST", ErrorKind::kAlreadyExists};
    case IPSET_ERR_INVALID_CIDR:
      return {"the prefix length is not possible", "IPSET_ERR_INVALID_CIDR",
              ErrorKind::kInvalidInput};
    case IPSET_ERR_INVALID_NETMASK:
      return {"the netmask is not possible", "IPSET_ERR_INVALID_NETMASK", ErrorKind::kInvalidInput};
    case IPSET_ERR_INVALID_FAMILY:
      return {"the set type does not know this address family", "IPSET_ERR_INVALID_FAMILY",
              ErrorKind::kInvalidInput};
    case IPSET_ERR_TIMEOUT:
      return {"the set has no timeout support", "IPSET_ERR_TIMEOUT", ErrorKind::kInvalidInput};
    case IPSET_ERR_REFERENCED:
      return {"the set is in use by a rule or another set", "IPSET_ERR_REFERENCED",
              ErrorKind::kSystem};
    case IPSET_ERR_IPADDR_IPV4:
      return {"an IPv4 address is expected", "IPSET_ERR_IPADDR_IPV4", ErrorKind::kInvalidInput};
    case IPSET_ERR_IPADDR_IPV6:
      return {"an IPv6 address is expected", "IPSET_ERR_IPADDR_IPV6", ErrorKind::kInvalidInput};
    case IPSET_ERR_COUNTER:
    case IPSET_ERR_COMMENT:
    case IPSET_ERR_INVALID_MARKMASK:
    case IPSET_ERR_SKBINFO:
      return {"the set lacks the extension that the member uses", "IPSET_ERR_COUNTER",
              ErrorKind::kInvalidInput};
    default:
      return {"unknown ipset error", {}, ErrorKind::kSystem};
  }
}

ErrorMeaning hash_meaning(int number) {
  switch (number) {
    case IPSET_ERR_HASH_FULL:
      return {"the set is full", "IPSET_ERR_HASH_FULL", ErrorKind::kSystem};
    case IPSET_ERR_HASH_ELEM:
      return {"the kernel cannot store this member", "IPSET_ERR_HASH_ELEM",
              ErrorKind::kInvalidInput};
    case IPSET_ERR_INVALID_PROTO:
      return {"the kernel does not accept this protocol", "IPSET_ERR_INVALID_PROTO",
              ErrorKind::kInvalidInput};
    case IPSET_ERR_MISSING_PROTO:
      return {"the protocol is missing", "IPSET_ERR_MISSING_PROTO", ErrorKind::kInvalidInput};
    case IPSET_ERR_HASH_RANGE_UNSUPPORTED:
    case IPSET_ERR_HASH_RANGE:
      return {"the range is not possible", "IPSET_ERR_HASH_RANGE", ErrorKind::kInvalidInput};
    default:
      return generic_meaning(number);
  }
}

ErrorMeaning bitmap_meaning(int number) {
  switch (number) {
    case IPSET_ERR_BITMAP_RANGE:
      return {"outside of the set's range", "IPSET_ERR_BITMAP_RANGE", ErrorKind::kInvalidInput};
    case IPSET_ERR_BITMAP_RANGE_SIZE:
      return {"the set's range is too large", "IPSET_ERR_BITMAP_RANGE_SIZE",
              ErrorKind::kInvalidInput};
    default:
      return generic_meaning(number);
  }
}

Status check_family(const net::IpAddress& address, net::Family family) {
  if (address.family() != family) {
    return fail(ErrorKind::kInvalidInput, "address " + address.text() +
                                              " does not fit a member with " +
                                              std::string(net::text(family)) + " addresses");
  }
  return {};
}

}  // namespace

SetMember stored_form(SetType type, const SetMember& member) {
  SetMember stored;
  if (type != SetType::kBitmapPort) {
    stored.ip = member.ip;
  }
  if (type != SetType::kHashIp) {
    stored.port = member.port;
  }
  if (type == SetType::kHashIpPort || type == SetType::kHashIpPortIp ||
      type == SetType::kHashIpPortNet) {
    stored.protocol = member.protocol;
  }
  if (type == SetType::kHashIpPortIp || type == SetType::kHashIpPortNet) {
    stored.second = member.second;
  }
  return stored;
}

Error ipset_error(int number, SetType type, std::string_view what) {
  if (number < IPSET_ERR_PRIVATE) {
    return Error::from_errno(number, what);
  }
  const ErrorMeaning meaning =
      type == SetType::kBitmapPort ? bitmap_meaning(number) : hash_meaning(number);
  std::string text(what);
  text += ": ";
  text += meaning.text;
  text += " (";
  text += meaning.name.empty() ? std::to_string(number) : std::string(meaning.name);
  text += ")";
  return {meaning.kind, std::move(text), number};
}

Error set_full_error(const SetSpec& spec, std::string_view what) {
  return {ErrorKind::kSystem,
          std::string(what) + ": set " + spec.name + " is full (" +
              std::to_string(spec.max_elements) + " members at most)",
          IPSET_ERR_HASH_FULL};
}

Error member_misfit(std::string_view what) {
  return {ErrorKind::kInvalidInput,
          std::string(what) +
              ": the member does not fit the set's type or address family (IPSET_ERR_PROTOCOL)",
          IPSET_ERR_PROTOCOL};
}

Status check_member(SetType type, const SetMember& member) {
  if (type != SetType::kHashIpPortIp && type != SetType::kHashIpPortNet) {
    return {};
  }
  if (Status status = check_family(member.second.address(), member.ip.family()); !status) {
    return status;
  }
  const int full = member.ip.is_v4() ? 32 : 128;
  if (type == SetType::kHashIpPortIp && member.second.length() != full) {
    return fail(ErrorKind::kInvalidInput,
                "prefix " + member.second.text() + " in a set that takes single addresses only");
  }
  if (type == SetType::kHashIpPortNet && member.second.length() == 0) {
    return fail(ErrorKind::kInvalidInput,
                "prefix " + member.second.text() + " of length 0 cannot be a member of a set");
  }
  return {};
}

Status check_spec(const SetSpec& spec) {
  if (spec.name.empty() || spec.name.size() >= IPSET_MAXNAMELEN) {
    return fail(ErrorKind::kInvalidInput,
                "set name \"" + spec.name + "\" must have 1 to 31 characters");
  }
  return {};
}

std::string op_text(const SetOp& op) {
  const bool is_add = op.kind == SetOp::Kind::kAdd;
  return (is_add ? "add " : "delete ") + op.member.text(op.type) +
         (is_add ? " to set " : " from set ") + op.set;
}

std::string_view text(SetType type) {
  switch (type) {
    case SetType::kHashIp:
      return "hash:ip";
    case SetType::kHashIpPort:
      return "hash:ip,port";
    case SetType::kHashIpPortIp:
      return "hash:ip,port,ip";
    case SetType::kHashIpPortNet:
      return "hash:ip,port,net";
    case SetType::kBitmapPort:
      break;
  }
  return "bitmap:port";
}

std::string SetMember::text(SetType type) const {
  std::string out;
  if (type == SetType::kBitmapPort) {
    return std::to_string(net::number(port));
  }
  out = ip.text();
  if (type == SetType::kHashIp) {
    return out;
  }
  out += ',';
  out += net::lower_text(protocol);
  out += ':';
  out += std::to_string(net::number(port));
  if (type == SetType::kHashIpPort) {
    return out;
  }
  // As ipset lists it: a full-length prefix without its length.
  const bool is_host = second.length() == (second.address().is_v4() ? 32 : 128);
  out += ',';
  out += is_host ? second.address().text() : second.text();
  return out;
}

}  // namespace fairlead::netlink
